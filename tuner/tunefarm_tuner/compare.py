"""Two kernels on one leased device, in turns: which is faster, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefarm import Array, Bundle, Device, Function, Tracker, request_device
from tunefarm.comparison import CONFIDENCE, Comparison
from tunefarm.comparison import compare as in_turns
from tunefarm.request import Where
from tunefarm.timing import format_seconds
from tunefarm_compiler import targets, workload
from tunefarm_compiler.cache import default_cache
from tunefarm_compiler.pool import BuildPool
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.workload import Workload
from tunefarm_proto.errors import InvalidRequestError, UnknownWorkloadError
from tunefarm_proto.v1 import common_pb2 as pb

from tunefarm_tuner import records
from tunefarm_tuner.bench import target_of_key, target_text
from tunefarm_tuner.bundles import choose_function, filled

FORMS = "give a bundle FILE.tf, a record FILE.jsonl or FILE.jsonl:LINE, or a workload's schedule"


@dataclass(frozen=True)
class Side:
    """What one side is: a bundle, or a workload with a schedule to be built for the device."""

    label: str
    bundle: Bundle | None = None
    workload: Workload | None = None
    schedule: Schedule | None = None

    @classmethod
    def read(cls, text: str, of: str | None = None) -> "Side":
        """One side from what a user wrote; `of` is the workload that a schedule or record is of.

        Raises: InvalidRequestError, InvalidScheduleError, UnknownWorkloadError, OSError.
        """
        name, _, line = text.rpartition(":")
        if text.endswith(".tf"):
            return cls(text, bundle=Bundle.read(text))
        if text.endswith(".jsonl"):
            return cls._of_record(text, _best(Path(text), of))
        if name.endswith(".jsonl") and line.isdecimal():
            return cls._of_record(text, _record(Path(name), int(line)))
        if of is None:
            try:
                return cls(text, workload=workload.parse(text))
            except UnknownWorkloadError as error:
                raise InvalidRequestError(f"{text!r} is nothing to compare", FORMS) from error
        if text == "default":
            return cls(f"default schedule of {of}", workload=workload.parse(of))
        words = Path(text[1:]).read_text() if text.startswith("@") else text
        return cls(words, workload=workload.parse(of), schedule=Schedule.from_json(words))

    @classmethod
    def _of_record(cls, label: str, record: records.Record) -> "Side":
        schedule = Schedule.from_json(record.schedule) if record.schedule else None
        return cls(label, workload=workload.parse(record.workload), schedule=schedule)

    @property
    def known(self) -> Workload | None:
        """The workload that it is of, where its answer can be checked."""
        if self.bundle is None:
            return self.workload
        try:
            return workload.parse(self.bundle.manifest.workload)
        except UnknownWorkloadError:
            return None

    def build(self, target: pb.Target) -> Bundle:
        """Its bundle for that target. Raises: CompileError and its like."""
        if self.bundle is not None:
            return self.bundle
        with BuildPool(workers=1, cache=default_cache()) as pool:
            spec = targets.from_device(target)
            return pool.submit(str(self.workload), spec, self.schedule, tuned=False).result()


def _record(path: Path, line: int) -> records.Record:
    found = list(records.read(path))
    if not 1 <= line <= len(found):
        raise InvalidRequestError(
            f"{path} has {len(found)} records", "name one by FILE.jsonl:LINE, from 1 on"
        )
    return found[line - 1]


def _best(path: Path, of: str | None) -> records.Record:
    """The winner of a file's one workload, or of `of`: by its finals where there were any."""
    found, name = list(records.read(path)), str(workload.parse(of)) if of is not None else ""
    good = [one for one in found if not one.error and name in ("", one.workload)]
    if not good:
        raise InvalidRequestError(
            f"{path} has {len(found)} records, none of them a good one{f' of {name}' * bool(name)}",
            "name one by FILE.jsonl:LINE, from 1 on",
        )
    if len(names := sorted({one.workload for one in good})) > 1:
        raise InvalidRequestError(
            f"{path} has records of {len(names)} workloads: {'; '.join(names)}",
            "name one of them by --of, or a record by FILE.jsonl:LINE",
        )
    finals = [one for one in good if one.tier == records.FULL]
    return min(finals or good, key=lambda one: one.median_s)


@dataclass(frozen=True)
class Compared:
    """How the second did beside the first. `correct` None: there is no reference.

    `request_id` names the job, the request whose lease it was measured under.
    """

    comparison: Comparison
    labels: tuple[str, str]
    digests: tuple[str, str]
    correct: tuple[bool | None, bool | None]
    device: str
    device_key: str
    target: str
    emulated: bool
    request_id: str = ""

    def as_dict(self) -> dict[str, Any]:
        """What `tunefarm compare --json` prints."""
        found = self.comparison
        sides = [
            {
                "label": label,
                "bundle_digest": digest,
                "correct": correct,
                "median_s": timing.median,
                "samples_s": list(timing.samples),
                "number": timing.number,
            }
            for label, digest, correct, timing in zip(
                self.labels, self.digests, self.correct, (found.first, found.second), strict=True
            )
        ]
        return {
            "verdict": found.verdict.value,
            "ratio": found.ratio,
            "interval": list(found.interval),
            "confidence": found.confidence,
            "margin": found.margin,
            "rounds": found.rounds,
            "more_rounds": found.judgement.more,
            "cache": found.first.cache,
            "disturbances": found.first.disturbances,
            "device": self.device,
            "device_key": self.device_key,
            "target": self.target,
            "emulated": self.emulated,
            "request_id": self.request_id,
            "first": sides[0],
            "second": sides[1],
        }

    def __str__(self) -> str:
        found = self.comparison
        words = {True: "correct", False: "WRONG ANSWER", None: "answer not checked"}
        lines = [f"on {self.device} ({self.target}{', emulated' if self.emulated else ''})"]
        for name, label, correct, timing in zip(
            "AB", self.labels, self.correct, (found.first, found.second), strict=True
        ):
            lines.append(f"{name}  {format_seconds(timing.median)}  {words[correct]}  {label}")
        lines.append(f"B beside A: {found}")
        if found.first.disturbances:
            lines.append(f"disturbed: {'; '.join(found.first.disturbances)}")
        return "\n".join(lines)


def compare(
    first: str,
    second: str,
    key: str,
    *,
    of: str | None = None,
    functions: tuple[str | None, str | None] = (None, None),
    margin: float = 0.01,
    confidence: float = CONFIDENCE,
    budget: float = 20.0,
    min_repeat_ms: float = 1.0,
    cache: str = "hot",
    kernel_timeout: float | None = None,
    tracker: str | None = None,
    priority: int = 0,
    timeout: float | None = None,
    wait_for_key: bool = False,
    where: Where | None = None,
) -> Compared:
    """Compare two kernels on one device of a key, in one lease. Sides as `Side.read` takes them.

    Both are called once with the same arguments, and checked against numpy where it is known what
    they compute; see `tunefarm.comparison.compare` for the rest. Raises: TunefarmError of any kind.
    """
    sides = Side.read(first, of), Side.read(second, of)
    with Tracker(tracker) as connection:
        expected = target_of_key(connection, key)
    built = [side.build(expected) if expected else None for side in sides]
    with request_device(
        key,
        tracker=tracker,
        priority=priority,
        timeout=timeout,
        wait_for_key=wait_for_key,
        where=where,
        purpose=f"compare {first} {second}"[:200],
    ) as device:
        same = device.target == expected
        bundles = [
            bundle if same and bundle is not None else side.build(device.target)
            for side, bundle in zip(sides, built, strict=True)
        ]
        modules = [device.load(bundle) for bundle in bundles]
        chosen = [
            module[choose_function(bundle, name).name]
            for module, bundle, name in zip(modules, bundles, functions, strict=True)
        ]
        arrays = _arguments(device, sides, chosen)
        correct = [
            _correct(device, side, function, arrays, kernel_timeout)
            for side, function in zip(sides, chosen, strict=True)
        ]
        found = in_turns(
            (chosen[0], arrays),
            (chosen[1], arrays),
            margin=margin,
            confidence=confidence,
            budget=budget,
            min_repeat_ms=min_repeat_ms,
            cache=cache,
            timeout=kernel_timeout,
        )
        return Compared(
            found,
            (sides[0].label, sides[1].label),
            (bundles[0].digest, bundles[1].digest),
            (correct[0], correct[1]),
            device.id,
            device.key,
            target_text(modules[0].target),
            device.emulated,
            device.lease.request_id,
        )


def _arguments(device: Device, sides: Sequence[Side], chosen: Sequence[Function]) -> list[Array]:
    """Arguments for both: those of the workload, or floats of [0, 1) and zeros."""
    shapes = [
        [(one.dtype, tuple(one.shape)) for one in function.signature.arguments]
        for function in chosen
    ]
    if shapes[0] != shapes[1]:
        raise InvalidRequestError(
            "the two functions take different arguments", "compare kernels of the same signature"
        )
    known = sides[0].known or sides[1].known
    given = known.inputs(0) if known is not None else []
    arrays = []
    for index, argument in enumerate(chosen[0].signature.arguments):
        if index < len(given):
            arrays.append(device.array(given[index]))
        else:
            arrays.append(filled(device, argument, "zeros" if known else "seeded", index))
    return arrays


def _correct(
    device: Device,
    side: Side,
    function: Function,
    arrays: Sequence[Array],
    timeout: float | None,
) -> bool | None:
    known = side.known
    if known is None:
        return None
    outputs = [  # of its own, or it could show the other's answer
        device.empty(tuple(one.shape), one.dtype)
        for one in function.signature.arguments
        if one.output
    ]
    inputs = list(arrays)[: len(arrays) - len(outputs)]
    function(*inputs, *outputs, timeout=timeout)
    answers = [output.numpy() for output in outputs]
    for output in outputs:
        output.free()
    return bool(known.check(answers, known.reference(known.inputs(0))))
