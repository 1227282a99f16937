"""One device of a server: its lease, its sessions' workbench, its stream to the tracker."""

import asyncio
import contextvars
import logging
from collections.abc import Mapping, Sequence

from tunefarm_proto.errors import InternalError
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_device import lease_log
from tunefarm_device.anchor import Anchor, ended
from tunefarm_device.lanes import LaneServer
from tunefarm_device.lease import LeaseGate
from tunefarm_device.service import DeviceService
from tunefarm_device.state import StateDir
from tunefarm_device.tracker_link import TrackerLink
from tunefarm_device.workbench import Workbench


class RunningDevice:
    """A device that is served.

    Attributes: `device_id`, `key`, `gate`, `service` (which takes its calls).
    """

    def __init__(
        self,
        key: str,
        state: StateDir,
        bench: Workbench,
        labels: Mapping[str, str],
        lanes: LaneServer,
    ) -> None:
        self.key = key
        self.device_id = state.device_id(key)
        self.gate = LeaseGate(state.fence, state.keep_fence)
        self.service = DeviceService(self.gate, bench, lanes)
        self.bench = bench
        logging.getLogger("tunefarm_device").addHandler(bench.log)
        self._labels = labels
        self._state = state
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def lease_id(self) -> str:
        """The lease being served, "" where there is none."""
        return self.gate.lease_id

    async def prepare(self) -> None:
        """Start what its runners come from. Raises: InternalError."""
        isolation, steadied = await self.bench.host.start()
        if self.bench.alone:
            await self._try_runner()
        self.bench.facts.isolation.extend(isolation)
        if self.bench.timing_cpu is not None:
            steadied = ["pinned", *steadied]
        self.bench.facts.steadied.extend(steadied)

    async def _try_runner(self) -> None:
        """Whether a runner begins: a driver may lack in the sandbox what it has outside."""
        try:
            runner = await self.bench.host.spawn()
        except InternalError as error:
            hint = "where `--isolation basic` helps, it is the sandbox: tell us"
            raise InternalError(f"{self.key}: {error.message}", hint) from None
        await runner.close()

    def dial(
        self,
        tracker: str,
        addresses: Sequence[str],
        credentials: Credentials,
        anchor_interval_s: float,
    ) -> None:
        """Open its stream to the tracker, which tells clients these addresses, and keep it.

        Time the anchors every so many seconds while nobody has it; never where it is 0.
        """
        presence = tpb.SynchronizeRequest(
            device_id=self.device_id,
            key=self.key,
            addresses=addresses,
            facts=self.bench.facts,
            labels=self._labels,
        )
        link = TrackerLink(
            tracker,
            presence,
            self.gate,
            self.bench.beats or self.bench.conditions,
            self._clean,
            credentials=credentials,
        )
        work = [link.run()]
        if anchor_interval_s > 0:
            anchor = Anchor(self.bench, lambda: not self.lease_id, link.tell, anchor_interval_s)
            work.append(anchor.run())
        context = contextvars.copy_context()
        context.run(lease_log.WHOSE.set, self.bench.log)
        self._tasks = [asyncio.create_task(one, context=context) for one in work]

    async def _clean(self) -> str:
        """Nothing that a lease started outlives it. Other devices keep theirs.

        Returns the last of what was printed under it.
        """
        await self.bench.host.kill_all()
        said = self.bench.output.take()
        await asyncio.to_thread(self._state.clean)  # a kernel may have left a lot
        self.bench.log.clear()
        return said

    async def stop(self) -> None:
        """End everything of it; no process is left. Doing it twice is fine."""
        for task in self._tasks:
            await ended(task)
        self.gate.shut()
        await self.bench.host.stop()

    def close(self) -> None:
        """Let another server have its state folder, when no call is under way any more."""
        logging.getLogger("tunefarm_device").removeHandler(self.bench.log)
        self._state.close()
