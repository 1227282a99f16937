"""Kernels of which some are wrong, for tests: what a candidate does is its number modulo 10."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ziglang
from tunefarm import Bundle
from tunefarm_compiler.targets import TargetSpec
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_tuner.tasks import Custom

BODY = """
#include <stdint.h>
#include <stdlib.h>
int32_t twice(void *const *args) {
  static int calls; float *a = args[0], *b = args[1];
  for (int i = 0; i < 16; ++i) b[i] = 2 * a[i];
  %s
  return 0;
}
"""
# Modulo 10: what the kernel does besides, and the error that its record has to have.
KINDS = {
    1: ("b[3] += 1;", "WrongAnswerError"),
    3: ("if (calls++) b[5] = 0;", "WrongAnswerError"),  # right at first
    5: ("abort();", "KernelCrashedError"),
    7: ("return 9;", "KernelFailedError"),
}
SIGNATURE = bpb.FunctionSignature(
    name="twice",
    arguments=[
        bpb.ArgumentSignature(name="a", dtype="float32", shape=[16]),
        bpb.ArgumentSignature(name="b", dtype="float32", shape=[16], output=True),
    ],
)


class Numbers:
    """A space of so many numbers; a `Space`."""

    def __init__(self, count: int) -> None:
        self.count = count

    def default(self) -> str | None:
        return None

    def candidates(self) -> Iterator[str]:
        return iter(map(str, range(self.count)))

    def sample(self, rng: random.Random) -> str:
        return str(rng.randrange(self.count))

    def mutate(self, candidate: str, rng: random.Random) -> str:
        return self.sample(rng)

    def cross(self, one: str, other: str, rng: random.Random) -> str:
        return rng.choice((one, other))

    def features(self, candidate: str) -> list[float]:
        return [float(candidate)]


def expected_error(candidate: str) -> str:
    """What has to become of it; "" where it is right."""
    return KINDS.get(int(candidate) % 10, ("", ""))[1]


def build_libraries(folder: Path) -> None:
    """One library for each kind."""
    zig = Path(ziglang.__file__).parent / "zig"
    for kind in [0, *KINDS]:
        source = folder / f"kind{kind}.c"
        source.write_text(BODY % KINDS.get(kind, ("", ""))[0])
        command = [str(zig), "cc", "-shared", "-O1", "-fno-sanitize=all", str(source), "-o"]
        subprocess.run([*command, str(source.with_suffix(".so"))], check=True, capture_output=True)


def kernels(folder: Path, count: int) -> Custom:
    """`count` candidates of those libraries; the code of 10 to 19 is that of 0 to 9, and so on."""
    libraries = {kind: (folder / f"kind{kind}.so").read_bytes() for kind in [0, *KINDS]}

    def build(candidate: str, spec: TargetSpec) -> Bundle:
        number = int(candidate)
        whole = libraries[number % 10 if number % 10 in KINDS else 0]
        manifest = bpb.BundleManifest(workload="twice", functions=[SIGNATURE], schedule=candidate)
        # What follows the last section belongs to nothing: it makes the code another one.
        data = whole + (number // 20 * 10 + number % 10).to_bytes(8, "little")
        return bundle_file.pack(manifest, [(pb.Target(triple=spec.triple), data)])

    def reference(inputs: list[np.ndarray]) -> list[np.ndarray]:
        return [2 * inputs[0]]

    return Custom("twice", Numbers(count), build, SIGNATURE, reference, tolerance=0.0)
