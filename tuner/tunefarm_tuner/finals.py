"""The best of a search, timed again in turns by the full protocol: the winner is named after that.

Best-of-many screening times overstate: the luckiest sample wins. Here each finalist is timed in
every round, so that what drifts falls on all of them alike.
"""

from dataclasses import dataclass, field
from typing import Any

from tunefarm import Array, Bundle, Device
from tunefarm.module import Function
from tunefarm_proto import errors
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_tuner.resources import resources
from tunefarm_tuner.search.base import Candidate
from tunefarm_tuner.tasks import Task

ROUNDS = 15
SAMPLES = 3  # of each in a round
MIN_REPEAT_S = 0.01
LIMIT_S = 120.0
MOST_COMPARED = 16


@dataclass(eq=False)
class Final:
    """Candidates of a task to be timed again, with their bundles; the first may be the default."""

    task: Task
    entries: list[tuple[Candidate, Bundle]] = field(default_factory=list)


@dataclass(frozen=True)
class Finalist:
    """What became of one of them. `timing` is absent where it failed for `error`."""

    candidate: Candidate
    bundle_digest: str
    timing: pb.Timing | None
    error: errors.TunefarmError | None = None
    resources: list[dict[str, Any]] = field(default_factory=list)


def remeasure(device: Device, final: Final) -> list[Finalist]:
    """Check and time all of them. Raises only what is no fault of theirs."""
    task, failed = final.task, list[Finalist]()
    left = list(final.entries[:MOST_COMPARED])
    arrays = [device.array(one) for one in task.inputs()]
    outputs = [device.empty(one.shape, str(one.dtype)) for one in task.expected()]
    try:
        functions = []
        for candidate, bundle in list(left):
            try:
                function = device.load(bundle)[task.function]
                _check(task, function, [*arrays, *outputs], outputs)
                functions.append(function)
            except (errors.KernelError, errors.BundleError) as error:
                failed.append(Finalist(candidate, bundle.digest, None, error, resources(bundle)))
                left.remove((candidate, bundle))
                if isinstance(error, errors.KernelCrashedError | errors.KernelTimeoutError):
                    # Its process is gone, and all that the others had in it.
                    return failed + remeasure(device, Final(task, left))
        timings = _timed(functions, [*arrays, *outputs])
    finally:
        for array in (*arrays, *outputs):
            try:
                array.free()
            except errors.TunefarmError:
                break  # they are gone with the runner, or the device is
    return failed + [
        Finalist(candidate, bundle.digest, timing, resources=resources(bundle))
        for (candidate, bundle), timing in zip(left, timings, strict=True)
    ]


def _check(task: Task, function: Function, arguments: list[Array], outputs: list[Array]) -> None:
    function(*arguments)
    if not task.agrees([output.numpy() for output in outputs], task.expected()):
        raise errors.WrongAnswerError("the answer differs from the reference")


def _timed(functions: list[Function], arguments: list[Array]) -> list[pb.Timing]:
    if not functions:
        return []
    options = pb.TimingOptions(repeat=ROUNDS * (1 if len(functions) > 1 else SAMPLES))
    options.min_repeat.FromNanoseconds(round(MIN_REPEAT_S * 1e9))
    session = functions[0].session
    calls = [function.request(tuple(arguments)) for function in functions]
    if len(calls) == 1:
        request = dpb.SessionRequest(time=dpb.TimeFunction(call=calls[0], options=options))
        return [session.request(request, LIMIT_S).timing]
    compare = dpb.CompareFunctions(calls=calls, options=options, samples=SAMPLES)
    answer = session.request(dpb.SessionRequest(compare=compare), LIMIT_S)
    return list(answer.comparison.timings)
