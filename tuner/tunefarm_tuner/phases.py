"""What getting a result takes, part by part, by this host's clock."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tunefarm import Bundle, Device
from tunefarm.module import Module
from tunefarm_proto.v1 import tracker_pb2 as tpb


class Running:
    """A part that goes on until `end`."""

    def __init__(self, phase: tpb.Phase) -> None:
        self.phase = phase
        self._began = time.perf_counter()

    def end(self) -> None:
        """It is over."""
        self.phase.seconds = time.perf_counter() - self._began


class Phases:
    """The parts of one result, in the order in which they began."""

    def __init__(self) -> None:
        self.found: list[tpb.Phase] = []

    def begin(self, name: str) -> Running:
        """A part begins."""
        phase = tpb.Phase(name=name)
        phase.began_at.GetCurrentTime()
        self.found.append(phase)
        return Running(phase)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """A part that is as long as the block."""
        running = self.begin(name)
        yield
        running.end()

    def load(self, device: Device, bundle: Bundle) -> Module:
        """Have a device load a bundle: "upload", then "load", by its own account of the latter."""
        upload = self.begin("upload")
        module = device.load(bundle)
        upload.end()
        took = min(module.load_s, upload.phase.seconds)
        upload.phase.seconds -= took
        load = tpb.Phase(name="load", seconds=took)
        began = upload.phase.began_at.ToNanoseconds() + round(upload.phase.seconds * 1e9)
        load.began_at.FromNanoseconds(began)
        self.found.append(load)
        return module
