"""Counters of the processor and the system, where there are any."""

import mmap
import platform

import pytest
from tunefarm_device.counters import EVENTS, SYSCALL, Counters, difference


def test_what_is_counted_goes_up() -> None:
    counters = Counters()
    before = counters.read()
    memory = mmap.mmap(-1, 1 << 20)
    for start in range(0, len(memory), mmap.PAGESIZE):
        memory[start] = 1
    spent = difference(before, counters.read())
    assert set(spent) <= set(EVENTS) and min(spent.values(), default=0) >= 0
    if "page_faults" in counters.names:
        assert spent["page_faults"] >= (1 << 20) / (2 << 20)
    if "cycles" in counters.names and "instructions" in counters.names:
        assert spent["cycles"] > 0 and spent["instructions"] > 0


def test_a_machine_that_is_not_known_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    assert platform.machine() not in SYSCALL
    assert Counters().read() == {}


def test_a_counter_that_somebody_closed_is_left_out() -> None:
    import os

    counters = Counters()
    for file in counters._files.values():
        os.close(file)
    assert counters.read() == {}
