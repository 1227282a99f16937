"""What pages show, as plain data: pages and counts of a fleet, strips of leases, readings kept."""

import pytest
from fake_tracker import device
from hypothesis import given, settings
from hypothesis import strategies as st
from tunefarm_dashboard.conditions import MOST, READINGS, History
from tunefarm_dashboard.views.fleet import Filter, page_of, tally
from tunefarm_dashboard.views.rows import Snapshot, device_facts, device_row, next_snapshot
from tunefarm_dashboard.views.utilisation import STEPS, WIDTH, Hold, counting, utilisation
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

ROWS = [device_row(device(f"d{n}", f"k{n % 3}", 1 + n % 5), {}) for n in range(50)]


@given(st.integers(-5, 99), st.integers(1, 60), st.integers(0, 50))
def test_every_device_is_on_exactly_one_page(number, size, count):
    page = page_of(ROWS[:count], number, size)
    assert 1 <= page.number <= page.pages
    together = [
        row for n in range(1, page.pages + 1) for row in page_of(ROWS[:count], n, size).rows
    ]
    assert together == ROWS[:count]
    assert page.rows == ROWS[:count][page.first - 1 : page.last] or not count


def test_counts_add_up_and_filters_find_what_was_counted():
    counted = tally(ROWS)
    assert sum(counted.counts.values()) == counted.total == 50
    for (state, health), count in counted.counts.items():
        assert len(Filter(state=state, health=health).find(ROWS)) == count
    assert dict(counted.keys)["k0"] == len(Filter(key="k0").find(ROWS)) == 17


def test_rows_of_devices_that_did_not_change_are_kept():
    before = next_snapshot(Snapshot("t"), [device(f"d{n}", "k") for n in range(3)], whole=True)
    changed = device("d1", "k", tpb.DEVICE_STATE_DRAINING)
    after = next_snapshot(before, [changed], whole=False)
    assert [row.state for row in after.rows] == ["idle", "draining", "idle"]
    assert [a is b for a, b in zip(before.rows, after.rows, strict=True)] == [True, False, True]
    assert next_snapshot(after, [changed], whole=True).rows == (after.rows[1],)


HOLDS = st.lists(
    st.tuples(
        st.sampled_from(["d0", "d1", "gone"]), st.sampled_from("abcdefghij"),
        st.floats(0, 990), st.floats(0.001, 10),
    ),
    max_size=60,
)  # fmt: skip


@settings(max_examples=60)
@given(HOLDS)
def test_strips_lie_in_the_time_and_count_what_was_held(parts):
    free = {"d0": 0.0, "d1": 0.0, "gone": 0.0}
    holds = []
    for name, user, start, length in sorted(parts, key=lambda one: one[2]):
        begun = max(start, free[name])
        free[name] = min(begun + length, 1000.0)
        if free[name] > begun:
            holds.append(Hold(name, "k", user, begun, free[name]))
    used = utilisation(holds, ROWS[:2], 0.0, 1000.0)
    known = [hold for hold in holds if hold.device != "gone"]
    seconds = sum(hold.end - hold.start for hold in known)
    assert used.share == pytest.approx(seconds / 2000)
    assert sum(user.hours for user in used.users) == pytest.approx(seconds / 3600)
    assert sum(user.leases for user in used.users) == len(known)
    for strip in used.strips:
        assert sum(bar.seconds for bar in strip.bars) == pytest.approx(strip.share * 1000)
        for bar in strip.bars:
            assert 0 <= bar.x <= WIDTH and bar.x + bar.width <= WIDTH + 2


def test_retired_devices_do_not_count():
    old = device("old", "k", tpb.DEVICE_STATE_OFFLINE, health=tpb.DEVICE_HEALTH_RETIRED)
    away = device("away", "k", tpb.DEVICE_STATE_OFFLINE)
    assert [one.id for one in counting([device_row(old, {}), device_row(away, {})])] == ["away"]


def test_many_short_leases_of_one_user_are_one_bar():
    holds = [Hold("d0", "k", "ada", at * 0.1, at * 0.1 + 0.09) for at in range(10_000)]
    (strip,) = utilisation(holds, ROWS[:1], 0.0, 1000.0).strips
    assert len(strip.bars) == 1
    assert strip.bars[0].leases == 10_000
    assert 1000 / STEPS > 0.09


def test_a_history_is_bounded_however_many_devices_there_are():
    def reading(name: str, second: int) -> tpb.Device:
        made = device(name, "k")
        made.conditions.read_at.seconds = second
        made.conditions.temperature_celsius = float(second)
        return made

    history = History()
    for second in range(1, MOST + 50):
        history.add([reading("d0", second), reading("d0", second)])
    kept = history.of("d0")
    assert len(kept) == MOST
    assert kept[-1].temperature == MOST + 49
    many = [reading(f"d{n}", 10**6) for n in range(READINGS // 50)]
    history.add(many)
    assert len(history.of("d0")) == 50
    history.add(many[1:])
    assert history.of("d0") == []


def test_facts_of_a_gpu_are_told_with_their_units():
    told = {
        "gpu": "GPU X", "compute_capability": "9.0", "l2_bytes": str(50 << 20), "ecc": "on",
        "shared_bytes": str(227 << 10), "max_gpu_clock_hz": "1980000000", "memory_bus_bits": "5120",
        "power_limit_w": "700", "memory_clock_hz": "0", "unit": "0", "gpu_uuid": "",
    }  # fmt: skip
    one = tpb.Device(facts=pb.DeviceFacts(extra=told))
    shown = dict(device_facts(one))
    assert shown["GPU"] == "GPU X" and shown["Compute capability"] == "9.0"
    assert shown["Second cache"] == "50.0 MiB" and shown["Shared memory of a block"] == "227 KiB"
    assert shown["Highest clock of the GPU"] == "1,980 MHz" and shown["Memory bus"] == "5120 bits"
    assert shown["Power limit"] == "700 W" and shown["unit"] == "0"
    assert not {"Memory clock", "UUID", "l2_bytes"} & set(shown)
