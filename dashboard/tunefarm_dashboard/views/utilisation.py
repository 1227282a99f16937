"""Who used which device when: leases, ended and live, as bars along one stretch of time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.views.rows import DeviceRow

WIDTH = 1000  # of a strip, in its own units
STEPS = 500  # bars are not told apart finer than this part of the time
COLOURS = 7  # users with a colour of their own; the others share one more
HOURS = {"1h": 1, "6h": 6, "24h": 24, "7d": 168}


@dataclass(frozen=True)
class Hold:
    """Somebody held a device from `start` to `end`, seconds since 1970."""

    device: str
    key: str
    user: str
    start: float
    end: float


@dataclass(frozen=True)
class Bar:
    """A part of a strip in one colour. `x`, `width`: of WIDTH; `seconds`: held of it."""

    user: str
    colour: int
    x: float
    width: float
    leases: int
    seconds: float


@dataclass
class Strip:
    """What happened on one device. `share`: of the time it was held, 0 to 1."""

    device: str
    key: str
    share: float = 0.0
    bars: list[Bar] = field(default_factory=list)
    users: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class UserRow:
    """What a user had. `share`: of all devices for all of the time."""

    user: str
    hours: float
    leases: int
    devices: int
    share: float
    colour: int


@dataclass(frozen=True)
class Utilisation:
    """A stretch of time, seconds since 1970, of some devices and all users in it."""

    start: float
    end: float
    strips: Sequence[Strip]
    users: Sequence[UserRow]
    share: float


def holds_of(
    past: Iterable[tpb.PastLease], live: Iterable[pb.Lease], start: float, end: float
) -> list[Hold]:
    """The leases, cut to the stretch of time."""
    ends = [(one.lease, _seconds(one.ended_at)) for one in past] + [(one, end) for one in live]
    holds = []
    for lease, ended in ends:
        begun = max(_seconds(lease.granted_at), start)
        if min(ended, end) > begun:
            user = lease.holder or "somebody"
            holds.append(Hold(lease.device_id, lease.device_key, user, begun, min(ended, end)))
    return sorted(holds, key=lambda hold: hold.start)


def counting(rows: Iterable[DeviceRow]) -> list[DeviceRow]:
    """The devices that could have been used: a retired one is not there to be."""
    return [row for row in rows if row.health != "retired"]


def _seconds(stamp: Timestamp) -> float:
    return float(stamp.seconds + stamp.nanos / 1e9)


def utilisation(
    holds: Sequence[Hold], devices: Sequence[DeviceRow], start: float, end: float
) -> Utilisation:
    """Strips of these devices, and what each user had of them. `holds` as `holds_of` gives them."""
    length = max(end - start, 1.0)
    strips = {row.id: Strip(row.id, row.key) for row in devices}
    known = [hold for hold in holds if hold.device in strips]
    users = _users(known, length * max(len(strips), 1))
    colours = {row.user: row.colour for row in users}
    of_device: dict[str, list[Hold]] = {}
    for hold in known:
        of_device.setdefault(hold.device, []).append(hold)
    for name, own in of_device.items():
        strip = strips[name]
        strip.bars = _bars(own, start, length, colours)
        strip.share = sum(hold.end - hold.start for hold in own) / length
        shares: dict[str, float] = {}
        for hold in own:
            shares[hold.user] = shares.get(hold.user, 0.0) + (hold.end - hold.start) / length
        strip.users = sorted(shares.items(), key=lambda one: -one[1])[:3]
    total = sum(strip.share for strip in strips.values()) / max(len(strips), 1)
    return Utilisation(start, end, list(strips.values()), users, total)


def _users(holds: Sequence[Hold], all_time: float) -> list[UserRow]:
    of_user: dict[str, list[Hold]] = {}
    for hold in holds:
        of_user.setdefault(hold.user, []).append(hold)
    seconds = {user: sum(one.end - one.start for one in own) for user, own in of_user.items()}
    ranked = sorted(of_user, key=lambda user: (-seconds[user], user))
    return [
        UserRow(
            user=user,
            hours=seconds[user] / 3600,
            leases=len(of_user[user]),
            devices=len({hold.device for hold in of_user[user]}),
            share=seconds[user] / all_time,
            colour=min(rank, COLOURS),
        )
        for rank, user in enumerate(ranked)
    ]


def _bars(holds: Sequence[Hold], start: float, length: float, colours: dict[str, int]) -> list[Bar]:
    """One bar for each run of leases of one user that lie closer than a step."""
    step = length / STEPS
    runs: list[list[Hold]] = []
    for hold in holds:
        last = runs[-1][-1] if runs else None
        if last is not None and last.user == hold.user and hold.start - last.end < step:
            runs[-1].append(hold)
        else:
            runs.append([hold])
    return [
        Bar(
            user=run[0].user,
            colour=colours[run[0].user],
            x=round((run[0].start - start) / length * WIDTH, 1),
            width=round(max((run[-1].end - run[0].start) / length * WIDTH, 1.5), 1),
            leases=len(run),
            seconds=sum(hold.end - hold.start for hold in run),
        )
        for run in runs
    ]
