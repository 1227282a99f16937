"""Who may call what: the table of roles, and the authorizer that asks for tokens."""

import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from tunefarm_proto import rpc
from tunefarm_proto.bearer import HEADER, token_of
from tunefarm_proto.errors import AccessError, PermissionDeniedError, UnauthenticatedError
from tunefarm_proto.identity import ANONYMOUS, Identity, Role
from tunefarm_proto.serving import Guard

from tunefarm_tracker.accounts import Accounts

# What is not named here needs an operator. A role includes those before it (`Role.includes`).
ROLE_NEEDED = {
    "TrackerService/ListDevices": Role.VIEWER,
    "TrackerService/ListQueue": Role.VIEWER,
    "TrackerService/ListLeases": Role.VIEWER,
    "TrackerService/ListPastLeases": Role.VIEWER,
    "TrackerService/ListEvents": Role.VIEWER,
    "TrackerService/ListResults": Role.VIEWER,
    "TrackerService/ListUsers": Role.VIEWER,
    "TrackerService/WatchEvents": Role.VIEWER,
    "TrackerService/ListTunings": Role.VIEWER,
    "TrackerService/WatchTunings": Role.VIEWER,
    "TrackerService/RequestDevice": Role.USER,
    "TrackerService/RequestDevices": Role.USER,
    "TrackerService/RenewLease": Role.USER,
    "TrackerService/ReleaseLease": Role.USER,
    "TrackerService/RecordResult": Role.USER,
    "TrackerService/ReportTuning": Role.USER,
    # The service lets a user cancel and move its own requests only.
    "TrackerService/CancelRequest": Role.USER,
    "TrackerService/ChangePriority": Role.USER,
    "TrackerService/Synchronize": Role.DEVICE,
}
# Any token will do.
FOR_ALL = frozenset({"HelloService/Hello", "AccountService/GetIdentity"})

BURST = 50  # refusals logged one by one
REFILL_S = 10.0  # then one in so many seconds: 3 MB a day at the most


class Authorizer:
    """Asks each call for a token, once there is one or `required` says so.

    Refusals are logged, a flood of them in part: an entry says how many came before it unlogged.
    """

    def __init__(
        self,
        accounts: Accounts,
        *,
        required: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = accounts
        self._required = required
        self._clock = clock
        self._left = float(BURST)
        self._refilled = clock()
        self._unlogged = 0

    @property
    def on(self) -> bool:
        """Whether calls need a token."""
        return self._required or self._accounts.any_token()

    def __call__(self, method: str, metadata: Any, peer: str, meant: str = "") -> Identity:
        """Who calls. Raises: UnauthenticatedError, PermissionDeniedError."""
        if not self.on:
            return ANONYMOUS
        short = method.rpartition(".")[2]  # TrackerService/ListDevices
        identity: Identity | None = None
        try:
            identity = self._identity(metadata)
            check_role(identity, short)
        except AccessError as error:
            where = address_of(peer)
            subject = f"{meant} from {where}" if meant else where
            self._log_refusal(identity, short, subject, error.message)
            raise
        return identity

    def _identity(self, metadata: Any) -> Identity:
        header = rpc.metadata_text(metadata, HEADER)
        if token := token_of(header):
            return self._accounts.identity_of(token)
        raise UnauthenticatedError(
            "the tracker wants a token and the call carries none",
            "name yours by --token-file or TUNEFARM_TOKEN_FILE",
        )

    def _log_refusal(self, identity: Identity | None, method: str, subject: str, why: str) -> None:
        now = self._clock()
        self._left = min(self._left + (now - self._refilled) / REFILL_S, BURST)
        self._refilled = now
        if self._left < 1:
            self._unlogged += 1
            return
        self._left -= 1
        if self._unlogged:
            why = f"{why}; {self._unlogged} refusals before this one are not logged"
            self._unlogged = 0
        self._accounts.audit_refusal(identity, method.rpartition("/")[2], subject, why)

    def sweep(self, guard: Guard) -> None:
        """Cut the calls of those whose token has ended since they began."""
        for identity, why in self._accounts.ended(guard.identities()).items():
            guard.cut(identity, why)


def address_of(peer: str) -> str:
    """gRPC's name of a caller, as people write it: "[::1]:35026" of "ipv6:%5B::1%5D:35026"."""
    return unquote(re.sub(r"^ipv[46]:", "", peer))


def check_role(identity: Identity, method: str) -> None:
    """Whether an identity may call a method, as in TrackerService/ListDevices.

    Raises: PermissionDeniedError.
    """
    needed = ROLE_NEEDED.get(method, Role.OPERATOR)
    if method in FOR_ALL or identity.role.includes(needed):
        return
    name = method.rpartition("/")[2]
    raise PermissionDeniedError(
        f"{name} needs the role {needed.value}, and the token of {identity.name} has the role "
        f"{identity.role.value}",
        f"ask an operator for a token of the role {needed.value}",
    )
