"""Who may see and do what: login, sessions, forged and hostile requests; the tracker is real."""

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from closed_farm import ClosedFarm, closed_farm, csrf_of
from fake_tracker import app_at, run
from tunefarm_dashboard.assets import address_of
from tunefarm_dashboard.guard import MAX_BODY
from tunefarm_dashboard.server import create_app
from tunefarm_dashboard.sessions import ASK_AGAIN_S, Sessions
from tunefarm_proto import rpc
from tunefarm_proto.identity import Role
from tunefarm_proto.security import Credentials
from tunefarm_proto.v1 import tracker_pb2 as tpb

PAGES = ("/", "/queue", "/results", "/devices/d1", "/utilisation", "/users", "/api")
FOR_OPERATORS = ("/tokens", "/audit")
ACTS = {
    "device": {"device": "d2", "action": "quarantine", "reason": "smells"},
    "cancel": {"request": "waits"},
    "priority": {"request": "waits", "priority": "3"},
    "revoke-lease": {"lease": "no such lease"},
    "create-token": {"name": "new", "role": "viewer"},
    "revoke-token": {"token": "0"},
}


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClosedFarm]:
    with closed_farm(tmp_path_factory.mktemp("closed") / "state") as made:
        yield made


def test_nothing_is_told_before_the_login(farm: ClosedFarm):
    for path in (*PAGES, *FOR_OPERATORS):
        answer = httpx.get(farm.url + path)
        assert answer.status_code == 303
        assert answer.headers["location"] == f"/login?next={path}"
        assert "d1" not in answer.text
    for path in ("/api/devices", "/api/devices.csv", "/api/status", "/events?topic=fleet"):
        assert httpx.get(farm.url + path).status_code == 401, path
    page = httpx.get(f"{farm.url}/login").text
    assert "ulla" not in page and "d1" not in page


def test_a_login_opens_every_page_and_leads_where_one_wanted_to_go(farm: ClosedFarm):
    with httpx.Client(base_url=farm.url) as client:
        token = {"token": f"  {farm.tokens['vera']}\n", "next": "/devices/d1?x=1"}
        answer = client.post("/login", data=token)
        assert answer.status_code == 303
        assert answer.headers["location"] == "/devices/d1?x=1"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert farm.tokens["vera"] not in cookie
        for path in PAGES:
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert "vera" in answer.text
        assert "Tokens" not in answer.text  # not for her
        assert client.get("/api/devices").json()["total"] == 2


@pytest.mark.parametrize(
    "target", ["//evil.test/", "https://evil.test", "/\\evil.test", "x", "/\n"]
)
def test_a_login_leads_nowhere_else(farm: ClosedFarm, target):
    answer = httpx.post(f"{farm.url}/login", data={"token": farm.tokens["vera"], "next": target})
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize(
    ("token", "status", "words"),
    [
        ("tf_wrong", 401, "does not know this token"),
        ("nonsense", 400, "that is no token"),
        ("tf_\N{SNOWMAN}", 400, "that is no token"),
        ("d1", 403, "the token of a device opens no page"),
    ],
)
def test_a_login_that_fails_says_why(farm: ClosedFarm, token, status, words):
    shown = farm.tokens.get(token, token)
    answer = httpx.post(f"{farm.url}/login", data={"token": shown})
    assert answer.status_code == status
    assert words in answer.text
    assert "set-cookie" not in answer.headers
    assert shown not in answer.text.replace(words, "")


def test_a_dashboard_without_a_token_of_its_own_says_what_it_lacks(
    farm: ClosedFarm, serve_dashboard
):
    with serve_dashboard(farm.address) as url, httpx.Client(follow_redirects=True) as client:
        assert "Log in" in client.get(url).text
        page = client.post(f"{url}/login", data={"token": farm.tokens["olga"]}).text
        assert "olga" in page
        assert "the tracker wants a token and the call carries none" in page


def test_programs_send_their_token_and_need_no_session(farm: ClosedFarm):
    headers = {"Authorization": f"Bearer {farm.tokens['olga']}"}
    assert httpx.get(f"{farm.url}/api/tokens", headers=headers).json()["total"] == 5
    answer = httpx.post(
        f"{farm.url}/api/act/priority", headers=headers, data={"request": "waits", "priority": 1}
    )
    assert answer.json() == {"message": "Request waits has priority 1 now.", "changed": True}
    wrong = {"Authorization": "Bearer tf_wrong"}
    assert httpx.get(f"{farm.url}/api/devices", headers=wrong).status_code == 401


@pytest.mark.parametrize("name", ["vera", "ulla"])
@pytest.mark.parametrize("act", sorted(ACTS))
def test_what_one_may_not_do_is_refused_and_not_done(farm: ClosedFarm, name, act):
    before = farm.waiting(), farm.health("d2"), len(farm.tracker.accounts.tokens())
    with farm.login(name) as client:
        answer = client.post(f"/api/act/{act}", data=ACTS[act])
        assert answer.status_code == 403, answer.text
        assert "role" in answer.json()["error"] or "somebody else" in answer.json()["error"]
    assert before == (farm.waiting(), farm.health("d2"), len(farm.tracker.accounts.tokens()))


def test_what_kernels_printed_is_asked_for_as_the_visitor(tmp_path: Path):
    """The dashboard's own token may read nothing of it, and nothing of it is in what it shares."""
    with closed_farm(tmp_path / "state") as farm:
        (held,) = farm.tracker.hub.scheduler.state.leases.values()
        report = tpb.SynchronizeRequest(device_id="d1", key="d1", instance_id="first")
        report.addresses.append("d1.test:1")
        report.fence = held.fence
        report.output.lease_id, report.output.text = held.id, "words of ulla"
        run(end_with(farm, held.id, report))
        for name, sees in (("vera", False), ("uwe", False), ("ulla", True), ("olga", True)):
            with farm.login(name) as client:
                for path in ("/devices/d1", "/jobs/held", "/api/job-output?request=held"):
                    answer = client.get(path)
                    assert answer.status_code == 200
                    assert ("words of ulla" in answer.text) is sees, (name, path)


async def end_with(farm: ClosedFarm, lease_id: str, report: tpb.SynchronizeRequest) -> None:
    """End a lease; then the device tells what it printed."""
    stub, metadata = farm.stubs["olga"], rpc.call_metadata()
    await stub.RevokeLease(tpb.RevokeLeaseRequest(lease_id=lease_id), metadata=metadata)
    stream = stub.Synchronize(metadata=metadata)
    await stream.write(report)
    await stream.read()
    stream.cancel()


@pytest.mark.parametrize("path", FOR_OPERATORS)
def test_pages_for_operators_are_not_shown_to_others(farm: ClosedFarm, path):
    with farm.login("ulla") as client:
        answer = client.get(path)
        assert answer.status_code == 403
        assert "for operators" in answer.text
        assert client.get(f"/api{path}").status_code == 403


def test_only_what_one_may_do_is_offered(farm: ClosedFarm):
    offered = {}
    for name in ("vera", "ulla", "uwe", "olga"):
        with farm.login(name) as client:
            html = client.get("/queue").text + client.get("/devices/d1").text
            offered[name] = [
                word
                for word in ("act/cancel", "act/priority", "act/revoke-lease", "act/device")
                if word in html
            ]
    assert offered["vera"] == offered["ulla"] == []
    assert offered["uwe"] == ["act/cancel", "act/priority"]  # of his own request
    assert offered["olga"] == ["act/cancel", "act/priority", "act/revoke-lease", "act/device"]


def test_users_move_their_own_requests_and_operators_act_in_their_own_name(farm: ClosedFarm):
    with farm.login("uwe") as client:
        client.post("/api/act/priority", data={"request": "waits", "priority": "4"})
        assert farm.waiting() == {"waits": 4}
    with farm.login("olga") as client:
        for action, health in (("quarantine", "quarantined"), ("enable", "good")):
            act = {"device": "d2", "action": action, "reason": "a try"}
            assert client.post("/api/act/device", data=act).status_code == 200
            assert farm.health("d2") == health
        assert "a try" in client.get("/api/device-events?device=d2").text
        act = {"device": "d2", "action": "forget"}
        assert "d2 is online" in client.post("/api/act/device", data=act).text
        made = client.post("/api/act/create-token", data={"name": "tim", "role": "viewer"}).json()
        farm.tokens["tim"] = made["secret"]
        assert made["secret"] not in client.get("/tokens").text
        audit = client.get("/api/audit").json()["rows"]
        done = [(row["who"], row["action"], row["subject"]) for row in audit]
        assert ("olga", "quarantine", "d2") in done  # not the dashboard's own token
        with farm.login("tim") as other:
            assert other.get("/").status_code == 200
            answer = client.post("/api/act/revoke-token", data={"token": made["id"]})
            assert answer.json()["message"] == "The token of tim is revoked."


def test_a_revoked_token_ends_its_session_and_its_stream(farm: ClosedFarm, monkeypatch):
    accounts, board = farm.tracker.accounts, farm.board
    token, farm.tokens["tom"] = accounts.create("tom", Role.USER).result(10)
    with farm.login("tom") as client, client.stream("GET", "/events?topic=fleet") as stream:
        chunks = stream.iter_raw()
        next(chunks)
        accounts.revoke(token.id).result(10)
        monkeypatch.setattr(board.sessions, "_clock", lambda: time.monotonic() + ASK_AGAIN_S)
        for _ in chunks:
            pass  # the dashboard ends it
        assert client.get("/", follow_redirects=False).status_code == 303


def test_logging_out_ends_the_session(farm: ClosedFarm):
    with farm.login("vera") as client:
        cookie = client.cookies["tunefarm_session"]
        assert client.post("/logout").headers["hx-redirect"] == "/login"
        client.cookies.set("tunefarm_session", cookie)
        assert client.get("/", follow_redirects=False).status_code == 303


# Requests that somebody else made the browser send.


@pytest.mark.parametrize(
    "headers",
    [
        {"x-csrf-token": ""},
        {"x-csrf-token": "x" * 32},
        {"x-csrf-token": "\u00e9".encode("latin-1")},
        {"origin": "https://evil.test"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_a_forged_act_is_refused(farm: ClosedFarm, headers):
    before = farm.waiting()
    with farm.login("olga") as client:
        answer = client.post("/api/act/cancel", data={"request": "waits"}, headers=headers)
        assert answer.status_code == 403
    assert farm.waiting() == before


def test_acts_are_not_done_by_links(farm: ClosedFarm):
    with farm.login("olga") as client:
        assert client.get("/api/act/cancel?request=waits").status_code == 405
    assert "waits" in farm.waiting()


def test_an_open_farm_is_guarded_against_other_pages_too(tracker, serve_dashboard):
    with serve_dashboard(tracker.address) as url, httpx.Client(base_url=url) as client:
        act = {"device": "local2-ab12cd", "action": "drain"}
        assert client.post("/api/act/device", data=act).status_code == 403
        csrf = {"x-csrf-token": csrf_of(client.get("/").text)}
        evil = {**csrf, "origin": "http://evil.test"}
        assert client.post("/api/act/device", data=act, headers=evil).status_code == 403
        assert tracker.acts == []
        own = {**csrf, "origin": url}
        assert client.post("/api/act/device", data=act, headers=own).status_code == 200
        assert len(tracker.acts) == 1


def test_an_open_farm_is_only_looked_at_from_other_machines(tracker, serve_dashboard):
    async def ask(client: str, host: str) -> tuple[bool, int, int]:
        transport = httpx.ASGITransport(app, client=(client, 1))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as browser:
            page = (await browser.get("/devices/local2-ab12cd")).text
            act = {"device": "local2-ab12cd", "action": "drain"}
            answer = await browser.post(
                "/api/act/device", data=act, headers={"x-csrf-token": csrf_of(page)}
            )
            tokens = await browser.get("/api/tokens")
            return "act/device" in page, answer.status_code, tokens.status_code

    with serve_dashboard(tracker.address) as url:
        app = app_at(url)
        assert run(ask("127.0.0.1", "localhost")) == (True, 200, 200)
        for client, host in (("10.0.0.7", "10.0.0.1"), ("127.0.0.1", "farm.example.org")):
            assert run(ask(client, host)) == (False, 403, 403), client
    assert len(tracker.acts) == 1


def test_one_token_shown_many_times_at_once_is_one_session(farm: ClosedFarm):
    async def check() -> None:
        sessions = Sessions(farm.address, Credentials())
        token = farm.tokens["ulla"]
        found = await asyncio.gather(*(sessions.bearing(token) for _ in range(5)))
        assert len(sessions) == 1
        assert len({one.csrf for one in found}) == 1
        await sessions.close_all()

    run(check())


def test_a_strange_name_for_this_host_is_refused():
    async def ask(host: str) -> int:
        app = create_app("127.0.0.1:9", names={"localhost", "127.0.0.1", "[::1]"})
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return (await client.get(address_of("live.js"), headers={"host": host})).status_code

    for host, status in (
        ("localhost:9191", 200), ("127.0.0.1", 200), ("[::1]:9191", 200),
        ("evil.test", 421), ("localhost.evil.test", 421), ("", 421), ("[::2]:1", 421),
    ):  # fmt: skip
        assert run(ask(host)) == status, host


# Requests that make no sense.


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py",
        "/static//etc/passwd", "/static/%00", "/static/style.css", "/devices/../../etc/passwd",
        "/devices/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/api/../server.py", "//etc/passwd",
    ],
)  # fmt: skip
def test_no_path_leads_to_a_file(farm: ClosedFarm, path):
    with farm.login("vera") as client:
        request = client.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = client.send(request)
        assert answer.status_code in (400, 404), answer.text
        assert "root:" not in answer.text and "import" not in answer.text


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"request=" + b"x" * MAX_BODY, {}, 413),
        (b"x", {"content-length": "99999999"}, 413),
        (b"request=" + b"x" * 300, {}, 422),
        (b"", {}, 422),
        (b"\xff\xfe=\x00", {}, 422),
        (b"request=waits&priority=high", {}, 422),
        (b"request=waits&priority=99999999999999999999", {}, 422),
        (b"--x\r\nContent-Disposition: nonsense", {"content-type": "multipart/form-data"}, 400),
        (b"{}", {"content-type": "application/json"}, 422),
    ],
)
def test_bodies_that_make_no_sense_are_refused_in_one_line(farm: ClosedFarm, body, headers, status):
    with farm.login("olga") as client:
        form = {"content-type": "application/x-www-form-urlencoded", **headers}
        if "content-length" in headers:
            answer = raw(farm, client, headers["content-length"])
            assert answer.startswith("HTTP/1.1 413")
            return
        answer = client.post("/api/act/priority", content=body, headers=form)
        assert answer.status_code == status, answer.text
        assert len(answer.json()["error"].splitlines()) == 1
    assert "waits" in farm.waiting()


def raw(farm: ClosedFarm, client: httpx.Client, length: str) -> str:
    """The first line of the answer to a request that promises a body of that length."""
    host, _, port = farm.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(
            f"POST /api/act/cancel HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Content-Length: {length}\r\n\r\nx".encode()
        )
        return connection.recv(1000).decode().splitlines()[0]


def test_a_body_without_an_end_is_cut_off(farm: ClosedFarm):
    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b"x" * 4096

    with farm.login("olga") as client:
        try:
            answer = client.post("/api/act/cancel", content=endless())
        except httpx.TransportError:
            return  # cut off while it was still sent
        assert answer.status_code in (400, 413, 422)


@pytest.mark.parametrize(
    "path",
    [
        "/?" + "q=x&" * 3000, "/?q=" + "x" * 300, "/?page=0", "/?page=x", "/utilisation?window=9y",
        "/api/devices?limit=0", "/api/devices?limit=x", "/api/devices?offset=-1",
        "/api/past-leases?since=nan", "/api/past-leases?since=1e300", "/api/device-events",
        "/events?" + "topic=fleet&" * 50, "/devices/" + "x" * 4000,
    ],
)  # fmt: skip
def test_questions_that_make_no_sense_are_refused(farm: ClosedFarm, path):
    with farm.login("vera") as client:
        assert client.get(path).status_code in (404, 414, 422), path
