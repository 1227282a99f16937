"""AccountService: turns messages into calls on the accounts.

Only operators get here, but for GetIdentity.
"""

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.identity import Role, current_identity
from tunefarm_proto.v1 import account_pb2 as apb
from tunefarm_proto.v1 import account_pb2_grpc as apb_grpc

from tunefarm_tracker import convert
from tunefarm_tracker.accounts import Accounts, AuditEntry, Token

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
DEFAULT_LIMIT = 100
MAX_LIMIT = 10_000


class AccountService(apb_grpc.AccountServiceServicer):
    """Makes, lists and revokes tokens; shows the audit log. `on_revoked` cuts calls under way."""

    def __init__(self, accounts: Accounts, on_revoked: Callable[[], None]) -> None:
        self._accounts = accounts
        self._on_revoked = on_revoked

    async def CreateToken(  # noqa: N802
        self, request: apb.CreateTokenRequest, context: Context
    ) -> apb.CreateTokenResponse:
        """Make a token; its secret is told this once."""
        expires = convert.moment(request.expires_at)
        made = self._accounts.create(
            request.name,
            role_of(request.role),
            expires if request.HasField("expires_at") else None,
            current_identity(),
        )
        token, secret = await asyncio.wrap_future(made)
        return apb.CreateTokenResponse(token=token_message(token), secret=secret)

    async def ListTokens(  # noqa: N802
        self, request: apb.ListTokensRequest, context: Context
    ) -> apb.ListTokensResponse:
        """Every token, newest first."""
        tokens = self._accounts.tokens()
        return apb.ListTokensResponse(tokens=[token_message(one) for one in tokens])

    async def RevokeToken(  # noqa: N802
        self, request: apb.RevokeTokenRequest, context: Context
    ) -> apb.RevokeTokenResponse:
        """End tokens, and what is under way with them."""
        ended = self._accounts.revoke(request.id, request.name, current_identity())
        tokens = await asyncio.wrap_future(ended)
        # After the answer is on its way: the token may be the caller's own.
        asyncio.get_running_loop().call_soon(self._on_revoked)
        return apb.RevokeTokenResponse(tokens=[token_message(one) for one in tokens])

    async def ListAudit(  # noqa: N802
        self, request: apb.ListAuditRequest, context: Context
    ) -> apb.ListAuditResponse:
        """A part of the log."""
        limit = min(max(request.limit, 0) or DEFAULT_LIMIT, MAX_LIMIT)
        entries = await asyncio.to_thread(
            self._accounts.audit_entries, request.after, limit, newest=request.newest
        )
        return apb.ListAuditResponse(entries=[audit_message(one) for one in entries])

    async def GetIdentity(  # noqa: N802
        self, request: apb.GetIdentityRequest, context: Context
    ) -> apb.GetIdentityResponse:
        """Who asks. Everybody may."""
        caller = current_identity()
        role = apb.Role.Value(f"ROLE_{caller.role.name}")
        return apb.GetIdentityResponse(name=caller.name, role=role, token_id=caller.token_id)


def role_of(role: apb.Role.ValueType) -> Role:
    """A role as it is on the wire. Raises: InvalidRequestError."""
    try:
        return Role(apb.Role.Name(role).removeprefix("ROLE_").lower())
    except ValueError:
        raise InvalidRequestError(
            "the token has no role", f"give one of {', '.join(Role)}"
        ) from None


def token_message(token: Token) -> apb.Token:
    """A token as it travels."""
    return apb.Token(
        id=token.id,
        name=token.name,
        role=apb.Role.Value(f"ROLE_{token.role.name}"),
        created_at=_timestamp(token.created_at),
        created_by=token.created_by,
        expires_at=_timestamp(token.expires_at),
        revoked_at=_timestamp(token.revoked_at),
    )


def audit_message(entry: AuditEntry) -> apb.AuditEntry:
    """An entry as it travels."""
    return apb.AuditEntry(
        cursor=entry.cursor,
        at=_timestamp(entry.at),
        who=entry.who,
        role=entry.role,
        action=entry.action,
        subject=entry.subject,
        outcome=entry.outcome,
    )


def _timestamp(at: float | None) -> Timestamp | None:
    if at is None:
        return None
    made = Timestamp()
    made.FromNanoseconds(round(at * 1e9))
    return made
