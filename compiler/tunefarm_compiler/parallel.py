"""Loops dealt out to threads: the body becomes a function of its own."""

from collections.abc import Mapping
from dataclasses import replace

from tunefarm_compiler.access import Access
from tunefarm_compiler.bounds import Range
from tunefarm_compiler.emit import Emitter, Value
from tunefarm_compiler.regions import Region
from tunefarm_compiler.threads import DEAL


class Share:
    """A function for some blocks of a loop, under construction: what it takes from around it.

    Values of the function around lie in a global while the threads run.
    """

    def __init__(self, outer: Emitter, name: str) -> None:
        self.outer, self.name = outer, name
        self.emit = Emitter(outer.index)
        self._taken: dict[str, str] = {}

    def take(self, value: Value, kind: str = "") -> Value:
        """A value of the function around, an index unless `kind` is "ptr"."""
        if isinstance(value, int) or not value.startswith("%"):
            return value
        if value not in self._taken:
            kind = kind or self.outer.index
            where = f"getelementptr (i64, ptr @{self.name}.taken, i32 {len(self._taken)})"
            self.outer.line(f"store {kind} {value}, ptr {where}")
            self._taken[value] = self.emit.value("o", f"load {kind}, ptr {where}")
        return self._taken[value]

    def base(self, held: Access | Region) -> str:
        """The base of an access or a region, taken."""
        return str(self.take(held.base, "ptr"))

    def ranges(self, ranges: Mapping[str, Range]) -> dict[str, Range]:
        """Ranges with their beginnings taken."""
        return {axis: replace(one, at=self.take(one.at)) for axis, one in ranges.items()}

    def between(self, number: int, rounds: int) -> tuple[Value, Value]:
        """First and last round, but one, of those that count from block `number`."""
        emit, most = self.emit, number + rounds
        first = emit.extreme("smax", "%first", number)
        stop = emit.extreme("smin", "%stop", most)
        return emit.add(first, -number), emit.add(stop, -number)

    def close(self, blocks: int, threads: int) -> str:
        """Call it for all blocks. Returns its text."""
        index = self.outer.index
        self.outer.line(f"call void {DEAL}(ptr @{self.name}, {index} {blocks}, i32 {threads})")
        self.emit.line("ret void")
        given = f"{index} %first, {index} %stop, {index} %worker"
        held = f"@{self.name}.taken = internal global [{max(1, len(self._taken))} x i64] "
        head = f"define internal void @{self.name}({given}) #0 {{"
        return "\n".join([held + "zeroinitializer", head, *self.emit.lines, "}"])
