"""What a server tells systemd."""

import asyncio
import os
import socket
import uuid

import pytest
from tunefarm_proto.supervisor import Supervisor


@pytest.fixture(params=["file", "abstract"])
def systemd(request, tmp_path, monkeypatch):
    """A socket that hears what systemd would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        if request.param == "file":
            where = str(tmp_path / "notify")
            heard.bind(where)
        else:
            where = f"@tunefarm-{uuid.uuid4()}"
            heard.bind("\0" + where[1:])
        heard.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", where)
        yield heard


def _next(heard: socket.socket) -> str:
    return heard.recv(4096).decode()


def test_it_says_ready_then_lives_then_stops(systemd, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000")

    async def serve() -> list[str]:
        with Supervisor().watching("serves on x"):
            first = _next(systemd)
            beats = [await asyncio.to_thread(_next, systemd) for _ in range(3)]
        return [first, *beats]

    said = asyncio.run(serve())
    assert said[0] == "READY=1\nSTATUS=serves on x"
    assert said[1:] == ["WATCHDOG=1"] * 3
    while (last := _next(systemd)) == "WATCHDOG=1":
        pass
    assert last == "STOPPING=1"


def test_a_loop_that_hangs_says_nothing(systemd, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "30000")

    async def hang() -> None:
        with Supervisor().watching(""):
            await asyncio.sleep(0)  # one beat
            systemd.settimeout(0.3)  # the loop stands still meanwhile
            heard = []
            with pytest.raises(TimeoutError):
                while True:
                    heard.append(_next(systemd))
            assert heard[1:] == ["WATCHDOG=1"]

    asyncio.run(hang())


def test_kernels_do_not_inherit_the_way_to_systemd(systemd, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    Supervisor()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


@pytest.mark.parametrize("where", ["", "/nonexistent/notify"])
def test_nobody_needs_to_listen(monkeypatch, where):
    monkeypatch.setenv("NOTIFY_SOCKET", where)

    async def serve() -> None:
        with Supervisor().watching("x"):
            await asyncio.sleep(0)

    asyncio.run(serve())
