"""A device of each kind, and the same kernels compiled for it. A new kind is one line of KINDS."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from device_harness import Box, Client, DeviceProcess, FakeTracker, SessionClient, boxed
from tunefarm_compiler import targets
from tunefarm_compiler.linker import link, zig_program
from tunefarm_device import emulation
from tunefarm_device.backend import find
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.bundle import Bundle
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb

SOURCE = Path(__file__).with_name("kernels.c")
PTX = Path(__file__).with_name("kernels.ptx")
WHAT_IT_IS_NOT = "riscv64-unknown-linux-gnu"


@dataclass(frozen=True)
class Kind:
    """A kind of device: its backend or emulated board, the compiler's target, zig's name of it.

    A GPU has no `zig`: its kernels are the PTX.
    """

    name: str
    target: str
    zig: str = ""
    backend: str = "native"
    board: str = ""
    emulated: bool = False

    @property
    def gpu(self) -> bool:
        return not self.zig

    def kernels(self) -> list[str]:
        """Their names, in the source's order."""
        if self.gpu:
            return re.findall(r"\.entry (\w+)", PTX.read_text())
        return [word.split(")")[0] for word in SOURCE.read_text().split("\nKERNEL(")[1:]]

    def lacking(self) -> str | None:
        return emulation.available(self.board) if self.board else find(self.backend).lacking()

    def start(self, folder: Path) -> Iterator[Box]:
        if not self.board:
            yield from boxed(folder, "--backend", self.backend)
            return
        root, tracker = emulation.build_root(self.board), FakeTracker()
        command, env = emulation.command(self.board, root, "box", tracker.address, folder / "state")
        device = DeviceProcess(tracker.address, folder / "state", command=command, **env)
        try:
            address = tracker.wait(lambda report: True).addresses[0]
            yield Box(tracker, device, address)
        finally:
            device.kill()
            tracker.stop()


KINDS = (
    Kind("native", "local", f"{os.uname().machine}-linux-gnu"),
    Kind("wasm", "wasm", "wasm32-freestanding", backend="wasm"),
    Kind("null GPU", "sm_80", backend="nullgpu", emulated=True),
    Kind("GPU", "sm_75", backend="cuda"),
    Kind("emulated arm64", "rasp3b", "aarch64-linux-gnu", board="arm64", emulated=True),
    Kind("emulated armhf", "rasp3b-32", "arm-linux-gnueabihf", board="armhf", emulated=True),
)


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(kind, id=kind.name, marks=[pytest.mark.emulation] if kind.board else [])
        for kind in KINDS
    ],
)
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    if lacking := chosen.lacking():
        pytest.skip(lacking)
    return chosen


@dataclass(frozen=True)
class Bundles:
    """One source, for one kind of device, in every state that a bundle can be in."""

    whole: Bundle
    plain: Bundle  # without a timing loop of its own
    foreign: Bundle  # says that it is for another processor
    lying: Bundle  # names a function that the library has not
    cut: Bundle  # its library ends early
    noise: Bundle  # its library is none

    def all(self) -> tuple[Bundle, ...]:
        return self.whole, self.plain, self.foreign, self.lying, self.cut, self.noise


def manifest(kind: Kind, *more: str) -> bpb.BundleManifest:
    """A function for each kernel of the source: one float32[16], but for `add` and `walk`."""
    made = bpb.BundleManifest(workload="conformance")
    for name in (*kind.kernels(), *more):
        function = made.functions.add(name=name)
        for argument in ("a", "b", "c") if name == "add" else ("x",):
            shape = [1 << 16] if name == "walk" else [16]
            output = argument in ("c", "x")
            function.arguments.add(name=argument, dtype="float32", shape=shape, output=output)
    return made


def plan(function: bpb.FunctionSignature) -> bpb.LaunchPlan:
    """One launch of the kernel of that name, by one thread, by 16 or by a warp."""
    threads = {"add": 16, "walk": 32}.get(function.name, 1)
    arguments = range(len(function.arguments))
    made = bpb.LaunchPlan()
    made.launches.add(kernel=function.name, grid=[1], block=[threads], arguments=arguments)
    return made


def library(kind: Kind, folder: Path, *flags: str) -> bytes:
    """The kernels as the device loads them, linked by the compiler's own linker."""
    if kind.gpu:
        return PTX.read_bytes() + "".join(f"// {flag}\n" for flag in flags).encode()
    compiled = folder / "kernels.o"
    bare = ("-ffreestanding", "-fno-builtin", "-fno-sanitize=all", "-fno-unwind-tables")
    flags = ("-O1", "-fPIC", *bare, "-fno-asynchronous-unwind-tables", *flags)
    command = [
        str(zig_program()),
        "cc",
        "-c",
        "-target",
        kind.zig,
        *flags,
        "-o",
        str(compiled),
        str(SOURCE),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return link(compiled.read_bytes(), targets.resolve(kind.target))


@pytest.fixture(scope="session")
def bundles(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    folder = tmp_path_factory.mktemp("kernels")
    here = pb.Target(triple=targets.resolve(kind.target).triple)
    whole, plain = library(kind, folder), library(kind, folder, "-DPLAIN")

    def packed(data: bytes, target: pb.Target = here, *more: str) -> Bundle:
        made = manifest(kind, *more)
        launches = {one.name: plan(one) for one in made.functions} if kind.gpu else {}
        return bundle_file.pack(made, [bundle_file.Library(target, data, launches=launches)])

    return Bundles(
        packed(whole),
        packed(plain),
        packed(whole, pb.Target(triple=WHAT_IT_IS_NOT)),
        packed(whole, here, "absent"),
        packed(whole[:100]),
        packed(bytes(range(256)) * 16),
    )


@pytest.fixture(scope="session")
def device(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """One device of the kind for all tests: each must leave it healthy for the next."""
    yield from kind.start(tmp_path_factory.mktemp("device"))


@pytest.fixture
def client(device: Box, bundles: Bundles) -> Iterator[Client]:
    client = device.lease()
    for bundle in bundles.all():
        if client.missing(bundle.digest) is not None:
            client.upload(bundle.data)
    yield client
    client.close()
    device.end()


@pytest.fixture
def session(client: Client) -> Iterator[SessionClient]:
    """A session with the kernels in the cache; afterwards another one gets the right answer."""
    session = client.session()
    yield session
    session.close()


@pytest.fixture
def module(session: SessionClient, bundles: Bundles) -> int:
    return session.load(bundles.whole.digest)
