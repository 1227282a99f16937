"""One farm with tokens and TLS for all tests that need one."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from secure_farm import SecureFarm, make_tokens, until
from tunefarm.certificates import create
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm_proto.security import VARIABLES
from tunefarm_proto.v1 import tracker_pb2 as tpb


@pytest.fixture(autouse=True)
def no_credentials_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, 127.0.0.1 (a server), alice (a client), and elsewhere (a server of another address)."""
    folder = tmp_path_factory.mktemp("certificates")
    create(folder, ["127.0.0.1", "elsewhere"], ["alice"])
    return folder


@pytest.fixture(scope="session")
def secure(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureFarm]:
    folder = tmp_path_factory.mktemp("secure")
    (folder / "ca").symlink_to(certificates)
    secrets = make_tokens(folder / "tracker")
    for name, secret in secrets.items():
        (folder / f"{name}.token").write_text(f"{secret}\n")
    port = free_port(0)
    tls = ["--tls-cert", f"{certificates}/127.0.0.1.pem"]
    tls += ["--tls-key", f"{certificates}/127.0.0.1.key"]
    ca = (certificates / "ca.pem").read_bytes()
    with LocalFarm(folder) as processes:
        farm = SecureFarm(f"127.0.0.1:{port}", folder, processes, secrets, ca)
        state = str(folder / "tracker")
        processes.start("tracker", "tracker", "--port", str(port), "--state", state, *tls)
        until(lambda: farm.answers("viewer"))
        words = ["--key", "safe", "--tracker", farm.address, "--state", str(folder / "device")]
        words += ["--tls-ca", f"{certificates}/ca.pem"]
        words += ["--token-file", str(folder / "device.token")]
        processes.start("device", "device", *words, *tls)
        with farm.tracker("viewer") as tracker:
            until(lambda: any(d.state == tpb.DEVICE_STATE_IDLE for d in tracker.devices()))
            farm.devices += [address for d in tracker.devices() for address in d.addresses]
        yield farm
