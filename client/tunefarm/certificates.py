"""A CA and certificates for trying TLS out and for small farms. Needs `tunefarm[tls]`."""

import ipaddress
import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey as PrivateKey
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey as PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID as Purpose
from cryptography.x509.oid import NameOID
from tunefarm_proto.errors import InvalidRequestError

CA_DAYS = 3650
BACKDATED = timedelta(minutes=5)  # for clocks that are late; boards have no battery
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")


def create(folder: Path, hosts: list[str], clients: list[str], days: int = 365) -> list[Path]:
    """Make a CA unless there is one, and a certificate and key for each host and client.

    Each of `hosts` is one machine: a name or address, or several by commas. Returns the files made.
    Raises: InvalidRequestError.
    """
    machines = [[_host(one.strip()) for one in host.split(",")] for host in hosts]
    people = [_host(one) for one in clients]
    if days < 1:
        raise InvalidRequestError(f"--days {days} is no time", "give 1 or more")
    wanted = [names[0] for names in machines] + people
    taken = [one for one in wanted if one == "ca" or (folder / f"{_stem(one)}.key").exists()]
    if taken:
        raise InvalidRequestError(
            f"{folder / (_stem(taken[0]) + '.key')} is there already", "remove it to make it anew"
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made: list[Path] = []
    authority = _authority(folder, made)
    for names in machines:
        made += _issue(folder, authority, names, days, server=True)
    for name in people:
        made += _issue(folder, authority, [name], days, server=False)
    return made


def _stem(name: str) -> str:
    return name.replace(":", "_")


def _host(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        if _HOST.fullmatch(text):
            return text
    raise InvalidRequestError(f"{text!r} is no name of a machine", "give a name or an address")


def _authority(folder: Path, made: list[Path]) -> tuple[x509.Certificate, PrivateKey]:
    cert_path, key_path = folder / "ca.pem", folder / "ca.key"
    if key_path.exists():
        try:
            key = serialization.load_pem_private_key(key_path.read_bytes(), None)
            if isinstance(key, PrivateKey):
                return x509.load_pem_x509_certificate(cert_path.read_bytes()), key
        except (ValueError, TypeError, OSError):
            pass
        raise InvalidRequestError(f"{folder} has no CA of this command", "name another folder")
    new = ec.generate_private_key(ec.SECP256R1())
    name = _name("tunefarm CA")
    usage = _usage(signs=True)
    cert = (
        _builder(name, name, new.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(new.public_key()), critical=False)
        .sign(new, hashes.SHA256())
    )
    _write_key(key_path, new)
    cert_path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    made += [cert_path, key_path]
    return cert, new


def _issue(
    folder: Path,
    authority: tuple[x509.Certificate, PrivateKey],
    names: list[str],
    days: int,
    *,
    server: bool,
) -> list[Path]:
    ca, ca_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    # Devices are servers, and clients of the tracker.
    purposes = [Purpose.SERVER_AUTH, Purpose.CLIENT_AUTH] if server else [Purpose.CLIENT_AUTH]
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    cert = (
        _builder(_name(names[0][:64]), ca.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([_alternative(n) for n in names]), critical=False
        )
        .add_extension(identifier, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    cert_path, key_path = (folder / f"{_stem(names[0])}.{end}" for end in ("pem", "key"))
    _write_key(key_path, key)
    cert_path.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    return [cert_path, key_path]


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _write_key(path: Path, key: PrivateKey) -> None:
    data = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
