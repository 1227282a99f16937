"""What is tuned: a workload on the devices of a key. It builds candidates and judges answers."""

import hashlib
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

import numpy as np
from tunefarm import Bundle
from tunefarm_compiler.pool import BuildPool
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.stages import inputs
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload
from tunefarm_proto.seeded import seeded_bytes
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_tuner.search.base import Candidate, Space

Array = np.ndarray[Any, Any]
KNOWN_OUTPUTS = 32  # digests that travel with each candidate


class Task:
    """One workload on one target and key, in a space of candidates. `target` is its name.

    `weight` is how much a second of it counts in the whole, as in how often a model calls it.
    """

    def __init__(
        self,
        workload: Workload,
        spec: TargetSpec,
        key: str,
        target: str,
        space: Space,
        *,
        weight: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.parsed = workload
        self.workload = str(workload)
        self.spec = spec
        self.key = key
        self.space = space
        self.weight = weight
        self.seed = seed
        self.operations = workload.operations
        self.function = workload.function
        self.target = target
        self._answers: OrderedDict[str, bool] = OrderedDict()
        self._expected: list[Array] | None = None
        self._computing = threading.Lock()

    @property
    def name(self) -> tuple[str, str, str]:
        """As `Record.task`."""
        return self.workload, self.key, self.target

    def submit(self, pool: BuildPool, candidate: Candidate) -> "Future[Bundle]":
        """Build a candidate. The future raises CompileErrors."""
        return pool.submit(self.workload, self.spec, Schedule.from_json(candidate))

    def arguments(self) -> list[dpb.ArgumentData]:
        """Of each argument, how the device fills it: inputs from seeds, outputs with zeros."""
        given = len(inputs(self.parsed.output))
        seeds = [dpb.SeededData(seed=self.seed + index) for index in range(given)]
        return [*(dpb.ArgumentData(seeded=one) for one in seeds), dpb.ArgumentData()]

    def inputs(self) -> list[Array]:
        """What the device makes of the seeds."""
        tensors = inputs(self.parsed.output)
        return [self._input(t.outside, t.dtype, index) for index, t in enumerate(tensors)]

    def _input(self, shape: tuple[int, ...], dtype: str, index: int) -> Array:
        kind = np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        return np.frombuffer(seeded_bytes(self.seed + index, dtype, size), kind).reshape(shape)

    def expected(self) -> list[Array]:
        """The reference, computed once."""
        with self._computing:
            if self._expected is None:
                self._expected = self.parsed.reference(self.inputs())
            return self._expected

    def known_outputs(self) -> list[str]:
        """Digests of answers that were judged: the last ones."""
        return list(self._answers)[-KNOWN_OUTPUTS:]

    def right(self, digest: str, outputs: list[bytes]) -> bool:
        """Whether the answer with that digest is right; `outputs` may be empty where it is known.

        A digest is believed only where outputs that have it were compared with the reference.
        """
        if not outputs:
            return self._answers.get(digest, False)
        found = hashlib.sha256(b"".join(outputs)).hexdigest()
        if found not in self._answers:
            expected = self.expected()
            sized = len(outputs) == len(expected) and all(
                len(got) == want.nbytes for got, want in zip(outputs, expected, strict=True)
            )
            self._answers[found] = sized and bool(
                self.parsed.check(
                    [
                        np.frombuffer(got, want.dtype).reshape(want.shape)
                        for got, want in zip(outputs, expected, strict=True)
                    ],
                    expected,
                )
            )
        return found == digest and self._answers[found]
