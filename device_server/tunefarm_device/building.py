"""From the keys that a server is told to offer to its devices, each in a place of its own."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.rpc import software_version

from tunefarm_device.anchor import INTERVAL_S
from tunefarm_device.backend import Backend, UnknownBackendError, find
from tunefarm_device.blobs import BlobCache
from tunefarm_device.claims import Claims, keep_off
from tunefarm_device.conditions import ConditionsReader, available_memory
from tunefarm_device.device import RunningDevice
from tunefarm_device.facts import find_facts
from tunefarm_device.keys import Key, Place, parse_key, place
from tunefarm_device.lanes import LaneServer
from tunefarm_device.lease_log import LeaseLog
from tunefarm_device.processes import ProcessHost
from tunefarm_device.state import StateDir
from tunefarm_device.topology import Turn, read_topology, spell_cpus, turns
from tunefarm_device.workbench import Workbench

_log = logging.getLogger(__name__)
FRESH_S = 0.005  # a reading of the conditions holds so long


@dataclass(frozen=True)
class Options:
    """What holds for all devices of a server.

    Attributes:
        state_dir: where state is kept; of several devices, each in a folder of its own in it.
        emulated: the emulator, where it is not to be found out.
        cpu: the LLVM processor, where it is not to be found out.
        timing_cpu: the processor to time on.
        claim_cpu: without `timing_cpu`, time on one on which no other server does. Devices with
            `cores` always do so.
        time_together: devices whose cores are apart may time at the same moment.
        labels: the operator's words on them.
        isolation: "full", or "basic", which leaves out seccomp, Landlock and namespaces.
        anchor_interval_s: about so long between two timings of the anchors, 0: never.
        fixed_addresses: libraries lie where they lay in every earlier session.
        nice: niceness of runners, as in -10; only with the right to it.
        backend: of keys that name none: a name, or the path of a file that defines one.
    """

    state_dir: str | os.PathLike[str] | None = None
    emulated: str | None = None
    cpu: str | None = None
    timing_cpu: int | None = None
    claim_cpu: bool = False
    time_together: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    isolation: str = "full"
    backend: str = "native"
    fixed_addresses: bool = True
    nice: int = 0
    anchor_interval_s: float = INTERVAL_S


def choose_backend(name: str) -> Backend:
    """The backend of that name or file. Raises: InvalidRequestError where it cannot work here."""
    try:
        backend = find(name)
    except UnknownBackendError as error:
        raise InvalidRequestError(f"there is no backend {name!r}", str(error)) from None
    except Exception as error:  # whatever a file of the user's own raises
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InvalidRequestError(f"backend {name!r} cannot be read: {said}") from None
    if lacking := backend.lacking():
        raise InvalidRequestError(f"backend {name!r} does not work here: {lacking}")
    return backend


class Builder:
    """Makes the devices; `claims` are what they must not share with other servers.

    `lanes` are theirs in common.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._allowed = frozenset(os.sched_getaffinity(0))
        self.claims = Claims()
        self.lanes = LaneServer()
        self.devices: list[RunningDevice] = []
        self._blobs: BlobCache | None = None
        self._timing: list[int] = []

    def build(self, words: Sequence[str]) -> None:
        """Make the devices of these keys. Raises: InvalidRequestError; `close` in either case."""
        if not words:
            raise InvalidRequestError("a device server needs a key", "give --key, as in rasp3b")
        keys = [self._key(word) for word in words]
        places = place(keys, self._allowed, lambda key: choose_backend(key.backend).units())
        timing: list[int | None] = []
        for one in places:
            self._look_for_twin(one)
            if (cpu := self._claim(one)) is not None:
                self._timing.append(cpu)
            timing.append(cpu)
        cores, together = [one.cores for one in places], self._options.time_together
        topology = read_topology(frozenset[int]().union(*cores))
        apart = {n for n, one in enumerate(places) if choose_backend(one.key.backend).alone}
        order = turns(cores, topology, together, apart)
        locks = {name: asyncio.Lock() for names in order for name in names}
        folders = self._folders(places)
        for one, cpu, folder, names in zip(places, timing, folders, order, strict=True):
            others = together and any(set(names).isdisjoint(them) for them in order)
            self._add(one, cpu, folder, Turn([locks[name] for name in names]), others)
        given = frozenset[int]().union(*(key.cores or () for key in keys))
        keep_off(given, self._timing)

    def _key(self, word: str) -> Key:
        key = parse_key(word)
        return replace(key, backend=key.backend_of(self._options.backend))

    def _folders(self, places: Sequence[Place]) -> list[Path | None]:
        """Where each keeps its state: the folder given, or, where there are several, one in it."""
        if self._options.state_dir is None:
            return [None] * len(places)
        base, seen = Path(self._options.state_dir), Counter[str]()
        if len(places) == 1:
            return [base]
        folders: list[Path | None] = []
        for one in places:
            folders.append(base / f"{one.key.name}-{seen[one.key.name]}")
            seen[one.key.name] += 1
        return folders

    def _look_for_twin(self, one: Place) -> None:
        """Tell of another server that offers this whole machine by the same key, as one does that
        was forgotten when another was installed. That may be meant, so nothing is refused.
        """
        whole = one.key.cores is None and not one.unit
        if whole and not self.claims.take(f"key-{one.key.name}"):
            _log.warning(
                "another device server of this machine offers %s too, under another name: they"
                " share its processors. Stop the one that is not meant, or give each --key"
                " %s:cores=...",
                one.key.name,
                one.key.name,
            )

    def _claim(self, one: Place) -> int | None:
        """What is its own on this host: the processor to time on. Raises: InvalidRequestError."""
        given = one.key.cores is not None
        if given:
            self.claims.cores(one.cores)
        exclusive = bool(one.unit) and choose_backend(one.key.backend).exclusive
        if exclusive and not self.claims.take(f"unit-{one.key.backend}-{one.unit}"):
            raise InvalidRequestError(f"another device server of this host has {one}")
        wanted = self._options.timing_cpu
        if wanted is not None and (wanted in one.cores or not given):
            return wanted
        if not given and not (self._options.claim_cpu and len(self._allowed) > 1):
            return None
        # Devices on the same processors each have one of their own to time on, as long as one is
        # left for loads: what has just run lingers there.
        theirs = [cpu for cpu in self._timing if cpu in one.cores]
        if theirs and len(one.cores) <= len(set(theirs)) + 1:
            return theirs[0]
        cpu = self.claims.timing_cpu(one.cores.difference(theirs))
        if cpu is not None or theirs:
            return cpu if cpu is not None else theirs[0]
        if given:
            raise InvalidRequestError(
                f"other device servers of this host time on processor {spell_cpus(one.cores)}",
                f"give {one.key.name} other cores, or start those after this one",
            )
        return None

    def _add(
        self, one: Place, timing_cpu: int | None, folder: Path | None, turn: Turn, together: bool
    ) -> None:
        options, name = self._options, one.key.backend
        backend = choose_backend(name)
        backend.unit = one.unit
        own = one.cores if one.cores != self._allowed else frozenset[int]()
        # Loads keep off the processor that is timed on.
        stay = own.difference(self._timing) or own
        state = StateDir.open(one.key.name, folder)
        try:
            if self._blobs is None:
                self._blobs = BlobCache(state.path)  # of all devices: a digest is a digest
            description = backend.describe()
            facts = find_facts(
                emulator=options.emulated,
                cpu=options.cpu,
                description=description,
                cores=own,
            )
            own_memory = description is not None and description.memory_bytes > 0
            conditions, beats = (
                ConditionsReader(
                    timing_cpu, together=together, fresh_s=FRESH_S, sensor=backend.sensor()
                )
                for _ in range(2)
            )
            facts.time_together = together
            facts.extra["tunefarm"] = software_version()
            if one.unit:
                facts.extra["unit"] = one.unit
            bench = Workbench(
                host=ProcessHost(
                    state.scratch,
                    options.isolation,
                    name,
                    backend.ends_runaways,
                    cores=",".join(map(str, sorted(stay))),
                    unit=one.unit,
                    addresses="fixed" if options.fixed_addresses else "random",
                    nice=options.nice,
                ),
                blobs=self._blobs,
                facts=facts,
                conditions=conditions,
                beats=beats,
                timing=turn,
                scratch=state.scratch,
                log=LeaseLog(),
                timing_cpu=timing_cpu,
                memory=beats.free_memory if own_memory else available_memory,
                alone=backend.alone,
                moved_bytes=description.moved_bytes if description is not None else 0,
            )
            labels = {**options.labels, **one.key.labels}
            device = RunningDevice(one.key.name, state, bench, labels, self.lanes)
            self.devices.append(device)
        except BaseException:
            state.close()
            raise

    def close(self) -> None:
        """Let others have what was taken."""
        for device in self.devices:
            device.close()
        self.claims.close()
