"""A farm with tokens and TLS, of real processes, for the tests of this folder."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tunefarm import Tracker
from tunefarm.cli.processes import LocalFarm
from tunefarm_proto.errors import TunefarmError
from tunefarm_proto.identity import Role
from tunefarm_proto.security import VARIABLES, Credentials
from tunefarm_tracker.accounts import Accounts

READY_S = 60.0


def clean_environment(**more: str) -> dict[str, str]:
    """Our environment without anybody's credentials."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES} | more


def tunefarm(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`tunefarm WORDS` as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "tunefarm", *words],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=clean_environment(**(env or {})),
    )


def until(holds: Callable[[], bool], seconds: float = READY_S) -> None:
    """Poll until something holds."""
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, "it never came true"
        time.sleep(0.02)


def make_tokens(state: Path) -> dict[str, str]:
    """A token of each role, named as its role; secrets by name."""
    accounts = Accounts(state)
    roles = [Role.OPERATOR, Role.USER, Role.VIEWER, Role.DEVICE]
    secrets = {role.value: accounts.create(role.value, role).result()[1] for role in roles}
    accounts.close()
    return secrets


@dataclass
class SecureFarm:
    """Where it is and what opens it."""

    address: str
    folder: Path
    processes: LocalFarm
    secrets: dict[str, str]
    ca: bytes
    devices: list[str] = field(default_factory=list)

    def credentials(self, name: str = "") -> Credentials:
        """Of one role; without a token for ""."""
        return Credentials(self.secrets[name] if name else "", self.ca)

    def tracker(self, name: str = "") -> Tracker:
        """A connection with the token of a role."""
        return Tracker(self.address, self.credentials(name))

    def environment(self, name: str = "") -> dict[str, str]:
        """What a user with that token would set."""
        more = {"TUNEFARM_TRACKER": self.address, "TUNEFARM_TLS_CA": str(self.folder / "ca/ca.pem")}
        if name:
            more["TUNEFARM_TOKEN_FILE"] = str(self.folder / f"{name}.token")
        return more

    def answers(self, name: str) -> bool:
        """Whether the tracker answers yet."""
        self.processes.check()
        try:
            self.tracker(name).close()
        except TunefarmError:
            return False
        return True
