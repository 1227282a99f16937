"""Fair share, conditions, several devices in one request, quotas: who gets what, and why not."""

import pytest
from core_farm import Farm, failure, only, to
from tunefarm_tracker.core import Config, Scheduler, restore
from tunefarm_tracker.core.effects import CancelAnswered, Ended, Granted, Queued, Renewed
from tunefarm_tracker.core.inputs import (
    DeviceDisconnected,
    Heartbeat,
    HolderDisconnected,
    LeaseRenewed,
    LeaseRevoked,
    QuotaSet,
    Released,
    RequestCancelled,
    RequestOpened,
)
from tunefarm_tracker.core.records import FailureKind, Need, Quota, Wish
from tunefarm_tracker.core.where import parse


@pytest.fixture
def farm() -> Farm:
    return Farm(Config(reserve_after=30.0))


def ask_for(farm: Farm, stream: int, request: str, *needs: Need, after: float = 0.0, **more):
    return farm.do(RequestOpened(stream, Wish(request, needs, **more)), after)


def need(*keys: str, **where: str) -> Need:
    return Need(keys or ("k",), parse(where.items()))


def served(farm: Farm, holder: str, stream: int, count: int) -> list[str]:
    """The requests that one device serves, one second each, from the present holder on."""
    order = []
    for _ in range(count):
        farm.do(Released(stream, holder), after=1.0)
        granted = only(Granted, farm.device(stream=1))
        holder, stream = granted.lease.request_id, granted.to
        order.append(holder)
    return order


def test_users_take_turns_however_many_requests_one_has(farm):
    farm.device(stream=1)
    farm.ask(10, "holder", user="ann", ttl=100.0)
    for n in range(4):
        farm.ask(20 + n, f"ann{n}", user="ann", ttl=100.0)
    farm.ask(30, "bob0", user="bob", ttl=100.0)
    farm.ask(31, "bob1", user="bob", ttl=100.0)
    queue = [one.id for one in farm.core.state.queue(farm.now)]
    assert queue[0] == "bob0"
    assert served(farm, "holder", 10, 6)[:4] == ["bob0", "ann0", "bob1", "ann1"]


def test_who_used_the_key_less_lately_goes_first_and_old_use_is_forgotten(farm):
    farm.device(stream=1)
    farm.ask(10, "a", user="ann", ttl=1000.0)
    farm.do(Released(10, "a"), after=500.0)
    farm.device(stream=1)
    farm.ask(11, "b", user="bob", ttl=1000.0)
    farm.do(Released(11, "b"), after=100.0)
    farm.device(stream=1)
    farm.ask(12, "c", user="cat", ttl=1000.0)
    farm.ask(13, "ann again", user="ann")
    farm.ask(14, "bob again", user="bob")
    assert [one.id for one in farm.core.state.queue(farm.now)] == ["bob again", "ann again"]
    later = farm.now + 40 * farm.config.fair_half_life
    assert [one.id for one in farm.core.state.queue(later)] == ["ann again", "bob again"]


def test_use_of_one_key_does_not_count_for_another(farm):
    farm.device(stream=1, name="d1", key="board")
    farm.device(stream=2, name="d2", key="gpu")
    farm.ask(10, "long", key="board", user="ann", ttl=1000.0)
    farm.ask(11, "g", key="gpu", user="bob", ttl=1000.0)
    farm.ask(12, "bob2", key="gpu", user="bob", ttl=1000.0)
    farm.ask(13, "ann2", key="gpu", user="ann", ttl=1000.0, after=500.0)
    assert [one.id for one in farm.core.state.queue(farm.now)] == ["ann2", "bob2"]


def test_conditions_choose_the_device(farm):
    farm.device(1, "small", memory_mb="1024", cpu="cortex-a53", **{"label.lab": "berlin"})
    farm.device(2, "large", memory_mb="8192", cpu="cortex-a72", features="sve,fp16")
    for n, (where, found) in enumerate(
        [
            ({"memory_mb": ">=2048"}, "large"),
            ({"cpu": "cortex-a5*"}, "small"),
            ({"cpu": "!=cortex-a53"}, "large"),
            ({"labels": "lab=berlin"}, "small"),
            ({"labels": "lab"}, "small"),
            ({"features": "fp16, sve"}, "large"),
            ({"memory_mb": "<2000", "labels": "lab=b*"}, "small"),
        ]
    ):
        lease = only(Granted, ask_for(farm, 10 + n, f"r{n}", need(**where))).lease
        assert lease.device_id == found, where
        farm.do(Released(10 + n, f"r{n}"))
        farm.device(1, "small")
        farm.device(2, "large")


def test_conditions_that_no_device_meets_end_at_once_and_say_what_is_strange(farm):
    farm.device(1, "small", memory_mb="1024")
    why = only(Ended, ask_for(farm, 2, "a", need(memory_mb=">=2048"))).failure
    assert why.kind is FailureKind.UNKNOWN_KEY
    assert why.message == "no known device is k with memory_mb >= 2048; memory_mb is 1024"
    why = only(Ended, ask_for(farm, 3, "b", need(memroy="1"))).failure
    assert "none of them has memroy" in why.message
    place = only(Queued, ask_for(farm, 4, "c", need(memory_mb=">1024"), wait_for_key=True)).place
    assert "memory_mb > 1024" in place.reason
    assert only(Granted, farm.device(1, "small", memory_mb="2048")).to == 4


@pytest.mark.parametrize("where", [{"memory_mb": ">=much"}, {"labels": "=x"}, {"cpu": ""}])
def test_nonsense_conditions_are_one_line(where):
    with pytest.raises(ValueError) as caught:
        parse(where.items())
    assert "\n" not in str(caught.value)


def test_any_of_several_keys_will_do(farm):
    farm.device(1, "d1", key="pi3")
    farm.ask(10, "holder", key="pi3")
    assert only(Queued, ask_for(farm, 11, "any", need("pi3", "pi4"))).place.position == 1
    assert only(Granted, farm.device(2, "d2", key="pi4")).lease.device_id == "d2"
    assert not farm.core.state.queue(farm.now)


def test_several_devices_come_together_or_not_at_all(farm):
    farm.device(1, "d1")
    farm.device(2, "d2", key="other")
    farm.ask(10, "holder", key="other", ttl=100.0)
    place = only(Queued, ask_for(farm, 11, "both", need(), need("other"))).place
    assert place.reason.startswith("2 devices together, 1 of them free")
    assert farm.core.state.devices["d1"].idle
    farm.do(Released(10, "holder"))
    grants = only(Granted, farm.device(2, "d2", key="other")).grants
    assert [one.lease.device_id for one in grants] == ["d1", "d2"]
    assert only(Renewed, farm.do(Heartbeat(11, "both"), after=5.0)).lease.deadline > farm.now
    ends = farm.do(Released(11, "both"))
    assert failure(ends) is None
    assert not farm.core.state.leases


def test_two_requests_for_the_same_two_devices_do_not_block_each_other(farm):
    ask_for(farm, 10, "ab", need("a"), need("b"), wait_for_key=True)
    ask_for(farm, 11, "ba", need("b"), need("a"), wait_for_key=True)
    farm.device(1, "d1", key="a")
    assert only(Granted, farm.device(2, "d2", key="b")).to == 10
    farm.do(Released(10, "ab"))
    farm.device(1, "d1", key="a")
    assert only(Granted, farm.device(2, "d2", key="b")).to == 11


def test_where_one_device_of_several_is_lost_all_end_with_its_name(farm):
    farm.device(1, "d1")
    farm.device(2, "d2")
    ask_for(farm, 10, "both", need(), need(), ttl=100.0)
    farm.do(DeviceDisconnected(2, "d2"))
    ends = farm.wait(farm.config.device_grace)
    assert failure(ends) is FailureKind.DEVICE_LOST
    assert "d2" in only(Ended, ends).failure.message
    assert not farm.core.state.leases


def test_one_that_wants_several_reserves_after_a_while_and_is_not_starved(farm):
    farm.device(1, "d1")
    farm.device(2, "d2")
    farm.ask(10, "h1", user="ann", ttl=1000.0)
    farm.ask(11, "h2", user="ann", ttl=1000.0)
    ask_for(farm, 12, "both", need(), need(), user="ann")
    farm.ask(13, "x1", user="bob")
    farm.do(Released(10, "h1"))
    assert only(Granted, farm.device(1, "d1")).lease.request_id == "x1"  # not yet reserving
    farm.ask(14, "x2", user="cat", after=40.0)  # x1 has expired by now
    farm.ask(15, "high", user="dan", priority=1)
    assert only(Granted, farm.device(1, "d1")).lease.request_id == "high"  # priority goes before
    farm.do(Released(15, "high"))
    assert not [one for one in farm.device(1, "d1") if isinstance(one, Granted)]
    assert farm.core.state.devices["d1"].idle  # kept for "both", though x2 waits
    assert not [one for one in farm.ask(16, "x3", user="eve") if isinstance(one, Granted)]
    farm.do(Released(11, "h2"))
    assert only(Granted, farm.device(2, "d2")).lease.request_id == "both"


def test_a_reservation_ends_with_its_request_or_while_its_client_is_away(farm):
    farm.device(1, "d1")
    farm.device(2, "d2")
    farm.ask(10, "h1", ttl=1000.0)
    farm.ask(11, "h2", ttl=1000.0)
    ask_for(farm, 12, "both", need(), need())
    farm.wait(31.0)
    farm.do(Released(10, "h1"))
    farm.device(1, "d1")
    farm.ask(13, "x")
    assert farm.core.state.devices["d1"].idle
    effects = farm.do(HolderDisconnected(12, "both"))
    assert only(Granted, effects).lease.request_id == "x"


def test_quota_of_devices_holds_a_user_back_and_says_so(farm):
    farm.device(1, "d1")
    farm.device(2, "d2")
    assert only(CancelAnswered, farm.do(QuotaSet(9, Quota("ann", max_devices=1)))).cancelled
    farm.ask(10, "a1", user="ann")
    place = only(Queued, farm.ask(11, "a2", user="ann")).place
    assert place.reason == "ann holds 1 of the 1 devices of the quota"
    assert only(Granted, farm.ask(12, "b", user="bob")).lease.device_id == "d2"
    assert failure(ask_for(farm, 13, "two", need(), need(), user="ann")) is (
        FailureKind.QUOTA_EXCEEDED
    )
    farm.do(Released(12, "b"))
    farm.device(2, "d2")
    assert only(Granted, farm.do(QuotaSet(9, Quota("ann", max_devices=2)))).to == 11


def test_a_lease_that_ends_lets_the_same_user_have_another_device(farm):
    farm.device(1, "d1")
    farm.device(2, "d2")
    farm.do(QuotaSet(9, Quota("ann", max_devices=1)))
    farm.ask(10, "a1", user="ann")
    farm.ask(11, "a2", user="ann")
    assert only(Granted, farm.do(Released(10, "a1"))).lease.device_id == "d2"


def test_quota_of_requests_refuses_more(farm):
    farm.device(1, "d1")
    farm.do(QuotaSet(9, Quota("ann", max_requests=2)))
    farm.ask(10, "a1", user="ann")
    farm.ask(11, "a2", user="ann")
    assert failure(farm.ask(12, "a3", user="ann")) is FailureKind.QUOTA_EXCEEDED
    assert only(Queued, farm.ask(13, "b", user="bob")).place.position == 1


def test_the_estimate_is_what_leases_of_the_key_took(farm):
    farm.device(1, "d1")
    for n in range(3):
        farm.ask(10 + n, f"r{n}", ttl=1000.0)
        farm.do(Released(10 + n, f"r{n}"), after=20.0)
        farm.device(1, "d1")
    farm.ask(20, "holder")
    assert only(Queued, farm.ask(21, "first")).place.estimate == 20.0
    assert only(Queued, farm.ask(22, "second")).place.estimate == 40.0


def test_an_extension_moves_ttl_and_deadline(farm):
    farm.device(1, "d1")
    lease = only(Granted, farm.ask(10, ttl=10.0)).lease
    assert only(Renewed, farm.do(LeaseRenewed(9, lease.id, 100.0))).lease.ttl == 100.0
    assert only(Renewed, farm.do(Heartbeat(10, "r1"), after=50.0)).lease.deadline == farm.now + 100
    assert only(Renewed, farm.do(Heartbeat(10, "r1", 20.0))).lease.deadline == farm.now + 20


def test_a_revoked_lease_ends_for_its_holder_and_its_device(farm):
    farm.device(1, "d1")
    lease = only(Granted, farm.ask(10)).lease
    effects = farm.do(LeaseRevoked(9, lease.id, "op", "needed for a fire drill"))
    assert only(CancelAnswered, effects).cancelled
    why = only(Ended, to(10, effects)).failure
    assert why.kind is FailureKind.LEASE_LOST
    assert "revoked by op: needed for a fire drill" in why.message
    assert to(1, effects)[0].lease is None
    assert not only(CancelAnswered, farm.do(LeaseRevoked(9, lease.id, "op", ""))).cancelled


def test_a_restart_keeps_quota_use_and_needs(farm):
    farm.device(1, "d1")
    farm.do(QuotaSet(9, Quota("ann", 1)))
    farm.ask(10, "a", user="ann")
    farm.do(Released(10, "a"), after=5.0)
    ask_for(farm, 11, "both", need(), need("k", "j", labels="lab=x"), wait_for_key=True)
    kept = farm.core.state.snapshot()
    state = restore(kept, farm.now, farm.config)
    assert state.snapshot() == kept
    assert Scheduler(state, farm.config, str).state.shares.recent_use("ann", farm.now) == 5.0


def test_a_reservation_that_is_cancelled_gives_its_devices_to_those_behind(farm):
    farm.device(1, "d1")
    farm.device(2, "d2")
    farm.ask(10, "h1", ttl=1000.0)
    farm.ask(11, "h2", ttl=1000.0)
    ask_for(farm, 12, "both", need(), need())
    farm.wait(31.0)
    farm.do(Released(10, "h1"))
    farm.device(1, "d1")
    farm.ask(13, "x")
    assert only(Granted, farm.do(RequestCancelled(9, "both"))).to == 13


def test_what_a_reservation_kept_and_did_not_take_goes_to_those_behind(farm):
    farm.device(1, "d1", label_="x")
    farm.device(2, "d2", color="red")
    farm.device(3, "d3", color="red")
    for n in (1, 2, 3):
        farm.ask(10 + n, f"h{n}", ttl=1000.0)
    ask_for(farm, 20, "both", need(), need(color="red"))
    farm.wait(31.0)
    farm.ask(21, "x", ttl=1000.0)
    for n in (1, 3):  # one for each need
        farm.do(Released(10 + n, f"h{n}"))
        effects = farm.device(n, f"d{n}")
    assert only(Granted, effects).to == 20
    farm.do(Released(12, "h2"))
    assert only(Granted, farm.device(2, "d2")).to == 21
