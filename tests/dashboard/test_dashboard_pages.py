"""What the pages and tables say, read over HTTP; the dashboard follows a fake tracker."""

import csv
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import tunefarm_dashboard
from fake_tracker import FakeTracker, device, event, lease, past_lease, result
from tunefarm.cli.processes import free_port
from tunefarm_dashboard.assets import address_of
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb


@pytest.fixture
def url(read_url: str) -> str:
    return read_url


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
        self.section = (found.get("data-topic") or self.section).partition("?")[0]
        self._in_body |= tag == "tbody"
        if tag == "li" and "device" in (found.get("class") or ""):
            self._in_body = True
        if tag in ("tr", "li") and self._in_body:
            self.rows.setdefault(self.section, []).append("")

    def handle_endtag(self, tag):
        self._in_body &= tag not in ("tbody", "ul")

    def handle_data(self, data):
        if self._in_body and self.rows.get(self.section):
            self.rows[self.section][-1] += " " + data.strip()


def rows(html: str, section: str) -> list[str]:
    return [" ".join(row.split()) for row in Rows(html).rows.get(section, [])]


def test_the_fleet_shows_every_device(url):
    devices = rows(httpx.get(url).text, "fleet")
    assert [row.split()[0] for row in devices] == [
        "local-1f0a3c",
        "local2-ab12cd",
        "rasp3b-77be01",
        "rasp4b-0d11e5",
        "rasp4b-9c40aa",
    ]
    assert devices[0] == "local-1f0a3c leased 62 °C ada tune matmul"
    assert "quarantined three kernels in a row crashed" in devices[3]
    assert "offline" in devices[4]
    assert [row.split()[0] for row in rows(httpx.get(url).text, "tally")] == [
        "good",
        "quarantined",
        "all",
    ]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=PI+ada", []),
        ("q=ada", ["local-1f0a3c"]),
        ("q=cortex", ["rasp3b-77be01"]),
        ("key=rasp4b&state=offline", ["rasp4b-9c40aa"]),
        ("health=quarantined", ["rasp4b-0d11e5"]),
        ("state=nonsense", []),
    ],
)
def test_the_fleet_is_filtered_by_words_key_state_and_health(url, query, found):
    assert [row.split()[0] for row in rows(httpx.get(f"{url}/?{query}").text, "fleet")] == found
    table = httpx.get(f"{url}/api/devices?{query}").json()
    assert [row["id"] for row in table["rows"]] == found
    assert table["total"] == len(found)


def test_a_large_fleet_comes_in_pages(tracker: FakeTracker, serve_dashboard):
    tracker.devices = [device(f"d{number:04}", f"k{number % 3}") for number in range(300)]
    with serve_dashboard(tracker.address) as url:
        first = httpx.get(url).text
        assert len(rows(first, "fleet")) == 96
        assert "1\N{EN DASH}96 of" in first and "page 1 of 4" in first
        last = httpx.get(f"{url}/?page=4").text
        assert rows(last, "fleet")[-1].startswith("d0299")
        assert "page 4 of 4" in httpx.get(f"{url}/?page=99").text
        of_key = httpx.get(f"{url}/?key=k1&page=2").text
        assert len(rows(of_key, "fleet")) == 4
        assert "key=k1&amp;page=1" in of_key


def test_the_queue_says_why_who_and_what_is_held(url):
    html = httpx.get(f"{url}/queue").text
    (waiting,) = rows(html, "queue")
    assert "1 linus bisect local all 1 local are held" in waiting
    held = rows(html, "leases")
    assert held[0].startswith("ada tune matmul local-1f0a3c")
    assert held[0].count("UTC") == 2


def test_the_results_page(url):
    measured = rows(httpx.get(f"{url}/results").text, "results")
    assert len(measured) == 4  # not the anchors'
    assert "2.58 ms 0.4% 104 yes ada" in measured[0]
    assert "kernel crashed: ended by signal 11 (SIGSEGV) no ada" in measured[2]
    assert "110 us 0.0% \N{EN DASH} not checked ada" in measured[3]


def test_emulated_is_said_wherever_the_device_or_its_numbers_are(url):
    for path, section in (("/", "fleet"), ("/queue", "leases"), ("/results", "results")):
        marked = [row for row in rows(httpx.get(url + path).text, section) if "emulated" in row]
        assert len(marked) == 1, section
        assert all("rasp3b-77be01" in row for row in marked)
    page = httpx.get(f"{url}/devices/rasp3b-77be01").text
    assert all("emulated" in row for row in rows(page, "results"))
    assert "emulated" in page.partition('data-topic="facts')[0]


def test_a_result_of_an_emulated_device_is_marked_even_if_its_timing_does_not_say_so(
    tracker, serve_dashboard
):
    tracker.results[1].timing.emulated = False
    with serve_dashboard(tracker.address) as url:
        results = httpx.get(f"{url}/api/results").json()["rows"]
        assert {row["device"]: row["emulated"] for row in results}["rasp3b-77be01"] is True


def test_a_devices_page(url):
    page = httpx.get(f"{url}/devices/rasp3b-77be01")
    assert page.status_code == 200
    facts = rows(page.text, "facts")
    assert "Target aarch64-unknown-linux-gnu cortex-a53" in facts
    assert "Emulated by qemu-user" in facts
    assert "Memory 1.0 GiB" in facts
    assert "Temperature 48.2 °C" in facts
    (only,) = rows(page.text, "results")
    assert "420 ms" in only
    (held,) = rows(page.text, "held")
    assert held.startswith("ada nightly") and held.endswith("30 s 17 min released")
    assert "three kernels crashed" in page.text
    plots = [json.loads(a["data-plot"]) for _, a in Rows(page.text).tags if "data-plot" in a]
    drift, climate = plots
    assert len(drift["x"]) == 30 == len(drift["series"][0]["values"])
    assert drift["series"][0]["values"][-1] == pytest.approx(1.38, abs=0.1)
    assert [one["unit"] for one in climate["series"]] == ["°C", "MHz"]


def test_utilisation_shows_who_held_what(url):
    page = httpx.get(f"{url}/utilisation?window=1h").text
    bars = [a for t, a in Rows(page).tags if t == "rect" and "x" in a]
    assert len(bars) == 4  # two that ended, two that live
    assert len({one["class"] for one in bars}) == 2
    assert [row.split()[0] for row in rows(page, "strips")][-2:] == ["ada", "grace"]
    past = httpx.get(f"{url}/api/past-leases?device=rasp3b-77be01").json()["rows"]
    assert [(one["holder"], one["outcome"]) for one in past] == [("ada", "released")]
    assert past[0]["held_s"] == pytest.approx(1000, abs=1)


def test_users_and_their_limits(url):
    (ada,) = rows(httpx.get(f"{url}/users").text, "users")
    assert ada == "ada 1 0 67 min 3 no limit"


@pytest.mark.parametrize("path", ["/devices/nobody", "/nowhere"])
def test_what_is_not_there_is_a_page_that_says_so(url, path):
    answer = httpx.get(url + path)
    assert answer.status_code == 404
    assert path.rpartition("/")[2] in answer.text
    assert 'href="/"' in answer.text


TABLES = (
    "devices", "queue", "leases", "past-leases", "results", "users", "tokens", "audit",
    "device-events?device=rasp3b-77be01", "device-anchors?device=rasp3b-77be01",
    "device-conditions?device=rasp3b-77be01", "device-output?device=rasp3b-77be01",
)  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_json_and_csv_with_the_same_rows(url, table):
    name, _, query = table.partition("?")
    answer = httpx.get(f"{url}/api/{table}").json()
    csv_answer = httpx.get(f"{url}/api/{name}.csv?{query}")
    assert csv_answer.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(csv_answer.text)))
    assert len(lines) == answer["total"] == len(answer["rows"])
    if answer["rows"]:
        assert list(lines[0]) == list(answer["rows"][0])
    if name not in ("tokens", "audit"):
        assert answer["rows"]
    assert f"/api/{name}" in httpx.get(f"{url}/api/openapi.json").json()["paths"]


def test_a_table_is_cut_where_asked(url):
    answer = httpx.get(f"{url}/api/devices?limit=2&offset=1").json()
    assert answer["total"] == 5
    assert [row["id"] for row in answer["rows"]] == ["local2-ab12cd", "rasp3b-77be01"]


def test_devices_and_results_as_json(url):
    first = httpx.get(f"{url}/api/devices").json()["rows"][0]
    expected = {
        "id": "local-1f0a3c",
        "key": "local",
        "address": "127.0.0.1:4711",
        "state": "leased",
        "health": "good",
        "holder": "ada",
        "target": "x86_64-unknown-linux-gnu znver4",
        "emulated": False,
        "temperature_c": 61.5,
        "frequency_mhz": 1400.0,
    }
    assert {name: first[name] for name in expected} == expected
    results = httpx.get(f"{url}/api/results").json()["rows"]
    assert results[0]["median_s"] == 2.58e-3
    assert results[0]["spread"] == pytest.approx(1e-5 / 2.58e-3)
    assert results[0]["gflops"] == pytest.approx(2 * 512**3 / 2.58e-3 / 1e9)
    assert results[2]["median_s"] is None
    status = httpx.get(f"{url}/api/status").json()
    assert (status["connected"], status["devices"], status["waiting"]) == (True, 5, 1)


def test_everything_from_users_is_escaped(tracker: FakeTracker, serve_dashboard):
    bad = device(EVIL, EVIL, health_reason=EVIL)
    bad.facts.extra[EVIL] = EVIL
    bad.facts.cpu_model = EVIL
    bad.facts.target.cpu = EVIL
    bad.labels[EVIL] = EVIL
    bad.lease.CopyFrom(lease(bad, EVIL, EVIL))
    wish = tpb.DeviceRequest(request_id=EVIL, key=EVIL, user=EVIL, purpose=EVIL)
    tracker.devices = [bad]
    tracker.leases = [bad.lease]
    tracker.queue = [tpb.QueuedRequest(request=wish, position=tpb.QueuePosition(reason=EVIL))]
    tracker.events = {EVIL: [event(bad, EVIL, EVIL, 1)]}
    tracker.past = [past_lease(bad, EVIL, 9, 3)]
    tracker.users = [tpb.User(name=EVIL)]
    error = pb.Error(code=pb.ERROR_CODE_INTERNAL, message=EVIL)
    tracker.results = [
        result("9", bad, EVIL, [], user=EVIL, error=error),
        result("8", bad, "anchor compute", [1e-3]),
    ]
    quoted = quote(EVIL, safe="")
    with serve_dashboard(tracker.address) as url:
        for path in (
            "/", "/queue", "/results", "/utilisation", "/users", f"/devices/{quoted}",
            f"/devices/no{quoted}", f"/{quoted}", f"/?q={quoted}", f"/?key={quoted}",
            f"/utilisation?key={quoted}", f"/results?device={quoted}", f"/login?next={quoted}",
        ):  # fmt: skip
            html = httpx.get(url + path, follow_redirects=True).text
            assert "</html>" in html, path
            assert_nothing_runs(html)
        assert EVIL in rows(httpx.get(url).text, "fleet")[0]
        assert httpx.get(f"{url}/api/devices.csv").text.count("\n") == 2


def assert_nothing_runs(html: str) -> None:
    """No script but our file's, no inline style, no handler: what the policy forbids anyway."""
    for tag, attributes in Rows(html).tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert tag not in ("style", "iframe", "object", "embed", "base")
        for name in ("src", "href", "action", "hx-get", "hx-post"):
            assert (attributes.get(name) or "/").startswith(("/", "#")), attributes
        if tag == "script":
            assert (attributes["src"] or "").startswith("/static/")


def test_the_policy_is_strict_and_on_every_answer(url):
    script = address_of("live.js")
    for path in ("/", "/devices/rasp3b-77be01", "/nowhere", "/api/status", script, "/static/no"):
        headers = httpx.get(url + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"].startswith("public" if path == script else "no-store")
    assert httpx.get(f"{url}/docs").status_code == 404


def test_nothing_comes_from_elsewhere():
    package = Path(tunefarm_dashboard.__file__).parent
    files = [*package.glob("static/*.*"), *package.glob("templates/**/*.html")]
    assert len(files) > 20
    for path in files:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z]|@import|url\(", text), path
    assert all(
        (package / "static" / "vendor" / f"{name}.LICENSE").stat().st_size > 100
        for name in ("htmx", "uplot")
    )


@pytest.mark.parametrize("path", ["/", "/queue", "/devices/rasp3b-77be01", "/utilisation"])
def test_tables_have_captions_and_labelled_headers(url, path):
    tags = Rows(httpx.get(url + path).text).tags
    names = [tag for tag, _ in tags]
    assert names.count("table") == names.count("caption") > 0
    assert names.count("h1") == 1
    assert all(attributes.get("scope") in ("col", "row") for tag, attributes in tags if tag == "th")
    assert next(a for t, a in tags if t == "html")["lang"] == "en"
    assert [a["href"] for t, a in tags if a.get("aria-current") == "page" and "href" in a] != []


def test_odd_messages_do_not_break_the_page(tracker: FakeTracker, serve_dashboard):
    odd = device("odd/name #1?", "k", 99)
    odd.last_seen.seconds = 10**15
    odd.conditions.read_at.seconds = 10**15
    odd.conditions.temperature_celsius = math.nan
    tracker.devices = [odd]
    tracker.leases = [pb.Lease(id="l", device_id="no such device")]
    tracker.queue = [tpb.QueuedRequest()]
    tracker.past = [tpb.PastLease()]
    tracker.results = [
        result("a", odd, "w", [math.nan, 1.0]),
        result("b", odd, "w", [0.0, 0.0]),
        result("c", odd, "w", [math.inf]),
        tpb.Result(id="d"),
        result("e", odd, "w", [1.0], error=pb.Error(code=999)),
    ]
    with serve_dashboard(tracker.address) as url:
        html = httpx.get(url).text
        assert "unknown (99)" in rows(html, "fleet")[0]
        results = rows(httpx.get(f"{url}/results").text, "results")
        assert len(results) == 5
        assert "no timing" in results[0]
        for table in ("devices", "results", "queue", "past-leases"):
            answer = httpx.get(f"{url}/api/{table}")
            assert answer.status_code == 200
            assert "NaN" not in answer.text
        links = {a["href"] for t, a in Rows(html).tags if t == "a" and a.get("href")}
        (link,) = (one for one in links if "odd" in one)
        page = httpx.get(url + link)
        assert page.status_code == 200
        assert "<h1>odd/name #1?</h1>" in page.text


def test_an_empty_farm_says_what_to_do(tracker: FakeTracker, serve_dashboard):
    tracker.devices, tracker.leases, tracker.queue, tracker.results = [], [], [], []
    with serve_dashboard(tracker.address) as url:
        assert "tunefarm device --key KEY" in httpx.get(url).text
        assert "Nobody waits." in httpx.get(f"{url}/queue").text
        assert "tunefarm bench" in httpx.get(f"{url}/results").text
        assert "No device yet." in httpx.get(f"{url}/utilisation").text


def test_without_a_tracker_the_pages_say_so(serve_dashboard):
    with serve_dashboard(f"127.0.0.1:{free_port(0)}") as url:
        html = httpx.get(url).text
        assert "The tracker is out of reach" in html
        assert "Nothing is known yet" in html
        for path in ("/devices/x", "/queue", "/results", "/utilisation", "/users"):
            assert httpx.get(url + path).status_code == 200, path  # it may be there later
        assert httpx.get(f"{url}/api/status").json()["connected"] is False
        answer = httpx.get(f"{url}/api/users")
        assert answer.status_code == 503
        assert "out of reach" in answer.json()["error"]


def test_cells_that_a_spreadsheet_would_run_are_quoted(tracker: FakeTracker, serve_dashboard):
    tracker.devices[0].lease.purpose = "=HYPERLINK(1)"
    with serve_dashboard(tracker.address) as url:
        lines = csv.DictReader(io.StringIO(httpx.get(f"{url}/api/devices.csv").text))
        assert next(lines)["purpose"] == "'=HYPERLINK(1)"


def test_what_kernels_printed_is_shown_and_does_nothing(tracker: FakeTracker, serve_dashboard):
    printed = past_lease(tracker.devices[2], "ada", 900, 800)
    printed.lease.request_id = "job-1"
    printed.output = "first\n<script>alert(1)</script>\x1b[31m\x07\u202eend" + "x" * 10_000 + "tail"
    tracker.past = [printed]
    with serve_dashboard(tracker.address) as url:
        for path in ("/devices/rasp3b-77be01", "/jobs/job-1"):
            html = httpx.get(url + path).text
            assert_nothing_runs(html)
            (shown,) = re.findall(r'<pre class="text"[^>]*>(.*?)</pre>', html, re.S)
            assert shown.endswith("tail") and len(shown) <= 4096
            assert "of ada" in html and "Runner output" in html
        printed.output = "first\n<script>alert(1)</script>\x1b[31m\x07\u202eend"
        html = httpx.get(f"{url}/jobs/job-1").text
        assert "&lt;script&gt;alert(1)&lt;/script&gt; [31m  end</pre>" in html
        rows_ = httpx.get(f"{url}/api/job-output?request=job-1").json()["rows"]
        assert [row["holder"] for row in rows_] == ["ada"]
        assert rows_[0]["text"] == "first\n<script>alert(1)</script> [31m  end"
        other = httpx.get(f"{url}/devices/local-1f0a3c").text
        assert "Nothing that you may read" in other
        assert httpx.get(f"{url}/api/device-output?device=local-1f0a3c").json()["rows"] == []
