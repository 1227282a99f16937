"""What the sandbox refuses a kernel, each where the device says that the primitive holds."""

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tunefarm_device import sandbox
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.v1 import bundle_pb2 as bpb
from ziglang import __file__ as zig_file

EPERM, ENOENT, EACCES, EROFS, ENOSYS = 1, 2, 13, 30, 38
UNSEEN = {EACCES, ENOENT, EROFS}  # Landlock refuses, or a file system of its own lacks it
HEAD = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#define REPORT(what) do { errno = 0; long r = (long)(what); \\
  ((float *)args[0])[0] = r < 0 ? errno : 0; return 0; } while (0)
static void *count(void *at) { *(float *)at = 7; return 0; }
"""

# Kernel, the primitive that refuses, the errno that the kernel is to see (0: it is allowed), or
# those of which it is to see one.
REFUSED = {
    "fork_": ("fork()", sandbox.SECCOMP, EPERM),
    "vfork_": ("syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)", sandbox.SECCOMP, EPERM),
    "clone3_": ("syscall(SYS_clone3, 0, 0)", sandbox.SECCOMP, ENOSYS),
    "exec_": ('execl("/bin/true", "true", (char *)0)', sandbox.SECCOMP, EPERM),
    "socket_": ("socket(AF_INET, SOCK_STREAM, 0)", sandbox.SECCOMP, EPERM),
    "kill_parent": ("kill(getppid(), 0)", sandbox.SECCOMP, EPERM),
    "kill_all": ("kill(-1, 0)", sandbox.SECCOMP, EPERM),
    "kill_self": ("kill(getpid(), 0)", "", 0),
    "ptrace_": ("ptrace(PTRACE_ATTACH, getppid(), 0, 0)", sandbox.SECCOMP, EPERM),
    "unshare_": ("syscall(SYS_unshare, 0x10000000)", sandbox.SECCOMP, EPERM),
    "write_tmp": ('open("/tmp/left-behind", O_CREAT | O_WRONLY, 0600)', sandbox.LANDLOCK, UNSEEN),
    "read_passwd": ('open("/etc/passwd", O_RDONLY)', sandbox.LANDLOCK, UNSEEN),
    "read_parent": ("open_environ()", sandbox.LANDLOCK, UNSEEN),
    "list_root": ('open("/", O_RDONLY)', sandbox.LANDLOCK, EACCES),
    "chmod_": ('chmod("/tmp", 01777)', sandbox.SECCOMP, EPERM),
    "own_descriptor": ("fcntl(0, 8, getppid())", sandbox.SECCOMP, EPERM),
    "signal_descriptor": ("fcntl(0, 10, SIGKILL)", sandbox.SECCOMP, EPERM),
    "duplicate_descriptor": ("fcntl(0, F_DUPFD, 20)", "", 0),
    "limits_of_parent": (
        "syscall(SYS_prlimit64, getppid(), 7, 0, args[0])",
        sandbox.SECCOMP,
        EPERM,
    ),
    "limits_of_self": ("syscall(SYS_prlimit64, 0, 7, 0, args[0])", "", 0),
    "cpu_of_parent": (
        "syscall(SYS_sched_setaffinity, getppid(), 8, args[0])",
        sandbox.SECCOMP,
        EPERM,
    ),
    "realtime": ("syscall(SYS_sched_setscheduler, 0, 1, args[0])", sandbox.SECCOMP, EPERM),
    "become_other": ("setuid(getuid() + 1)", sandbox.CAPABILITIES, EPERM),
    "write_null": ('open("/dev/null", O_WRONLY)', "", 0),
    "read_cpuinfo": ('open("/proc/cpuinfo", O_RDONLY)', "", 0),
}
READ_PARENT = """
static int open_environ(void) {
  char path[64]; snprintf(path, 64, "/proc/%d/environ", getppid());
  return open(path, O_RDONLY);
}
"""
THREADS = """
int32_t threads(void *const *args) {
  pthread_t one; if (pthread_create(&one, 0, count, args[0])) return 1;
  return pthread_join(one, 0);
}
int32_t interfaces(void *const *args) {
  FILE *file = fopen("/proc/self/net/dev", "r"); char line[256]; float lines = 0;
  if (!file) return 1;
  while (fgets(line, 256, file)) lines += strchr(line, ':') != 0;
  ((float *)args[0])[0] = lines; fclose(file); return 0;
}
"""


@pytest.fixture(scope="module")
def probing(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("probing")
    bodies = (
        "".join(
            f"int32_t {name}(void *const *args) {{ REPORT({what}); }}\n"
            for name, (what, _, _) in REFUSED.items()
        )
        + 'int32_t passwd_there(void *const *args) { REPORT(access("/etc/passwd", F_OK)); }\n'
    )
    source, library = folder / "probing.c", folder / "probing.so"
    source.write_text(HEAD + READ_PARENT + bodies + THREADS)
    zig = Path(zig_file).parent / "zig"
    words = ["cc", "-shared", "-O1", "-fno-sanitize=all", "-pthread", "-o", str(library)]
    subprocess.run([str(zig), *words, str(source)], check=True, capture_output=True)
    argument = bpb.ArgumentSignature(name="x", dtype="float32", shape=[16], output=True)
    functions = [
        bpb.FunctionSignature(name=name, arguments=[argument])
        for name in (*REFUSED, "threads", "interfaces", "passwd_there")
    ]
    from tunefarm_device.facts import find_facts

    target = find_facts().target
    manifest = bpb.BundleManifest(workload="probing", functions=functions)
    return bundle_file.pack(manifest, [(type(target)(triple=target.triple), library.read_bytes())])


@pytest.fixture
def tell(client, box, probing) -> Callable[[str, str], float]:
    """Run a kernel and tell what it left in its array; skip where a primitive does not hold."""
    (holding,) = [set(r.facts.isolation) for r in box.tracker.reports if r.HasField("facts")][:1]
    client.upload(probing.data)
    session = client.session()

    def run(kernel: str, primitive: str) -> float:
        if primitive and primitive not in holding:
            pytest.skip(f"this system has no {primitive}")
        x = session.empty(16)
        session.call(session.load(probing.digest), kernel, x)
        return float(struct.unpack_from("<f", session.read(x))[0])

    return run


@pytest.mark.parametrize("kernel", REFUSED)
def test_what_a_kernel_may_not_do_is_refused_by_name(tell, kernel):
    _, primitive, error = REFUSED[kernel]
    seen = tell(kernel, primitive)
    assert seen in error if isinstance(error, set) else seen == error


def test_threads_are_allowed(tell):
    assert tell("threads", "") == 7


def test_the_network_is_empty(tell):
    assert tell("interfaces", sandbox.NETWORK) <= 1  # the loopback, which is down


def test_files_of_others_are_not_there(tell):
    assert tell("passwd_there", sandbox.FILES) == ENOENT  # Landlock alone would show that it is


def test_the_nodes_of_a_backend_can_be_opened_and_controlled_and_no_others():
    """As a GPU's driver does it: in a thread of its own, after the sandbox has closed."""
    script = """
import errno, fcntl, os, threading
from tunefarm_device import sandbox
sandbox.enter(sandbox.probe(), [], [], ["/dev/full", "/dev/absent"])
def refused(path):
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:
        return error.errno
def use():
    node = os.open("/dev/full", os.O_RDWR)
    try:
        fcntl.ioctl(node, 0x5401)
    except OSError as error:
        print(errno.errorcode[error.errno])
    try:
        os.write(node, b"x")
    except OSError as error:
        print(errno.errorcode[error.errno])
    print(refused("/dev/ptmx") in (errno.EACCES, errno.ENOENT))
thread = threading.Thread(target=use)
thread.start()
thread.join()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.stdout.split() == ["ENOTTY", "ENOSPC", "True"], ended.stderr


def test_a_driver_may_name_its_threads_and_listen_and_reaches_nobody():
    """As libcuda does at its start, which fails where either is refused."""
    script = """
import errno, os, socket, threading
from tunefarm_device import sandbox
there = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
there.bind(f"\\0other-{os.getpid()}")
there.listen()
sandbox.enter(sandbox.probe(), [], [], driver=True)
def tried(do):
    try:
        do()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def use():
    here = f"/proc/self/task/{threading.get_native_id()}"
    print(tried(lambda: open(f"{here}/comm", "w").write("named")), open(f"{here}/comm").read())
    print(tried(lambda: open("/proc/self/comm", "w")) in ("EACCES", "EROFS"))
    own = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    own.bind(f"\\0own-{os.getpid()}")
    own.listen()
    print(tried(own.accept), tried(lambda: own.connect(f"\\0other-{os.getpid()}")))
    for kind in ((socket.AF_UNIX, socket.SOCK_DGRAM), (socket.AF_INET, socket.SOCK_STREAM)):
        print(tried(lambda: socket.socket(*kind)))
thread = threading.Thread(target=use)
thread.start()
thread.join()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    words = "done named True EPERM EPERM EPERM EPERM"
    assert ended.stdout.split() == words.split(), ended.stderr


def test_an_unknown_machine_has_no_filter():
    with pytest.raises(KeyError):
        sandbox.seccomp_program("pdp11", 1)


@pytest.mark.parametrize("driver", [False, True])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_every_jump_of_the_filter_lands_inside_and_it_ends_by_allowing(machine, driver):
    code = sandbox.seccomp_program(machine, 4711, driver)
    steps = [struct.unpack_from("HBBI", code, at) for at in range(0, len(code), 8)]
    for index, (_, yes, no, _) in enumerate(steps):
        assert index + 1 + max(yes, no) < len(steps) or (yes, no) == (0, 0)
    assert steps[-1] == (0x06, 0, 0, 0x7FFF0000)
    assert len(steps) < 4096  # the kernel's limit
