"""The units that `install` writes, and the files beside them, in a folder in place of a system."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tunefarm.cli import build_parser, main
from tunefarm.cli.parsing import leaves
from tunefarm.cli.units import Unit, quote, text

TRACKER = ["--tracker", "127.0.0.1:9190"]


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    for name in ("TUNEFARM_TOKEN", "TUNEFARM_TOKEN_FILE", "TUNEFARM_TLS_CA", "TUNEFARM_TRACKER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "board.token"
    path.write_text("tf_secret\n")
    return path


def _install(capsys, tmp_path: Path, *words: str) -> tuple[Path, str]:
    """Install into a folder. Returns it and the unit."""
    root = tmp_path / "root"
    assert main([*words, "--root", str(root), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["started"] is False
    return root, (root / f"etc/systemd/system/{done['service']}.service").read_text()


def _command(unit: str) -> list[str]:
    """The words that systemd would start."""
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]


def test_a_device_is_started_by_the_words_that_were_given(capsys, tmp_path):
    words = ["--key", "rasp3b:cores=0-1,label.lab=a b", "--key", "x", "--label", "city=K%l$n"]
    more = ["--nice", "-5", "--time-together", "--anchor-interval", "60"]
    _, unit = _install(capsys, tmp_path, "device", "install", *TRACKER, *words, *more)
    started = _command(unit)
    assert started[:4] == [sys.executable, "-Im", "tunefarm", "device"]
    read = build_parser("device").parse_args(started[3:])
    assert read.key == ["rasp3b:cores=0-1,label.lab=a b", "x"]
    assert read.label == ["city=K%l$n"]
    assert (read.nice, read.time_together, read.anchor_interval) == (-5, True, 60.0)
    assert (read.host, read.port, read.tracker) == ("127.0.0.1", 9200, "127.0.0.1:9190")
    assert "LimitNICE=-5" in unit and "PrivateDevices=yes" in unit


def test_secrets_are_copied_for_root_alone(capsys, tmp_path, token):
    root, unit = _install(
        capsys, tmp_path, "device", "install", *TRACKER, "--key", "a", "--token-file", str(token)
    )
    kept = root / "etc/tunefarm/tunefarm-device/token"
    assert kept.read_text() == "tf_secret\n" and kept.stat().st_mode & 0o777 == 0o600
    assert "LoadCredential=token:/etc/tunefarm/tunefarm-device/token" in unit
    assert _command(unit)[-2:] == ["--token-file", "${CREDENTIALS_DIRECTORY}/token"]
    assert "tf_secret" not in unit and str(token) not in unit


def test_a_token_of_the_environment_alone_is_not_lost_in_silence(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEFARM_TOKEN", "tf_secret")
    root = str(tmp_path / "root")
    assert main(["device", "install", *TRACKER, "--key", "a", "--root", root]) == 2
    said = capsys.readouterr().err
    assert "--token-file" in said and "tf_secret" not in said


def test_installing_again_replaces_and_uninstalling_takes_away(capsys, tmp_path, token):
    words = ["device", "install", *TRACKER, "--token-file", str(token), "--name", "farm-b1"]
    root, _ = _install(capsys, tmp_path, *words, "--key", "a")
    _, unit = _install(capsys, tmp_path, *words, "--key", "b")
    assert "--key b" in unit and "--key a" not in unit
    assert "User=farm-b1" in unit and "StateDirectory=farm-b1" in unit
    assert (root / "etc/sysusers.d/farm-b1.conf").read_text().startswith("u farm-b1 - ")
    assert main(["device", "uninstall", "--name", "farm-b1", "--root", str(root)]) == 0
    assert [one for one in root.rglob("*") if one.is_file()] == []


def test_what_needs_a_gpu_keeps_its_devices(capsys, tmp_path):
    backend = tmp_path / "gpu.py"
    backend.write_text("")
    words = ["--key", "gpu", "--backend", str(backend)]
    _, unit = _install(capsys, tmp_path, "device", "install", *TRACKER, *words)
    assert "PrivateDevices" not in unit
    _, unit = _install(capsys, tmp_path, "device", "install", *TRACKER, "--key", "rtx:gpu=0")
    assert "PrivateDevices" not in unit and "rtx:gpu=0" in unit


def test_a_tracker_is_started_by_the_words_that_were_given(capsys, tmp_path):
    operations = tmp_path / "farm.toml"
    operations.write_text("keep_results_days = 30\n")
    words = ["--operations", str(operations), "--metrics", "127.0.0.1:9192", "--require-tokens"]
    _, unit = _install(capsys, tmp_path, "tracker", "install", *words)
    read = build_parser("tracker").parse_args(_command(unit)[3:])
    assert read.operations == operations and read.metrics == "127.0.0.1:9192"
    assert read.require_tokens and read.state == Path("${STATE_DIRECTORY}")


@pytest.mark.parametrize("what", ["device", "tracker"])
def test_print_changes_nothing(capsys, tmp_path, what):
    root = tmp_path / "root"
    key = ["--key", "a", *TRACKER] if what == "device" else []
    assert main([what, "install", *key, "--print", "--root", str(root)]) == 0
    assert capsys.readouterr().out.startswith("# Written by")
    assert not root.exists()


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("plain-1.2/3:4=5,6@7", "plain-1.2/3:4=5,6@7"),
        ("a b", '"a b"'),
        ("50%", "50%%"),
        ("$HOME", '"$$HOME"'),
        ('say "x"', '"say \\"x\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("", '""'),
        ("${STATE_DIRECTORY}", "${STATE_DIRECTORY}"),
        ("${CREDENTIALS_DIRECTORY}/token", "${CREDENTIALS_DIRECTORY}/token"),
        ("${HOME}/../x", '"$${HOME}/../x"'),
    ],
)
def test_words_are_quoted_for_systemd(word, written):
    assert quote(word) == written


def test_python_in_a_home_is_shown_and_the_home_is_not():
    unit = Unit("a", "device", ["/home/pi/venv/bin/python"], python=[Path("/home/pi/venv")])
    assert "ProtectHome=tmpfs\nBindReadOnlyPaths=/home/pi/venv\n" in text(unit)
    assert "ProtectHome=yes\n" in text(Unit("a", "device", ["/opt/x"], python=[Path("/opt/x")]))


@pytest.mark.parametrize("what", ["device", "tracker"])
def test_systemd_understands_it(capsys, tmp_path, what):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing; `apt-get install systemd` installs it")
    key = ["--key", "a:label.x=5 0%", *TRACKER] if what == "device" else []
    _, unit = _install(capsys, tmp_path, what, "install", *key)
    path = tmp_path / f"tunefarm-{what}.service"
    path.write_text(unit)
    found = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "--offline" in found.stderr:
        pytest.skip("this systemd is too old to look at a file")
    exposure = re.findall(r"exposure level for \S+: ([\d.]+)", found.stdout)
    assert exposure and float(exposure[0]) < 3.0, found.stdout + found.stderr
    # Anything that it does not know it would name here.
    assert "Unknown" not in found.stderr and "Invalid" not in found.stderr, found.stderr


def test_both_ways_to_a_device_server_read_the_same_options():
    from tunefarm.cli.parsing import Parser
    from tunefarm_device.arguments import add_arguments

    alone = Parser()
    add_arguments(alone)
    whole = dict(leaves(build_parser("device")))[("device",)]
    assert set(alone._option_string_actions) <= set(whole._option_string_actions)
