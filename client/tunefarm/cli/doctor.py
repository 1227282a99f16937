"""tunefarm doctor: what this machine and the farm can do, and what would add the rest."""

import argparse
import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tunefarm_proto import extras
from tunefarm_proto.errors import TunefarmError

from tunefarm.channel import TRACKER_VARIABLE, tracker_address
from tunefarm.cli.findings import Finding
from tunefarm.cli.output import add_json, add_tracker, clean, print_json, tone

LANDLOCK_CREATE_RULESET = 444
LANDLOCK_VERSION_FLAG = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add_tracker(parser)
    parser.add_argument(
        "--only",
        choices=("machine", "farm"),
        help="look at this alone (default: the machine, and the farm where a tracker is named)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings.

    Exit status 1 where tunefarm itself cannot run here, or something is wrong with the farm.
    """
    findings: list[Finding] = []
    if arguments.only != "farm":
        findings += [*_python(), *_packages(), _compiles(), *_gpus(), *_emulators(), *_isolation()]
    if arguments.only == "farm" or (
        arguments.only is None and (arguments.tracker or os.environ.get(TRACKER_VARIABLE))
    ):
        findings += _farm(arguments.tracker)
    if arguments.json:
        print_json([asdict(finding) for finding in findings])
    else:
        _write(findings)
    needed = {"Python", "grpcio", "protobuf"}
    return 0 if all(f.ok for f in findings if f.name in needed or f.area == "farm") else 1


def _farm(given: str | None) -> list[Finding]:
    from tunefarm.cli.doctor_farm import AREA, look

    found: list[Finding] = []
    try:
        for one in look(tracker_address(given)):
            found.append(one)
    except TunefarmError as error:
        found.append(Finding(AREA, "tracker", False, error.message, error.hint))
    return found


def _write(findings: list[Finding]) -> None:
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            print(area)
        fix = f"  -> {finding.fix}" if finding.fix else ""
        mark = "yes" if finding.ok else "no"
        print(
            f"  {' ' * (3 - len(mark))}{tone(mark)}  {finding.name}: {clean(finding.detail)}{fix}"
        )


def _python() -> Iterator[Finding]:
    ok = sys.version_info >= (3, 11)
    fix = "" if ok else "apt-get install python3.11"
    detail = f"{platform.python_version()} on {platform.machine()}"
    yield Finding("base", "Python", ok, detail, fix)


def _packages() -> Iterator[Finding]:
    for name, what, extra in (
        ("grpcio", "base", ""),
        ("protobuf", "base", ""),
        ("numpy", "host", "references for answers"),
        ("llvmlite", "host", "the compiler"),
        ("ziglang", "host", "the linker"),
        ("wasmtime", "wasm", "`tunefarm device --backend wasm`"),
        ("cuda-bindings", "cuda", "GPU boxes"),
        ("nvidia-ml-py", "cuda", "GPU boxes"),
        ("cryptography", "tls", "`tunefarm tls`"),
        ("fastapi", "dashboard", "the dashboard"),
        ("uvicorn", "dashboard", "the dashboard"),
        ("jinja2", "dashboard", "the dashboard"),
    ):
        area = "base" if what == "base" else f"extra [{what}]"
        fix = f"pip install {name}" if what == "base" else extras.install(what)
        try:
            yield Finding(area, name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            detail = f"not installed{', needed for ' + extra if extra else ''}"
            yield Finding(area, name, False, detail, fix)


def _gpus() -> Iterator[Finding]:
    """What GPUs need: the driver and those that it shows, NVML; on any host ptxas and NVRTC."""
    from tunefarm_device.cuda import nvml, probe

    area, told = "GPUs, where there are any", probe.found()
    lacking = str(told.get("lacking", ""))
    extra = extras.install("cuda")
    fix = extra if "pip install" in lacking else "NVIDIA's driver, and see docs/gpu.md"
    detail = lacking.partition(": `pip")[0] or f"of CUDA {told['cuda']}"
    yield Finding(area, "driver", not lacking, detail, fix if lacking else "")
    for number, gpu in enumerate(told.get("gpus", [])):
        capability = f"compute capability {gpu['major']}.{gpu['minor']}"
        yield Finding(area, f"GPU {number}", True, f"{gpu['name']}, {capability}")
    version = nvml.driver_version()
    if version:
        yield Finding(area, "NVML", True, f"of driver {version}")
    else:
        package = importlib.util.find_spec("pynvml") is not None
        detail = "does not answer" if package else "nvidia-ml-py is not installed"
        detail += "; without it clocks, power and temperature are not known"
        yield Finding(area, "NVML", False, detail, fix if package else extra)
    try:
        yield from _gpu_compilers(area)
    except ImportError:
        detail = "without the compiler of tunefarm they are not asked for"
        yield Finding(area, "ptxas, NVRTC", False, detail, extras.install("host"))


def _gpu_compilers(area: str) -> Iterator[Finding]:
    from tunefarm_compiler.gpu import assemble, nvrtc

    path = assemble.ptxas()
    detail = "not found; without it nothing is known of GPU kernels before they run"
    fix = "" if path else "pip install nvidia-cuda-nvcc"
    yield Finding(
        area, "ptxas", bool(path), f"{assemble.version()}, {path}" if path else detail, fix
    )
    version, missing = nvrtc.found()
    detail = version or f"{missing}; it compiles CUDA C"
    yield Finding(area, "NVRTC", bool(version), detail, "" if version else nvrtc.install())


def _compiles() -> Finding:
    try:
        from tunefarm_tuner.bench import build_one

        bundle = build_one("add:n=16", "local")
    except Exception as error:  # whatever is wrong is what we are asked to say
        fix = extras.install("host")
        return Finding("tools", "compiler and linker", False, str(error).splitlines()[0], fix)
    target = bundle.manifest.libraries[0].target
    detail = f"built add for {target.triple} {target.cpu}"
    return Finding("tools", "compiler and linker", True, detail)


def _emulators() -> Iterator[Finding]:
    from tunefarm_device import emulation

    for key, arch in (("rasp3b", "arm64"), ("rasp3b-32", "armhf")):
        lacking = emulation.available(arch)
        fix = "apt-get install qemu-user-static mmdebstrap" if lacking else ""
        detail = lacking or f"can run as {key} (labelled emulated)"
        yield Finding("emulated boards", f"Raspberry Pi {arch}", not lacking, detail, fix)


def _isolation() -> Iterator[Finding]:
    area = "isolation of kernels"
    namespaces = _runs("unshare", "--user", "--map-root-user", "true")
    yield Finding(
        area,
        "user namespaces",
        namespaces,
        "available" if namespaces else "refused by this system",
        "" if namespaces else "sysctl kernel.unprivileged_userns_clone=1",
    )
    seccomp = "Seccomp:" in _read("/proc/self/status")
    yield Finding(area, "seccomp", seccomp, "in this kernel" if seccomp else "not in this kernel")
    version = ctypes.CDLL(None, use_errno=True).syscall(
        LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_VERSION_FLAG
    )
    landlock = version > 0
    detail = f"ABI {version}" if landlock else "not in this kernel, or switched off"
    yield Finding(area, "Landlock", landlock, detail)
    paranoid = _read("/proc/sys/kernel/perf_event_paranoid").strip()
    counters = paranoid != "" and (int(paranoid) <= 2 or os.geteuid() == 0)
    detail = f"perf_event_paranoid {paranoid or 'unknown'}"
    fix = "" if counters else "sysctl kernel.perf_event_paranoid=2"
    yield Finding(area, "hardware counters", counters, detail, fix)


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=10, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
