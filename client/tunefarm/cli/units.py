"""Units of systemd for the farm's servers: text alone, nothing is written or started here.

A unit shuts its server in as far as kernels can still be shut in by the server itself: that needs
user, network, IPC and mount namespaces, seccomp, Landlock and personality(2). What it cannot have:
MemoryDenyWriteExecute (WebAssembly is compiled in memory), LockPersonality (fixed addresses),
ProcSubset=pid (facts and conditions are read in /proc), PrivateUsers and PrivateNetwork.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

WATCHDOG_S = 30

_COMMON = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
PrivateMounts=yes
PrivateTmp=yes
ProtectProc=invisible
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
KeyringMode=private
UMask=0077
LimitCORE=0
"""
# What the device server's own sandbox is made of, and the processor's counters.
_DEVICE = """\
RestrictNamespaces=user net ipc mnt
SystemCallFilter=@system-service
SystemCallFilter=seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallFilter=mount umount2 pivot_root open_tree move_mount mount_setattr
SystemCallFilter=perf_event_open
"""
_TRACKER = """\
RestrictNamespaces=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallFilter=@system-service
LimitNOFILE=65536
"""
_HOMES = ("/home", "/root", "/run/user")


@dataclass(frozen=True)
class Unit:
    """One server as a service.

    Attributes:
        name: of the unit, the user and the folder in /var/lib, as in "tunefarm-device".
        what: "device" or "tracker".
        command: what is started; words with ${...} are filled in by systemd.
        credentials: files that only root reads, by the name under which the server gets them.
        environment: variables of the server.
        python: folders that it must read, wherever they are: its interpreter and packages.
        devices: it needs /dev as it is, for a GPU say.
        nice: the niceness that it may give to kernels.
    """

    name: str
    what: str
    command: Sequence[str]
    credentials: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    python: Sequence[Path] = ()
    devices: bool = False
    nice: int = 0


def quote(word: str) -> str:
    """A word as ExecStart= takes it; ${NAME} or ${NAME}/FILE is left to systemd.

    Source: systemd.service(5).
    """
    if re.fullmatch(r"\$\{[A-Z_]+\}(/[a-z]+)?", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    plain = escaped.isascii() and all(one.isalnum() or one in "-_./:=,@+%" for one in escaped)
    return escaped if plain and escaped else f'"{escaped}"'


def _homes(python: Sequence[Path]) -> list[str]:
    """Homes are hidden; where Python itself is in one, that folder alone can be read."""
    inside = [
        one for one in dict.fromkeys(python) if str(one).startswith(tuple(f"{h}/" for h in _HOMES))
    ]
    if not inside:
        return ["ProtectHome=yes"]
    return ["ProtectHome=tmpfs", *(f"BindReadOnlyPaths={quote(str(one))}" for one in inside)]


def text(unit: Unit) -> str:
    """The unit's file."""
    lines = [
        f"# Written by `tunefarm {unit.what} install`; run it again to change it.",
        "[Unit]",
        f"Description=tunefarm {unit.what} ({unit.name})",
        "Wants=network-online.target",
        "After=network-online.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={' '.join(quote(word) for word in unit.command)}",
        f"User={unit.name}",
        f"Group={unit.name}",
        f"StateDirectory={unit.name}",
        "StateDirectoryMode=0700",
        f"WorkingDirectory=%S/{unit.name}",
        *(f"LoadCredential={name}:{path}" for name, path in unit.credentials.items()),
        *(f"Environment={quote(f'{name}={value}')}" for name, value in unit.environment.items()),
        f"WatchdogSec={WATCHDOG_S}",
        "Restart=always",
        "RestartSec=2",
        "TimeoutStopSec=20",
        "KillMode=mixed",
        *_homes(unit.python),
        *_COMMON.splitlines(),
        *(_DEVICE if unit.what == "device" else _TRACKER).splitlines(),
        *([] if unit.devices else ["PrivateDevices=yes"]),
        *([f"LimitNICE={unit.nice}"] if unit.nice < 0 else []),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        "",
    ]
    return "\n".join(lines)


def user_text(unit: Unit) -> str:
    """Its user, as systemd-sysusers reads it."""
    return f'u {unit.name} - "tunefarm {unit.what}" /var/lib/{unit.name} /usr/sbin/nologin\n'
