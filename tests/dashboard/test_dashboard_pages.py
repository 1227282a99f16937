"""What the pages and /api/status say, read over HTTP; the dashboard follows a fake tracker."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
import tunefarm_dashboard
from fake_tracker import FakeTracker, device, lease, result
from tunefarm.cli.processes import free_port
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Rows(HTMLParser):
    """The rows of every section: a list of texts each."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.section = ""
        self.rows: dict[str, list[str]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._in_body = False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.section = found.get("data-section") or self.section
        self._in_body |= tag == "tbody"
        if tag == "tr" and self._in_body:
            self.rows.setdefault(self.section, []).append("")

    def handle_endtag(self, tag):
        self._in_body &= tag != "tbody"

    def handle_data(self, data):
        if self._in_body and self.rows.get(self.section):
            self.rows[self.section][-1] += " " + data.strip()


def rows(html: str, section: str) -> list[str]:
    return [" ".join(row.split()) for row in Rows(html).rows.get(section, [])]


def test_the_page_shows_every_list(url):
    html = httpx.get(url).text
    devices = rows(html, "devices")
    assert [row.split()[0] for row in devices] == [
        "local-1f0a3c",
        "local2-ab12cd",
        "rasp3b-77be01",
        "rasp4b-0d11e5",
        "rasp4b-9c40aa",
    ]
    for word in (
        "local",
        "leased",
        "good",
        "ada",
        "tune matmul",
        "x86_64-unknown-linux-gnu znver4",
    ):
        assert word in devices[0]
    assert "quarantined three kernels in a row crashed" in devices[3]
    assert "offline" in devices[4]
    (waiting,) = rows(html, "queue")
    for word in ("1 linus bisect local 5", "all 1 local are held"):
        assert word in waiting
    held = rows(html, "leases")
    assert held[0].startswith("ada tune matmul local-1f0a3c")
    assert held[0].count("UTC") == 2
    measured = rows(html, "results")
    assert "2.58 ms 0.4% 104 yes ada" in measured[0]
    assert "kernel crashed: ended by signal 11 (SIGSEGV) no ada" in measured[2]
    assert "110 us 0.0% \N{EN DASH} not checked ada" in measured[3]


def test_emulated_is_said_wherever_the_device_or_its_numbers_are(url):
    html = httpx.get(url).text
    for section, count in (("devices", 1), ("leases", 1), ("results", 1)):
        marked = [row for row in rows(html, section) if "emulated" in row]
        assert len(marked) == count, section
        assert all("rasp3b-77be01" in row for row in marked)
    page = httpx.get(f"{url}/devices/rasp3b-77be01").text
    assert all("emulated" in row for row in rows(page, "results"))
    assert "emulated" in page.partition('data-section="facts"')[0]


def test_a_result_of_an_emulated_device_is_marked_even_if_its_timing_does_not_say_so(
    tracker, serve_dashboard
):
    tracker.results[1].timing.emulated = False
    with serve_dashboard(tracker.address) as url:
        results = httpx.get(f"{url}/api/status").json()["results"]
        assert {row["device"]: row["emulated"] for row in results}["rasp3b-77be01"] is True


def test_a_devices_page_has_its_facts_and_only_its_results(url):
    page = httpx.get(f"{url}/devices/rasp3b-77be01")
    assert page.status_code == 200
    facts = rows(page.text, "facts")
    assert "Target aarch64-unknown-linux-gnu cortex-a53" in facts
    assert "Emulated by qemu-user" in facts
    assert "Memory 1.0 GiB" in facts
    assert not any(fact.startswith("Temperature") for fact in facts)
    (only,) = rows(page.text, "results")
    assert "420 ms" in only
    assert "grace" in page.text


@pytest.mark.parametrize("path", ["/devices/nobody", "/nowhere"])
def test_what_is_not_there_is_a_page_that_says_so(url, path):
    answer = httpx.get(url + path)
    assert answer.status_code == 404
    assert path.rpartition("/")[2] in answer.text
    assert 'href="/"' in answer.text


def test_status_as_json(url):
    status = httpx.get(f"{url}/api/status").json()
    assert status["tracker"]["connected"] is True
    first = status["devices"][0]
    expected = {
        "id": "local-1f0a3c",
        "key": "local",
        "address": "127.0.0.1:4711",
        "state": "leased",
        "health": "good",
        "holder": "ada",
        "target": "x86_64-unknown-linux-gnu znver4",
        "emulated": False,
    }
    assert {name: first[name] for name in expected} == expected
    assert status["queue"][0]["position"] == 1
    assert status["leases"][0]["device"] == "local-1f0a3c"
    measured = status["results"][0]
    assert measured["median_s"] == 2.58e-3
    assert measured["spread"] == pytest.approx(1e-5 / 2.58e-3)
    assert measured["gflops"] == pytest.approx(2 * 512**3 / 2.58e-3 / 1e9)
    assert status["results"][2]["median_s"] is None


def test_everything_from_users_is_escaped(tracker: FakeTracker, serve_dashboard):
    bad = device(EVIL, EVIL, health_reason=EVIL)
    bad.facts.extra[EVIL] = EVIL
    bad.facts.cpu_model = EVIL
    bad.facts.target.cpu = EVIL
    bad.lease.CopyFrom(lease(bad, EVIL, EVIL))
    wish = tpb.DeviceRequest(request_id=EVIL, key=EVIL, user=EVIL, purpose=EVIL)
    tracker.devices = [bad]
    tracker.leases = [bad.lease]
    tracker.queue = [tpb.QueuedRequest(request=wish, position=tpb.QueuePosition(reason=EVIL))]
    error = pb.Error(code=pb.ERROR_CODE_INTERNAL, message=EVIL)
    tracker.results = [result("9", bad, EVIL, [], user=EVIL, error=error)]
    link = f"/devices/{httpx.QueryParams({'x': EVIL})!s}".replace("x=", "").replace("+", "%20")
    with serve_dashboard(tracker.address) as url:
        for path in ("/", link, f"/devices/no{EVIL}", f"/{EVIL}"):
            html = httpx.get(url + path).text
            assert EVIL in Rows(html).rows.get("devices", [EVIL])[0]
            assert_nothing_runs(html)


def assert_nothing_runs(html: str) -> None:
    """No script but our file's, no inline style, no handler: what the policy forbids anyway."""
    for tag, attributes in Rows(html).tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert tag not in ("style", "iframe", "object", "embed", "base")
        if tag == "script":
            assert attributes["src"] == "/static/live.js"
        if tag == "img":
            assert attributes["src"] == "/static/icon.svg"


def test_the_policy_is_strict_and_on_every_answer(url):
    for path in ("/", "/devices/rasp3b-77be01", "/nowhere", "/api/status", "/static/live.js"):
        headers = httpx.get(url + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert httpx.get(f"{url}/docs").status_code == 404


def test_nothing_comes_from_elsewhere():
    package = Path(tunefarm_dashboard.__file__).parent
    files = [*package.glob("static/*"), *package.glob("templates/**/*.html")]
    assert len(files) > 10
    for path in files:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z]|@import|url\(", text), path


def test_tables_have_captions_and_labelled_headers(url):
    tags = Rows(httpx.get(url).text).tags
    names = [tag for tag, _ in tags]
    assert names.count("table") == names.count("caption") == 4
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    assert next(a for t, a in tags if t == "html")["lang"] == "en"
    live = [a["data-section"] for _, a in tags if a.get("aria-live") == "polite"]
    assert live == ["status", "summary"]


def test_odd_messages_do_not_break_the_page(tracker: FakeTracker, serve_dashboard):
    odd = device("odd/name #1?", "k", 99)
    odd.last_seen.seconds = 10**15
    tracker.devices = [odd]
    tracker.leases = [pb.Lease(id="l", device_id="no such device")]
    tracker.queue = [tpb.QueuedRequest()]
    tracker.results = [
        result("a", odd, "w", [math.nan, 1.0]),
        result("b", odd, "w", [0.0, 0.0]),
        result("c", odd, "w", [math.inf]),
        tpb.Result(id="d"),
        result("e", odd, "w", [1.0], error=pb.Error(code=999)),
    ]
    with serve_dashboard(tracker.address) as url:
        html = httpx.get(url).text
        assert "unknown (99)" in rows(html, "devices")[0]
        assert len(rows(html, "results")) == 5
        assert "no timing" in rows(html, "results")[0]
        assert "NaN" not in json.dumps(httpx.get(f"{url}/api/status").json())
        (link,) = {
            a["href"] for t, a in Rows(html).tags if t == "a" and "odd" in (a.get("href") or "")
        }
        page = httpx.get(url + str(link))
        assert page.status_code == 200
        assert "<h1>odd/name #1?</h1>" in page.text


def test_an_empty_farm_says_what_to_do(tracker: FakeTracker, serve_dashboard):
    tracker.devices, tracker.leases, tracker.queue, tracker.results = [], [], [], []
    with serve_dashboard(tracker.address) as url:
        html = httpx.get(url).text
        assert "tunefarm device --key KEY" in html
        assert "Nobody waits." in html
        assert "tunefarm bench" in html


def test_without_a_tracker_the_pages_say_so(serve_dashboard):
    with serve_dashboard(f"127.0.0.1:{free_port(0)}") as url:
        html = httpx.get(url).text
        assert "The tracker is out of reach" in html
        assert "Nothing is known yet" in html
        assert httpx.get(f"{url}/devices/x").status_code == 200  # it may be there later
        assert httpx.get(f"{url}/api/status").json()["tracker"]["connected"] is False
