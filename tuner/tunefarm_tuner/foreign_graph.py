"""What TVM saves as JSON, read without TVM: nodes that name each other by their number.

Nothing in it is executed, and a node means only what its kind and its fields say. There are two
writings: `type_key` and `attrs`, where everything is a string (until 0.20), and `type` and `data`.
"""

import base64
import json
from collections.abc import Iterable
from typing import Any

LARGEST = 1 << 22  # characters; a workload has some ten thousands
MOST = 50_000  # nodes
HEADER = 8  # bytes before the text: its length
ALIASES = {"TensorLoad": "BufferLoad", "SBlock": "Block", "SBlockRealize": "BlockRealize"}
EMPTY = ("", "None")


class Graph:
    """The nodes, each named by its number. Raises: ValueError where something is not as it says."""

    def __init__(self, text: str) -> None:
        if len(text) > LARGEST:
            raise ValueError("too long")
        whole = json.loads(text)
        self._nodes = whole["nodes"]
        self._old = "root_index" not in whole
        if not isinstance(self._nodes, list) or len(self._nodes) > MOST:
            raise ValueError("no nodes, or too many")
        self.root = self._checked(whole["root" if self._old else "root_index"])
        # 0.27 names a number by a node of its own. Where it does not, 0 is the node of nothing.
        whole_numbers = [
            self._fields(at)["value"] for at in range(len(self._nodes)) if self.kind(at) == "IntImm"
        ]
        self._boxed = not self._old and all(self._is_int(value) for value in whole_numbers)

    @classmethod
    def of_base64(cls, text: Any) -> "Graph":
        """As a database of MetaSchedule has it."""
        if not isinstance(text, str) or len(text) > LARGEST:
            raise ValueError("no text, or too long")
        data = base64.b64decode(text, validate=True)
        if int.from_bytes(data[:HEADER], "little") != len(data) - HEADER:
            raise ValueError("not as long as it says")
        return cls(data[HEADER:].decode())

    def kind(self, at: int) -> str:
        """The last word of its type, the same in every version: "BufferStore"; "" for nothing."""
        name = self._node(at)["type_key" if self._old else "type"]
        if not isinstance(name, str):
            raise ValueError("a type is no text")
        last = name.rpartition(".")[2]
        return "" if name in EMPTY else ALIASES.get(last, last)

    def field(self, at: int, name: str) -> int:
        """The node that a field names."""
        return self._checked(self._fields(at)[name])

    def plain(self, at: int, name: str, default: object = None) -> str:
        """A field that is no node, as text."""
        value = self._fields(at).get(name, default)
        if isinstance(value, dict | list):
            raise ValueError(f"{name} is no plain field")
        return str(value)

    def names(self, at: int) -> Iterable[str]:
        """Of its fields; arrays and operators have none."""
        held = self._node(at).get("attrs" if self._old else "data")
        return held.keys() if isinstance(held, dict) else ()

    def has(self, at: int, name: str) -> bool:
        """Whether it has the field, and there is something in it."""
        return name in self._fields(at) and self.kind(self.field(at, name)) != ""

    def items(self, at: int) -> list[int]:
        """Those of an array; of a map keys and values in turn."""
        if self.kind(at) not in ("Array", "Map"):
            raise ValueError(f"{self.kind(at)} is no array")
        return [self._checked(one) for one in self._node(at).get("data", [])]

    def expect(self, at: int, *kinds: str) -> int:
        """The same node, which is of one of these kinds. Raises: ValueError."""
        if self.kind(at) not in kinds:
            raise ValueError(f"{self.kind(at)} where {' or '.join(kinds)} belongs")
        return at

    def whole(self, at: int) -> int:
        """A constant's whole number."""
        value = self._fields(self.expect(at, "IntImm"))["value"]
        if self._boxed:
            value = self._node(self._checked(value))["data"]
        return _int(value)

    def number(self, at: int) -> float:
        """A constant's number."""
        if self.kind(at) == "IntImm":
            return float(self.whole(at))
        value = self._fields(self.expect(at, "FloatImm"))["value"]
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError("no number")
        return float(value)

    def dtype(self, at: int) -> str:
        """The type of an expression's value, or of a buffer's elements."""
        held = self._fields(at)
        if self._old or "ty" not in held:
            value = held["dtype"]
            if isinstance(value, str):
                return value
            at = self._checked(value)
        else:
            at = self._checked(held["ty"])
        return str(self._fields(self.expect(at, "PrimType"))["dtype"])

    def name(self, at: int) -> str:
        """An operator's last word: "exp"."""
        self.expect(at, "Op")
        name = self._node(at)["repr_str" if self._old else "data"]
        if not isinstance(name, str):
            raise ValueError("a name is no text")
        return name.rpartition(".")[2]

    def hints(self, kind: str) -> list[str]:
        """Names that nodes of a kind were given, if they are plain words."""
        found = list[str]()
        for at in range(len(self._nodes)):
            if self.kind(at) == kind and self.has(at, "name_hint"):
                node = self._node(self.field(at, "name_hint"))
                name = node.get("repr_str" if self._old else "data")
                if (
                    isinstance(name, str)
                    and len(name) < 64
                    and name.isascii()
                    and name.isidentifier()
                ):
                    found.append(name)
        return found

    def _is_int(self, value: Any) -> bool:
        try:
            return bool(self._node(self._checked(value))["type"] == "int")
        except ValueError:
            return False

    def _node(self, at: int) -> dict[str, Any]:
        node = self._nodes[at]
        if not isinstance(node, dict):
            raise ValueError("a node is no object")
        return node

    def _fields(self, at: int) -> dict[str, Any]:
        held = self._node(at).get("attrs" if self._old else "data", {})
        if not isinstance(held, dict):
            raise ValueError(f"{self.kind(at)} has no fields")
        return held

    def _checked(self, value: Any) -> int:
        at = _int(value)
        if not 0 <= at < len(self._nodes):
            raise ValueError(f"no node {at}")
        return at


def _int(value: Any) -> int:
    """A whole number; the old writing has it as text."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{value!r:.60} is no whole number")
    return int(value)
