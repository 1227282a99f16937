"""One workload, built, run on a leased device, checked and timed."""

import statistics
import uuid
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tunefarm import Bundle, Device, Timing, Tracker, request_device
from tunefarm.module import Module, TimeEvaluator
from tunefarm.request import Where, current_user
from tunefarm.timing import format_seconds
from tunefarm_compiler import default_schedule, targets, workload
from tunefarm_compiler.cache import default_cache
from tunefarm_compiler.database import known_best
from tunefarm_compiler.pool import BuildPool
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload
from tunefarm_proto.bundle import schedule_of
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_tuner.phases import Phases
from tunefarm_tuner.resources import of_function, told


@dataclass(frozen=True)
class TimingPlan:
    """How to time: calls a sample (0: calibrated), samples, shortest sample in ms, limit in s.

    The others, `budget` and `cooldown` in s, are those of `Module.time_evaluator`.
    """

    number: int = 0
    repeat: int = 10
    min_repeat_ms: float = 20.0
    timeout: float | None = None
    precision: float = 0.0
    budget: float = 5.0
    cache: str = "hot"
    cooldown: float = 0.0

    def evaluator(self, module: Module, function: str) -> TimeEvaluator:
        """What times that function so."""
        return module.time_evaluator(
            function,
            self.number,
            self.repeat,
            self.min_repeat_ms,
            self.timeout,
            precision=self.precision,
            budget=self.budget,
            cache=self.cache,
            cooldown=self.cooldown,
        )


@dataclass(frozen=True)
class Measurement:
    """What one workload did on one device. Times in seconds for one call.

    `correct` is None where there was nothing to check the answer with; `operations` 0 where their
    number is not known. Under `result_id` the tracker keeps it. `argument_bytes` counts each
    argument once; 0 where unknown. `kernels` are a GPU's, see `resources`.
    """

    workload: str
    device: str
    device_key: str
    target: str
    emulated: bool
    emulator: str
    timing: Timing
    operations: int
    correct: bool | None
    bundle_digest: str
    schedule: str
    uploaded_bytes: int
    result_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    phases: Phases = field(default_factory=Phases)
    argument_bytes: int = 0
    kernels: list[dict[str, Any]] = field(default_factory=list)

    @property
    def gflops(self) -> float:
        """Operations of a call by its median time, in 1e9 a second; 0 where they are not known."""
        return self.operations / self.timing.median / 1e9

    def as_dict(self) -> dict[str, Any]:
        """What `tunefarm bench --json` prints."""
        timing = self.timing
        return {
            "workload": self.workload,
            "device": self.device,
            "device_key": self.device_key,
            "target": self.target,
            "emulated": self.emulated,
            "emulator": self.emulator,
            "median_s": timing.median,
            "mean_s": timing.mean,
            "min_s": timing.min,
            "std_s": timing.std,
            "mad_s": timing.mad,
            "p90_s": timing.p90,
            "cov": timing.cov,
            "median_interval_s": list(timing.interval),
            "bootstrap_interval_s": list(timing.bootstrap()),
            "counters": timing.counters,
            "unconverged": timing.unconverged,
            "disturbances": timing.disturbances,
            "discarded_s": list(timing.raw.discarded_s),
            "samples_s": list(timing.samples),
            "number": timing.number,
            "first_call_s": timing.first_call,
            "warmup_calls": timing.warmup_calls,
            "cache": timing.raw.cache,
            "gflops": self.gflops if self.operations else None,
            "correct": self.correct,
            "bundle_digest": self.bundle_digest,
            "schedule": self.schedule,
            "uploaded_bytes": self.uploaded_bytes,
            "result_id": self.result_id,
            **({"kernels": self.kernels} if self.kernels else {}),
        }

    def __str__(self) -> str:
        where = f"{self.device} ({self.target}{', emulated' if self.emulated else ''})"
        verdict = {None: "answer not checked", True: "correct", False: "WRONG ANSWER"}[self.correct]
        rate = f"{self.gflops:.2f} GFLOPS, " if self.operations else ""
        return (
            f"{self.workload} on {where}\n{self.timing}\n"
            f"{rate}{verdict}, {self.uploaded_bytes} bytes uploaded"
            + "".join(f"\n{told(one)}" for one in self.kernels)
        )


def target_text(target: pb.Target) -> str:
    """A target in one word or two, as in "aarch64-unknown-linux-gnu cortex-a53"."""
    return f"{target.triple} {target.cpu}".strip()


def parse_schedule(text: str | None) -> Schedule | None:
    """The schedule in a JSON text. Raises: InvalidScheduleError."""
    return Schedule.from_json(text) if text else None


def build_one(
    text: str,
    target: str | TargetSpec,
    schedule: str | None = None,
    threads: int = 1,
    tuned: bool = True,
) -> Bundle:
    """Compile one workload in a process of its own. Raises: CompileError and its like.

    Without a schedule the best known is taken where it may be `tuned`, else the default one, dealt
    out to so many `threads`.
    """
    spec = targets.resolve(target) if isinstance(target, str) else target
    parsed = workload.parse(text)
    chosen = parse_schedule(schedule)
    if spec.gpu and threads > 1:
        raise InvalidRequestError(
            f"{threads} threads of a processor, and {spec.cpu} is a GPU",
            "leave --threads out: a GPU's schedule says how many threads there are",
        )
    if chosen is None and threads > 1:
        chosen = default_schedule(parsed, spec, threads, tuned=known_best() if tuned else None)
    with BuildPool(workers=1, cache=default_cache()) as pool:
        return pool.submit(str(parsed), spec, chosen, tuned).result()


def target_of_key(tracker: Tracker, key: str) -> pb.Target | None:
    """What the key's devices run, by the first of them; None where there is none yet."""
    devices = tracker.devices(key)
    online = [d for d in devices if d.state != tpb.DEVICE_STATE_OFFLINE]
    return (online or devices)[0].facts.target if devices else None


def bench(
    text: str,
    key: str,
    *,
    tracker: str | None = None,
    target: str | None = None,
    schedule: str | None = None,
    threads: int = 1,
    tuned: bool = True,
    plan: TimingPlan | None = None,
    priority: int = 0,
    timeout: float | None = None,
    wait_for_key: bool = False,
    where: Where | None = None,
) -> Measurement:
    """Build a workload, run it on a device of that key, check the answer, time it, record it.

    It is compiled before the device is taken, for what the tracker says the key's devices are.
    `threads` are those of the default schedule; `tuned` as for `build_one`.
    Raises: TunefarmError of any kind; a wrong answer is no error but `correct=False`.
    """
    parsed = workload.parse(text)
    plan, phases = plan or TimingPlan(), Phases()
    with Tracker(tracker) as connection:
        expected = target_of_key(connection, key)
        built: Bundle | None = None
        reported = targets.from_device(expected) if expected and target is None else None
        if (known := target if target is not None else reported) is not None:
            with phases.of("build"):
                built = build_one(text, known, schedule, threads, tuned)
        waiting = phases.begin("wait")
        with request_device(
            key,
            tracker=tracker,
            priority=priority,
            timeout=timeout,
            wait_for_key=wait_for_key,
            where=where,
            purpose=f"bench {parsed}",
        ) as device:
            waiting.end()
            if built is None or (target is None and device.target != expected):
                with phases.of("build"):
                    spec = targets.from_device(device.target)
                    built = build_one(text, spec, schedule, threads, tuned)
            measured = measure(device, parsed, built, plan, phases)
            connection.record(as_result(measured, device))
    return measured


def measure(
    device: Device,
    parsed: Workload,
    bundle: Bundle,
    plan: TimingPlan,
    phases: Phases | None = None,
) -> Measurement:
    """Load a bundle of a workload, check its answer against numpy, then time it."""
    phases = phases or Phases()
    module = phases.load(device, bundle)
    with phases.of("check"):
        inputs = parsed.inputs(0)
        expected = parsed.reference(inputs)
        arrays = [device.array(data) for data in inputs]
        outputs = [device.empty(data.shape, str(data.dtype)) for data in expected]
        arguments = [*arrays, *outputs]
        module[parsed.function](*arguments, timeout=plan.timeout)
        correct = bool(parsed.check([output.numpy() for output in outputs], expected))
    with phases.of("time"):
        timing = plan.evaluator(module, parsed.function)(*arguments)
    for array in arguments:
        array.free()
    return Measurement(
        workload=str(parsed),
        device=device.id,
        device_key=device.key,
        target=target_text(module.target),
        emulated=device.emulated,
        emulator=device.facts.emulator,
        timing=timing,
        operations=parsed.operations,
        correct=correct,
        bundle_digest=bundle.digest,
        schedule=schedule_of(bundle.manifest, module.target, parsed.function),
        uploaded_bytes=module.uploaded_bytes,
        phases=phases,
        argument_bytes=sum(data.nbytes for data in (*inputs, *expected)),
        kernels=of_function(bundle, module.target, parsed.function),
    )


def as_result(measured: Measurement, device: Device) -> tpb.Result:
    """A measurement as the tracker keeps it."""
    result = tpb.Result(
        id=measured.result_id,
        workload=measured.workload,
        device_id=device.id,
        device_key=device.key,
        target=device.target,
        lease_id=device.lease.id,
        user=current_user(),
        bundle_digest=measured.bundle_digest,
        schedule=measured.schedule,
        timing=measured.timing.raw,
        correct=measured.correct,
        operations=measured.operations,
        phases=measured.phases.found,
        argument_bytes=measured.argument_bytes,
    )
    result.recorded_at.GetCurrentTime()
    return result


def interleaved_ratio(
    device: Device, parsed: Workload, bundles: tuple[Bundle, Bundle], rounds: int = 5
) -> tuple[float, float, float]:
    """Time two bundles of a workload in turns in one lease.

    Returns the median seconds of each, and the median over rounds of first by second.
    """
    inputs = [device.array(data) for data in parsed.inputs(0)]
    expected = parsed.reference(parsed.inputs(0))
    outputs = [device.empty(data.shape, str(data.dtype)) for data in expected]
    evaluators = [
        device.load(bundle).time_evaluator(parsed.function, repeat=3) for bundle in bundles
    ]
    pairs = [[evaluate(*inputs, *outputs).median for evaluate in evaluators] for _ in range(rounds)]
    first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
    return first, second, statistics.median(a / b for a, b in pairs)


def describe(seconds: float, operations: int) -> str:
    """A time with the rate that it means."""
    return f"{format_seconds(seconds)}, {operations / seconds / 1e9:.2f} GFLOPS"


def outputs_of(raw: list[bytes], expected: list["np.ndarray[Any, Any]"]) -> list[Any]:
    """The arrays in a measure response, shaped like the expected ones."""
    return [
        np.frombuffer(data, dtype=like.dtype).reshape(like.shape)
        for data, like in zip(raw, expected, strict=True)
    ]
