"""What the doctor finds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `fix` is the command that adds or mends it, "" where all is well."""

    area: str
    name: str
    ok: bool
    detail: str
    fix: str = ""
