"""Tokens of leases: derived, so that none is kept and a lease has the same one after a restart."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path


class Tokens:
    """Derives each lease's token from one secret, by keyed BLAKE2b."""

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.blake2b(secret, digest_size=64).digest()

    def of(self, lease_id: str) -> str:
        """The token of a lease, in hex."""
        message = b"lease:" + lease_id.encode()
        return hashlib.blake2b(message, key=self._key, digest_size=32).hexdigest()

    def digest(self, lease_id: str) -> str:
        """sha256 of the token, in hex: what a device checks against."""
        return hashlib.sha256(self.of(lease_id).encode()).hexdigest()

    def opens(self, token: str, lease_id: str) -> bool:
        """Whether the token is this lease's."""
        return hmac.compare_digest(token.encode(), self.of(lease_id).encode())


def read_secret(path: Path) -> bytes:
    """The secret kept in a file that only we may read; made where there is none."""
    if path.exists():
        return path.read_bytes()
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    secret = secrets.token_bytes(32)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    return secret
