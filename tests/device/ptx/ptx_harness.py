"""Small kernels for the tests of the PTX machine, and the assembler that has to take them too."""

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tunefarm_device import ptx

Array = np.ndarray[Any, Any]

HEAD = ".version {version}\n.target {target}\n.address_size 64\n"
REGISTERS = """
  .reg .pred %p<9>; .reg .b16 %h<20>; .reg .b32 %r<40>; .reg .b64 %rd<30>;
"""


def module(*kernels: str, target: str = "sm_80", version: str = "7.8", head: str = "") -> str:
    """A whole text of kernels."""
    return HEAD.format(target=target, version=version) + head + "\n".join(kernels)


def kernel(body: str, pointers: int = 4, name: str = "k", extra: str = "") -> str:
    """A kernel of so many pointers: %rd0, %rd1, ... hold them, %r0 the number of the thread.

    Threads are numbered through the grid in %r1, which is of one dimension.
    """
    parameters = ", ".join(f".param .u64 p{n}" for n in range(pointers)) + extra
    loads = "".join(
        f"  ld.param.u64 %rd{n}, [p{n}];\n  cvta.to.global.u64 %rd{n}, %rd{n};\n"
        for n in range(pointers)
    )
    return f"""
.visible .entry {name}({parameters})
{{{REGISTERS}{loads}
  mov.u32 %r0, %tid.x;
  mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x;
  mad.lo.s32 %r1, %r1, %r2, %r0;
{body}
  ret;
}}
"""


@cache
def assembler() -> str | None:
    """ptxas, or None."""
    found = shutil.which("ptxas")
    places = sorted(map(str, Path("/usr/local").glob("cuda*/bin/ptxas")))
    return found or (places[-1] if places else None)


@cache
def assembles(text: str, arch: str = "sm_80") -> bool:
    """Whether ptxas takes a text; it has no say where it is not installed."""
    program = assembler()
    if program is None:
        return True
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "k.ptx"
        source.write_text(text)
        made = subprocess.run(
            [program, "-arch", arch, "-O0", "-o", f"{folder}/k.cubin", str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert made.returncode == 0, made.stderr + made.stdout
    return True


def run(
    text: str,
    arrays: list[Array],
    *,
    block: int | tuple[int, ...] = 32,
    grid: int | tuple[int, ...] = 1,
    shared: int = 0,
    name: str = "k",
    more: tuple[int, ...] = (),
    arch: str = "sm_80",
    assemble: bool = True,
    **options: Any,
) -> tuple[list[Array], ptx.Statistics]:
    """Runs a kernel of a text on copies of arrays: the arrays after it, and the statistics."""
    if assemble:
        assembles(text, arch)
    memory = ptx.Memory()
    places = [memory.put(array) for array in arrays]
    grids = (grid,) if isinstance(grid, int) else grid
    blocks = (block,) if isinstance(block, int) else block
    made = ptx.Module(text).kernels[name]
    statistics = ptx.launch(made, grids, blocks, shared, [*places, *more], memory, **options)
    after = [memory.get(p, a.dtype, a.shape) for p, a in zip(places, arrays, strict=True)]
    return after, statistics
