"""What keeps a kernel's process in: seccomp, Landlock, namespaces. Standard library alone.

Loaded by the zygote, beside the runner. `probe` tries each primitive in a child of its own and says
which hold here; `enter` applies those to this process, for good. Nothing here needs root.

- seccomp: no new program, no new process (threads are fine), no socket, no signal to others (by
  no descriptor's owner either), no limit, processor or priority of others, no file's mode or owner
  changed, nothing of the kernel's own (mounts, modules, tracing, BPF, keys, io_uring, the clock).
  Refused calls fail with EPERM.
- Landlock: system libraries, the interpreter and the device's scratch folder can be read; nothing
  can be written but the device nodes that swallow it, those of the backend (a GPU's), and plain
  files in the session's own folder; no TCP, no signal to others.
- capabilities: none, not even root's.
- for a driver (a GPU's), which does not begin otherwise: its threads get names by /proc/self/task,
  and it listens on a socket of AF_UNIX without a path; nothing connects and nothing is accepted.
- namespaces: an empty network, System V shared memory and a file system of its own, gone with the
  process: of files it sees what Landlock lets be read, also where there is no Landlock.
"""

import contextlib
import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tunefarm_device.own_files import CLONE_NEWNS, show_only

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC = 0x10000000, 0x40000000, 0x08000000
CLONE_THREAD = 0x00010000
_CAPABILITY_VERSION = 0x20080522

SECCOMP, LANDLOCK, NETWORK, IPC = "seccomp", "landlock", "empty-network", "own-ipc"
CAPABILITIES, FILES = "no-capabilities", "own-files"

# Of each machine: its audit number, and the numbers of the calls below that it has.
_MACHINES: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (0xC000003E, {
        "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "clone3": 435,
        "socket": 41, "connect": 42, "accept": 43, "accept4": 288, "ptrace": 101,
        "acct": 163, "mount": 165, "umount2": 166,
        "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170, "setdomainname": 171,
        "init_module": 175, "delete_module": 176, "quotactl": 179, "tkill": 200, "tgkill": 234,
        "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
        "perf_event_open": 298, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
        "process_vm_readv": 310, "process_vm_writev": 311, "finit_module": 313, "bpf": 321,
        "execveat": 322, "userfaultfd": 323, "pivot_root": 155, "chroot": 161,
        "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "io_uring_setup": 425,
        "pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438, "mount_setattr": 442,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432, "syslog": 103,
        "settimeofday": 164, "clock_settime": 227, "kexec_file_load": 320, "setpriority": 141,
        "ioperm": 173, "iopl": 172, "prlimit64": 302, "sched_setaffinity": 203, "fcntl": 72,
        "ioctl": 16, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94,
        "fchmodat": 268, "fchownat": 260, "fchmodat2": 452, "setxattr": 188, "lsetxattr": 189,
        "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199,
        "setxattrat": 463, "removexattrat": 466, "utime": 132, "utimes": 235, "futimesat": 261,
        "utimensat": 280, "sched_setparam": 142, "sched_setscheduler": 144, "sched_setattr": 314,
        "ioprio_set": 251, "migrate_pages": 256, "move_pages": 279, "process_madvise": 440,
        "process_mrelease": 448, "kcmp": 312, "fanotify_init": 300, "adjtimex": 159,
        "clock_adjtime": 305, "fsconfig": 431, "fspick": 433, "vhangup": 153,
    }),
    "aarch64": (0xC00000B7, {
        "clone": 220, "execve": 221, "kill": 129, "clone3": 435, "socket": 198,
        "connect": 203, "accept": 202, "accept4": 242, "ptrace": 117,
        "acct": 89, "mount": 40, "umount2": 39, "swapon": 224, "swapoff": 225,
        "reboot": 142, "sethostname": 161, "setdomainname": 162, "init_module": 105,
        "delete_module": 106, "quotactl": 60, "tkill": 130, "tgkill": 131, "kexec_load": 104,
        "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97, "perf_event_open": 241,
        "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
        "process_vm_writev": 271, "finit_module": 273, "bpf": 280, "execveat": 281,
        "userfaultfd": 282, "pivot_root": 41, "chroot": 51,
        "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "io_uring_setup": 425,
        "pidfd_send_signal": 424, "pidfd_open": 434, "pidfd_getfd": 438, "mount_setattr": 442,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432, "syslog": 116,
        "settimeofday": 170, "clock_settime": 112, "kexec_file_load": 294, "setpriority": 140,
        "prlimit64": 261, "sched_setaffinity": 122, "fcntl": 25, "ioctl": 29, "fchmod": 52,
        "fchmodat": 53, "fchownat": 54, "fchown": 55, "fchmodat2": 452, "setxattr": 5,
        "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
        "setxattrat": 463, "removexattrat": 466, "utimensat": 88, "sched_setparam": 118,
        "sched_setscheduler": 119, "sched_setattr": 274, "ioprio_set": 30, "migrate_pages": 238,
        "move_pages": 239, "process_madvise": 440, "process_mrelease": 448, "kcmp": 272,
        "fanotify_init": 262, "adjtimex": 171, "clock_adjtime": 266, "fsconfig": 431,
        "fspick": 433, "vhangup": 58,
    }),
}  # fmt: skip
_MACHINES["riscv64"] = (0xC00000F3, _MACHINES["aarch64"][1])  # numbered alike

# The first argument is a process: this one, by its id or, in the second, by 0 too.
_SELF_ONLY = ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
_SELF_OR_0 = ("prlimit64", "sched_setaffinity")
# The second argument says what to do: who gets the signals of a descriptor, and which.
_NOT_THESE = {
    "fcntl": (8, 10, 15),  # F_SETOWN, F_SETSIG, F_SETOWN_EX
    "ioctl": (0x8901, 0x8902, 0x5412),  # FIOSETOWN, SIOCSPGRP, TIOCSTI
}

# BPF: load a word of the call's description; compare and jump; return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN, _AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
_ALLOW, _KILL, _REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _MACHINE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_X32 = 0x40000000
_UNIX, _SEQPACKET, _SOCKET_KIND = 1, 5, 0xF


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def seccomp_program(machine: str, pid: int, driver: bool = False) -> bytes:
    """The filter, as BPF. `driver`: what one needs is allowed, see above.

    Raises: KeyError for a machine that is not known.
    """
    audit, calls = _MACHINES[machine]
    refuse = _instruction(_RETURN, _REFUSE | errno.EPERM)
    code = [
        _instruction(_LOAD, _MACHINE),
        _instruction(_EQUAL, audit, yes=1),
        _instruction(_RETURN, _KILL),  # a call of another instruction set
        _instruction(_LOAD, _NUMBER),
        _instruction(_AT_LEAST, _X32, no=1),
        refuse,
    ]
    for name, number in calls.items():
        if name == "clone3":  # its flags cannot be seen: the C library then falls back to clone
            answer = [_instruction(_RETURN, _REFUSE | errno.ENOSYS)]
        elif name == "clone":
            answer = [
                _instruction(_LOAD, _FIRST_ARGUMENT),
                _instruction(_ANY_BIT, CLONE_THREAD, yes=1),
                refuse,
                _instruction(_RETURN, _ALLOW),
            ]
        elif name == "socket" and driver:
            answer = [
                _instruction(_LOAD, _FIRST_ARGUMENT),
                _instruction(_EQUAL, _UNIX, no=3),
                _instruction(_LOAD, _SECOND_ARGUMENT),
                _instruction(_AND, _SOCKET_KIND),
                _instruction(_EQUAL, _SEQPACKET, yes=1),
                refuse,
                _instruction(_RETURN, _ALLOW),
            ]
        elif name in (*_SELF_ONLY, *_SELF_OR_0):
            answer = [
                _instruction(_LOAD, _FIRST_ARGUMENT),
                _instruction(_EQUAL, pid, yes=2),
                _instruction(_EQUAL, 0 if name in _SELF_OR_0 else pid, yes=1),
                refuse,
                _instruction(_RETURN, _ALLOW),
            ]
        elif name in _NOT_THESE:
            answer = [_instruction(_LOAD, _SECOND_ARGUMENT)]
            for command in _NOT_THESE[name]:
                answer += [_instruction(_EQUAL, command, no=1), refuse]
            answer.append(_instruction(_RETURN, _ALLOW))
        else:
            answer = [refuse]
        code += [_instruction(_EQUAL, number, no=len(answer)), *answer]
    code.append(_instruction(_RETURN, _ALLOW))
    return b"".join(code)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _no_new_privileges() -> None:
    _check(_libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def enter_seccomp(driver: bool = False) -> None:
    """Refuse the calls above from now on. Raises: OSError, KeyError where it does not hold."""
    code = seccomp_program(platform.machine(), os.getpid(), driver)
    program = _Program(len(code) // 8, code)
    _no_new_privileges()
    mode = ctypes.c_ulong(SECCOMP_MODE_FILTER)
    _check(_libc().prctl(PR_SET_SECCOMP, mode, ctypes.byref(program), 0, 0))


_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # alike on every machine
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_ALL_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP, _SCOPES = 3, 3  # bind and connect; abstract sockets and signals of others
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_IOCTL_DEV = 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _IOCTL_DEV
_REMOVE_FILE, _MAKE_REG, _TRUNCATE = 1 << 5, 1 << 8, 1 << 14
_OWN = _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE

_READABLE = (
    "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/proc/self", "/proc/cpuinfo", "/proc/meminfo",
    "/proc/stat", "/sys/devices/system", "/dev/urandom", "/dev/zero",
)  # fmt: skip
_WRITABLE = ("/dev/null",)


_DEVICE = _READ_FILE | _READ_DIR | _WRITE_FILE | _IOCTL_DEV


def enter_landlock(
    readable: Iterable[str], own: Iterable[str] = (), devices: Iterable[str] = ()
) -> None:
    """Let only system libraries, Python and these paths be read, and nothing be written.

    In `own` folders plain files can be made, written and removed; no links, folders or devices.
    The nodes of `devices`, or in these folders, can be opened, written and controlled.

    Raises: OSError where it does not hold.
    """
    call = _libc().syscall
    version = _check(call(_CREATE_RULESET, None, 0, 1))
    handled = max(bits for abi, bits in _ALL_BY_ABI.items() if abi <= version)
    attributes = struct.pack("Q", handled)
    if version >= 4:
        attributes += struct.pack("Q", _TCP)
    if version >= 6:
        attributes += struct.pack("Q", _SCOPES)
    ruleset = _check(call(_CREATE_RULESET, attributes, len(attributes), 0))
    try:
        for path in _readable(readable):
            _allow(call, ruleset, path, _READ)
        for path in _WRITABLE:
            _allow(call, ruleset, path, _READ_FILE | _WRITE_FILE)
        for path in own:
            _allow(call, ruleset, path, _OWN & handled)
        for path in devices:
            _allow(call, ruleset, path, _DEVICE & handled)
        _no_new_privileges()
        _check(call(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _readable(more: Iterable[str]) -> tuple[str, ...]:
    return (*_READABLE, sys.prefix, sys.base_prefix, *more)


def _allow(call: Callable[..., int], ruleset: int, path: str, access: int) -> None:
    try:
        parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # not on this system
    try:
        if not Path(path).is_dir():
            access &= _OF_FILES
        rule = struct.pack("=Qi", access, parent)
        _check(call(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0))
    finally:
        os.close(parent)


_NAMESPACES = {NETWORK: CLONE_NEWNET, IPC: CLONE_NEWIPC, FILES: CLONE_NEWNS}


def enter_namespaces(flags: int) -> None:
    """Leave the network, the shared memory or the mounts of the system. Raises: OSError."""
    user, group = os.getuid(), os.getgid()
    if user == 0:
        _check(_libc().unshare(flags))
        return
    _check(_libc().unshare(CLONE_NEWUSER | flags))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def enter_capabilities() -> None:
    """Drop what root, or a namespace of our own, may do. Raises: OSError."""
    header = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    _check(_libc().capset(header, bytes(24)))


def enter(
    primitives: Iterable[str],
    readable: Iterable[str],
    own: Iterable[str] = (),
    devices: Sequence[str] = (),
    *,
    driver: bool = False,
) -> None:
    """Apply those that hold here, for good; paths as for Landlock. Raises: OSError, KeyError.

    `driver`: one of a backend's begins after it, see above. The working directory is then "/".
    """
    chosen = set(primitives)
    if driver:
        own = [*own, f"/proc/{os.getpid()}/task"]
    flags = sum(flag for name, flag in _NAMESPACES.items() if name in chosen)
    if flags:
        enter_namespaces(flags)
    if FILES in chosen:
        show_only((*_readable(readable), *_WRITABLE, *devices), own)
    if LANDLOCK in chosen:
        enter_landlock(readable, own, devices)
    if CAPABILITIES in chosen:
        enter_capabilities()
    if SECCOMP in chosen:
        enter_seccomp(driver)


def _refuses_sockets() -> bool:
    enter_seccomp()
    try:
        _check(_libc().socket(1, 1, 0))
    except PermissionError:
        return True
    return False


def _hides_files() -> bool:
    enter_landlock(())
    for path in ("/etc/passwd", "/etc/hostname", "/"):
        with contextlib.suppress(FileNotFoundError):
            try:
                os.close(os.open(path, os.O_RDONLY))
            except PermissionError:
                return True
    return False


def _leaves(flags: int, name: str) -> bool:
    mine = Path("/proc/self/ns", name)
    before = mine.stat().st_ino
    enter_namespaces(flags)
    return mine.stat().st_ino != before


def _is_powerless() -> bool:
    enter_capabilities()
    lines = Path("/proc/self/status").read_text().splitlines()
    held = [int(line.split()[1], 16) for line in lines if line.startswith(("CapEff", "CapPrm"))]
    return held == [0, 0]


def _sees_little() -> bool:
    enter_namespaces(CLONE_NEWNS)
    show_only((*_readable(()), *_WRITABLE), ())
    read = Path("/proc/self/status").read_bytes() and Path(os.__file__).read_bytes()
    ctypes.CDLL("libm.so.6")
    Path("/dev/null").write_bytes(b"x")
    return bool(read) and not Path("/etc/passwd").exists()


_PROBES: dict[str, Callable[[], bool]] = {
    SECCOMP: _refuses_sockets,
    LANDLOCK: _hides_files,
    CAPABILITIES: _is_powerless,
    NETWORK: lambda: _leaves(CLONE_NEWNET, "net"),
    IPC: lambda: _leaves(CLONE_NEWIPC, "ipc"),
    FILES: _sees_little,
}


def probe() -> list[str]:
    """The primitives that hold here, each tried in a process of its own."""
    return [name for name, holds in _PROBES.items() if _in_child(holds)]


def _in_child(holds: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if holds() else 1
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0
