"""What the sessions of one device share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tunefarm_proto.v1 import common_pb2 as pb

from tunefarm_device.blobs import BlobCache
from tunefarm_device.conditions import ConditionsReader, available_memory
from tunefarm_device.lease_log import LeaseLog
from tunefarm_device.lease_output import LeaseOutput
from tunefarm_device.processes import ProcessHost
from tunefarm_device.topology import Turn


@dataclass(frozen=True)
class Workbench:
    """What all sessions of a device share. `timing` is held while a kernel runs.

    So nothing of this device, or of another that would disturb it, runs meanwhile. `conditions` are
    for timings alone, since a reading tells what was since the one before; `beats` are for the
    rest. `memory` tells what new arrays may take, in bytes; where `alone`, loads disturb timings;
    `moved_bytes` are of the anchor "memory", 0 for the processor's.
    """

    host: ProcessHost
    blobs: BlobCache
    facts: pb.DeviceFacts
    conditions: ConditionsReader
    timing: Turn
    scratch: Path
    log: LeaseLog
    timing_cpu: int | None = None
    output: LeaseOutput = field(default_factory=LeaseOutput)
    beats: ConditionsReader | None = None
    memory: Callable[[], int] = available_memory
    alone: bool = False
    moved_bytes: int = 0
