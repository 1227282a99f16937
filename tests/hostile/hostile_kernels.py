"""The corpus: each kernel is a file in C whose first lines say what is to become of it.

`// expect: A|B`   what its call may come to: "returns", or the name of an error
`// later: A|B`    and then a good kernel in the same session: "right" unless said, "any" error too
`// needs: A B`    primitives of isolation without which it is not run: it would do what it tries
`// limit: S`      seconds of the device's clock: 0.5 where a timeout is expected, else 10
"""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tunefarm_compiler.foreign import build_c
from tunefarm_proto.bundle import Bundle

KERNELS = Path(__file__).with_name("kernels")
ARGS = "x:out:float32[16]"
SHORT_S, LONG_S = 0.5, 10.0


@dataclass(frozen=True)
class Kernel:
    """One kernel of the corpus."""

    name: str
    expect: frozenset[str]
    later: frozenset[str]
    needs: frozenset[str]
    limit_s: float


def read(file: Path) -> Kernel:
    """A kernel by the first lines of its file."""
    said = dict(re.findall(r"^// (\w+): (.*)$", file.read_text(), re.MULTILINE))
    expect = frozenset(said["expect"].split("|"))
    limit = SHORT_S if expect == {"KernelTimeoutError"} else LONG_S
    return Kernel(
        name=file.stem,
        expect=expect,
        later=frozenset(said.get("later", "right").split("|")),
        needs=frozenset(said.get("needs", "").split()),
        limit_s=float(said.get("limit", limit)),
    )


def corpus() -> list[Kernel]:
    """All of it."""
    return [read(file) for file in sorted(KERNELS.glob("*.c")) if file.stem != "good"]


def build_all() -> dict[str, Bundle]:
    """The bundle of each kernel, and of "good", by name."""
    files = sorted(KERNELS.glob("*.c"))
    with ThreadPoolExecutor(4) as pool:
        built = pool.map(lambda file: build_c(file, "local", ARGS), files)
        return {file.stem: bundle for file, bundle in zip(files, built, strict=True)}
