"""Why two sides do not come together: gRPC says only that the connection failed.

One handshake of our own, made after a failure, tells plaintext from TLS and names what is wrong.
"""

import socket
import ssl
import tempfile
from pathlib import Path

from tunefarm_proto.security import Credentials, ServerTls, host_of

PROBE_S = 2.0


def diagnose(address: str, credentials: Credentials) -> tuple[str, str] | None:
    """What is wrong and what would be right, as for an error; None for a fault of the network.

    Blocks for up to 2 s in each step.
    """
    trouble = _handshake(address, client_context(credentials), host_of(address))
    if credentials.ca is None:
        # Plaintext is what we speak; a handshake that works, or ends by an alert, found TLS there.
        if trouble is None or _is_refusal(trouble):
            return (
                f"{address} speaks TLS and this side plaintext",
                "name the farm's CA by --tls-ca or TUNEFARM_TLS_CA",
            )
        return None
    return _of_tls(address, trouble)


def _of_tls(address: str, trouble: Exception | None) -> tuple[str, str] | None:
    if isinstance(trouble, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {address} does not hold: {trouble.verify_message}",
            "name the CA that signed it, and the address that it was made for",
        )
    if trouble is not None and _is_refusal(trouble):
        return (
            f"{address} refuses this side's certificate, or the lack of one",
            "name one of its client CA by TUNEFARM_TLS_CERT and TUNEFARM_TLS_KEY",
        )
    if isinstance(trouble, ssl.SSLError):
        return (
            f"{address} does not speak TLS and this side does",
            "start it with --tls-cert and --tls-key, or leave out --tls-ca and TUNEFARM_TLS_CA",
        )
    return None


def _is_refusal(trouble: Exception) -> bool:
    alert = isinstance(trouble, ssl.SSLError) and "ALERT" in (trouble.reason or "")
    return alert or isinstance(trouble, _RefusedError)


def server_context(tls: ServerTls) -> ssl.SSLContext:
    """How a socket that listens speaks TLS: as the server's gRPC does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_chain(context, tls.cert, tls.key)
    if tls.client_ca is not None:
        context.load_verify_locations(cadata=tls.client_ca.decode("ascii", "replace"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(credentials: Credentials) -> ssl.SSLContext:
    """How a socket of our own speaks TLS. Without a CA it believes whoever answers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if credentials.ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    context.load_verify_locations(cadata=credentials.ca.decode("ascii", "replace"))
    if credentials.cert and credentials.key:
        load_chain(context, credentials.cert, credentials.key)
    return context


def load_chain(context: ssl.SSLContext, cert: bytes, key: bytes) -> None:
    """Give a context a certificate from memory. Raises: ssl.SSLError where they do not match."""
    # The ssl module reads files only; the folder is ours alone and gone at once.
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "cert", Path(folder) / "key"
        paths[0].write_bytes(cert)
        paths[1].write_bytes(key)
        context.load_cert_chain(*paths)


class _RefusedError(Exception):
    """The handshake was fine, and then the other side would not go on."""


def _handshake(address: str, context: ssl.SSLContext, host: str) -> Exception | None:
    port = int(address.rpartition(":")[2])
    try:
        with (
            socket.create_connection((host, port), PROBE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return _first_byte(secure)
    except (OSError, ValueError) as error:
        return error


def _first_byte(secure: ssl.SSLSocket) -> Exception | None:
    # In TLS 1.3 the other side judges our certificate only after the handshake. It then closes,
    # with or without an alert, or sends the settings with which HTTP/2 begins.
    try:
        return None if secure.recv(1) else _RefusedError()
    except TimeoutError:
        return None
    except OSError:
        return _RefusedError()
