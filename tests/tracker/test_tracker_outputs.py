"""What the tracker keeps of leases' output, and whom it tells."""

import pytest
from tunefarm_proto.identity import ANONYMOUS, Identity, Role
from tunefarm_proto.v1 import tracker_pb2 as tpb
from tunefarm_tracker.outputs import Outputs, may_read


def told(lease_id: str, text: str) -> tpb.RunnerOutput:
    return tpb.RunnerOutput(lease_id=lease_id, text=text)


def test_it_keeps_the_last_ones_as_plain_text():
    outputs = Outputs(most=2)
    outputs.keep("d1", told("l1", "one"))
    outputs.keep("d1", told("l2", "\x1b[31m" + "é" * 100_000 + "\x00end"))
    outputs.keep("d1", told("l1", "one again"))
    outputs.keep("d2", told("l3", "three"))
    assert [outputs.of("d1", one) for one in ("l1", "l2")] == ["one again", ""]
    outputs.keep("d1", told("l2", "\x1b[31m" + "é" * 100_000 + "\x00end"))
    kept = outputs.of("d1", "l2")
    assert kept.endswith("é end") and len(kept.encode()) <= 4096


def test_a_device_speaks_for_itself_alone():
    outputs = Outputs()
    outputs.keep("d1", told("l1", "true"))
    outputs.keep("d2", told("l1", "false"))
    assert outputs.of("d1", "l1") == "true" and outputs.of("d3", "l1") == ""
    for bad in (told("", "x"), told("l" * 1000, "x"), told("l1", "")):
        outputs.keep("d1", bad)
    assert outputs.of("d1", "l1") == "true"


@pytest.mark.parametrize(
    ("caller", "holder", "may"),
    [
        (ANONYMOUS, "ada", True),
        (Identity("root", Role.OPERATOR), "ada", True),
        (Identity("ada", Role.USER), "ada", True),
        (Identity("eve", Role.USER), "ada", False),
        (Identity("eve", Role.VIEWER), "ada", False),
        (Identity("", Role.VIEWER), "", False),
    ],
)
def test_who_may_read_it(caller, holder, may):
    assert may_read(caller, holder) is may
