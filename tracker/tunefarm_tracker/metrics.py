"""The tracker's numbers for Prometheus. Needs prometheus-client, of the extra `metrics`."""

import asyncio
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tunefarm_proto import extras
from tunefarm_proto.errors import InvalidRequestError, MissingPackageError

from tunefarm_tracker.core.records import Event, EventKind
from tunefarm_tracker.hub import Hub

if TYPE_CHECKING:
    from prometheus_client.core import Metric

WAITS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
READ_S = 5.0


class Metrics:
    """Answers GET /metrics on a port of its own, in a thread; reads the state in the loop."""

    def __init__(self, hub: Hub, host: str, port: int) -> None:
        try:
            import prometheus_client as prometheus
        except ModuleNotFoundError:
            hint = f"install it by `{extras.install('metrics')}`"
            raise MissingPackageError("metrics need prometheus-client", hint) from None
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=registry)
        self._events = prometheus.Counter(
            "tunefarm_events", "Events by kind and action.", ["kind", "action"], registry=registry
        )
        self._waits = prometheus.Histogram(
            "tunefarm_grant_wait_seconds",
            "Time from a request to its grant.",
            ["key"],
            buckets=WAITS_S,
            registry=registry,
        )
        registry.register(_Collector(self))
        try:
            self._server, self._thread = prometheus.start_http_server(port, host, registry)
        except OSError as error:
            raise InvalidRequestError(
                f"cannot listen on {host}:{port} for metrics: {error.strerror}",
                "is the port in use? try another with --metrics",
            ) from None
        self.port = int(self._server.server_port)
        hub.listeners.append(self._happened)

    def _happened(self, event: Event) -> None:
        self._events.labels(event.kind.value, event.action).inc()
        state = self._hub.scheduler.state
        lease = state.leases.get(event.subject)
        if event.kind is EventKind.LEASE and event.action == "granted" and lease is not None:
            request = state.requests[lease.request_id]
            self._waits.labels(lease.device_key).observe(lease.granted_at - request.queued_at)

    def read(self) -> dict[str, Any]:
        """Gauges, read in the loop's thread, where the state is whole."""
        answer: dict[str, Any] = {}
        there = threading.Event()

        def look() -> None:
            state = self._hub.scheduler.state
            fleet = state.fleet
            answer["devices"] = {key: dict(fleet.words(key)) for key in fleet.known_keys()}
            answer["queue"] = {key: len(state.queue_of(key)) for key in fleet.known_keys()}
            answer["leases"] = len(state.leases)
            answer["cursor"] = state.cursor
            there.set()

        self._loop.call_soon_threadsafe(look)
        return answer if there.wait(READ_S) else {}

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Collector:
    """Gauges made anew at each scrape."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def describe(self) -> list["Metric"]:
        """Nothing is read before the first scrape."""
        return []

    def collect(self) -> Iterator["Metric"]:
        """One scrape."""
        from prometheus_client.core import GaugeMetricFamily

        seen = self._metrics.read()
        devices = GaugeMetricFamily(
            "tunefarm_devices", "Devices by key and state.", labels=["key", "state"]
        )
        for key, words in seen.get("devices", {}).items():
            for word, count in words.items():
                devices.add_metric([key, word], count)
        queue = GaugeMetricFamily("tunefarm_queue_length", "Waiting requests.", labels=["key"])
        for key, count in seen.get("queue", {}).items():
            queue.add_metric([key], count)
        leases = GaugeMetricFamily("tunefarm_leases", "Live leases.", seen.get("leases", 0))
        yield from (devices, queue, leases)
