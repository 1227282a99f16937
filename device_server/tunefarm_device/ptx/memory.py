"""The memory of the device: allocations, each with its bounds, in one flat address space."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import IllegalAddressError, LaunchRefusedError
from .kinds import Array

# Windows of the generic address space. Global addresses lie above both.
SHARED_WINDOW = 1 << 40
LOCAL_WINDOW = 1 << 41
WINDOW = 1 << 32
_FIRST = 0x7F00_0000_0000
_ALIGN = 512
# Fresh memory: a NaN in every float type, so that what nobody wrote shows in the answer.
_POISON = 0xFF
# No more than this of one allocation, so that what nobody uses takes no memory here.
_POISONED = 64 << 20


@dataclass(frozen=True)
class Allocation:
    """Some memory: where it starts, its size in bytes, and its bytes, padded to 16."""

    start: int
    size: int
    data: Array


class Memory:
    """Allocations of a device. `capacity` is in bytes.

    Addresses are multiples of 512, with unmapped space between allocations.
    """

    def __init__(self, capacity: int = 1 << 34) -> None:
        self.capacity = capacity
        self.used = 0
        self.symbols: dict[tuple[int, str], int] = {}
        self._next = _FIRST
        self._starts: list[int] = []
        self._allocations: list[Allocation] = []

    def allocate(self, size: int) -> int:
        """The address of fresh memory of so many bytes. Raises: MemoryError."""
        if size <= 0 or self.used + size > self.capacity:
            raise MemoryError(f"{size} bytes of {self.capacity - self.used} that are free")
        data = np.zeros(-(-size // 16) * 16, np.uint8)
        data[:_POISONED] = _POISON
        allocation = Allocation(self._next, size, data)
        self._next += -(-size // _ALIGN) * _ALIGN + _ALIGN
        self._starts.append(allocation.start)
        self._allocations.append(allocation)
        self.used += size
        return allocation.start

    def free(self, address: int) -> None:
        """Gives an allocation back, by its first byte. Raises: IllegalAddressError."""
        allocation = self.find(address, 1)
        if allocation.start != address:
            raise IllegalAddressError(f"0x{address:x} is not where an allocation starts")
        index = bisect_right(self._starts, address) - 1
        del self._starts[index], self._allocations[index]
        self.used -= allocation.size

    def find(self, address: int, size: int) -> Allocation:
        """The allocation that holds these bytes. Raises: IllegalAddressError."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0:
            allocation = self._allocations[index]
            if address + size <= allocation.start + allocation.size:
                return allocation
        raise IllegalAddressError(f"{size} bytes at 0x{address:x} are {self._near(address)}")

    def _near(self, address: int) -> str:
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return "below every allocation"
        near = self._allocations[index]
        past = address - near.start - near.size
        where = f"{past} bytes past its end" if past >= 0 else "across its end"
        return f"outside every allocation: nearest is 0x{near.start:x} of {near.size}, {where}"

    def view(self, address: int, size: int) -> Array:
        """These bytes, to be read and written in place. Raises: IllegalAddressError."""
        allocation = self.find(address, size)
        offset = address - allocation.start
        return allocation.data[offset : offset + size]

    def read(self, address: int, size: int) -> bytes:
        """A copy of these bytes. Raises: IllegalAddressError."""
        return self.view(address, size).tobytes() if size else b""

    def write(self, address: int, data: Any) -> None:
        """Sets bytes, from anything with a buffer. Raises: IllegalAddressError."""
        source = np.frombuffer(data, np.uint8)
        if len(source):
            self.view(address, len(source))[:] = source

    def fill(self, address: int, value: int, size: int) -> None:
        """Sets every byte to a value. Raises: IllegalAddressError."""
        if size:
            self.view(address, size)[:] = value

    def put(self, array: Array) -> int:
        """The address of fresh memory with an array's bytes in it. Raises: MemoryError."""
        address = self.allocate(max(1, array.nbytes))
        self.write(address, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return address

    def get(self, address: int, dtype: Any, shape: int | tuple[int, ...]) -> Array:
        """A copy of an array. Raises: IllegalAddressError."""
        kind = np.dtype(dtype)
        count = int(np.prod(shape))
        return self.view(address, count * kind.itemsize).view(kind).reshape(shape).copy()

    def split(self, addresses: Array, size: int) -> list[tuple[Allocation, Array | None]]:
        """Which allocation each address lies in: pairs of one, and of which addresses (None: all).

        Raises: IllegalAddressError, naming the first address that lies in none.
        """
        low, high = int(addresses.min()), int(addresses.max())
        index = bisect_right(self._starts, low) - 1
        if index >= 0:
            allocation = self._allocations[index]
            if high + size <= allocation.start + allocation.size:
                return [(allocation, None)]
        return self._split(addresses, size)

    def _split(self, addresses: Array, size: int) -> list[tuple[Allocation, Array | None]]:
        starts = np.array(self._starts, np.uint64)
        which = np.searchsorted(starts, addresses, side="right") - 1
        found: list[tuple[Allocation, Array | None]] = []
        for number in np.unique(which):
            places = np.flatnonzero(which == number)
            chosen = addresses[places]
            worst = int(chosen.max())
            self.find(int(chosen.min()), size)
            self.find(worst, size)
            found.append((self._allocations[int(number)], places))
        return found

    def place(self, key: tuple[int, str], size: int, initial: bytes | None) -> int:
        """The address of a module's variable, made at its first use. Raises: LaunchRefusedError."""
        address = self.symbols.get(key)
        if address is None:
            if not size:
                raise LaunchRefusedError(f"{key[1]} has no size")
            address = self.symbols[key] = self.allocate(size)
            self.write(address, initial if initial is not None else bytes(size))
        return address
