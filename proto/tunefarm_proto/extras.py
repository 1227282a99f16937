"""What installs an extra of tunefarm here: it is on no package index yet."""

import importlib.metadata
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

_CHECKOUT = Path(__file__).resolve().parents[2]


def install(extra: str) -> str:
    """The command: from the folder that tunefarm runs or was installed from, where there is one."""
    return f"pip install '{_source()}[{extra}]'"


def _source() -> str:
    if (_CHECKOUT / "pyproject.toml").is_file():
        return str(_CHECKOUT)
    try:
        text = importlib.metadata.distribution("tunefarm").read_text("direct_url.json")
        told = json.loads(text or "{}")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return "tunefarm"
    url = urlsplit(told.get("url", ""))
    folder = Path(unquote(url.path))
    return str(folder) if "dir_info" in told and folder.is_dir() else "tunefarm"
