"""A process that compiles one CUDA C file: `nvrtc_worker.py FILE OPTION...`, in the file's folder.

It prints one JSON object: `log`, and where it compiled `version`, `ptx` and `cubin` (base64), else
`status`; or `missing`, why there is no NVRTC here. Without words it prints `version` alone, or
`missing`. Run by path: it imports cuda.bindings and the standard library alone. NVRTC may crash or
hang on what it is given, so this process is made to be lost.
"""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any


def _text(size: Any, get: Any, program: Any) -> bytes:
    """What a pair of calls gives: how long it is, then the bytes."""
    length = size(program)[1]
    buffer = b" " * int(length)
    get(program, buffer)
    return buffer


def _found() -> tuple[Any, dict[str, object]]:
    """NVRTC, and its `version`, or `missing`."""
    try:
        from cuda.bindings import nvrtc
    except ImportError:
        return None, {"missing": "cuda-bindings is not installed"}
    try:
        _, *version = nvrtc.nvrtcVersion()
    except (RuntimeError, OSError):
        return None, {"missing": "libnvrtc is not found"}
    return nvrtc, {"version": ".".join(str(number) for number in version)}


def _compile(file: str, options: list[str]) -> dict[str, object]:
    nvrtc, found = _found()
    if nvrtc is None:
        return found
    source = Path(file).read_bytes()
    _, program = nvrtc.nvrtcCreateProgram(source, file.encode(), 0, [], [])
    words = [option.encode() for option in options]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(words), words)
    log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
    made: dict[str, object] = {"log": log.replace(b"\0", b"\n").decode(errors="replace").strip()}
    if int(status) != 0:
        return made | {"status": status.name}
    ptx = _text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, program).rstrip(b"\0")
    cubin = _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    return (
        made
        | found
        | {
            "ptx": base64.b64encode(ptx).decode(),
            "cubin": base64.b64encode(cubin).decode(),
        }
    )


def main() -> None:
    """Compile what the command line names."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not reach the answer
    json.dump(_compile(sys.argv[1], sys.argv[2:]) if sys.argv[1:] else _found()[1], answers)
    answers.flush()


if __name__ == "__main__":
    main()
