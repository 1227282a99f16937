"""Tokens and TLS: what a client shows, what a server shows, and the channels between them.

A bearer token goes to trackers only, never to devices, and never in plaintext beyond loopback
unless that is asked for in so many words.
"""

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import grpc

from tunefarm_proto import rpc
from tunefarm_proto.bearer import SyncBearer, aio_bearers
from tunefarm_proto.errors import InvalidRequestError

TOKEN_PREFIX = "tf_"  # noqa: S105 (what a token starts with)
TOKEN_FILE = "TUNEFARM_TOKEN_FILE"  # noqa: S105 (a variable's name)
TOKEN = "TUNEFARM_TOKEN"  # noqa: S105
TLS_CA, TLS_CERT, TLS_KEY = "TUNEFARM_TLS_CA", "TUNEFARM_TLS_CERT", "TUNEFARM_TLS_KEY"
INSECURE = "TUNEFARM_INSECURE"
VARIABLES = (TOKEN_FILE, TOKEN, TLS_CA, TLS_CERT, TLS_KEY, INSECURE)


def host_of(address: str) -> str:
    """The host of HOST:PORT, without brackets."""
    return address.rpartition(":")[0].strip("[]")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host. A name other than localhost does not count."""
    if host.strip("[]").lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_pem(path: str | os.PathLike[str], what: str) -> bytes:
    """A PEM file. Raises: InvalidRequestError where it cannot be read or is none."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequestError(
            f"{what} {os.fspath(path)} cannot be read: {error.strerror}", "name a PEM file"
        ) from None
    if b"-----BEGIN " not in data:
        raise InvalidRequestError(f"{what} {os.fspath(path)} is no PEM file", "name a PEM file")
    return data


def read_token(path: str | os.PathLike[str]) -> str:
    """The token in a file. Raises: InvalidRequestError where there is none."""
    try:
        token = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or "it is no text"
        raise InvalidRequestError(
            f"the token file {os.fspath(path)} cannot be read: {why}",
            "write it with `tunefarm token create --out FILE`",
        ) from None
    return _checked(token, f"the token file {os.fspath(path)}")


def _checked(token: str, where: str) -> str:
    # The text itself is never repeated: it may be a secret with one letter too many.
    if not (token.startswith(TOKEN_PREFIX) and token.isascii() and token.isprintable()):
        raise InvalidRequestError(
            f"{where} holds no token", f"a token is one line and starts with {TOKEN_PREFIX}"
        )
    return token


@dataclass(frozen=True)
class Credentials:
    """What a client shows and trusts: a token, the CA of the farm, a certificate for mutual TLS.

    `ca`, `cert` and `key` are PEM. Without `ca` everything is plaintext. `insecure` allows the
    token to travel in plaintext beyond loopback.
    """

    token: str = field(default="", repr=False)
    ca: bytes | None = field(default=None, repr=False)
    cert: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    insecure: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """As the TUNEFARM_* variables say; a token file goes before a token.

        Raises: InvalidRequestError for a file that cannot be read or makes no sense.
        """
        get = environment.get
        token = ""
        if path := get(TOKEN_FILE):
            token = read_token(path)
        elif given := get(TOKEN):
            token = _checked(given.strip(), TOKEN)
        ca, cert, key = (
            read_pem(path, what) if (path := get(name)) else None
            for name, what in ((TLS_CA, "the CA"), (TLS_CERT, "the certificate"), (TLS_KEY, "key"))
        )
        return cls(token, ca, cert, key, insecure=get(INSECURE, "") == "1")

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise InvalidRequestError(
                "a certificate and its key come together", f"give both {TLS_CERT} and {TLS_KEY}"
            )
        if self.cert and not self.ca:
            raise InvalidRequestError(
                "a certificate of our own is of no use without the farm's CA", f"give {TLS_CA}"
            )
        if self.ca is not None:
            try:
                ssl.create_default_context(cadata=self.ca.decode("ascii", "replace"))
            except ssl.SSLError:
                raise InvalidRequestError(
                    "the CA is no certificate", "name the ca.pem of `tunefarm tls create`"
                ) from None

    def check_tracker(self, address: str) -> None:
        """Refuse to show the token to whoever listens. Raises: InvalidRequestError."""
        if self.token and self.ca is None and not self.insecure:
            if is_loopback(host_of(address)):
                return
            raise InvalidRequestError(
                f"the token would travel to {address} in plaintext",
                f"name the farm's CA by --tls-ca or {TLS_CA}, or say {INSECURE}=1",
            )

    def for_channel(self) -> grpc.ChannelCredentials:
        """What gRPC wants to know. Only where there is a CA."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)


@dataclass(frozen=True)
class ServerTls:
    """What a server shows: its certificate and key, and whom it asks for one. All PEM."""

    cert: bytes = field(repr=False)
    key: bytes = field(repr=False)
    client_ca: bytes | None = field(default=None, repr=False)

    @classmethod
    def read(
        cls,
        cert: str | os.PathLike[str] | None,
        key: str | os.PathLike[str] | None,
        client_ca: str | os.PathLike[str] | None = None,
    ) -> Self | None:
        """From files; None where none is named. Raises: InvalidRequestError."""
        if cert is None and key is None and client_ca is None:
            return None
        if cert is None or key is None:
            raise InvalidRequestError(
                "TLS needs a certificate and its key", "give both --tls-cert and --tls-key"
            )
        ca = read_pem(client_ca, "the client CA") if client_ca is not None else None
        made = cls(read_pem(cert, "the certificate"), read_pem(key, "the key"), ca)
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
        except ssl.SSLError:
            raise InvalidRequestError(
                f"{os.fspath(key)} is not the key of {os.fspath(cert)}",
                "make both with `tunefarm tls create`; the key must have no password",
            ) from None
        return made

    def for_server(self) -> grpc.ServerCredentials:
        """What gRPC wants to know."""
        return grpc.ssl_server_credentials(
            [(self.key, self.cert)], self.client_ca, require_client_auth=self.client_ca is not None
        )


@dataclass(frozen=True)
class Access:
    """What a device server shows: to its tracker, and by `tls` to those who come to it.

    `insecure` lets it listen beyond loopback without TLS.
    """

    credentials: Credentials = field(default_factory=Credentials)
    tls: ServerTls | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        # A tracker that wants a certificate gets the server's own, unless there is another.
        mine = self.credentials
        if self.tls is not None and mine.ca is not None and mine.cert is None:
            shown = replace(mine, cert=self.tls.cert, key=self.tls.key)
            object.__setattr__(self, "credentials", shown)


def device_channel(address: str, credentials: Credentials) -> grpc.Channel:
    """A channel to a device. It never carries the token: a device is opened by its lease."""
    if credentials.ca is None:
        return grpc.insecure_channel(address, options=rpc.USER_OPTIONS)
    return grpc.secure_channel(address, credentials.for_channel(), options=rpc.USER_OPTIONS)


def tracker_channel(address: str, credentials: Credentials) -> grpc.Channel:
    """A channel to the tracker, which shows the token at every call.

    Raises: InvalidRequestError where the token would travel in plaintext.
    """
    credentials.check_tracker(address)
    channel = device_channel(address, credentials)
    if not credentials.token:
        return channel
    return grpc.intercept_channel(channel, SyncBearer(credentials.token))


def aio_tracker_channel(address: str, credentials: Credentials) -> grpc.aio.Channel:
    """`tracker_channel` for asyncio. Needs a running loop."""
    credentials.check_tracker(address)
    bearers = aio_bearers(credentials.token) if credentials.token else None
    if credentials.ca is None:
        return grpc.aio.insecure_channel(address, options=rpc.CLIENT_OPTIONS, interceptors=bearers)
    return grpc.aio.secure_channel(
        address, credentials.for_channel(), options=rpc.CLIENT_OPTIONS, interceptors=bearers
    )
