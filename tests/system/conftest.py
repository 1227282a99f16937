"""A real farm of processes for the tests, and kernels written in C that misbehave."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ziglang
from tunefarm import Bundle, Tracker
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.v1 import bundle_pb2 as bpb

KEYS = ("one", "two")
ZIG = Path(ziglang.__file__).parent / "zig"


@dataclass(frozen=True)
class Farm:
    """A running tracker and a device of each of KEYS."""

    address: str
    processes: LocalFarm

    def run(self, *words: str, timeout: float = 110) -> subprocess.CompletedProcess[str]:
        """`tunefarm WORDS --tracker ...` as a user runs it."""
        return subprocess.run(
            [sys.executable, "-m", "tunefarm", *words, "--tracker", self.address],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def json(self, *words: str) -> Any:
        """What a command prints with --json."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    folder = tmp_path_factory.mktemp("farm")
    address = f"127.0.0.1:{free_port(0)}"
    with LocalFarm(folder) as processes:
        processes.start(
            "tracker", "tracker", "--port", address.split(":")[1], "--state", str(folder / "t")
        )
        processes.wait_for_tracker(address)
        for key in KEYS:
            state = str(folder / key)
            processes.start(key, "device", "--key", key, "--tracker", address, "--state", state)
        processes.wait_for_devices(address, KEYS)
        yield Farm(address, processes)


@pytest.fixture(scope="session")
def c_bundle(farm: Farm, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """Compile `int32_t kernel(void *const *args)` from C: one float32[16] argument."""
    folder = tmp_path_factory.mktemp("kernels")
    with Tracker(farm.address) as tracker:
        target = tracker.devices("one")[0].facts.target
    made: dict[str, Bundle] = {}

    def build(body: str) -> Bundle:
        if body not in made:
            source = folder / f"{len(made)}.c"
            source.write_text(
                "#include <stdint.h>\n#include <stdlib.h>\n"
                f"int32_t kernel(void *const *args) {{ {body} }}\n"
            )
            library = source.with_suffix(".so")
            command = [str(ZIG), "cc", "-shared", "-O1", "-fno-sanitize=all", "-o", str(library)]
            subprocess.run([*command, str(source)], check=True, capture_output=True)
            argument = bpb.ArgumentSignature(name="x", dtype="float32", shape=[16], output=True)
            function = bpb.FunctionSignature(name="kernel", arguments=[argument])
            manifest = bpb.BundleManifest(workload="hostile", functions=[function])
            plain = type(target)(triple=target.triple)
            made[body] = bundle_file.pack(manifest, [(plain, library.read_bytes())])
        return made[body]

    return build
