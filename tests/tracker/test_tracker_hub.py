"""The shell's loop: nothing is told before it is durable, and nothing after it cannot be kept."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future

import pytest
from tunefarm_proto.errors import InternalError, TrackerUnreachableError
from tunefarm_tracker.core import Config, Scheduler, State
from tunefarm_tracker.core.effects import Change, DesiredLease, Granted, Message, Queued, Renewed
from tunefarm_tracker.core.inputs import DeviceReported, Heartbeat, RequestOpened
from tunefarm_tracker.core.records import Need, Report, Wish
from tunefarm_tracker.hub import Clock, Hub, Mailbox
from tunefarm_tracker.store import MemoryStore


class SlowStore(MemoryStore):
    """A store whose writes are done when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Future[None]] = []

    def write(self, changes: Sequence[Change]) -> "Future[None]":
        self.writes.append(Future())
        return self.writes[-1]


def hub_with(store: MemoryStore) -> Hub:
    return Hub(Scheduler(State(), Config(), lambda: "lease"), store, Clock())


async def settle() -> None:
    """Let the loop run what has been called for."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_grant_is_told_when_it_is_durable_and_not_before():
    async def test() -> None:
        store = SlowStore()
        hub = hub_with(store)
        with hub.mailbox() as device, hub.mailbox() as client:
            hub.feed(DeviceReported(device.number, Report("d1", "k", (), "i")))
            hub.feed(RequestOpened(client.number, Wish("r1", (Need(("k",)),))))
            hub.feed(Heartbeat(client.number, "r1"))  # changes nothing durable; waits all the same
            first = asyncio.ensure_future(client.take())
            store.writes[1].set_result(None)
            await settle()
            assert not first.done()  # the write before it is not done
            assert hub.events.cursor == 0
            store.writes[0].set_result(None)
            await settle()
            assert isinstance(first.result(), Granted)
            assert isinstance(await client.take(), Renewed)
            assert isinstance(await device.take(), DesiredLease)
            assert hub.events.cursor == 3
        hub.close()

    asyncio.run(test())


def test_a_write_that_fails_stops_the_tracker_and_is_told_to_nobody():
    async def test() -> None:
        store = SlowStore()
        hub = hub_with(store)
        with hub.mailbox() as client:
            hub.feed(RequestOpened(client.number, Wish("r1", (Need(("k",)),), wait_for_key=True)))
            store.writes[0].set_exception(InternalError("the disk is full"))
            with pytest.raises(InternalError, match="the disk is full"):
                await hub.failed
            with pytest.raises(TrackerUnreachableError):
                await client.take()

    asyncio.run(test())


def test_a_peer_that_does_not_read_does_not_pile_up():
    async def test() -> None:
        box = Mailbox()
        for beat in range(1000):
            box.put(DesiredLease(1, None, float(beat)))
        box.close()
        read: list[Message] = []
        while (message := await box.next()) is not None:
            read.append(message)
        assert read == [DesiredLease(1, None, 999.0)]

    asyncio.run(test())


def test_watchers_that_fell_behind_are_sent_to_the_store():
    async def test() -> None:
        hub = hub_with(MemoryStore())
        for n in range(3000):
            with hub.mailbox() as box:
                hub.feed(
                    RequestOpened(
                        box.number,
                        Wish(f"r{n}", (Need(("k",)),), user=f"u{n % 9}", wait_for_key=True),
                    )
                )
                hub.feed(Heartbeat(box.number, f"r{n}"))
                assert isinstance(await box.take(), Queued)
        assert [event.subject for event in hub.events.after(2998) or ()] == ["r2998", "r2999"]
        hub.events.cursor += 5000
        assert hub.events.after(10) is None
        hub.close()

    asyncio.run(test())
