"""The devices by key: which are there, which are idle, and how many in which state."""

from collections.abc import Iterator

from tunefarm_tracker.core.records import Device, DeviceState, Health

_AWAY = {"offline", "quarantined", "retired", "draining"}


def word_of(device: Device) -> str:
    """What a device is doing or why it is not used, in one word."""
    if device.health in (Health.QUARANTINED, Health.RETIRED):
        return device.health.value
    if device.draining and device.state is not DeviceState.OFFLINE:
        return DeviceState.DRAINING.value
    return device.state.value


class Fleet:
    """Indexes of the devices, kept by `put`."""

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self._of_key: dict[str, dict[str, None]] = {}
        self._words: dict[str, dict[str, int]] = {}
        # Each in the order in which they became idle. The suspects are granted last.
        self._good: dict[str, dict[str, None]] = {}
        self._suspect: dict[str, dict[str, None]] = {}
        self._kept: dict[str, dict[str, None]] = {}  # idle, but only for maintenance

    def put(self, device: Device) -> None:
        """Add or replace a device."""
        old = self.devices.get(device.id)
        self.devices[device.id] = device
        if old is not None:
            if _indexed(old) == _indexed(device):
                return
            self._count(old, -1)
            if old.key != device.key:
                del self._of_key[old.key][device.id]
        self._of_key.setdefault(device.key, {})[device.id] = None
        self._count(device, 1)
        self._index(old, device)

    def drop(self, device: Device) -> None:
        """Forget a device that is offline."""
        self._count(device, -1)
        del self._of_key[device.key][device.id], self.devices[device.id]

    def _count(self, device: Device, change: int) -> None:
        words = self._words.setdefault(device.key, {})
        word = word_of(device)
        words[word] = words.get(word, 0) + change
        if not words[word]:
            del words[word]

    def _index(self, old: Device | None, device: Device) -> None:
        new_place = self._place(device)
        old_place = self._place(old) if old is not None else None
        if old_place is new_place and new_place is not None:
            return  # it keeps its turn
        if old_place is not None:
            del old_place[device.id]
        if new_place is not None:
            new_place[device.id] = None

    def _place(self, device: Device) -> dict[str, None] | None:
        if not device.idle:
            return None
        index = self._kept
        if device.usable:
            index = self._good if device.health is Health.GOOD else self._suspect
        return index.setdefault(device.key, {})

    def idle(self, key: str, maintenance: bool = False) -> Iterator[Device]:
        """Devices of a key that may be granted, next first."""
        for index in (self._good, self._suspect, self._kept)[: 3 if maintenance else 2]:
            for one in index.get(key, ()):
                yield self.devices[one]

    def of_key(self, key: str) -> list[Device]:
        """Every device of a key."""
        return [self.devices[one] for one in self._of_key.get(key, ())]

    def words(self, key: str) -> dict[str, int]:
        """How many devices of a key there are of each word."""
        return self._words.get(key, {})

    def count(self, key: str) -> int:
        """How many devices of a key there are."""
        return len(self._of_key.get(key, ()))

    def usable(self, key: str) -> int:
        """How many devices of a key are there and may be granted sooner or later."""
        return sum(count for word, count in self.words(key).items() if word not in _AWAY)

    def known_keys(self) -> list[str]:
        """The keys that some device, online or offline, can be requested by."""
        return sorted(
            key for key, words in self._words.items() if any(word != "retired" for word in words)
        )


def _indexed(device: Device) -> tuple[object, ...]:
    """What the indexes depend on."""
    return (
        device.key,
        device.online,
        device.clean,
        device.lease_id,
        device.health,
        device.draining,
    )
