"""The anchor: work that never changes, timed now and then while nobody has the device.

What it takes today and took last month tells how the device itself drifts: with its temperature,
its power supply, its memory's neighbours. "compute" is a checksum that lives in the first caches,
"memory" a copy that fits in none; both are code of Python's own libraries, which every device has,
so a reading is comparable with others of the same device alone. A GPU has both of its own.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Any

from tunefarm_proto.errors import TunefarmError
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_device.backend import RunnerError
from tunefarm_device.options import HOT
from tunefarm_device.runner import ANCHORS, copied_bytes
from tunefarm_device.timing import timed
from tunefarm_device.workbench import Workbench

INTERVAL_S = 1800.0
SAMPLES = 15
SAMPLE_S = 0.01
LIMIT_S = 30.0

_log = logging.getLogger(__name__)


class Anchor:
    """Reads the anchors every `interval_s` or so, while `idle`, and keeps the last readings."""

    def __init__(
        self,
        bench: Workbench,
        idle: Callable[[], bool],
        tell: Callable[[list[tpb.AnchorReading]], None],
        interval_s: float = INTERVAL_S,
    ) -> None:
        self._bench = bench
        self._idle = idle
        self._tell = tell
        self._interval_s = interval_s

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            # Boards that were switched on together are not to be read together.
            await asyncio.sleep(self._interval_s * random.uniform(0.5, 1.0))  # noqa: S311
            if not self._idle():
                continue
            try:
                self._tell(await self.read())
            except (TunefarmError, RunnerError) as error:
                _log.info("the anchor was not read: %s", error)  # a lease began, say

    async def read(self) -> list[tpb.AnchorReading]:
        """One reading of each anchor. Raises: KernelCrashedError where a lease's end kills it."""
        runner = await self._bench.host.spawn()
        try:
            return [await self._reading(runner, name) for name in ANCHORS]
        finally:
            await runner.close()

    async def _reading(self, runner: Any, name: str) -> tpb.AnchorReading:
        async def ask(frame: dict[str, Any], left_s: float) -> dict[str, Any]:
            answer, _ = await runner.request(frame, b"", limit_s=left_s, doing="the anchor")
            return dict(answer)

        frame = {
            "do": "time",
            "anchor": name,
            "number": 0,
            "min_repeat_s": SAMPLE_S,
            "repeat": SAMPLES,
            "cache": HOT,
            "cpu": self._bench.timing_cpu,
        }
        async with self._bench.timing:
            conditions = self._bench.conditions.read
            timing = await timed(ask, conditions, frame, pb.TimingOptions(), LIMIT_S)
        timing.emulated = self._bench.facts.emulated
        moved = (self._bench.moved_bytes or 2 * copied_bytes()) if name == "memory" else 0
        return tpb.AnchorReading(name=name, timing=timing, moved_bytes=moved)


async def ended(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
