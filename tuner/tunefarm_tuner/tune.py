"""Grid search: build candidates ahead, measure them one after another on one leased device."""

import datetime
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunefarm import Bundle, Device, request_device
from tunefarm.request import Where
from tunefarm_compiler import default_schedule, space, targets, workload
from tunefarm_compiler.pool import BuildPool
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload
from tunefarm_proto import errors
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_tuner import records as record_file
from tunefarm_tuner.bench import interleaved_ratio, outputs_of, target_text
from tunefarm_tuner.records import Record

SCREEN_REPEAT = 5
SCREEN_MIN_REPEAT_MS = 5.0
CANDIDATE_TIMEOUT_S = 30


@dataclass(frozen=True)
class Outcome:
    """What a search found. Times in seconds for one call, re-measured in turns at the end."""

    workload: str
    device_key: str
    trials: int
    failed: int
    best: str | None
    best_s: float
    default_s: float
    gain: float

    def as_dict(self) -> dict[str, Any]:
        """What `tunefarm tune --json` prints."""
        return {
            "workload": self.workload,
            "device_key": self.device_key,
            "trials": self.trials,
            "failed": self.failed,
            "best_schedule": self.best,
            "best_s": self.best_s,
            "default_s": self.default_s,
            "gain": self.gain,
        }


def candidates(
    parsed: Workload, spec: TargetSpec, trials: int, seed: int, known: set[str]
) -> list[Schedule]:
    """The default schedule and a random part of the grid, without those measured already."""
    grid = [s for s in space(parsed, spec) if s.to_json() not in known]
    first = default_schedule(parsed, spec)
    random.Random(seed).shuffle(grid)  # noqa: S311 (an order, not a secret)
    rest = [s for s in grid if s.to_json() != first.to_json()]
    head = [] if first.to_json() in known else [first]
    return (head + rest)[: max(trials, 0)]


def tune(
    text: str,
    key: str,
    *,
    trials: int,
    records: Path,
    tracker: str | None = None,
    seed: int = 0,
    priority: int = 0,
    timeout: float | None = None,
    wait_for_key: bool = False,
    where: Where | None = None,
    workers: int | None = None,
    on_record: Callable[[int, Record], None] | None = None,
) -> Outcome:
    """Measure up to `trials` candidates in all, those already in `records` counted in.

    Every candidate leaves a record, a failure with its reason. The best and the default are then
    timed in turns, so that the gain is not a lucky sample.
    Raises: InvalidRequestError, and errors of tracker and device; never one of a candidate.
    """
    if trials < 1:
        raise errors.InvalidRequestError(f"trials={trials}", "give 1 or more")
    parsed = workload.parse(text)
    done = [
        r for r in record_file.read(records) if (r.workload, r.device_key) == (str(parsed), key)
    ]
    with (
        request_device(
            key,
            tracker=tracker,
            priority=priority,
            timeout=timeout,
            wait_for_key=wait_for_key,
            where=where,
            purpose=f"tune {parsed}",
        ) as device,
        BuildPool(workers=workers) as pool,
    ):
        search = Search(device, pool, parsed)
        todo = candidates(parsed, search.spec, trials - len(done), seed, {r.schedule for r in done})
        for record in search.measure(todo):
            record_file.append(records, record)
            done.append(record)
            if on_record is not None:
                on_record(len(done), record)
        return search.conclude(done)


class Search:
    """Candidates of one workload on one leased device."""

    def __init__(self, device: Device, pool: BuildPool, parsed: Workload) -> None:
        self.device = device
        self.pool = pool
        self.parsed = parsed
        self.spec = targets.from_device(device.target)
        self._inputs = parsed.inputs(0)
        self._expected = parsed.reference(self._inputs)

    def measure(self, todo: list[Schedule]) -> Iterator[Record]:
        """A record for each candidate. Building, uploading and timing overlap."""
        arguments = self._upload_arguments()
        builds = [self._build(schedule) for schedule in todo]
        digests: dict[int, str] = {}
        failures: list[Record] = []
        broken: list[errors.TunefarmError] = []

        def requests() -> Iterator[dpb.MeasureRequest]:
            # Runs on a thread of gRPC's, which would swallow what is raised here.
            for index, (schedule, build) in enumerate(zip(todo, builds, strict=True)):
                try:
                    bundle = build.result()
                    self.device.upload(bundle.data, bundle.digest)
                except errors.CompileError as error:
                    failures.append(self._record(schedule, "", error=error))
                except errors.TunefarmError as error:
                    broken.append(error)
                    return
                else:
                    digests[index] = bundle.digest
                    yield self._request(index, bundle, arguments)

        for answer in self.device.measure(requests()):
            yield self._judge(todo[answer.id], digests[answer.id], answer)
        yield from failures
        if broken:
            raise broken[0]

    def conclude(self, done: list[Record]) -> Outcome:
        """Time the best candidate and the default in turns."""
        failed = sum(bool(record.error) for record in done)
        head = (str(self.parsed), self.device.key, len(done), failed)
        good = [record for record in done if not record.error]
        if not good:
            nothing = float("nan")
            return Outcome(*head, None, nothing, nothing, nothing)
        best = min(good, key=lambda record: record.median_s)
        first = default_schedule(self.parsed, self.spec)
        default, winner = (
            self._build(schedule).result()
            for schedule in (first, Schedule.from_json(best.schedule))
        )
        default_s, best_s, gain = interleaved_ratio(self.device, self.parsed, (default, winner))
        return Outcome(*head, best.schedule, best_s, default_s, gain)

    def _build(self, schedule: Schedule) -> "Future[Bundle]":
        return self.pool.submit(str(self.parsed), self.spec, schedule)

    def _upload_arguments(self) -> list[dpb.ArgumentData]:
        blobs = [Bundle(data.tobytes()) for data in self._inputs]
        for blob in blobs:
            self.device.upload(blob.data, blob.digest)
        given = [dpb.ArgumentData(blob_digest=blob.digest) for blob in blobs]
        return given + [dpb.ArgumentData() for _ in self._expected]

    def _request(
        self, index: int, bundle: Bundle, arguments: list[dpb.ArgumentData]
    ) -> dpb.MeasureRequest:
        request = dpb.MeasureRequest(
            id=index,
            bundle_digest=bundle.digest,
            function=self.parsed.function,
            arguments=arguments,
            options=pb.TimingOptions(repeat=SCREEN_REPEAT),
            return_outputs=True,
        )
        request.options.min_repeat.FromNanoseconds(round(SCREEN_MIN_REPEAT_MS * 1e6))
        request.timeout.FromSeconds(CANDIDATE_TIMEOUT_S)
        return request

    def _judge(self, schedule: Schedule, digest: str, answer: dpb.MeasureResponse) -> Record:
        if answer.HasField("error"):
            return self._record(schedule, digest, error=errors.from_proto(answer.error))
        outputs = outputs_of(list(answer.outputs), self._expected)
        if not self.parsed.check(outputs, self._expected):
            wrong = errors.WrongAnswerError("the answer differs from the reference")
            return self._record(schedule, digest, error=wrong)
        return self._record(schedule, digest, timing=answer.timing)

    def _record(
        self,
        schedule: Schedule,
        digest: str,
        *,
        timing: pb.Timing | None = None,
        error: errors.TunefarmError | None = None,
    ) -> Record:
        return Record(
            workload=str(self.parsed),
            target=target_text(self.device.target),
            device=self.device.id,
            device_key=self.device.key,
            emulated=self.device.emulated,
            schedule=schedule.to_json(),
            samples_s=list(timing.samples_s) if timing else [],
            number=timing.number if timing else 0,
            error=type(error).__name__ if error else "",
            message=str(error) if error else "",
            bundle_digest=digest,
            recorded_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
