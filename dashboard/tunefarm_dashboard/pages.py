"""Renders pages and sections. Everything is escaped by the template engine."""

from datetime import datetime
from typing import Any

import jinja2
from markupsafe import Markup
from tunefarm.timing import format_seconds
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard import view
from tunefarm_dashboard.view import Snapshot

FARM_SECTIONS = ("status", "summary", "devices", "queue", "leases", "results")
DEVICE_SECTIONS = ("status", "device", "facts", "results")


def format_spread(spread: float) -> str:
    """A relative spread, as in "0.4%"."""
    return f"{spread:.1%}"


def format_gflops(gflops: float) -> str:
    """Three digits that count, as in "0.384" or "104"."""
    return f"{gflops:.3g}" if gflops < 1000 else f"{gflops:.0f}"


def clock_text(moment: str) -> str:
    """An ISO moment as people read it; the browser makes "12 s ago" of it."""
    return f"{moment[:10]} {moment[11:19]} UTC"


_environment = jinja2.Environment(
    loader=jinja2.PackageLoader("tunefarm_dashboard"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(
    seconds=format_seconds, spread=format_spread, gflops=format_gflops, clock=clock_text
)


def _render(template: str, **context: Any) -> str:
    return _environment.get_template(template).render(**context)


def farm_sections(snapshot: Snapshot) -> dict[str, str]:
    """The sections of the first page."""
    context = _common(snapshot)
    context["farm"] = view.farm_view(snapshot)
    context["results"] = context["farm"].results
    return {name: _render(f"sections/{name}.html", **context) for name in FARM_SECTIONS}


def device_sections(
    snapshot: Snapshot, device: tpb.Device, results: list[tpb.Result]
) -> dict[str, str]:
    """The sections of a device's page."""
    emulated = view.emulated_ids(snapshot)
    context = _common(snapshot)
    context |= {
        "device": view.device_row(device, snapshot.since),
        "last_seen": view.iso(view.moment_of(device, "last_seen")),
        "facts": view.device_facts(device),
        "results": [view.result_row(result, emulated) for result in results],
    }
    return {name: _render(f"sections/{name}.html", **context) for name in DEVICE_SECTIONS}


def gone_sections(snapshot: Snapshot) -> dict[str, str]:
    """The sections of the page of a device that the tracker does not know."""
    return {
        "status": _render("sections/status.html", **_common(snapshot)),
        "device": _render("sections/gone.html"),
    }


def farm_page(snapshot: Snapshot, now: datetime) -> str:
    """The first page."""
    return _page("farm.html", snapshot, now, sections=farm_sections(snapshot), title="Farm")


def device_page(snapshot: Snapshot, now: datetime, name: str, sections: dict[str, str]) -> str:
    """The page of one device."""
    return _page("device.html", snapshot, now, sections=sections, title=name, device_id=name)


def not_found_page(snapshot: Snapshot, now: datetime, what: str) -> str:
    """The page that says that there is no such thing."""
    return _page(
        "not_found.html", snapshot, now, sections=gone_sections(snapshot), title=what, what=what
    )


def _common(snapshot: Snapshot) -> dict[str, Any]:
    return {"snapshot": snapshot, "read_at": view.iso(snapshot.read_at)}


def _page(
    template: str, snapshot: Snapshot, now: datetime, sections: dict[str, str], **context: Any
) -> str:
    safe = {name: Markup(html) for name, html in sections.items()}  # noqa: S704 (just rendered)
    now_ms = int(now.timestamp() * 1000)
    return _render(template, **_common(snapshot), sections=safe, now_ms=now_ms, **context)
