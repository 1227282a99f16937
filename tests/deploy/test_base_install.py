"""What `pip install tunefarm` puts on a board, from a wheelhouse alone."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.deploy

MOST_BYTES = 30_000_000
OURS = {
    "tunefarm",
    "tunefarm_compiler",
    "tunefarm_dashboard",
    "tunefarm_device",
    "tunefarm_proto",
    "tunefarm_tracker",
    "tunefarm_tuner",
}
NEEDED = {"google", "grpc", "typing_extensions.py"}


@pytest.fixture(scope="module")
def installed(wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed into, with no index to ask and no settings of this machine's."""
    target = tmp_path_factory.mktemp("base")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-compile"),
            *("--find-links", str(wheelhouse), "--target", str(target), "tunefarm"),
        ],
        env={**clean, "PIP_CONFIG_FILE": os.devnull},
        check=True,
        timeout=300,
    )
    return target


def _bytes(folder: Path) -> int:
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def test_it_is_below_30_mb(installed):
    parts = {one.name: _bytes(one) for one in installed.iterdir() if one.is_dir()}
    total = _bytes(installed)
    biggest = sorted(parts.items(), key=lambda item: -item[1])[:6]
    print(f"{total / 1e6:.1f} MB:", ", ".join(f"{n} {size / 1e6:.1f}" for n, size in biggest))
    assert total < MOST_BYTES, biggest


def test_it_brings_nothing_but_ours_and_grpc(installed):
    brought = {
        one.name
        for one in installed.iterdir()
        if not one.name.endswith((".dist-info", ".egg-info"))
    }
    assert brought - {"bin"} == OURS | NEEDED


def test_the_command_and_the_device_server_work_from_it(installed):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(installed)}
    for words in (["-m", "tunefarm", "--version"], ["-m", "tunefarm_device", "--help"]):
        done = subprocess.run(
            [sys.executable, "-S", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_the_wheel_has_what_the_parts_read_at_run_time(wheelhouse):
    with zipfile.ZipFile(next(wheelhouse.glob("tunefarm-*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert "tunefarm_device/zygote.py" in names
    assert any(name.startswith("tunefarm_dashboard/templates/") for name in names)
    assert any(name.startswith("tunefarm_dashboard/static/") for name in names)
    assert not any(name.startswith(("tests/", "bench/")) for name in names)
