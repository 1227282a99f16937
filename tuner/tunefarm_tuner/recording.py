"""What happened to trials, put into records."""

import datetime
import functools
import hashlib
import platform
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import tunefarm
from google.protobuf.json_format import MessageToDict
from tunefarm import Bundle
from tunefarm_proto import errors
from tunefarm_proto.rpc import software_version
from tunefarm_proto.v1 import common_pb2 as pb

from tunefarm_tuner.finals import Finalist
from tunefarm_tuner.ledger import Line, Trial
from tunefarm_tuner.records import FULL, Record
from tunefarm_tuner.resources import resources
from tunefarm_tuner.seats import Answered

if TYPE_CHECKING:
    from tunefarm_tuner.pipeline import Wish


def target_text(target: pb.Target) -> str:
    """A target in one word or two, as in "aarch64-unknown-linux-gnu cortex-a53"."""
    return f"{target.triple} {target.cpu}".strip()


def object_digest(bundle: Bundle) -> str:
    """What two bundles have in common whose code is the same: the digest of their libraries.

    Of a GPU's library with how it is launched, which its code does not say.
    """
    digests = []
    for entry in bundle.manifest.libraries:
        digests.append(entry.sha256)
        for name in sorted(entry.launches):
            plan = entry.launches[name].SerializeToString(deterministic=True)
            digests.append(hashlib.sha256(plan).hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


@functools.cache
def versions() -> dict[str, str]:
    """What this host builds and measures with."""
    found = {"tunefarm": software_version(), "python": platform.python_version()}
    for name in ("llvmlite", "ziglang"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Device:
    """What records say of a device."""

    id: str
    emulated: bool
    emulator: str
    facts: dict[str, Any]

    @classmethod
    def of(cls, device: tunefarm.Device) -> "Device":
        """What it says of itself."""
        facts = MessageToDict(device.facts, preserving_proto_field_name=True)
        facts.pop("target", None)  # a record's target and features
        return cls(device.id, device.emulated, device.facts.emulator, facts)


def _begun(trial: Trial, wish: "Wish") -> Record:
    """What is known of a trial before any device saw it."""
    task = trial.line.task
    return Record(
        workload=task.workload,
        target=task.target,
        device="",
        device_key=task.key,
        emulated=False,
        schedule=trial.candidate,
        id=trial.id,
        run=wish.run,
        features=list(task.spec.features),
        bundle_digest=trial.bundle.digest if trial.bundle is not None else "",
        object_digest=trial.object_digest,
        operations=task.operations,
        build_s=trial.build_s,
        faults=trial.faults,
        seed=task.seed,
        threads=task.threads,
        resources=resources(trial.bundle) if trial.bundle is not None else [],
        versions=versions(),
        recorded_at=_moment(),
    )


def _moment() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def failed(trial: Trial, error: errors.TunefarmError, wish: "Wish") -> Record:
    """It failed before, or without, a device's answer."""
    return replace(_begun(trial, wish), error=type(error).__name__, message=str(error))


def twin(trial: Trial, original: Record, wish: "Wish") -> Record:
    """Its code is that of an earlier trial: so is all that was measured."""
    begun = _begun(trial, wish)
    return replace(
        original,
        id=trial.id,
        schedule=trial.candidate,
        run=wish.run,
        duplicate_of=original.duplicate_of or original.trial,
        bundle_digest=begun.bundle_digest,
        build_s=trial.build_s,
        queue_s=0.0,
        load_s=0.0,
        run_s=0.0,
        recorded_at=begun.recorded_at,
    )


def measured(event: Answered, device: Device, wish: "Wish") -> Record:
    """A device answered."""
    answer, trial = event.answer, event.job.trial
    use, timing = answer.use, answer.timing
    error: errors.TunefarmError | None = None
    if answer.HasField("error"):
        error = errors.from_proto(answer.error)
    elif not event.right:
        error = errors.WrongAnswerError("the answer differs from the reference")
    turn = use.turn_ended_s - use.turn_began_s
    return replace(
        _begun(trial, wish),
        device=device.id,
        device_facts=device.facts,
        emulated=device.emulated,
        emulator=device.emulator,
        error=type(error).__name__ if error else "",
        message=str(error) if error else "",
        outputs_digest=answer.outputs_digest,
        queue_s=max(event.at - trial.built_at - turn, 0.0),
        load_s=use.load_s,
        run_s=use.busy_s,
        bundle_digest=event.job.bundle.digest,
        **({} if error else _timed(timing)),
    )


def _timed(timing: pb.Timing) -> dict[str, Any]:
    return {
        "samples_s": list(timing.samples_s),
        "number": timing.number,
        "abandoned": timing.abandoned,
        "cache": timing.cache,
        "first_call_s": timing.first_call_s,
        "conditions_before": _conditions(timing.before),
        "conditions_after": _conditions(timing.after),
    }


def _conditions(conditions: pb.Conditions) -> dict[str, Any]:
    return MessageToDict(conditions, preserving_proto_field_name=True)


def finals(line: Line, found: list[Finalist], device: Device, wish: "Wish") -> list[Record]:
    """The finalists of a task, timed by the full protocol; each under a name of its own."""
    records = []
    for one in found:
        trial = Trial(f"{wish.run}-{one.bundle_digest[:16]}", line, one.candidate)
        record = replace(
            _begun(trial, wish),
            tier=FULL,
            device=device.id,
            device_facts=device.facts,
            emulated=device.emulated,
            emulator=device.emulator,
            bundle_digest=one.bundle_digest,
            resources=one.resources,
            error=type(one.error).__name__ if one.error else "",
            message=str(one.error) if one.error else "",
            **(_timed(one.timing) if one.timing is not None else {}),
        )
        records.append(record)
    return records
