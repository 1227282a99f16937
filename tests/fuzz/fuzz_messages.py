"""Messages of every service of the farm, well-formed, absurd and broken, by a random generator."""

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from tunefarm_proto.v1 import account_pb2, common_pb2, device_pb2, tracker_pb2

INTEGERS = (
    0, 1, 2, 3, 7, 100, 4095, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 40,
    (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1, -1, -2, -(1 << 31), -(1 << 63),
)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e308, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", " ", "\n", "\0", "a\nb", "\u202e", "\U0001f600", "..", "../../etc/passwd", "%s%n", "*")
MANY = 2000
_INTEGER_RANGE = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
    FieldDescriptor.CPPTYPE_ENUM: (0, 9),
}


def methods(*services: str) -> list[MethodDescriptor]:
    """Every method of these services."""
    found: list[MethodDescriptor] = []
    for module in (common_pb2, account_pb2, tracker_pb2, device_pb2):
        for name, service in module.DESCRIPTOR.services_by_name.items():
            if name in services:
                found += service.methods
    return found


def path_of(method: MethodDescriptor) -> str:
    """As gRPC names it."""
    return f"/{method.containing_service.full_name}/{method.name}"


@dataclass
class Words:
    """What fields of a name hold when they are to make sense, by the field's name."""

    pools: dict[str, Sequence[Any]] = field(default_factory=dict)


class Messages:
    """Makes messages of one input, by its own random generator."""

    def __init__(self, draw: random.Random, words: Words) -> None:
        self.draw = draw
        self.words = words

    def of(self, method: MethodDescriptor) -> bytes:
        """One request of a method, perhaps broken."""
        made = message_factory.GetMessageClass(method.input_type)()
        self._fill(made, 0)
        return self.broken(made.SerializeToString())

    def _fill(self, message: Message, depth: int) -> None:
        sense = self.draw.random()  # how much of it makes sense
        chosen = {one.name: self.draw.choice(one.fields).name for one in message.DESCRIPTOR.oneofs}
        for one in message.DESCRIPTOR.fields:
            oneof = one.containing_oneof
            if oneof is not None and chosen[oneof.name] != one.name:
                continue
            if oneof is None and self.draw.random() > 0.5 + sense / 2:
                continue
            if depth < 4:
                self._set(message, one, sense, depth)

    def _set(self, message: Message, one: FieldDescriptor, sense: float, depth: int) -> None:
        if one.message_type is not None and one.message_type.GetOptions().map_entry:
            held = getattr(message, one.name)
            for _ in range(self._count()):
                key, value = one.message_type.fields
                held[self._value(key, sense)] = self._value(value, sense)
        elif one.is_repeated:
            held = getattr(message, one.name)
            for _ in range(self._count()):
                if one.message_type is not None:
                    self._fill(held.add(), depth + 1)
                else:
                    held.append(self._value(one, sense))
        elif one.message_type is not None:
            getattr(message, one.name).SetInParent()
            self._fill(getattr(message, one.name), depth + 1)
        else:
            setattr(message, one.name, self._value(one, sense))

    def _count(self) -> int:
        return MANY if self.draw.random() < 0.01 else self.draw.randrange(4)

    def _value(self, one: FieldDescriptor, sense: float) -> Any:
        kind = one.cpp_type
        if one.type == FieldDescriptor.TYPE_BYTES:
            return self.draw.randbytes(self._size())
        if kind == FieldDescriptor.CPPTYPE_STRING:
            return self._text(one.name, sense)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self.draw.random() < 0.5
        if kind in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
            return self.draw.choice(FLOATS)
        return self._integer(one, sense)

    def _integer(self, one: FieldDescriptor, sense: float) -> int:
        known = [n for n in self.words.pools.get(one.name, ()) if isinstance(n, int)]
        if known and self.draw.random() < sense + 0.2:
            return int(self.draw.choice(known))
        low, high = _INTEGER_RANGE[one.cpp_type]
        value = self.draw.choice(INTEGERS)
        return value if low <= value <= high else self.draw.randint(low, high)

    def _size(self) -> int:
        return self.draw.choice((0, 1, 8, 64, 1000, 1 << 16 if self.draw.random() < 0.05 else 3))

    def _text(self, name: str, sense: float) -> str:
        # A device that was once heard of is kept for ever: few may be made.
        steady = 0.97 if name in ("device_id", "key") else sense + 0.3
        if name in self.words.pools and self.draw.random() < steady:
            return str(self.draw.choice(self.words.pools[name]))
        if self.draw.random() < 0.02:
            return "x" * self.draw.choice((201, 2001, 1 << 16))
        if self.draw.random() < 0.5:
            return self.draw.choice(TEXTS)
        return "".join(chr(self.draw.randrange(32, 0x2000)) for _ in range(self.draw.randrange(30)))

    def broken(self, data: bytes) -> bytes:
        """The same bytes, or some change of them."""
        draw, kind = self.draw, self.draw.random()
        if kind < 0.5:
            return data
        if kind < 0.7:
            return flipped(draw, data)
        if kind < 0.8:
            return data[: draw.randrange(len(data) + 1)]
        if kind < 0.88:
            return draw.randbytes(draw.choice((1, 2, 5, 30, 300, 5000)))
        if kind < 0.92:  # an unknown field, of a number that is used by nobody
            return data + b"\xfa\xff\x03" + bytes([draw.randrange(128)]) + draw.randbytes(9)
        if kind < 0.94:
            return data + data
        if kind < 0.96:  # a length far beyond the end
            return data + b"\x0a\xff\xff\xff\xff\x07" + draw.randbytes(5)
        if kind < 0.98:  # no UTF-8
            return data + bytes([draw.choice((0x0A, 0x12, 0x1A, 0x2A, 0x32))]) + b"\x02\xff\xfe"
        if kind < 0.997:  # groups within groups, as deep as it gets
            return data + b"\x0b" * draw.choice((10, 200, 5000))
        return data + b"\xfa\x01" + struct.pack("<Q", 1 << 40) + bytes(draw.randrange(6 << 20))


def flipped(draw: random.Random, data: bytes) -> bytes:
    """Some bits changed."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)
