"""What all pages have in common: the template engine, how numbers are written, the navigation."""

from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup
from tunefarm.timing import format_seconds

from tunefarm_dashboard import assets


@dataclass(frozen=True)
class Entry:
    """An entry of the navigation. `role`: who sees it."""

    name: str
    address: str
    role: str = "viewer"


def format_spread(spread: float) -> str:
    """A relative spread, as in "0.4%"."""
    return f"{spread:.1%}"


def format_gflops(gflops: float) -> str:
    """Three digits that count, as in "0.384" or "104"."""
    return f"{gflops:.3g}" if gflops < 1000 else f"{gflops:.0f}"


def format_span(seconds: float) -> str:
    """A duration as people say it, as in "42 s", "12 min", "3.5 h", "2.1 d"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


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
    seconds=format_seconds,
    spread=format_spread,
    gflops=format_gflops,
    span=format_span,
    clock=clock_text,
)
_environment.globals["asset"] = assets.address_of


def render(template: str, **context: Any) -> Markup:
    """Fill a template. Everything put into it is escaped, but for what was rendered here."""
    return Markup(_environment.get_template(template).render(**context))  # noqa: S704
