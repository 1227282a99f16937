"""Tokens and audit log of a farm, for operators."""

from datetime import UTC, datetime

from tunefarm_proto import rpc
from tunefarm_proto.v1 import account_pb2 as apb
from tunefarm_proto.v1 import account_pb2_grpc as apb_grpc

from tunefarm.channel import named_errors
from tunefarm.tracker import CALL_TIMEOUT_S, Tracker, tracker_unreachable


class Accounts:
    """The tracker's accounts. All methods raise AccessError for those who are no operators."""

    def __init__(self, tracker: Tracker) -> None:
        self._unreachable = tracker_unreachable(tracker.address)
        self._stub = apb_grpc.AccountServiceStub(tracker.channel)

    def create(
        self, name: str, role: apb.Role.ValueType, expires_at: datetime | None = None
    ) -> tuple[apb.Token, str]:
        """Make a token; gives it and its secret, which nobody can give again.

        Raises: InvalidRequestError for a name or time that makes no sense.
        """
        request = apb.CreateTokenRequest(name=name, role=role)
        if expires_at is not None:
            request.expires_at.FromDatetime(expires_at.astimezone(UTC))
        with named_errors(self._unreachable):
            answer = self._stub.CreateToken(
                request, timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return answer.token, answer.secret

    def tokens(self) -> list[apb.Token]:
        """Every token, newest first, those revoked included."""
        with named_errors(self._unreachable):
            answer = self._stub.ListTokens(
                apb.ListTokensRequest(), timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return list(answer.tokens)

    def revoke(self, token_id: str = "", name: str = "") -> list[apb.Token]:
        """End one token, or all of a name; gives those that this ended.

        Raises: InvalidRequestError where there is none such.
        """
        with named_errors(self._unreachable):
            answer = self._stub.RevokeToken(
                apb.RevokeTokenRequest(id=token_id, name=name),
                timeout=CALL_TIMEOUT_S,
                metadata=rpc.call_metadata(),
            )
        return list(answer.tokens)

    def audit(
        self, after: int = 0, limit: int = 100, *, newest: bool = False
    ) -> list[apb.AuditEntry]:
        """Entries of the log, oldest first: the first after a cursor, or the newest."""
        request = apb.ListAuditRequest(after=after, limit=limit, newest=newest)
        with named_errors(self._unreachable):
            answer = self._stub.ListAudit(
                request, timeout=CALL_TIMEOUT_S, metadata=rpc.call_metadata()
            )
        return list(answer.entries)
