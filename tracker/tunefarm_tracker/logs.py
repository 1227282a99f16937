"""The tracker's log: a line for each event, as text or as JSON, with the ids that it is about."""

import json
import logging
import time
from typing import Any

from tunefarm_tracker.core.records import Event, EventKind
from tunefarm_tracker.hub import Hub

FORMATS = ("text", "json")
_log = logging.getLogger("tunefarm.events")


class JsonFormatter(logging.Formatter):
    """A JSON object a line: time, level, logger, message, and the ids where there are any."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "ids", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def set_up(form: str = "text", level: str = "info") -> None:
    """Log to standard error in one of FORMATS, from a level on."""
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else plain)
    logging.basicConfig(level=level.upper(), handlers=[handler])


def log_events(hub: Hub) -> None:
    """Log every event from now on."""
    if not _log.isEnabledFor(logging.INFO):
        return

    def happened(event: Event) -> None:
        ids = _ids(hub, event)
        words = " ".join(f"{name}={value}" for name, value in ids.items() if name != "cursor")
        extra = {"ids": {"kind": event.kind.value, "action": event.action, **ids}}
        _log.info("%s %s %s (%s)", event.kind, event.action, event.detail, words, extra=extra)

    hub.listeners.append(happened)


def _ids(hub: Hub, event: Event) -> dict[str, Any]:
    ids: dict[str, Any] = {f"{event.kind.value}_id": event.subject}
    if event.kind is EventKind.LEASE:
        lease = hub.scheduler.state.leases.get(event.subject)
        if lease is not None:
            ids |= {"request_id": lease.request_id, "device_id": lease.device_id}
    return {**ids, "cursor": event.cursor}
