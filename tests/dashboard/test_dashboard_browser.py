"""The page in a real browser: live, right again after a lost tracker, by keyboard, on a phone."""

import pytest
from browsing import needs_browser, style, text, wait_for
from fake_tracker import FakeTracker, device
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from tunefarm_proto.v1 import tracker_pb2 as tpb

pytestmark = needs_browser


def test_live_lost_and_right_again_without_a_reload(tracker: FakeTracker, url, browser):
    browser.get(url)
    browser.execute_script("window.sameDocument = true")
    wait_for(browser, "fleet", "rasp4b-9c40aa")
    link = browser.find_element(By.LINK_TEXT, "rasp4b-9c40aa")
    browser.execute_script("arguments[0].focus()", link)
    tracker.devices = [*tracker.devices, device("newcomer", "zz", emulated=True)]
    tracker.tell(tpb.EVENT_KIND_DEVICE, "newcomer", "online")
    wait_for(browser, "fleet", "newcomer")
    assert browser.switch_to.active_element.text == "rasp4b-9c40aa"  # the swap kept the focus

    tracker.stop()
    wait_for(browser, "status", "The tracker is out of reach")
    assert "newcomer" in text(browser, "fleet")

    tracker.devices = tracker.devices[:2]
    tracker.start()
    wait_for(browser, "status", "out of reach", there=False)
    wait_for(browser, "fleet", "newcomer", there=False)
    assert browser.execute_script("return window.sameDocument") is True


def test_a_link_that_is_pressed_while_its_part_changes_is_followed(tracker, url, browser):
    browser.get(url)
    wait_for(browser, "fleet", "rasp4b-9c40aa")
    link = browser.find_element(By.LINK_TEXT, "rasp4b-9c40aa")
    ActionChains(browser).click_and_hold(link).perform()
    tracker.devices = [*tracker.devices, device("newcomer", "zz")]
    tracker.tell(tpb.EVENT_KIND_DEVICE, "newcomer", "online")
    held = "return held.size > 0 || document.body.textContent.includes('newcomer')"
    WebDriverWait(browser, 10, 0.05).until(lambda _: browser.execute_script(held))
    ActionChains(browser).release().perform()
    WebDriverWait(browser, 10, 0.05).until(lambda _: browser.current_url.endswith("9c40aa"))
    browser.back()
    wait_for(browser, "fleet", "newcomer")


def test_the_page_says_when_the_dashboard_itself_is_gone(tracker, serve_dashboard, browser):
    with serve_dashboard(tracker.address) as url:
        browser.get(f"{url}/queue")
        wait_for(browser, "leases", "2 min ago")
        lost = browser.find_element(By.ID, "dashboard-lost")
        assert not lost.is_displayed()
    WebDriverWait(browser, 20, 0.05).until(lambda _: lost.is_displayed())
    assert "local-1f0a3c" in text(browser, "leases")
    stale = '[aria-labelledby="leases-heading"] .stale'
    assert style(browser, stale, "display") != "none"
    with serve_dashboard(tracker.address, int(url.rpartition(":")[2])):
        WebDriverWait(browser, 20, 0.05).until(lambda _: not lost.is_displayed())
        assert style(browser, stale, "display") == "none"
    browser.get("about:blank")
    browser.get_log("browser")  # refused connections are what this test is about


def test_hostile_words_stay_words(tracker: FakeTracker, url, browser):
    evil = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>"
    browser.get(f"{url}/queue")
    tracker.leases[0].purpose = evil
    tracker.queue[0].position.reason = evil
    tracker.tell(tpb.EVENT_KIND_LEASE)
    wait_for(browser, "leases", evil)
    wait_for(browser, "queue", evil)
    assert browser.execute_script("return window.owned") is None


def test_typing_filters_at_once_and_what_is_found_stays_live(tracker, url, browser):
    browser.get(url)
    browser.find_element(By.ID, "q").send_keys("rasp4b")
    wait_for(browser, "fleet", "local2", there=False)
    assert browser.current_url.endswith("q=rasp4b&key=&state=&health=")
    assert browser.switch_to.active_element.get_attribute("id") == "q"
    tracker.devices = [*tracker.devices, device("rasp4b-new", "rasp4b")]
    tracker.tell(tpb.EVENT_KIND_DEVICE, "rasp4b-new", "online")
    wait_for(browser, "fleet", "rasp4b-new")
    browser.back()
    wait_for(browser, "fleet", "local2")


def test_by_keyboard_to_a_device_and_back(url, browser):
    browser.get(url)
    wait_for(browser, "fleet", "rasp3b-77be01")
    body = browser.find_element(By.TAG_NAME, "body")
    body.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to content"
    for _ in range(40):
        if browser.switch_to.active_element.text == "rasp3b-77be01":
            break
        browser.switch_to.active_element.send_keys(Keys.TAB)
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    WebDriverWait(browser, 20).until(lambda _: "/devices/rasp3b-77be01" in browser.current_url)
    assert "qemu-user" in text(browser, "facts")
    assert "emulated" in text(browser, "results")
    WebDriverWait(browser, 20).until(
        lambda _: len(browser.find_elements(By.CSS_SELECTOR, ".plot canvas")) == 2
    )
    browser.find_element(By.LINK_TEXT, "Fleet").send_keys(Keys.ENTER)
    wait_for(browser, "fleet", "local-1f0a3c")


def test_acts_by_hand(tracker: FakeTracker, url, browser):
    browser.get(f"{url}/devices/local2-ab12cd")
    browser.find_element(By.XPATH, "//button[text()='Quarantine …']").click()
    browser.find_element(By.ID, "reason").send_keys("smells odd" + Keys.ENTER)
    WebDriverWait(browser, 20, 0.05).until(lambda _: tracker.acts)
    assert tracker.acts[0].action == tpb.DEVICE_ACTION_QUARANTINE
    assert tracker.acts[0].reason == "smells odd"
    notice = browser.find_element(By.ID, "notice")
    WebDriverWait(browser, 20, 0.05).until(lambda _: "is quarantined" in notice.text)
    browser.get(f"{url}/queue")
    number = browser.find_element(By.NAME, "priority")
    number.send_keys(Keys.DELETE + "7" + Keys.TAB)
    WebDriverWait(browser, 20, 0.05).until(lambda _: len(tracker.acts) == 2)
    assert tracker.acts[1] == tpb.ChangePriorityRequest(request_id="r1", priority=7)
    browser.find_element(By.XPATH, "//button[text()='Cancel']").click()
    browser.switch_to.alert.dismiss()
    browser.find_element(By.XPATH, "//button[text()='Cancel']").click()
    browser.switch_to.alert.accept()
    WebDriverWait(browser, 20, 0.05).until(lambda _: len(tracker.acts) == 3)
    assert tracker.acts[2].request_id == "r1"


@pytest.mark.parametrize("width", [320, 768])
def test_no_page_is_wider_than_the_screen(url, browser, width):
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 700}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    for path in ("/", "/queue", "/results", "/devices/rasp3b-77be01", "/utilisation", "/users"):
        browser.get(url + path)
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, path


def test_light_and_dark(url, browser):
    grounds = []
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(url)
        colour = style(browser, "body", "background-color")
        numbers = [int(n) for n in colour.partition("(")[2].rstrip(")").split(",")[:3]]
        grounds.append(sum(numbers) / 3)
    assert grounds[0] > 200
    assert grounds[1] < 60


def test_a_tile_always_says_that_its_device_is_emulated(tracker: FakeTracker, url, browser):
    tracker.devices = [
        *tracker.devices,
        device("a-board-of-a-very-long-name-1f0a3c", "zz", emulated=True),
    ]
    browser.get(url)
    wait_for(browser, "fleet", "very-long-name")
    cut = """const right = (one) => one.getBoundingClientRect().right
        return [...document.querySelectorAll(".device .emulated")].map(
            (one) => right(one) > right(one.closest("p")))"""
    assert browser.execute_script(cut) == [False, False]
