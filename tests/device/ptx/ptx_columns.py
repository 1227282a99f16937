"""Instructions run on columns of numbers, many of them as the kernels of one module."""

import numpy as np
from ptx_harness import Array, assembles, module
from tunefarm_device import ptx

RAW = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


def column(text: str, result: int, sources: tuple[int, ...], name: str) -> str:
    """A kernel that applies `text` ({d}, {a}, {b}, {c} are registers) to each row.

    Widths are in bits; a result of 1 bit is a predicate, kept as 0 or 1 in 32 bits.
    """
    stored = 32 if result == 1 else result
    parameters = [f".param .u64 p{n}" for n in range(len(sources) + 1)] + [".param .u32 n"]
    names = dict(zip("abce", [f"%x{n}" for n in range(len(sources))], strict=False))
    lines = [f".visible .entry {name}({', '.join(parameters)})", "{"]
    lines += [f"  .reg .b{w} %x{n};" for n, w in enumerate(sources)]
    lines += [f"  .reg .{'pred' if result == 1 else f'b{result}'} %d;", f"  .reg .b{stored} %out;"]
    lines += ["  .reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %rd<9>;"]
    lines += ["  mov.u32 %r0, %tid.x; mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x;"]
    lines += ["  mad.lo.s32 %r0, %r1, %r2, %r0; ld.param.u32 %r3, [n];"]
    lines += ["  setp.ge.u32 %p0, %r0, %r3; @%p0 ret;"]
    for n, width in enumerate(sources):
        lines.append(f"  ld.param.u64 %rd0, [p{n}]; mul.wide.u32 %rd1, %r0, {width // 8};")
        lines.append(f"  add.s64 %rd0, %rd0, %rd1; ld.global.b{width} %x{n}, [%rd0];")
    lines.append("  " + text.format(d="%d", **names))
    lines.append("  selp.b32 %out, 1, 0, %d;" if result == 1 else f"  mov.b{result} %out, %d;")
    lines.append(f"  ld.param.u64 %rd0, [p{len(sources)}]; mul.wide.u32 %rd1, %r0, {stored // 8};")
    lines.append(f"  add.s64 %rd0, %rd0, %rd1; st.global.b{stored} [%rd0], %out;")
    return "\n".join([*lines, "  ret;", "}"])


class Columns:
    """A module with one kernel for each instruction text, by the text."""

    def __init__(self, target: str = "sm_90") -> None:
        self.target = target
        self.widths: dict[str, tuple[int, tuple[int, ...]]] = {}
        self.made: ptx.Module | None = None

    def add(self, text: str, result: int, *sources: int) -> str:
        """Registers an instruction; the text is its name."""
        self.widths[text] = (result, sources)
        return text

    def name(self, text: str) -> str:
        """The kernel of a text."""
        return f"k{list(self.widths).index(text)}"

    def text(self) -> str:
        """All of them as PTX."""
        kernels = [column(t, r, s, self.name(t)) for t, (r, s) in self.widths.items()]
        return module(*kernels, target=self.target, version="8.6")

    def check(self) -> None:
        """Asks ptxas."""
        assembles(self.text(), self.target)

    def run(self, text: str, *arrays: Array) -> Array:
        """The results, as bits."""
        if self.made is None:
            self.made = ptx.Module(self.text())
        result, _ = self.widths[text]
        memory = ptx.Memory()
        count = len(arrays[0])
        places = [memory.put(array) for array in arrays]
        stored = 32 if result == 1 else result
        out = memory.put(np.zeros(count, RAW[stored]))
        grid = -(-count // 128)
        ptx.launch(
            self.made.kernels[self.name(text)], (grid,), (128,), 0, [*places, out, count], memory
        )
        return memory.get(out, RAW[stored], count)
