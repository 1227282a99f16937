"""A real browser for the tests, and what they ask of it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no browser: `apt-get install chromium chromium-driver`"
)


@contextmanager
def open_browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser that must have no error to tell of when it is closed: no violated policy either."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=1280,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield driver
        assert told(driver) == []
    finally:
        driver.quit()


def told(browser: webdriver.Chrome) -> list[str]:
    """Errors that the browser told of since this was last asked: of a script of ours, say, or a
    violation of the content security policy."""
    return [one["message"] for one in browser.get_log("browser") if one["level"] == "SEVERE"]


def as_new(browser: webdriver.Chrome) -> None:
    """Of the usual size, in light."""
    browser.delete_all_cookies()
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    scheme(browser, "light")


def text(browser: webdriver.Chrome, section: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, f'[data-topic^="{section}"]').text


def wait_for(browser: webdriver.Chrome, section: str, words: str, *, there: bool = True) -> None:
    def holds(_: object) -> bool:
        return (words in text(browser, section)) == there

    # htmx puts a new element in the place of the section that is looked at.
    WebDriverWait(browser, 20, 0.05, [StaleElementReferenceException]).until(holds)


def style(browser: webdriver.Chrome, selector: str, name: str) -> str:
    return browser.find_element(By.CSS_SELECTOR, selector).value_of_css_property(name)


def scheme(browser: webdriver.Chrome, name: str) -> None:
    """Light or dark."""
    feature = {"name": "prefers-color-scheme", "value": name}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def width(browser: webdriver.Chrome, pixels: int, height: int = 900) -> None:
    """As wide as that; a phone below 700."""
    screen = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": pixels < 700}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
