"""The file of tokens and audit log: made, checked, opened."""

import os
import sqlite3
from pathlib import Path

from tunefarm_proto.errors import InvalidRequestError

SCHEMA_VERSION = 1
REFUSED = "refused"  # how the outcome of a refused call begins

# Of the log nothing is ever changed, and only refusals, which strangers can cause, are dropped.
_SCHEMA = (
    """CREATE TABLE tokens (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, sha256 TEXT NOT NULL UNIQUE,
        created_at REAL NOT NULL, created_by TEXT NOT NULL, expires_at REAL, revoked_at REAL
    ) WITHOUT ROWID""",
    # Grows with each change of the tokens, so that nobody reads them all after each log entry.
    "CREATE TABLE generation (n INTEGER NOT NULL)",
    "INSERT INTO generation VALUES (1)",
    """CREATE TRIGGER token_made AFTER INSERT ON tokens
        BEGIN UPDATE generation SET n = n + 1; END""",
    """CREATE TRIGGER token_changed AFTER UPDATE ON tokens
        BEGIN UPDATE generation SET n = n + 1; END""",
    """CREATE TABLE audit (
        n INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, who TEXT NOT NULL,
        role TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL, outcome TEXT NOT NULL
    )""",
    """CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit WHEN OLD.outcome NOT LIKE 'refused%'
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    """CREATE TRIGGER audit_is_fixed BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END""",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection that commits when told, and waits for other processes."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def open_file(folder: Path) -> Path:
    """The file in a tracker's state folder, made where there is none. Returns its path.

    Raises: InvalidRequestError for a folder or file that cannot be used.
    """
    path = folder / "accounts.sqlite"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Before SQLite does, so that it and its journals are ours alone from the first moment.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = connect(path)
        connection.execute("BEGIN IMMEDIATE")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for statement in _SCHEMA if version == 0 else ():
            connection.execute(statement)
        connection.execute("COMMIT")
        connection.close()
    except (OSError, sqlite3.DatabaseError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
        raise InvalidRequestError(
            f"{path} cannot hold the farm's tokens: {why}", "name another folder by --state"
        ) from None
    if version not in (0, SCHEMA_VERSION):
        raise InvalidRequestError(
            f"{path} is of schema version {version}, this tracker knows {SCHEMA_VERSION}",
            "use the tunefarm that wrote it, or another folder by --state",
        )
    return path
