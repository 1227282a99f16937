"""TLS, mutual TLS, and what is said where two sides do not fit."""

import asyncio
from pathlib import Path

import pytest
from secure_farm import SecureFarm, make_tokens, tunefarm, until
from tunefarm import Tracker
from tunefarm.certificates import create
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm.farm import AsyncFarm
from tunefarm_proto import errors
from tunefarm_proto.security import Access, Credentials, ServerTls


def one_line(error) -> str:
    text = str(error.value)
    assert len(text.splitlines()) == 1
    return text


def test_plaintext_to_a_tls_server_gets_one_clear_line(secure: SecureFarm):
    with pytest.raises(errors.TrackerUnreachableError) as error:
        Tracker(secure.address, Credentials())
    assert "speaks TLS and this side plaintext" in one_line(error)
    assert "--tls-ca" in str(error.value)
    with pytest.raises(errors.TrackerUnreachableError, match="speaks TLS"):
        asyncio.run(_enter(AsyncFarm(secure.address, Credentials())))


async def _enter(farm: AsyncFarm) -> int:
    async with farm:
        return len(await farm.devices())


def test_asyncio_programs_show_their_token_too(secure: SecureFarm):
    assert asyncio.run(_enter(AsyncFarm(secure.address, secure.credentials("viewer")))) == 1
    with pytest.raises(errors.UnauthenticatedError):
        asyncio.run(_enter(AsyncFarm(secure.address, secure.credentials())))


def test_a_certificate_of_another_ca_is_refused(secure: SecureFarm, tmp_path: Path):
    create(tmp_path, [], [])
    with pytest.raises(errors.TrackerUnreachableError) as error:
        Tracker(secure.address, Credentials(ca=(tmp_path / "ca.pem").read_bytes()))
    assert "does not hold" in one_line(error)


@pytest.fixture
def small(tmp_path: Path):
    """Starts a tracker with options and gives its address."""
    with LocalFarm(tmp_path) as processes:

        def start(*words: str) -> str:
            port = free_port(0)
            state = str(tmp_path / "state")
            processes.start("tracker", "tracker", "--port", str(port), "--state", state, *words)
            log = tmp_path / "tracker.log"
            until(lambda: processes.check() or "listens on" in log.read_text())
            return f"127.0.0.1:{port}"

        yield start


def test_tls_to_a_plaintext_tracker_gets_one_clear_line(small, certificates: Path):
    address = small()
    with pytest.raises(errors.TrackerUnreachableError) as error:
        Tracker(address, Credentials(ca=(certificates / "ca.pem").read_bytes()))
    assert "does not speak TLS and this side does" in one_line(error)


def test_a_certificate_of_another_address_is_refused(small, certificates: Path):
    server = [f"{certificates}/elsewhere.{end}" for end in ("pem", "key")]
    address = small("--tls-cert", server[0], "--tls-key", server[1])
    with pytest.raises(errors.TrackerUnreachableError) as error:
        Tracker(address, Credentials(ca=(certificates / "ca.pem").read_bytes()))
    assert "does not hold" in one_line(error) and "127.0.0.1" in str(error.value)


def test_mutual_tls_wants_a_certificate_of_the_client(small, certificates: Path):
    server = [f"{certificates}/127.0.0.1.{end}" for end in ("pem", "key")]
    ca = f"{certificates}/ca.pem"
    address = small("--tls-cert", server[0], "--tls-key", server[1], "--tls-client-ca", ca)
    trusted = Path(ca).read_bytes()
    with pytest.raises(errors.TrackerUnreachableError) as error:
        Tracker(address, Credentials(ca=trusted))
    assert "refuses this side's certificate" in one_line(error)
    assert "TUNEFARM_TLS_CERT" in str(error.value)
    alice = [(certificates / f"alice.{end}").read_bytes() for end in ("pem", "key")]
    with Tracker(address, Credentials("", trusted, *alice)) as tracker:
        assert tracker.devices() == []
    env = {
        "TUNEFARM_TLS_CA": ca,
        "TUNEFARM_TLS_CERT": f"{certificates}/alice.pem",
        "TUNEFARM_TLS_KEY": f"{certificates}/alice.key",
    }
    assert tunefarm("status", "--tracker", address, env=env).returncode == 0


def test_a_device_shows_its_own_certificate_to_a_tracker_that_wants_one(certificates: Path):
    ca = (certificates / "ca.pem").read_bytes()
    tls = ServerTls.read(certificates / "127.0.0.1.pem", certificates / "127.0.0.1.key")
    assert tls is not None
    assert Access(Credentials(ca=ca), tls).credentials.cert == tls.cert
    assert Access(Credentials(), tls).credentials.cert is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "some-name"])
def test_nobody_listens_beyond_loopback_without_tls_and_tokens(
    host: str, tmp_path: Path, certificates: Path
):
    tls = ["--tls-cert", f"{certificates}/127.0.0.1.pem"]
    tls += ["--tls-key", f"{certificates}/127.0.0.1.key"]
    listen = ["--host", host, "--port", "0", "--state", str(tmp_path / "state")]
    for extra, missing in (
        ([], ["TLS", "tokens"]),
        (tls, ["tokens"]),
        (["--require-tokens"], ["TLS"]),
    ):
        done = tunefarm("tracker", *listen, *extra)
        assert done.returncode == 2
        said = done.stderr.strip()
        assert all(word in said for word in [*missing, "--insecure"]), said
        assert len(said.splitlines()) == 1
    done = tunefarm("device", "--key", "open", *listen)
    assert done.returncode == 2 and "TLS" in done.stderr and "--insecure" in done.stderr
    assert "tokens" not in done.stderr


@pytest.mark.parametrize("how", ["safe", "insecure"])
def test_who_has_both_or_says_insecure_may_listen(how: str, tmp_path: Path, certificates: Path):
    words = ["--insecure"]
    if how == "safe":
        make_tokens(tmp_path / "state")
        words = ["--tls-cert", f"{certificates}/127.0.0.1.pem"]
        words += ["--tls-key", f"{certificates}/127.0.0.1.key"]
    port = str(free_port(0))
    with LocalFarm(tmp_path) as farm:
        listen = ["--host", "0.0.0.0", "--port", port, "--state", str(tmp_path / "state")]
        farm.start("tracker", "tracker", *listen, *words)
        log = tmp_path / "tracker.log"
        until(lambda: farm.check() or "connection is" in log.read_text())


def test_files_that_make_no_sense_get_one_line(tmp_path: Path, certificates: Path):
    (tmp_path / "x.pem").write_text("nothing")
    key = f"{certificates}/alice.key"
    wrong = {
        "is not the key of": ["--tls-cert", f"{certificates}/127.0.0.1.pem", "--tls-key", key],
        "is no PEM file": ["--tls-cert", f"{tmp_path}/x.pem", "--tls-key", key],
        "cannot be read": ["--tls-cert", f"{tmp_path}/none.pem", "--tls-key", key],
        "give both": ["--tls-key", key],
    }
    for what, words in wrong.items():
        done = tunefarm("tracker", "--port", "0", "--state", str(tmp_path / "state"), *words)
        assert done.returncode == 2 and what in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    for name, text in {
        "TUNEFARM_TOKEN_FILE": f"{tmp_path}/x.pem",
        "TUNEFARM_TOKEN": "secret",
    }.items():
        done = tunefarm("status", env={name: text})
        assert done.returncode == 2 and "holds no token" in done.stderr
        assert "secret" not in done.stderr


def test_certificates_are_made_once_and_keys_are_private(tmp_path: Path):
    made = tunefarm("tls", "create", "--dir", str(tmp_path), "--host", "a.lab,10.0.0.1")
    assert made.returncode == 0 and "a.lab.pem" in made.stdout
    before = (tmp_path / "ca.pem").read_bytes()
    assert (tmp_path / "ca.key").stat().st_mode & 0o777 == 0o600
    assert tunefarm("tls", "create", "--dir", str(tmp_path), "--host", "b.lab").returncode == 0
    assert (tmp_path / "ca.pem").read_bytes() == before
    again = tunefarm("tls", "create", "--dir", str(tmp_path), "--host", "a.lab")
    assert again.returncode == 2 and "there already" in again.stderr
    bad = tunefarm("tls", "create", "--dir", str(tmp_path), "--host", "../x")
    assert bad.returncode == 2 and "no name of a machine" in bad.stderr
