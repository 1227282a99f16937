"""tunefarm build"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tunefarm_proto.errors import BuildFailedError, InvalidRequestError

from tunefarm.cli.output import add_json, add_operators, print_json
from tunefarm.cli.parsing import whole

if TYPE_CHECKING:
    from tunefarm_compiler.cache import BuildCache
    from tunefarm_compiler.schedule import Schedule
    from tunefarm_proto.bundle import Bundle

FILES = (".c", ".ll", ".o", ".so")
GPU_FILES = (".cu", ".ptx", ".cubin")
_OF_FILES = ("args", "function", "flags")
_OF_WORKLOADS = ("schedule", "threads")
_OF_GPU_FILES = ("grid", "block", "shared")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "workload",
        nargs="+",
        help="as in matmul:m=512,n=512,k=512 or add:n=1048576, several into one bundle; or a file: "
        "FILE.c, .ll, .o or .so, for a GPU FILE.cu, .ptx or .cubin",
    )
    parser.add_argument(
        "--target",
        action="append",
        metavar="T[,T...]",
        help="what to compile for, as in rasp4b or x86-64-v3,znver4, or several times: a device "
        "takes the best that it can run (default local; `tunefarm targets` lists all)",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--schedule",
        metavar="JSON",
        help="a schedule, as text or @FILE; for several targets one by each target's name",
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="compile even what was compiled before"
    )
    parser.add_argument(
        "--untuned",
        action="store_true",
        help="the default schedule, even where a better one is known (see `tunefarm best`)",
    )
    parser.add_argument(
        "--threads",
        type=whole(1),
        metavar="N",
        help="of the default schedule (default 1); no more run than the device has cores",
    )
    of_c = parser.add_argument_group("of a FILE")
    of_c.add_argument(
        "--args",
        metavar="WORDS",
        help='its arguments, as in "a:float32[16] b:out:float32[16]"; out: the kernel writes it',
    )
    of_c.add_argument("--function", metavar="NAME", help="its function (default: the file's name)")
    of_c.add_argument(
        "--flags", metavar="FLAGS", help="for the compiler, after ours, as in '-O2 -DN=4'"
    )
    of_gpu = parser.add_argument_group("of a FILE.cu, .ptx or .cubin")
    of_gpu.add_argument("--grid", metavar="X[,Y[,Z]]", help="blocks of its launch")
    of_gpu.add_argument("--block", metavar="X[,Y[,Z]]", help="threads of a block")
    of_gpu.add_argument(
        "--shared", type=int, metavar="BYTES", help="dynamic shared memory of a block (default 0)"
    )
    of_c.add_argument("--verbose", action="store_true", help="show all that the compiler says")
    add_operators(parser)
    add_json(parser)


def read_schedule(text: str | None) -> str | None:
    """The schedule's JSON: as given, or from a file where it starts with @."""
    if text is not None and text.startswith("@"):
        try:
            return Path(text[1:]).read_text()
        except UnicodeDecodeError:
            raise InvalidRequestError(f"{text[1:]} is no text", "name a schedule's file") from None
    return text


def _targets(arguments: argparse.Namespace) -> list[str]:
    given = ",".join(arguments.target or ["local"])
    return [name.strip() for name in given.split(",") if name.strip()]


def _schedules(arguments: argparse.Namespace) -> "Schedule | dict[str, Schedule] | None":
    """The schedule, or one for each target."""
    from tunefarm_compiler.schedule import Schedule

    text = read_schedule(arguments.schedule)
    if text is None:
        return None
    if len(arguments.workload) > 1:
        raise InvalidRequestError(
            "one schedule for several workloads", "build them apart, or in Python: compile_many"
        )
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    names = _targets(arguments)
    if isinstance(data, dict) and set(data) & set(names):
        return {name: Schedule.from_json(json.dumps(one)) for name, one in data.items()}
    return Schedule.from_json(text)


def _on_threads(text: str, names: list[str], threads: int, tuned: bool) -> "dict[str, Schedule]":
    """The best schedules of a workload for so many threads, by target."""
    from tunefarm_compiler import default_schedule, targets, workload
    from tunefarm_compiler.database import known_best

    best, parsed = known_best() if tuned else None, workload.parse(text)
    found = dict[str, "Schedule"]()
    for name in names:
        spec = targets.resolve(name)
        if spec.gpu or spec.arch == "wasm32":
            raise InvalidRequestError(
                f"{threads} threads, and {name} has none to deal out to", "leave --threads out"
            )
        found[name] = default_schedule(parsed, spec, threads, tuned=best)
    return found


def _build(arguments: argparse.Namespace) -> "Bundle":
    """The bundle of workloads, or of a file."""
    first = arguments.workload[0]
    suffix = Path(first).suffix
    for name in _OF_GPU_FILES:
        if suffix not in GPU_FILES and getattr(arguments, name) is not None:
            raise InvalidRequestError(
                f"--{name} is of GPU kernels and {first} is none",
                "name a FILE.cu, .ptx or .cubin, or leave it out",
            )
    if suffix == ".tf":
        raise InvalidRequestError(
            f"{first} is a bundle, built already", f"time it: tunefarm bench {first} --device KEY"
        )
    if suffix in (*FILES, *GPU_FILES):
        return _build_file(arguments)
    for name in _OF_FILES:
        if getattr(arguments, name) is not None:
            raise InvalidRequestError(
                f"--{name} is of files and {first} is a workload",
                "name a FILE.c, .ll, .o or .so, or leave it out",
            )
    from tunefarm_compiler import Kernel
    from tunefarm_compiler.cache import default_cache
    from tunefarm_compiler.pool import BuildPool

    schedules = _schedules(arguments)
    if schedules is not None and arguments.threads is not None:
        raise InvalidRequestError(
            "--threads is of the default schedule", "put threads into the --schedule"
        )
    names, threads, tuned = _targets(arguments), arguments.threads or 1, not arguments.untuned
    kernels = [
        Kernel(text, _on_threads(text, names, threads, tuned) if threads > 1 else schedules)
        for text in arguments.workload
    ]
    cache = None if arguments.no_cache else default_cache()
    with BuildPool(workers=1, cache=cache) as pool:
        return pool.submit_many(kernels, names, tuned).result()


def _build_file(arguments: argparse.Namespace) -> "Bundle":
    from tunefarm_compiler import foreign
    from tunefarm_compiler.cache import default_cache

    file, *more = arguments.workload
    if more:
        raise InvalidRequestError(f"{file} and {more[0]} in one bundle", "build them apart")
    if arguments.args is None:
        raise InvalidRequestError(f"{file} needs its arguments", foreign.HELP)
    for name in _OF_WORKLOADS:
        if getattr(arguments, name) is not None:
            raise InvalidRequestError(f"--{name} is of workloads, not of files", "leave it out")

    def log(output: str) -> None:
        if arguments.verbose:
            print(output, end="", file=sys.stderr)

    # What is kept has nothing more to say.
    anew = arguments.no_cache or arguments.verbose
    cache = None if anew else default_cache()
    try:
        if Path(file).suffix in GPU_FILES:
            return _build_gpu_file(arguments, log, cache)
        return foreign.build_c(
            file,
            _targets(arguments),
            arguments.args,
            arguments.function,
            flags=arguments.flags or "",
            log=log,
            cache=cache,
        )
    except BuildFailedError as error:
        if not error.hint and not arguments.verbose:
            error.hint = "--verbose shows all that the compiler says"
        raise


def _build_gpu_file(
    arguments: argparse.Namespace, log: Callable[[str], object], cache: "BuildCache | None"
) -> "Bundle":
    from tunefarm_compiler.gpu import geometry, own

    (file,) = arguments.workload
    if arguments.grid is None:
        raise InvalidRequestError(
            f"{file} needs its launch", "say --grid 8 --block 128: blocks, and threads of a block"
        )
    return own.build(
        file,
        _targets(arguments),
        arguments.args,
        arguments.function,
        grid=geometry.sides(arguments.grid, "grid"),
        block=geometry.sides(arguments.block, "block") if arguments.block is not None else (),
        shared=arguments.shared or 0,
        flags=arguments.flags or "",
        log=log,
        cache=cache,
    )


def _shown(arguments: argparse.Namespace, bundle: "Bundle") -> str:
    """The targets as they were named; of a file for GPUs that names its own, that one."""
    names = _targets(arguments)
    if names != ["local"] or Path(arguments.workload[0]).suffix not in GPU_FILES:
        return ",".join(names)
    return ",".join(dict.fromkeys(entry.target.cpu for entry in bundle.manifest.libraries))


def run(arguments: argparse.Namespace) -> int:
    """Compile and write the bundle."""
    started = time.perf_counter()
    bundle = _build(arguments)
    seconds = time.perf_counter() - started
    bundle.write(arguments.output)
    if arguments.json:
        print_json(
            {
                "bundle": str(arguments.output),
                "digest": bundle.digest,
                "bytes": len(bundle.data),
                "workload": bundle.manifest.workload,
                "target": _shown(arguments, bundle),
                "schedule": bundle.manifest.schedule,
                "build_s": seconds,
            }
        )
    else:
        print(
            f"{arguments.output}: {bundle.manifest.workload} for {_shown(arguments, bundle)}, "
            f"{len(bundle.data)} bytes, sha256 {bundle.digest[:16]}, {seconds:.2f} s"
        )
    return 0
