"""What people look at a farm with: status, top, logs, doctor; on a live farm."""

import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import time

import pytest
from tunefarm import request_device
from tunefarm.cli import main
from tunefarm.cli.doctor_farm import way_to
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm.cli.status import devices_text

LIMIT_S = 30.0


def _follow(farm, *words):
    """A command that goes on, and its lines as they come."""
    return subprocess.Popen(
        [sys.executable, "-m", "tunefarm", *words, "--tracker", farm.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_status_watch_tells_each_change_as_a_line_of_json(farm):
    with _follow(farm, "status", "--watch", "--every", "0.1", "--json") as watching:
        try:
            first = json.loads(watching.stdout.readline())
            assert {one["key"] for one in first["devices"]} >= {"one", "two"}
            with request_device("two", tracker=farm.address, timeout=30, purpose="to be seen"):
                while True:
                    seen = json.loads(watching.stdout.readline())
                    if any(one["purpose"] == "to be seen" for one in seen["devices"]):
                        break
        finally:
            watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130


def test_status_watch_on_a_terminal_draws_and_gives_the_screen_back(farm):
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        words = ["-m", "tunefarm", "status", "--watch", "--tracker", farm.address]
        os.execv(sys.executable, [sys.executable, *words])
    shown, limit = b"", time.monotonic() + LIMIT_S

    def read_until(text: bytes) -> None:
        nonlocal shown
        while text not in shown:
            ready, _, _ = select.select([terminal], [], [], limit - time.monotonic())
            assert ready, shown
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # it has ended
                assert text in shown, shown
                return

    read_until(b"\x1b[32midle\x1b[0m")  # a terminal gives a screen in pieces
    assert shown.index(b"\x1b[?1049h") < shown.index(b"DEVICE")
    os.kill(pid, signal.SIGINT)
    read_until(b"\x1b[?1049l")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
    os.close(terminal)


def test_a_watch_outlives_a_restart_of_the_tracker_and_tells_what_that_waits_for(tmp_path):
    port = str(free_port(0))
    with LocalFarm(tmp_path) as own:
        start = ("tracker", "--port", port, "--state", str(tmp_path / "state"))
        own.start("first", *start)
        own.wait_for_tracker(f"127.0.0.1:{port}")
        device = ("device", "--key", "one", "--tracker", f"127.0.0.1:{port}")
        device = (*device, "--state", str(tmp_path / "one"))
        own.start("before", *device)
        own.wait_for_devices(f"127.0.0.1:{port}", ["one"])
        own.kill("before")
        words = ["status", "--watch", "--every", "0.1", "--json", "--tracker", f"127.0.0.1:{port}"]
        with subprocess.Popen(
            [sys.executable, "-m", "tunefarm", *words], stdout=subprocess.PIPE, text=True
        ) as watching:
            try:
                assert json.loads(watching.stdout.readline())["awaited"] == 0  # it was heard of
                own.kill("first")
                while "error" not in (seen := json.loads(watching.stdout.readline())):
                    pass
                assert "no tracker answers" in seen["error"]
                own.start("second", *start)
                while "error" in (seen := json.loads(watching.stdout.readline())):
                    pass
                assert [one["state"] for one in seen["devices"]] == ["offline"]
                assert seen["awaited"] == 1 and "yet to hear of 1 of 1 dev" in devices_text(seen)
                own.start("after", *device)
                while seen["devices"][0]["state"] != "idle":
                    seen = json.loads(watching.stdout.readline())
                assert seen["awaited"] == 0 and "yet to hear" not in devices_text(seen)
            finally:
                watching.send_signal(signal.SIGINT)


def test_logs_tell_what_happened_and_go_on(farm):
    with request_device("one", tracker=farm.address, timeout=30, purpose="logged") as device:
        lease, name = device.lease.id, device.id
    of_lease = [json.loads(one) for one in farm.run("logs", lease, "--json").stdout.splitlines()]
    assert [one["action"] for one in of_lease] == ["granted", "released"]
    with _follow(farm, "logs", name, "--follow", "--kind", "lease", "--json") as following:
        try:
            with request_device("one", tracker=farm.address, timeout=30) as device:
                while json.loads(following.stdout.readline())["subject"] != device.lease.id:
                    pass
        finally:
            following.send_signal(signal.SIGINT)
    assert following.returncode == 130
    last = farm.run("logs", "-n", "1").stdout
    assert len(last.splitlines()) == 1
    nothing = farm.run("logs", "nobody-here")
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert "nothing to nobody-here has happened" in nothing.stderr


def test_top_shows_devices_and_people(farm):
    with request_device("one", tracker=farm.address, timeout=30, user="ann", purpose="a tune"):
        text = farm.run("top").stdout
        found = json.loads(farm.run("top", "--json", "-n", "1").stdout)
    row = next(line for line in text.splitlines() if line.startswith("one-"))
    assert "leased" in row and "ann" in row and "a tune" in row
    assert found["devices"][0]["state"] == "leased"
    assert next(u for u in found["users"] if u["name"] == "ann")["devices"] == 1


def test_output_cut_off_by_head_leaves_no_traceback(farm):
    command = f"{sys.executable} -m tunefarm logs -n 0 --tracker {farm.address} | head -n 1"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "" and done.returncode in (0, 141)


def test_doctor_finds_a_healthy_farm_well(farm):
    found = json.loads(farm.run("doctor", "--only", "farm", "--json").stdout)
    wrong = [one for one in found if not one["ok"] and "offline" not in one["detail"]]
    assert not wrong
    names = {one["name"] for one in found}
    assert {"tracker", "versions", "clock", "TLS", "token"} <= names
    assert sum("reached at" in one["detail"] for one in found) >= 2


def test_doctor_names_what_is_wrong_with_a_device(tmp_path, capsys, monkeypatch):
    """One advertises a port on which nothing listens, one has gone.

    Its tracker knows the dashboard, and tells.
    """
    monkeypatch.delenv("TUNEFARM_DASHBOARD", raising=False)
    port = str(free_port(0))
    address, nowhere = f"127.0.0.1:{port}", f"127.0.0.1:{free_port(0)}"
    with LocalFarm(tmp_path) as own:
        page = ("--dashboard", "http://tracker.lab:9191/")
        own.start("tracker", "tracker", "--port", port, "--state", str(tmp_path / "state"), *page)
        own.wait_for_tracker(address)
        assert main(["status", "--tracker", address, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["url"] == "http://tracker.lab:9191"
        for key, more in (("wrong", ["--advertise", nowhere]), ("gone", [])):
            state = ["--state", str(tmp_path / key)]
            own.start(key, "device", "--key", key, "--tracker", address, *state, *more)
        own.wait_for_devices(address, ["wrong", "gone"])
        own.kill("gone")
        limit = time.monotonic() + LIMIT_S
        while True:
            assert main(["doctor", "--only", "farm", "--tracker", address, "--json"]) == 1
            found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
            gone = next(one for name, one in found.items() if name.startswith("gone-"))
            if "offline" in gone["detail"]:
                break
            assert time.monotonic() < limit
            time.sleep(0.2)
        assert "forget" not in gone["fix"]
        new = ["--key", "gone", "--tracker", address, "--state", str(tmp_path / "new")]
        own.start("new", "device", *new)
        own.wait_for_devices(address, ["gone"])
        main(["doctor", "--only", "farm", "--tracker", address, "--json"])
        told = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
        assert f"tunefarm admin forget {gone['name']}`" in told[gone["name"]]["fix"]
        assert main(["admin", "retire", gone["name"], "--tracker", address, "--json"]) == 0
        capsys.readouterr()
        main(["doctor", "--only", "farm", "--tracker", address, "--json"])
        assert gone["name"] not in capsys.readouterr().out  # it is meant to be gone
        forget = ["admin", "forget", gone["name"], "--reason", "started anew", "--tracker", address]
        assert main(forget) == 0 and "forgotten" in capsys.readouterr().out
        assert main(["status", "--tracker", address]) == 0
        assert gone["name"] not in capsys.readouterr().out
        assert main(forget) == 6 and "there is no device" in capsys.readouterr().err
        assert main(["audit", "--tracker", address]) == 0
        assert "forget" in capsys.readouterr().out
    wrong = next(one for name, one in found.items() if name.startswith("wrong-"))
    assert not wrong["ok"] and "nothing listens on its port" in wrong["detail"]
    assert "`tunefarm device`" in wrong["fix"]


def test_doctor_tells_no_tracker_from_a_name_and_a_wall(capsys, monkeypatch):
    monkeypatch.setattr("tunefarm.cli.doctor_farm.PROBE_S", 0.5)
    nobody = f"127.0.0.1:{free_port(0)}"
    assert main(["doctor", "--only", "farm", "--tracker", nobody]) == 1
    assert "nothing listens on its port" in capsys.readouterr().out
    with socket.socket() as wall:
        # A queue that is full drops what comes, as a firewall does.
        wall.bind(("127.0.0.1", 0))
        wall.listen(0)
        where = f"127.0.0.1:{wall.getsockname()[1]}"
        held = []
        for _ in range(4):
            held.append(socket.socket())
            held[-1].setblocking(False)
            held[-1].connect_ex(wall.getsockname())
        message, fix = way_to(where, "`tunefarm device`")
        for one in held:
            one.close()
    assert "swallows" in message and "ufw allow" in fix
    message, _ = way_to("no-such-name.invalid:9190", "a tracker")
    assert "no address is known" in message


def test_the_dashboards_address_is_told(farm, monkeypatch):
    told = subprocess.run(
        [sys.executable, "-m", "tunefarm", "status", "--tracker", farm.address],
        env={**os.environ, "TUNEFARM_DASHBOARD": "https://farm.lab/"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert "dashboard: https://farm.lab" in told
    assert "dashboard" not in farm.run("status").stdout


@pytest.mark.parametrize("what", ["tracker", "device"])
def test_servers_print_a_line_of_json_when_they_serve(farm, tmp_path, what):
    words = {
        "tracker": ["tracker", "--port", "0"],
        "device": ["device", "--key", "json", "--tracker", farm.address],
    }[what]
    with subprocess.Popen(
        [sys.executable, "-m", "tunefarm", *words, "--state", str(tmp_path), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            said = json.loads(server.stdout.readline())
        finally:
            server.terminate()
    assert said["address" if what == "tracker" else "addresses"]
