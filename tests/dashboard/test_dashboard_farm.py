"""Every page on a live farm of processes with real measurements, in a real browser.

DASHBOARD_SHOTS=DIR keeps a picture of each page.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browsing import needs_browser, open_browser, scheme, wait_for, width
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from tunefarm import Tracker, request_device
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm_proto.v1 import tracker_pb2 as tpb

pytestmark = needs_browser
AXE = Path(__file__).with_name("axe") / "axe.min.js"
SHOTS = os.environ.get("DASHBOARD_SHOTS", "")
KEYS = ("one", "two")


@dataclass
class Live:
    """A tracker with tokens, a device of each of KEYS, and a dashboard: processes of their own."""

    processes: LocalFarm
    address: str
    url: str
    folder: Path
    secret: str

    def start_tracker(self) -> None:
        port, state = self.address.rpartition(":")[2], str(self.folder / "t")
        self.processes.start("tracker", "tracker", "--port", port, "--state", state)
        self.processes.wait_for_tracker(self.address)

    def kill_tracker(self) -> None:
        self.processes._processes["tracker"].send_signal(signal.SIGKILL)

    def run(self, *words: str) -> None:
        """`tunefarm WORDS --tracker ...` as a user runs it."""
        command = [sys.executable, "-m", "tunefarm", *words, "--tracker", self.address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    tracker_port, port = free_port(0), free_port(0)
    address, url = f"127.0.0.1:{tracker_port}", f"http://127.0.0.1:{port}"
    token_file = folder / "token"
    with pytest.MonkeyPatch.context() as patch, LocalFarm(folder) as processes:
        words = ("token", "create", "olga", "--role", "operator", "--out", str(token_file))
        subprocess.run(
            [sys.executable, "-m", "tunefarm", *words, "--state", str(folder / "t")],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        patch.setenv("TUNEFARM_TOKEN_FILE", str(token_file))
        farm = Live(processes, address, url, folder, token_file.read_text().strip())
        farm.start_tracker()
        for key in KEYS:
            state = str(folder / key)
            processes.start(key, "device", "--key", key, "--tracker", address, "--state", state)
        processes.start("dashboard", "dashboard", "--tracker", address, "--port", str(port))
        processes.wait_for_devices(address, KEYS)
        farm.run("bench", "matmul:m=128,n=128,k=128", "--device", "one")
        farm.run("bench", "matmul:m=128,n=128,k=128", "--device", "two")
        yield farm


@pytest.fixture(scope="module")
def signed_in(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with open_browser(tmp_path_factory.mktemp("browser") / "profile") as browser:
        browser.get(f"{live.url}/devices/nobody")
        assert "/login" in browser.current_url
        browser.execute_script("document.body.append(document.createElement('img'))")
        assert [rule for rule, _ in violations(browser)] == ["image-alt"]  # axe does look
        browser.execute_script("document.body.lastChild.remove()")
        check_access(browser, "login")
        browser.find_element(By.ID, "token").send_keys(live.secret)
        browser.find_element(By.CSS_SELECTOR, "form.fields button").click()
        WebDriverWait(browser, 20).until(lambda _: "/login" not in browser.current_url)
        yield browser
        browser.get("about:blank")
        browser.get_log("browser")  # the killed tracker's pages are what a test is about


def violations(browser: webdriver.Chrome, rules: str = "") -> list[tuple[str, str]]:
    """What axe-core finds serious on this page: the rule, and the first element."""
    if not browser.execute_script("return 'axe' in window"):
        browser.execute_cdp_cmd("Runtime.evaluate", {"expression": AXE.read_text()})
    found: dict[str, Any] = browser.execute_async_script(
        "const [options, done] = arguments;"
        "axe.run(document, options).then(done, (error) => done({error: `${error}`}))",
        {"resultTypes": ["violations"], **({"runOnly": [rules]} if rules else {})},
    )
    assert "error" not in found, found
    return [
        (one["id"], one["nodes"][0]["html"][:300])
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def check_access(browser: webdriver.Chrome, name: str) -> None:
    """axe-core finds nothing serious on this page in light, nor in dark, where colours differ."""
    for shade, rules in (("light", ""), ("dark", "color-contrast")):
        scheme(browser, shade)
        assert violations(browser, rules) == [], f"{name} in {shade}"
        if SHOTS:
            browser.save_screenshot(f"{SHOTS}/{name}-{shade}.png")


def check_page(browser: webdriver.Chrome, name: str) -> None:
    """It is accessible, and not wider than a phone."""
    width(browser, 1280)
    check_access(browser, name)
    width(browser, 390)
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= 390, name
    if SHOTS:
        browser.save_screenshot(f"{SHOTS}/{name}-phone.png")
    width(browser, 1280)


def wait_for_charts(browser: webdriver.Chrome, count: int) -> None:
    WebDriverWait(browser, 20).until(
        lambda _: len(browser.find_elements(By.CSS_SELECTOR, ".plot canvas")) == count
    )


def device_of(live: Live, key: str) -> tpb.Device:
    with Tracker(live.address) as tracker:
        return tracker.devices(key)[0]


def results_of(live: Live) -> list[tpb.Result]:
    """What the fixture measured, first on "one", then on "two"."""
    with Tracker(live.address) as tracker:
        found = [one for one in tracker.results() if one.workload.startswith("matmul")]
    return found[::-1][:2]


def test_every_page_shows_the_farm_and_is_accessible(live: Live, signed_in: webdriver.Chrome):
    one = device_of(live, "one").id
    pages = {
        "fleet": ("/", "fleet", one),
        "device": (f"/devices/{one}", "held", "matmul:m=128"),
        "queue": ("/queue", "leases", "No device is held"),
        "results": ("/results", "results", "GFLOPS"),
        "jobs": ("/jobs", "jobs", "bench matmul"),
        "utilisation": ("/utilisation?window=1h", "strips", "olga"),
        "users": ("/users", "users", "olga"),
        "tokens": ("/tokens", "status", ""),
        "audit": ("/audit", "status", ""),
        "api": ("/api", "status", ""),
    }
    for name, (path, section, words) in pages.items():
        width(signed_in, 1280)
        signed_in.get(live.url + path)
        wait_for(signed_in, section, words)
        if name == "device":
            WebDriverWait(signed_in, 20).until(
                lambda _: signed_in.find_elements(By.CSS_SELECTOR, ".plot canvas")
            )
        check_page(signed_in, name)
    width(signed_in, 1280)


def test_a_session_that_ends_leads_to_the_login_and_back(live: Live, signed_in: webdriver.Chrome):
    signed_in.get(f"{live.url}/queue")
    wait_for(signed_in, "leases", "No device is held")
    cookie = signed_in.get_cookie("tunefarm_session")
    assert cookie is not None and cookie["httpOnly"]
    signed_in.delete_all_cookies()
    signed_in.execute_script("source.close()")
    WebDriverWait(signed_in, 20).until(lambda _: "/login?next=%2Fqueue" in signed_in.current_url)
    assert not signed_in.find_element(By.ID, "dashboard-lost").is_displayed()
    signed_in.get_log("browser")  # that it was refused
    signed_in.find_element(By.ID, "token").send_keys(live.secret)
    signed_in.find_element(By.CSS_SELECTOR, "form.fields button").click()
    wait_for(signed_in, "leases", "No device is held")


def wait_for_words(browser: webdriver.Chrome, *words: str) -> None:
    """Until the page has come, which may take a build, and has them all."""

    def there(_: object) -> bool:
        found = browser.find_elements(By.ID, "main")
        return bool(found) and all(word in found[0].text for word in words)

    WebDriverWait(browser, 60, 0.1, [StaleElementReferenceException]).until(there)


def test_a_result_its_kernel_its_job_and_a_comparison(live: Live, signed_in: webdriver.Chrome):
    first, second = results_of(live)
    assert [phase.name for phase in first.phases] == [
        "build", "wait", "upload", "load", "check", "time"
    ]  # fmt: skip
    assert all(0 <= phase.seconds < 600 for phase in first.phases)
    assert first.argument_bytes == 3 * 128 * 128 * 4
    signed_in.get(f"{live.url}/results/{first.id}")
    wait_for(signed_in, "measured", first.bundle_digest)
    wait_for_charts(signed_in, 3)
    check_page(signed_in, "result")

    signed_in.find_element(By.LINK_TEXT, "Instructions").click()
    wait_for_words(signed_in, "Byte for byte the bundle that ran", "matmul:")
    check_page(signed_in, "code")
    signed_in.find_element(By.LINK_TEXT, "Loops").click()
    wait_for_words(signed_in, "tile of C")

    signed_in.get(f"{live.url}/results/{first.id}")
    signed_in.find_element(By.LINK_TEXT, "its queue, build, upload and run").click()
    wait_for(signed_in, "job", "upload")
    wait_for(signed_in, "job", "released")
    assert len(signed_in.find_elements(By.CSS_SELECTOR, ".waterfall rect")) == 8
    check_page(signed_in, "job")

    signed_in.find_element(By.PARTIAL_LINK_TEXT, "result ").click()
    wait_for(signed_in, "measured", "Compare")
    other = signed_in.find_element(By.ID, "other")
    other.find_element(By.CSS_SELECTOR, f'option[value="{second.id}"]').click()
    signed_in.find_element(By.XPATH, "//button[text()='Compare']").click()
    wait_for(signed_in, "compare", "no two of these runs were taken in turns")
    wait_for(signed_in, "compare", "two devices of one target")
    check_page(signed_in, "compare")


def test_a_tuning_run_is_seen_live(live: Live, signed_in: webdriver.Chrome):
    signed_in.get(f"{live.url}/tunings")
    wait_for(signed_in, "tunings", "No tuning run is known")
    records = str(live.folder / "records.jsonl")
    live.run(
        "tune",
        "add:n=4096",
        "--device",
        "two",
        "--trials",
        "4",
        "--strategy",
        "random",
        "--records",
        records,
    )
    wait_for(signed_in, "tunings", "finished")
    signed_in.find_element(By.CSS_SELECTOR, '[data-topic="tunings"] th a').click()
    wait_for(signed_in, "tuning", "add:n=4096")
    wait_for_charts(signed_in, 1)
    check_page(signed_in, "tuning")


def test_drain_and_enable_by_hand(live: Live, signed_in: webdriver.Chrome):
    two = device_of(live, "two").id
    signed_in.get(f"{live.url}/devices/{two}")
    signed_in.find_element(By.XPATH, "//button[text()='Drain']").click()
    signed_in.switch_to.alert.accept()
    wait_for(signed_in, "device", "draining")
    assert device_of(live, "two").draining
    wait_for(signed_in, "history", "draining")
    signed_in.find_element(By.XPATH, "//button[text()='Enable']").click()
    wait_for(signed_in, "device", "idle")
    assert not device_of(live, "two").draining


def test_a_request_waits_is_seen_and_cancelled(live: Live, signed_in: webdriver.Chrome):
    signed_in.get(f"{live.url}/queue")
    with request_device("one", tracker=live.address, purpose="hold it") as held:
        wait_for(signed_in, "leases", "hold it")
        words = ("bench", "add:n=1024", "--device", "one", "--tracker", live.address)
        waiting = subprocess.Popen(
            [sys.executable, "-m", "tunefarm", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(signed_in, "queue", "the only device is leased by olga for hold it")
        if SHOTS:
            check_access(signed_in, "waiting")
        signed_in.find_element(By.XPATH, "//button[text()='Cancel']").click()
        signed_in.switch_to.alert.accept()
        _, told = waiting.communicate(timeout=60)
        assert waiting.returncode != 0
        assert "cancelled" in told
        wait_for(signed_in, "queue", "Nobody waits.")
        assert held is not None
    wait_for(signed_in, "leases", "No device is held.")


def test_the_tracker_is_killed_and_comes_back_while_the_page_is_open(
    live: Live, signed_in: webdriver.Chrome
):
    signed_in.get(live.url)
    wait_for(signed_in, "fleet", "idle")
    signed_in.execute_script("window.sameDocument = true")
    live.kill_tracker()
    wait_for(signed_in, "status", "The tracker is out of reach")
    assert len(signed_in.find_elements(By.CSS_SELECTOR, "li.device")) == 2
    live.start_tracker()
    wait_for(signed_in, "status", "out of reach", there=False)
    live.processes.wait_for_devices(live.address, KEYS)
    wait_for(signed_in, "tally", "offline", there=False)
    assert signed_in.execute_script("return window.sameDocument") is True
    assert "olga" in signed_in.find_element(By.CSS_SELECTOR, ".me").text  # still logged in
