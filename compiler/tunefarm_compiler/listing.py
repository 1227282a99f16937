"""A kernel to be read: its loops, LLVM's text and its instructions. Also a process that does it.

`python -m tunefarm_compiler.listing` takes one request as JSON on stdin and answers JSON on stdout.
LLVM may abort it, so whoever asks runs it as a process of its own.
"""

import dataclasses
import json
import resource
import sys
from dataclasses import dataclass

from tunefarm_proto.errors import TunefarmError
from tunefarm_proto.v1 import common_pb2 as pb

from tunefarm_compiler import targets
from tunefarm_compiler import workload as workloads
from tunefarm_compiler.building import Kernel, job
from tunefarm_compiler.codegen import assembly, lowered
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.show import show
from tunefarm_compiler.spaces import default_schedule

MEMORY = 4 << 30  # bytes of addresses: LLVM's libraries take a part
CPU_S = 60


@dataclass(frozen=True)
class Listing:
    """A kernel as text. `digest`: sha256 of the bundle that it makes here, "" where not asked."""

    loops: str
    llvm: str
    assembly: str
    digest: str = ""


def listing(
    workload: str, target: pb.Target, schedule: str = "", *, bundle: bool = False
) -> Listing:
    """The texts of one kernel, made as `build` makes it; with `bundle` also what it makes.

    Raises: UnknownWorkloadError, UnknownTargetError, InvalidScheduleError, BuildFailedError.
    """
    parsed, spec = workloads.parse(workload), targets.from_device(target)
    made = Schedule.from_json(schedule) if schedule else default_schedule(parsed, spec)
    text = lowered(parsed, spec, made)
    return Listing(
        loops=show(parsed.output, made, spec),
        llvm=text,
        assembly=assembly(text, spec),
        digest=job([Kernel(parsed, made)], spec).run().digest if bundle else "",
    )


def answer(request: str) -> dict[str, str]:
    """What a request gets: the texts, or an error and a hint."""
    asked = json.loads(request)
    target = pb.Target(triple=asked["triple"], cpu=asked["cpu"], features=asked["features"])
    try:
        found = listing(asked["workload"], target, asked["schedule"], bundle=True)
    except TunefarmError as error:
        return {"error": error.message, "hint": error.hint}
    return dataclasses.asdict(found)


def main() -> None:
    """Answer one request."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    print(json.dumps(answer(sys.stdin.read())))


if __name__ == "__main__":
    main()
