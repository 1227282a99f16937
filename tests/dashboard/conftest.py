"""A farm for the dashboard to show, and the dashboard that shows it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from browsing import as_new, open_browser, told
from fake_tracker import (
    FakeTracker,
    ago,
    anchor,
    device,
    event,
    lease,
    past_lease,
    result,
    serving_dashboard,
)
from selenium import webdriver
from tunefarm.cli.processes import free_port
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb


def a_farm() -> FakeTracker:
    """A farm with a bit of everything, not started yet."""
    fake = FakeTracker(free_port(0))
    one = device("local-1f0a3c", "local", tpb.DEVICE_STATE_LEASED)
    pi = device("rasp3b-77be01", "rasp3b", tpb.DEVICE_STATE_LEASED, emulated=True)
    held = [lease(one, "ada", "tune matmul"), lease(pi, "grace", "nightly check")]
    one.lease.CopyFrom(held[0])
    pi.lease.CopyFrom(held[1])
    sick = device(
        "rasp4b-0d11e5",
        "rasp4b",
        health=tpb.DEVICE_HEALTH_QUARANTINED,
        health_reason="three kernels in a row crashed that run elsewhere",
    )
    for warm, celsius in ((one, 61.5), (pi, 48.2)):
        warm.conditions.read_at.CopyFrom(ago(1))
        warm.conditions.temperature_celsius = celsius
        warm.conditions.frequency_hz = 1_400_000_000
    gone = device("rasp4b-9c40aa", "rasp4b", tpb.DEVICE_STATE_OFFLINE, last_seen=ago(7300))
    fake.devices = [one, device("local2-ab12cd", "local2"), pi, sick, gone]
    fake.leases = held
    fake.queue = [
        tpb.QueuedRequest(
            request=tpb.DeviceRequest(
                request_id="r1", key="local", priority=5, user="linus", purpose="bisect"
            ),
            position=tpb.QueuePosition(position=1, waiting=1, reason="all 1 local are held"),
            queued_at=ago(42),
        )
    ]
    matmul = "matmul:m=512,n=512,k=512,dtype=float32"
    crash = pb.Error(code=pb.ERROR_CODE_KERNEL_CRASHED, message="ended by signal 11 (SIGSEGV)")
    fake.results = [
        result("3", one, matmul, [2.58e-3, 2.57e-3, 2.6e-3], correct=True),
        result("2", pi, matmul, [0.41, 0.42, 0.45], correct=True, user="grace"),
        result("1", one, "add:n=1048576,dtype=float32", [], correct=False, error=crash),
        result("0", one, "add:n=1048576,dtype=float32", [1.1e-4], operations=0),
    ]
    for number, device_ in enumerate((one, pi)):
        fake.events[device_.id] = [
            event(device_, "good", "passed a check", 60),
            event(device_, "quarantined", "three kernels crashed", 4000),
        ]
        fake.past += [past_lease(device_, "ada", 3000 - number * 500, 2000 - number * 500)]
        fake.past[-1].output = "n=16\nmax error 3.1e-7"
        fake.results += [
            anchor(device_, 1e-3 + n * 1e-6, 3600 - 60 * n) for n in reversed(range(30))
        ]
    fake.users = [tpb.User(name="ada", devices=1, recent_use_s=4000.0, max_devices=3)]
    return fake


@contextmanager
def started() -> Iterator[FakeTracker]:
    fake = a_farm()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def tracker() -> Iterator[FakeTracker]:
    """A farm with a bit of everything, that a test may change."""
    with started() as fake:
        yield fake


@pytest.fixture(scope="session")
def read_url() -> Iterator[str]:
    """A dashboard of such a farm that nobody changes."""
    with started() as fake, serving_dashboard(fake.address) as address:
        yield address


@pytest.fixture
def url(tracker: FakeTracker) -> Iterator[str]:
    with serving_dashboard(tracker.address) as address:
        yield address


@pytest.fixture
def serve_dashboard() -> Callable[..., Any]:
    """Serves the dashboard of any tracker, at a port of its own or a given one."""
    return serving_dashboard


@pytest.fixture(scope="session")
def _one_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with open_browser(tmp_path_factory.mktemp("browser") / "profile") as driver:
        yield driver


@pytest.fixture
def browser(_one_browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """A browser as it comes; at the end it must have no error to tell of."""
    as_new(_one_browser)
    yield _one_browser
    assert told(_one_browser) == []
    _one_browser.get("about:blank")
