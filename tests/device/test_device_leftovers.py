"""System V objects that a kernel left are swept, and nobody else's."""

import ctypes
import os
from pathlib import Path

import pytest
from tunefarm_device.leftovers import Sweeper, left, system_v

SHM = {"shmid": 5, "uid": 1000, "nattch": 0, "cpid": 0, "lpid": 0}


@pytest.mark.parametrize(
    ("changed", "swept"),
    [
        ({}, True),
        ({"uid": 1001}, False),
        ({"nattch": 1}, False),
        ({"cpid": os.getpid()}, False),
        ({"lpid": os.getpid()}, False),
    ],
)
def test_only_what_is_new_ours_and_unused_is_swept(changed, swept):
    now = {("shm", 5): {**SHM, **changed}}
    assert left(set(), now, 1000) == ([("shm", 5)] if swept else [])
    assert left({("shm", 5)}, now, 1000) == []


def test_the_tables_of_the_system_are_read(tmp_path):
    (tmp_path / "shm").write_text("  key  shmid  uid  nattch\n  1  32  0  2\n")
    (tmp_path / "sem").write_text("  key  semid  perms\n")
    assert system_v(tmp_path) == {("shm", 32): {"key": 1, "shmid": 32, "uid": 0, "nattch": 2}}


def test_a_sweep_takes_what_a_dead_process_made():
    if not Path("/proc/sysvipc/msg").exists():
        pytest.skip("this system has no System V objects")
    libc = ctypes.CDLL(None)
    older = libc.semget(0, 1, 0o600)
    sweeper = Sweeper()
    sweeper.begin()
    newer = libc.semget(0, 1, 0o600)
    sweeper.begin()  # a second runner changes nothing
    sweeper.sweep()
    found = set(system_v())
    assert ("sem", older) in found and ("sem", newer) not in found
    sweeper.sweep()
    assert ("sem", older) in set(system_v())
    libc.semctl(older, 0, 0, 0)
