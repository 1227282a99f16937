"""A process that compiles: one JSON job a line on stdin; a JSON head, then bytes, on stdout.

LLVM aborts its process on what it cannot select, so this one is made to be lost.
"""

import json
import os
import sys

from tunefarm_proto.errors import BuildFailedError, TunefarmError

from tunefarm_compiler import build
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.targets import TargetSpec


def main() -> None:
    """Compile until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not reach the answers
    for line in sys.stdin:
        job = json.loads(line)
        target = job["target"]
        spec = TargetSpec(target["triple"], target["cpu"], tuple(target["features"]))
        data = b""
        head: dict[str, object]
        try:
            schedule = Schedule.from_json(job["schedule"]) if job["schedule"] else None
            data = build(job["workload"], spec, schedule).data
            head = {"size": len(data)}
        except TunefarmError as error:
            head = {"code": error.code, "message": error.message, "hint": error.hint}
        except Exception as error:  # a bug in a schedule's code must not end the worker
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            head = {"code": BuildFailedError.code, "message": said, "hint": ""}
        answers.write(json.dumps(head).encode() + b"\n" + data)
        answers.flush()


if __name__ == "__main__":
    main()
