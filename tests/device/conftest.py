"""Kernels in C, and a device server that serves a lease."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from device_harness import Box, Client, SessionClient, boxed
from tunefarm_compiler.linker import zig_program
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.bundle import Bundle
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb

KERNELS = {
    "add": "float *a = args[0], *b = args[1], *c = args[2];"
    " for (int i = 0; i < 16; ++i) c[i] = a[i] + b[i]; return 0;",
    "walk": "float *a = args[0], sum = 0; for (int i = 1; i < 65536; i += 16) sum += a[i];"
    " a[0] = sum; return 0;",
    "count": "++*(float *)args[0]; return 0;",
    "segfault": "*(volatile int *)8 = 1; return 0;",
    "abort_": 'fprintf(stderr, "it hurts\\n"); abort();',
    "exit_": "exit(0);",
    "status": "return 7;",
    "loop": 'for (;;) __asm__ volatile("");',
    "close_all": "for (int i = 0; i < 64; ++i) close(i); return 0;",
    "babble": 'for (int i = 0; i < 1000000; ++i) puts("endless output of a kernel"); abort();',
    "prints": r'write(1, "<script>alert(1)</script>\033[31m red\n\xff\xfe bad\n", 42); return 0;',
    "floods": "static char block[1 << 20]; for (unsigned i = 0; i < sizeof block; ++i)"
    " block[i] = 'x'; for (int i = 0; i < 100; ++i) write(1, block, sizeof block);"
    " return 0;",
    "fill_disk": "static char block[4096]; float *kept = args[0]; FILE *file = tmpfile();"
    " while (*kept < 8192 && fwrite(block, 4096, 1, file) == 1 && !fflush(file)) *kept += 4;"
    " return 0;",
    "leave_file": 'FILE *file = fopen("out.txt", "w"); if (!file) return 1;'
    ' fputs("left by a kernel", file); fclose(file); puts("it wrote"); fflush(stdout); return 0;',
    "leave_and_die": 'FILE *file = fopen("out.txt", "w"); fputs("last words", file); fclose(file);'
    ' puts("it dies"); fflush(stdout); abort();',
    "plant": "extern int mkfifo(const char *, unsigned), mkdir(const char *, unsigned);"
    ' if (symlink("/etc/passwd", "link") || symlink("/etc", "folder")) return 1;'
    ' if (link("/proc/self/comm", "hard")) {} mkfifo("pipe", 0600);'
    ' if (link("own.bin", "twice")) return 2;'
    ' for (int i = 0; i < 2000; ++i) if (mkdir("deep", 0700) || chdir("deep")) return 3;'
    " return 0;",
    "many_files": 'char name[16]; for (int i = 0; i < 12000; ++i) { sprintf(name, "f%d", i);'
    ' fclose(fopen(name, "w")); } for (;;) pause();',
    "fourth_fails": "float *calls = args[0]; return ++*calls == 4 ? 9 : 0;",
    "kill_parent": "kill(getppid(), SIGKILL); pause(); return 0;",
    "fork_": "for (int i = 0; i < 3; ++i) if (!fork()) { if (i) setsid(); for (;;) pause(); }"
    " return 0;",
}
REPEAT = """
int32_t tunefarm_repeat(int32_t (*f)(void *const *), void *const *args, int64_t number) {
  for (int64_t i = 0; i < number; ++i) { int32_t s = f(args); if (s) return s; }
  return 0;
}
"""


def _library(folder: Path, name: str, source: str) -> bytes:
    path = folder / f"{name}.c"
    path.write_text(source)
    out = folder / f"{name}.so"
    command = [
        str(zig_program()),
        "cc",
        "-shared",
        "-O1",
        "-fno-sanitize=all",
        "-o",
        str(out),
        str(path),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return out.read_bytes()


@dataclass(frozen=True)
class Kernels:
    """Bundles with all the kernels, with and without `tunefarm_repeat`."""

    native: Bundle
    plain: Bundle


def _manifest(names: tuple[str, ...]) -> bpb.BundleManifest:
    x = bpb.ArgumentSignature(dtype="float32", shape=[16], output=True)
    manifest = bpb.BundleManifest(workload="test kernels")
    for name in names:
        wanted = ("a", "b", "c") if name == "add" else ("x",)
        function = manifest.functions.add(name=name)
        for argument in wanted:
            x.name = argument
            x.shape[:] = [1 << 16] if name == "walk" else [16]
            x.output = argument in ("c", "x")
            function.arguments.append(x)
    return manifest


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    folder = tmp_path_factory.mktemp("kernels")
    headers = ("signal", "stdint", "stdio", "stdlib", "unistd")
    source = "".join(f"#include <{name}.h>\n" for name in headers)
    for name, body in KERNELS.items():
        source += f"int32_t {name}(void *const *args) {{ {body} }}\n"
    from tunefarm_device.facts import find_facts

    here = pb.Target(triple=find_facts().target.triple)
    manifest = _manifest(tuple(KERNELS))
    native = _library(folder, "native", source + REPEAT)
    plain = _library(folder, "plain", source)
    return Kernels(
        bundle_file.pack(manifest, [(here, native)]),
        bundle_file.pack(manifest, [(here, plain)]),
    )


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Shared by the tests of a module, which prove that it stays healthy."""
    yield from boxed(tmp_path_factory.mktemp("box"))


@pytest.fixture
def own_box(tmp_path: Path) -> Iterator[Box]:
    """For tests that kill it."""
    yield from boxed(tmp_path)


@pytest.fixture
def basic_box(tmp_path: Path) -> Iterator[Box]:
    """Without the sandbox, as on a system that has none: what it would refuse must be survived."""
    yield from boxed(tmp_path, "--isolation", "basic")


@pytest.fixture
def basic_session(basic_box: Box, kernels: Kernels) -> Iterator[SessionClient]:
    """An open session on a device without the sandbox."""
    client = basic_box.lease()
    client.upload(kernels.native.data)
    session = client.session()
    yield session
    session.close()
    client.close()


@pytest.fixture
def client(box: Box) -> Iterator[Client]:
    client = box.lease()
    yield client
    client.close()
    box.end()


@pytest.fixture
def session(client: Client, kernels: Kernels) -> Iterator[SessionClient]:
    """An open session; the kernels are in the device's cache."""
    for each in (kernels.native, kernels.plain):
        client.upload(each.data)
    session = client.session()
    yield session
    session.close()
