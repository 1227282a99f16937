"""The files that pages load, each under a name with its hash: browsers keep them for ever."""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).with_name("static")
PREFIX = "/static/"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """A file as it is served."""

    content: bytes
    content_type: str


@cache
def _all() -> tuple[dict[str, str], dict[str, Asset]]:
    """The address of each file, and what each address gives."""
    addresses, assets = {}, {}
    for path in sorted(FOLDER.rglob("*")):
        if path.suffix not in TYPES:
            continue
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:12]
        name = path.relative_to(FOLDER).as_posix()
        hashed = f"{name.removesuffix(path.suffix)}.{digest}{path.suffix}"
        addresses[name] = PREFIX + hashed
        assets[hashed] = Asset(content, TYPES[path.suffix])
    return addresses, assets


def address_of(name: str) -> str:
    """Where a file is, as in "/static/live.0123456789ab.js". Raises: KeyError."""
    return _all()[0][name]


def find(hashed: str) -> Asset | None:
    """The file of that hashed name; only names that are known are ever looked at."""
    return _all()[1].get(hashed)
