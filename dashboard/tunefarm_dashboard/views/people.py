"""Users, tokens and the audit log as rows."""

from dataclasses import dataclass

from tunefarm_proto.v1 import account_pb2 as apb
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.views.rows import iso, moment_of


@dataclass(frozen=True)
class UserRow:
    """A user of the farm. Limits are None where there are none."""

    name: str
    devices: int
    waiting: int
    recent_use_s: float
    max_devices: int | None
    max_requests: int | None


@dataclass(frozen=True)
class TokenRow:
    """A token without its secret. Times are ISO 8601, "" for never; `live`: it can be used."""

    id: str
    name: str
    role: str
    created_at: str
    created_by: str
    expires_at: str
    revoked_at: str
    live: bool


@dataclass(frozen=True)
class AuditRow:
    """One thing that somebody did or was refused."""

    cursor: int
    at: str
    who: str
    role: str
    action: str
    subject: str
    outcome: str


def user_row(user: tpb.User) -> UserRow:
    """A user."""
    return UserRow(
        name=user.name,
        devices=user.devices,
        waiting=user.waiting,
        recent_use_s=round(user.recent_use_s, 1),
        max_devices=user.max_devices if user.HasField("max_devices") else None,
        max_requests=user.max_requests if user.HasField("max_requests") else None,
    )


def token_row(token: apb.Token, now: str) -> TokenRow:
    """A token, judged at a moment in ISO."""
    expires, revoked = iso(moment_of(token, "expires_at")), iso(moment_of(token, "revoked_at"))
    return TokenRow(
        id=token.id,
        name=token.name,
        role=role_word(token.role),
        created_at=iso(moment_of(token, "created_at")),
        created_by=token.created_by,
        expires_at=expires,
        revoked_at=revoked,
        live=not revoked and (not expires or expires > now),
    )


def role_word(role: int) -> str:
    """A role in one word, whoever sent it."""
    try:
        return apb.Role.Name(role).removeprefix("ROLE_").lower()  # type: ignore[arg-type]
    except ValueError:
        return f"unknown ({role})"


def audit_row(entry: apb.AuditEntry) -> AuditRow:
    """An entry of the log."""
    return AuditRow(
        cursor=entry.cursor,
        at=iso(moment_of(entry, "at")),
        who=entry.who,
        role=entry.role,
        action=entry.action,
        subject=entry.subject,
        outcome=entry.outcome,
    )
