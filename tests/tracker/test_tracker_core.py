"""The scheduler's rules, one by one, with time passed in."""

import pytest
from core_farm import Farm, failure, only, to, wish
from tunefarm_tracker.core import Scheduler, restore
from tunefarm_tracker.core.effects import (
    CancelAnswered,
    DesiredLease,
    Ended,
    Granted,
    Queued,
    Renewed,
    SavePast,
    SaveRequest,
    StreamReplaced,
)
from tunefarm_tracker.core.inputs import (
    DeviceDisconnected,
    Heartbeat,
    HolderDisconnected,
    LeaseReleased,
    LeaseRenewed,
    PriorityChanged,
    Released,
    RequestCancelled,
    RequestOpened,
)
from tunefarm_tracker.core.records import DeviceState, FailureKind


@pytest.fixture
def farm() -> Farm:
    return Farm()


def test_a_free_device_is_granted_at_once_and_both_sides_are_told(farm):
    farm.device(stream=1)
    effects = farm.ask(2, user="ann", purpose="tuning")
    lease = only(Granted, effects).lease
    assert only(DesiredLease, effects).lease == lease
    assert (lease.holder, lease.purpose, lease.device_id) == ("ann", "tuning", "d1")
    assert (lease.fence, lease.deadline) == (1, farm.now + farm.config.ttl)
    assert farm.state() is DeviceState.LEASED


def test_priority_goes_first_then_who_came_first(farm):
    farm.device(stream=1)
    farm.ask(10, "holder")
    for stream, (name, priority) in enumerate([("a", 0), ("b", 5), ("c", 0), ("d", 5)], 11):
        farm.ask(stream, name, priority=priority)
    assert [one.id for one in farm.core.state.queue(farm.now)] == ["b", "d", "a", "c"]
    served = []
    holder, stream = "holder", 10
    for _ in range(4):
        farm.do(Released(stream, holder))
        granted = only(Granted, farm.device(stream=1))
        holder, stream = granted.lease.request_id, granted.to
        served.append(holder)
    assert served == ["b", "d", "a", "c"]


def test_fences_grow_with_every_lease_and_from_what_the_device_has_seen(farm):
    farm.device(stream=1, fence=41)
    assert only(Granted, farm.ask(2, "a")).lease.fence == 42
    farm.do(Released(2, "a"))
    farm.device(stream=1)
    assert only(Granted, farm.ask(3, "b")).lease.fence == 43


def test_an_unknown_key_ends_at_once_and_lists_the_keys(farm):
    farm.device(stream=1, name="d1", key="rasp3b")
    farm.device(stream=2, name="d2", key="local")
    farm.do(DeviceDisconnected(2, "d2"))
    why = only(Ended, farm.ask(3, key="nosuch")).failure
    assert why.kind is FailureKind.UNKNOWN_KEY
    assert "nosuch" in why.message and "local, rasp3b" in why.message


def test_an_unknown_key_may_be_waited_for(farm):
    place = only(Queued, farm.ask(2, wait_for_key=True)).place
    assert (place.position, place.waiting) == (1, 1)
    assert "no device has the key k" in place.reason
    assert only(Granted, farm.device(stream=1)).to == 2


def test_waiting_ends_at_the_timeout(farm):
    farm.device(stream=1)
    farm.ask(2, "holder", ttl=100.0)
    farm.ask(3, "late", wait_timeout=5.0)
    assert not to(3, [one for one in farm.wait(4.9) if isinstance(one, Ended)])
    assert farm.core.next_deadline() <= farm.now + 0.2
    assert failure(to(3, farm.wait(0.2))) is FailureKind.REQUEST_TIMEOUT
    assert failure(farm.ask(4, "late")) is FailureKind.REQUEST_TIMEOUT  # the same end again


def test_a_heartbeat_after_the_timeout_hears_of_the_timeout(farm):
    farm.device(stream=1)
    farm.ask(2, "holder", ttl=100.0)
    farm.ask(3, "late", wait_timeout=5.0)
    ends = to(3, farm.do(Heartbeat(3, "late"), after=5.0))
    assert {end.failure.kind for end in ends} == {FailureKind.REQUEST_TIMEOUT}


def test_the_same_request_id_keeps_its_place(farm):
    farm.device(stream=1)
    for stream, name in ((2, "holder"), (3, "a"), (4, "b")):
        farm.ask(stream, name)
    farm.do(HolderDisconnected(3, "a"))
    assert only(Queued, farm.ask(5, "a", after=1.0)).place.position == 1
    farm.do(Released(2, "holder"))
    assert only(Granted, farm.device(stream=1)).to == 5


def test_the_same_request_id_gets_the_same_lease(farm):
    farm.device(stream=1)
    lease = only(Granted, farm.ask(2)).lease
    farm.do(HolderDisconnected(2, "r1"))
    again = only(Granted, farm.ask(3, after=2.0)).lease
    assert (again.id, again.fence) == (lease.id, lease.fence)
    assert again.deadline == farm.now + farm.config.ttl


def test_a_newer_stream_of_a_request_ends_the_older(farm):
    farm.device(stream=1)
    farm.ask(2)
    effects = farm.ask(3)
    assert failure(to(2, effects)) is FailureKind.INVALID_REQUEST
    assert only(Granted, effects).to == 3
    assert farm.do(HolderDisconnected(2, "r1")) == []  # the older's end means nothing any more
    assert farm.do(Released(2, "r1")) == []


def test_a_heartbeat_moves_the_deadline(farm):
    farm.device(stream=1)
    farm.ask(2, ttl=10.0)
    renewed = only(Renewed, farm.do(Heartbeat(2, "r1"), after=9.0))
    assert renewed.lease.deadline == farm.now + 10.0


def test_a_late_heartbeat_does_not_revive_even_where_no_tick_came_before(farm):
    farm.device(stream=1)
    lease = only(Granted, farm.ask(2, ttl=10.0)).lease
    effects = farm.do(Heartbeat(2, "r1"), after=10.0)
    assert not [one for one in effects if isinstance(one, Renewed)]
    assert {one.failure.kind for one in to(2, effects)} == {FailureKind.LEASE_LOST}
    assert failure(farm.do(LeaseRenewed(9, lease.id))) is FailureKind.LEASE_LOST
    assert lease.id not in farm.core.state.leases


def test_an_expired_lease_frees_its_device_only_when_that_is_clean(farm):
    farm.device(stream=1)
    lease = only(Granted, farm.ask(2, "a", ttl=10.0)).lease
    farm.ask(3, "b")
    farm.device(stream=1, lease=lease.id)
    farm.wait(3.0)
    effects = farm.device(stream=1, lease=lease.id)
    farm.do(Released(2, "a"))
    farm.wait(farm.config.repeat_told)
    effects = farm.device(stream=1, lease=lease.id)  # still killing
    assert not [one for one in effects if isinstance(one, Granted)]
    assert only(DesiredLease, effects).lease is None
    assert farm.state() is DeviceState.CLEANING
    assert only(Granted, farm.device(stream=1)).to == 3


def test_a_lost_client_has_its_grace_and_no_more(farm):
    farm.device(stream=1)
    farm.ask(2, ttl=3600.0)
    farm.do(HolderDisconnected(2, "r1"))
    farm.wait(farm.config.holder_grace - 0.1)
    assert farm.core.state.leases
    farm.wait(0.1)
    assert not farm.core.state.leases
    assert failure(farm.ask(3)) is FailureKind.LEASE_LOST


def test_a_lost_waiting_client_is_passed_over_then_cancelled(farm):
    farm.device(stream=1)
    for stream, name in ((2, "holder"), (3, "gone"), (4, "here")):
        farm.ask(stream, name)
    farm.do(HolderDisconnected(3, "gone"))
    farm.do(Released(2, "holder"))
    assert only(Granted, farm.device(stream=1)).to == 4
    farm.wait(farm.config.holder_grace)
    assert failure(farm.ask(5, "gone")) is FailureKind.REQUEST_CANCELLED


def test_cancelling_ends_a_waiting_request_only(farm):
    farm.device(stream=1)
    farm.ask(2, "holder")
    farm.ask(3, "waiting")
    effects = farm.do(RequestCancelled(9, "waiting"))
    assert only(CancelAnswered, effects).cancelled
    assert failure(to(3, effects)) is FailureKind.REQUEST_CANCELLED
    for name in ("waiting", "holder", "nobody"):
        assert not only(CancelAnswered, farm.do(RequestCancelled(9, name))).cancelled


def test_releasing_a_lease_by_its_id_tells_the_stream_and_may_be_repeated(farm):
    farm.device(stream=1)
    lease = only(Granted, farm.ask(2)).lease
    effects = farm.do(LeaseReleased(9, lease.id))
    assert failure(to(2, effects)) is None
    assert failure(to(9, effects)) is None
    assert failure(farm.do(LeaseReleased(9, lease.id))) is None


@pytest.mark.parametrize("wish", [{"ttl": 1.9}, {"ttl": 3601.0}, {"wait_timeout": -1.0}])
def test_numbers_out_of_range_are_refused(farm, wish):
    farm.device(stream=1)
    assert failure(farm.ask(2, **wish)) is FailureKind.INVALID_REQUEST


def test_a_silent_device_is_offline_and_comes_back_by_a_report(farm):
    farm.device(stream=1)
    farm.wait(farm.config.idle_heartbeat * farm.config.missed_heartbeats)
    assert farm.state() is DeviceState.OFFLINE
    assert only(Queued, farm.ask(2)).place.reason == "the only device is offline"
    assert only(Granted, farm.device(stream=1)).to == 2


def test_a_device_that_reports_stays_online(farm):
    farm.device(stream=1)
    for _ in range(10):
        farm.wait(farm.config.idle_heartbeat)
        farm.device(stream=1)
    assert farm.state() is DeviceState.IDLE


def test_a_leased_device_that_goes_away_has_its_grace(farm):
    farm.device(stream=1)
    lease = only(Granted, farm.ask(2, ttl=100.0)).lease
    farm.do(DeviceDisconnected(1, "d1"))
    farm.wait(farm.config.device_grace - 0.1)
    assert only(DesiredLease, farm.device(stream=3, lease=lease.id)).lease.id == lease.id
    farm.do(DeviceDisconnected(3, "d1"))
    assert failure(to(2, farm.wait(farm.config.device_grace))) is FailureKind.DEVICE_LOST
    assert farm.state() is DeviceState.OFFLINE


def test_a_device_server_started_anew_has_lost_its_lease_and_is_free(farm):
    farm.device(stream=1)
    farm.ask(2)
    farm.ask(3, "next")
    effects = farm.device(stream=4, instance="i2")
    assert failure(to(2, effects)) is FailureKind.DEVICE_LOST
    assert only(Granted, effects).to == 3


def test_a_lease_that_the_tracker_does_not_know_is_told_to_end(farm):
    effects = farm.device(stream=1, lease="of-old", fence=7)
    assert only(DesiredLease, effects).lease is None
    assert farm.state() is DeviceState.CLEANING
    farm.device(stream=1, fence=7)
    assert farm.state() is DeviceState.IDLE


def test_of_two_device_servers_with_one_name_the_newer_wins(farm):
    farm.device(stream=1, instance="old")
    replaced = only(StreamReplaced, farm.device(stream=2, instance="new"))
    assert replaced.to == 1
    assert "taken over the name d1" in replaced.failure.message
    assert farm.device(stream=1, instance="old") == []
    assert farm.do(DeviceDisconnected(1, "d1")) == []
    assert farm.state() is DeviceState.IDLE


def test_places_are_told_when_they_change_and_not_otherwise(farm):
    farm.device(stream=1)
    for stream, name in ((2, "holder"), (3, "a"), (4, "b")):
        farm.ask(stream, name, ttl=100.0)
    farm.wait(1.0)
    farm.do(Released(3, "a"))
    told = only(Queued, to(4, farm.wait(farm.config.places_interval)))
    assert (told.place.position, told.place.waiting) == (1, 1)
    farm.device(stream=1, lease="lease1")
    assert not [one for one in farm.wait(1.0) if isinstance(one, Queued)]


def test_ends_are_forgotten_in_time(farm):
    farm.device(stream=1)
    farm.ask(2)
    farm.do(Released(2, "r1"))
    assert only(Ended, farm.ask(3)).failure is None
    farm.wait(farm.config.remember_ends)
    assert not farm.core.state.ends


def test_a_lease_that_its_device_never_heard_of_still_has_to_be_cleaned(farm):
    farm.device(stream=1)
    farm.ask(2, "a")
    farm.ask(3, "b")
    effects = farm.do(Released(2, "a"))
    assert not [one for one in effects if isinstance(one, Granted)]
    assert farm.state() is DeviceState.CLEANING
    assert only(Granted, farm.device(stream=1)).to == 3


def test_who_comes_after_a_restart_stands_behind_who_waited_before_it(farm):
    for stream, name in ((1, "gone"), (2, "old")):
        farm.ask(stream, name, wait_for_key=True)
    farm.do(Released(1, "gone"))
    farm.core = Scheduler(
        restore(farm.core.state.snapshot(), farm.now, farm.config), farm.config, lambda: "lease"
    )
    farm.ask(1, "new", wait_for_key=True)
    assert [one.id for one in farm.core.state.queue(farm.now)] == ["old", "new"]
    # `old` has not come back yet, and keeps its place all the same.
    farm.device(stream=2)
    assert [lease.request_id for lease in farm.core.state.leases.values()] == ["old"]


def test_of_two_streams_of_one_request_the_later_attempt_stays(farm):
    farm.device()
    farm.ask(2)
    again = farm.do(RequestOpened(3, wish("r1"), 2))
    assert only(Ended, to(2, again)).failure.kind is FailureKind.INVALID_REQUEST
    assert only(Granted, to(3, again))
    late = farm.do(RequestOpened(4, wish("r1"), 1))  # the network held it up
    assert "taken over" in only(Ended, to(4, late)).failure.message
    assert to(3, late) == [] and farm.state() is DeviceState.LEASED
    assert only(Granted, to(5, farm.do(RequestOpened(5, wish("r1"), 2))))


def test_a_changed_priority_moves_a_waiting_request(farm):
    farm.device()
    farm.ask(10, "held")
    for stream, name in ((11, "first"), (12, "second")):
        farm.ask(stream, name, after=1.0)
    effects = farm.do(PriorityChanged(20, "second", 5))
    assert only(CancelAnswered, effects).cancelled
    assert only(SaveRequest, effects).request.wish.priority == 5
    assert [one.id for one in farm.core.state.waiting("k", farm.now)] == ["second", "first"]
    assert not only(CancelAnswered, farm.do(PriorityChanged(20, "held", 5))).cancelled
    assert not only(CancelAnswered, farm.do(PriorityChanged(20, "nobody", 5))).cancelled
    farm.do(PriorityChanged(20, "second", -1))
    assert [one.id for one in farm.core.state.waiting("k", farm.now)] == ["first", "second"]
    assert farm.core.state.requests["second"].wish.priority == -1


def test_a_lease_that_ends_is_kept_with_who_waited_how_long(farm):
    farm.device()
    farm.ask(10, "r1", user="ann")
    farm.ask(11, "r2", after=2.0, user="bob")
    past = only(SavePast, farm.do(Released(10, "r1"), after=3.0)).past
    assert (past.lease.holder, past.lease.granted_at, past.ended_at) == ("ann", 1000.0, 1005.0)
    assert (past.queued_at, past.outcome) == (1000.0, "released")
