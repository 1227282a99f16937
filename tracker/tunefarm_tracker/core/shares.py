"""Who holds and has used how much: what fair share and quotas go by."""

from tunefarm_tracker.core.queue import Share
from tunefarm_tracker.core.records import Lease, Quota, Usage


class Shares:
    """Devices held and device seconds used, for each user and key; quotas by user.

    Sums are of whole microseconds, so that they do not depend on the order of adding.
    """

    def __init__(self, half_life: float) -> None:
        self.quotas: dict[str, Quota] = {}
        self.usage: dict[tuple[str, str], Usage] = {}
        self._half_life = half_life
        self._held: dict[tuple[str, str], tuple[int, int]] = {}  # count, sum of grant times in us
        self._devices: dict[str, int] = {}

    def hold(self, lease: Lease) -> None:
        """A lease begins."""
        self._add(lease, 1)

    def let_go(self, lease: Lease, now: float) -> Usage:
        """A lease ends: what its holder has used of the key from now on."""
        self._add(lease, -1)
        where = (lease.holder, lease.device_key)
        before = self._used(where, now)
        amount = before + max(now - lease.granted_at, 0.0)
        self.usage[where] = Usage(*where, amount, now)
        return self.usage[where]

    def _add(self, lease: Lease, sign: int) -> None:
        where = (lease.holder, lease.device_key)
        count, total = self._held.get(where, (0, 0))
        self._held[where] = (count + sign, total + sign * round(lease.granted_at * 1e6))
        if self._held[where][0] == 0:
            del self._held[where]
        self._devices[lease.holder] = self._devices.get(lease.holder, 0) + sign
        if not self._devices[lease.holder]:
            del self._devices[lease.holder]

    def _used(self, where: tuple[str, str], now: float) -> float:
        usage = self.usage.get(where)
        return usage.later(now, self._half_life) if usage is not None else 0.0

    def of(self, key: str, now: float) -> Share:
        """Each user's share of a key."""

        def share(user: str) -> tuple[int, float]:
            count, total = self._held.get((user, key), (0, 0))
            running = count * now - total * 1e-6
            return count, round(self._used((user, key), now) + running, 3)

        return share

    def devices(self, user: str) -> int:
        """Devices that a user holds."""
        return self._devices.get(user, 0)

    def recent_use(self, user: str, now: float) -> float:
        """Device seconds of every key, what is running included."""
        keys = {key for owner, key in (*self.usage, *self._held) if owner == user}
        return sum(self.of(key, now)(user)[1] for key in keys)

    def holders(self) -> set[str]:
        """Everybody who holds a device, has used one or has a quota."""
        return {*self._devices, *(user for user, _ in self.usage), *self.quotas}

    def max_devices(self, user: str) -> int | None:
        """How many devices a user may hold, where limited."""
        quota = self.quotas.get(user)
        return quota.max_devices if quota is not None else None
