"""A process that compiles: one job a line on stdin; a JSON head, then bytes, on stdout.

LLVM aborts its process on what it cannot select, so this one is made to be lost.
"""

import json
import os
import sys

from tunefarm_proto.errors import BuildFailedError, TunefarmError

from tunefarm_compiler.building import Job

NICENESS = 5  # what is timed on this machine, and what feeds it, comes first


def compile_job(text: str) -> tuple[dict[str, object], bytes]:
    """Carry out a job's JSON: what went wrong, or nothing, and the bundle's bytes.

    Plain data in and out, for an executor's processes here or elsewhere.
    """
    try:
        data = Job.from_json(text).run().data
    except TunefarmError as error:
        return {"code": error.code, "message": error.message, "hint": error.hint}, b""
    except Exception as error:  # a bug in a schedule's code must not end the worker
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return {"code": BuildFailedError.code, "message": said, "hint": ""}, b""
    return {"size": len(data)}, data


def main() -> None:
    """Compile until stdin ends, or nobody reads the answers any more."""
    os.nice(NICENESS)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not reach the answers
    for line in sys.stdin:
        head, data = compile_job(line)
        try:
            answers.write(json.dumps(head).encode() + b"\n" + data)
            answers.flush()
        except BrokenPipeError:  # our tuner was killed
            os._exit(0)


if __name__ == "__main__":
    main()
