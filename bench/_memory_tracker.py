"""The tracker's command with a store that forgets: what durable grants are compared with."""

import sys
from pathlib import Path

from tunefarm.cli import main
from tunefarm_tracker import server
from tunefarm_tracker.store import MemoryStore


def forgetful(_: Path) -> MemoryStore:
    """A store in memory, whatever file is named."""
    return MemoryStore()


if __name__ == "__main__":
    server.SqliteStore = forgetful  # type: ignore[attr-defined, assignment]
    sys.exit(main())
