"""Backup and restore: while the tracker serves, and what a damaged backup gets."""

import io
import json
import shutil
import sqlite3
import tarfile
import threading
from pathlib import Path

import pytest
from tunefarm import request_device
from tunefarm.cli import main
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm.tracker import Tracker
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_tracker.backup import DATABASES, backup, restore


def _tracker(farm: LocalFarm, name: str, state: Path, port: str) -> None:
    farm.start(name, "tracker", "--port", port, "--state", str(state))
    farm.wait_for_tracker(f"127.0.0.1:{port}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder that a tracker has left."""
    folder, port = tmp_path_factory.mktemp("made"), str(free_port(0))
    with LocalFarm(folder) as farm:
        _tracker(farm, "tracker", folder / "state", port)
        with Tracker(f"127.0.0.1:{port}") as tracker:
            tracker.set_quota("ann", 4, 9)
    return folder / "state"


@pytest.fixture
def saved(made: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A state folder that no tracker runs on, and its backup."""
    state, target = tmp_path / "state", tmp_path / "farm.tar.gz"
    shutil.copytree(made, state)
    backup(state, target)
    return state, target


def test_the_queue_and_a_lease_outlive_the_loss_of_the_state(tmp_path):
    """A backup is taken while one holds and one waits; the tracker dies with its disk."""
    port = str(free_port(0))
    address = f"127.0.0.1:{port}"
    target = tmp_path / "farm.tar.gz"
    waits, served = threading.Event(), threading.Event()

    def wait() -> None:
        def told(position: object) -> None:
            waits.set()

        with request_device("one", tracker=address, timeout=100, purpose="second", on_wait=told):
            served.set()

    with LocalFarm(tmp_path) as farm:
        _tracker(farm, "tracker", tmp_path / "before", port)
        words = ("device", "--key", "one", "--tracker", address, "--state", str(tmp_path / "d"))
        farm.start("device", *words)
        farm.wait_for_devices(address, ["one"])
        waiter = threading.Thread(target=wait)
        with request_device("one", tracker=address, timeout=30, purpose="first") as held:
            waiter.start()
            assert waits.wait(30)
            done = backup(tmp_path / "before", target)
            assert done.counts["requests"] == 2 and done.counts["leases"] == 1
            farm.kill("tracker")
            restore(target, tmp_path / "after")
            _tracker(farm, "again", tmp_path / "after", port)
            assert held.empty(4).numpy().tolist() == [0.0] * 4  # the lease goes on
            with Tracker(address) as tracker:
                assert [one.id for one in tracker.leases()] == [held.lease.id]
                assert [one.request.purpose for one in tracker.queue()] == ["second"]
            assert not served.is_set()
        waiter.join(60)
        assert served.is_set()


def test_a_backup_while_much_is_written_is_whole(tmp_path):
    port = str(free_port(0))
    with LocalFarm(tmp_path) as farm:
        _tracker(farm, "tracker", tmp_path / "state", port)
        stop = threading.Event()

        def write() -> None:
            with Tracker(f"127.0.0.1:{port}") as tracker:
                number = 0
                while not stop.is_set():
                    tracker.set_quota(f"user{number}", 1, 1)
                    number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(5):
                target = tmp_path / f"{number}.tar.gz"
                backup(tmp_path / "state", target)
                restore(target, tmp_path / f"r{number}")
        finally:
            stop.set()
            writer.join()
    seen = []
    for number in range(5):
        with sqlite3.connect(tmp_path / f"r{number}" / DATABASES[0]) as connection:
            seen.append(connection.execute("SELECT count(*) FROM quotas").fetchone()[0])
    assert seen == sorted(seen)


def test_a_backup_is_private_and_never_replaces_a_file(saved):
    state, target = saved
    assert target.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InvalidRequestError, match="exists already"):
        backup(state, target)
    assert sorted(path.name for path in target.parent.glob("*.part")) == []


def test_a_restored_tracker_knows_what_it_knew(saved, tmp_path):
    _, target = saved
    manifest = restore(target, tmp_path / "new")
    assert manifest.counts["devices"] == 0
    with sqlite3.connect(tmp_path / "new" / DATABASES[0]) as connection:
        assert connection.execute("SELECT * FROM quotas").fetchall() == [("ann", 4, 9)]
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "new").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_a_state_that_is_there_is_moved_aside_when_told(saved):
    state, target = saved
    with pytest.raises(InvalidRequestError, match="--replace"):
        restore(target, state)
    before = (state / "secret").read_bytes()
    restore(target, state, replace=True)
    assert (state / "secret").read_bytes() == before
    (aside,) = state.glob("before-restore-*")
    assert (aside / "state.sqlite").is_file()


def test_no_state_is_replaced_under_a_running_tracker(saved, tmp_path):
    state, target = saved
    with LocalFarm(tmp_path) as farm:
        _tracker(farm, "again", state, str(free_port(0)))
        with pytest.raises(InvalidRequestError, match="a tracker is running"):
            restore(target, state, replace=True)


def _altered(target: Path, change) -> Path:
    """The same backup with one member changed by `change(name, data)`."""
    made = target.with_name("altered.tar.gz")
    with tarfile.open(target) as old, tarfile.open(made, "w:gz") as new:
        for info in old:
            data = old.extractfile(info).read()
            name, data = change(info.name, data)
            new_info = tarfile.TarInfo(name)
            new_info.size = len(data)
            new.addfile(new_info, io.BytesIO(data))
    return made


def _flipped(data: bytes) -> bytes:
    return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda n, d: (n, _flipped(d)) if n == "state.sqlite" else (n, d), "damaged"),
        (lambda n, d: ("../state.sqlite", d) if n == "state.sqlite" else (n, d), "no backup does"),
        (lambda n, d: ("/etc/cron.d/x", d) if n == "secret" else (n, d), "no backup does"),
        (lambda n, d: (n, b"{") if n == "manifest.json" else (n, d), "no whole backup"),
        (
            lambda n, d: (
                (n, json.dumps({**json.loads(d), "format": 9}).encode())
                if n == "manifest.json"
                else (n, d)
            ),
            "format 9",
        ),
    ],
    ids=["bytes", "path", "absolute", "manifest", "newer"],
)
def test_a_backup_that_is_not_whole_changes_nothing(saved, tmp_path, change, said):
    _, target = saved
    with pytest.raises(InvalidRequestError, match=said):
        restore(_altered(target, change), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_link_in_a_backup_is_refused(saved, tmp_path):
    made = tmp_path / "link.tar.gz"
    with tarfile.open(made, "w:gz") as archive:
        info = tarfile.TarInfo("secret")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(info)
    with pytest.raises(InvalidRequestError, match="no backup does"):
        restore(made, tmp_path / "new")


def test_half_a_backup_is_refused(saved, tmp_path):
    _, target = saved
    half = tmp_path / "half.tar.gz"
    half.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
    with pytest.raises(InvalidRequestError, match="no whole backup"):
        restore(half, tmp_path / "new")


def test_both_from_the_command_line(saved, tmp_path, capsys):
    state, _ = saved
    target = str(tmp_path / "b.tar.gz")
    assert main(["tracker", "backup", target, "--state", str(state), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["devices"] == 0
    assert main(["tracker", "restore", target, "--state", str(tmp_path / "new")]) == 0
    assert "as it was at" in capsys.readouterr().out
