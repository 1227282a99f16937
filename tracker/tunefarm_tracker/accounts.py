"""Tokens and the audit log, in a file of their own: `accounts.sqlite` in the tracker's state.

Only the sha256 of a secret is kept; a secret has 256 random bits, so a plain hash is enough.
Several processes may use the file at once: the tracker, and `tunefarm token --state DIR`.
"""

import hashlib
import hmac
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tunefarm_proto.errors import InternalError, InvalidRequestError, UnauthenticatedError
from tunefarm_proto.identity import ANONYMOUS, Identity, Role
from tunefarm_proto.security import TOKEN_PREFIX

from tunefarm_tracker import accounts_file
from tunefarm_tracker.accounts_file import REFUSED

T = TypeVar("T")
KEPT_REFUSALS = 100_000
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._@-]{0,62}[A-Za-z0-9])?")
_ASK = "ask an operator for one (`tunefarm token create`), then name it by --token-file"


@dataclass(frozen=True)
class Token:
    """A token without its secret. Times are seconds since 1970."""

    id: str
    name: str
    role: Role
    sha256: str
    created_at: float
    created_by: str
    expires_at: float | None
    revoked_at: float | None

    @property
    def identity(self) -> Identity:
        """Whom it names."""
        return Identity(self.name, self.role, self.id)


@dataclass(frozen=True)
class AuditEntry:
    """One thing that somebody did or was refused."""

    cursor: int
    at: float
    who: str
    role: str
    action: str
    subject: str
    outcome: str


class Accounts:
    """The tokens and the log. Safe for threads; reading tokens never waits for writing.

    `clock` gives seconds since 1970. Raises: InvalidRequestError for a folder or file that cannot
    be used.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = accounts_file.open_file(folder)
        self._clock = clock
        self._lock = threading.Lock()
        self._reader = accounts_file.connect(self._path)
        self._writer = ThreadPoolExecutor(1, "tracker-accounts")
        self._write_connection = accounts_file.connect(self._path)
        self._seen = (-1, -1)  # SQLite's version of the file, our generation of the tokens
        self._by_digest: dict[str, Token] = {}
        self._by_id: dict[str, Token] = {}

    def close(self) -> None:
        """Finish what was asked for, then let go."""
        self._writer.shutdown()
        self._write_connection.close()
        with self._lock:
            self._reader.close()

    # Reading.

    def _refresh(self) -> None:
        """Know what any process has written by now. Costs microseconds where nothing changed."""
        version = self._reader.execute("PRAGMA data_version").fetchone()[0]
        if version == self._seen[0]:
            return
        generation = self._reader.execute("SELECT n FROM generation").fetchone()[0]
        if generation != self._seen[1]:
            rows = self._reader.execute("SELECT * FROM tokens").fetchall()
            tokens = [_token(row) for row in rows]
            self._by_digest = {token.sha256: token for token in tokens}
            self._by_id = {token.id: token for token in tokens}
        self._seen = (version, generation)

    def any_token(self) -> bool:
        """Whether there ever was a token. Revoking the last one does not open the farm again."""
        with self._lock:
            self._refresh()
            return bool(self._by_id)

    def tokens(self) -> list[Token]:
        """Every token, newest first."""
        with self._lock:
            self._refresh()
            return sorted(self._by_id.values(), key=lambda one: (one.created_at, one.id))[::-1]

    def identity_of(self, secret: str) -> Identity:
        """Whose secret this is. Raises: UnauthenticatedError."""
        digest = hashlib.sha256(secret.encode()).hexdigest()
        with self._lock:
            self._refresh()
            token = self._by_digest.get(digest)
        if token is None or not hmac.compare_digest(token.sha256, digest):
            raise UnauthenticatedError("the tracker does not know this token", _ASK)
        self._check(token)
        return token.identity

    def ended(self, identities: Iterable[Identity]) -> dict[Identity, UnauthenticatedError]:
        """Those of the identities that no longer hold, and why."""
        found: dict[Identity, UnauthenticatedError] = {}
        with self._lock:
            self._refresh()
            by_id = self._by_id
        for identity in identities:
            token = by_id.get(identity.token_id)
            try:
                if token is not None:
                    self._check(token)
                elif by_id:  # it began when no token was wanted
                    raise UnauthenticatedError("the tracker now wants a token", _ASK)
            except UnauthenticatedError as error:
                found[identity] = error
        return found

    def _check(self, token: Token) -> None:
        if token.revoked_at is not None:
            raise UnauthenticatedError(f"the token of {token.name} was revoked", _ASK)
        if token.expires_at is not None and token.expires_at <= self._clock():
            raise UnauthenticatedError(f"the token of {token.name} has expired", _ASK)

    def audit_entries(self, after: int, limit: int, *, newest: bool = False) -> list[AuditEntry]:
        """Entries of the log, oldest first: the first after a cursor, or the newest.

        Waits for those that were given to `audit` before.
        """
        self._writer.submit(int).result()
        sql = "SELECT * FROM audit WHERE n > ? ORDER BY n LIMIT ?"
        if newest:
            sql = "SELECT * FROM audit WHERE n > ? ORDER BY n DESC LIMIT ?"
        with self._lock:
            rows = self._reader.execute(sql, (0 if newest else after, limit)).fetchall()
        return [AuditEntry(*row) for row in (reversed(rows) if newest else rows)]

    # Writing.

    def create(
        self, name: str, role: Role, expires_at: float | None = None, by: Identity = ANONYMOUS
    ) -> "Future[tuple[Token, str]]":
        """Make a token. Gives it and its secret, which nobody can give again.

        Raises: InvalidRequestError.
        """
        if not _NAME.fullmatch(name):
            raise InvalidRequestError(
                f"{name!r} cannot be a token's name",
                "use up to 64 letters, digits, and ._@- within",
            )
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise InvalidRequestError("the token would have expired already", "give a later time")
        if role is not Role.OPERATOR and not self.any_token():
            # Tokens are in use from the first one on, and only an operator makes more.
            raise InvalidRequestError(
                "the first token must be an operator's", "make one with --role operator"
            )
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        token = Token(
            secrets.token_hex(4), name, role, digest, now, by.name, expires_at, revoked_at=None
        )
        row = (token.id, name, role.value, digest, now, by.name, expires_at, None)

        def apply(connection: sqlite3.Connection) -> tuple[Token, str]:
            connection.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            self._log(connection, by, "create token", f"{name} {token.id}", f"done: {role.value}")
            return token, secret

        return self._write(apply)

    def revoke(
        self, token_id: str = "", name: str = "", by: Identity = ANONYMOUS
    ) -> "Future[list[Token]]":
        """End one token, or all of a name. Gives those that this ended.

        Raises: InvalidRequestError where there is none such.
        """
        if bool(token_id) == bool(name):
            raise InvalidRequestError("which token is to be revoked?", "give an id or a name")
        known = [one for one in self.tokens() if token_id == one.id or (name and name == one.name)]
        if not known:
            raise InvalidRequestError(
                f"there is no token {token_id or 'of ' + name}", "`tunefarm token list` shows them"
            )
        live = [one for one in known if one.revoked_at is None]
        now = self._clock()

        def apply(connection: sqlite3.Connection) -> list[Token]:
            for one in live:
                connection.execute("UPDATE tokens SET revoked_at = ? WHERE id = ?", (now, one.id))
                self._log(connection, by, "revoke token", f"{one.name} {one.id}", "done")
            return live

        return self._write(apply)

    def audit(
        self, identity: Identity, action: str, subject: str, detail: str = "", failure: str = ""
    ) -> "Future[None]":
        """Log what somebody did, or why it failed. Returns at once; nobody needs to wait."""
        outcome = f"failed: {failure}" if failure else f"done: {detail}" if detail else "done"
        return self._write(lambda c: self._log(c, identity, action, subject, outcome))

    def audit_refusal(
        self, identity: Identity | None, action: str, subject: str, why: str
    ) -> "Future[None]":
        """Log a refused call. For the caller to keep rare; old refusals give way to new ones."""
        who = identity or ANONYMOUS

        def apply(connection: sqlite3.Connection) -> None:
            role = who.role.value if identity is not None else ""
            self._log(connection, who, action, subject, f"{REFUSED}: {why}", role=role)
            connection.execute(
                "DELETE FROM audit WHERE outcome LIKE ? AND n <= (SELECT max(n) FROM audit) - ?",
                (f"{REFUSED}%", KEPT_REFUSALS),
            )

        return self._write(apply)

    def _log(
        self,
        connection: sqlite3.Connection,
        who: Identity,
        action: str,
        subject: str,
        outcome: str,
        *,
        role: str | None = None,
    ) -> None:
        role = role if role is not None else who.role.value
        row = (self._clock(), who.name, role, action, _line(subject), _line(outcome))
        connection.execute(
            "INSERT INTO audit (at, who, role, action, subject, outcome) VALUES (?, ?, ?, ?, ?, ?)",
            row,
        )

    def _write(self, apply: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        return self._writer.submit(self._commit, apply)

    def _commit(self, apply: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._write_connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            answer = apply(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise InternalError(f"the tracker cannot keep its accounts: {error}") from None
        return answer


def _token(row: tuple[Any, ...]) -> Token:
    identity, name, role, *rest = row
    return Token(identity, name, Role(role), *rest)


def _line(text: str) -> str:
    """One printable line of bounded length, whatever a stranger sent."""
    return "".join(one if one.isprintable() else "?" for one in text[:300])
