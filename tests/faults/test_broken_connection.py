"""A connection that breaks under a question: it is asked again, and nothing is done twice."""

import threading
import time

import pytest
from fault_proxy import Link, Network
from tunefarm import Tracker
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm_proto.errors import TrackerUnreachableError


@pytest.fixture
def way(tmp_path):
    """A network, and a link of it to a tracker."""
    port = free_port(0)
    with LocalFarm(tmp_path) as processes, Network() as network:
        processes.start("tracker", "tracker", "--port", str(port), "--state", str(tmp_path / "t"))
        processes.wait_for_tracker(f"127.0.0.1:{port}")
        yield network, network.link(port)


def asked(network: Network, link: Link, question) -> list[object]:
    """What comes of a question whose connection breaks while it waits for the answer."""
    network.stall(link)
    found: list[object] = []

    def ask() -> None:
        try:
            found.append(question())
        except TrackerUnreachableError as error:
            found.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)  # it is on its way
    assert not found
    network.drop(link)
    network.heal(link)
    asking.join(10)
    return found


def test_a_question_is_asked_again(way):
    network, link = way
    with Tracker(f"127.0.0.1:{link.port}") as tracker:
        assert asked(network, link, tracker.devices) == [[]]


def test_an_act_is_not_done_again(way):
    network, link = way
    with Tracker(f"127.0.0.1:{link.port}") as tracker:
        (found,) = asked(network, link, lambda: tracker.revoke("a" * 32))
    assert isinstance(found, TrackerUnreachableError)
