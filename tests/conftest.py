"""What holds for all tests."""

import os
import tempfile
from pathlib import Path

import pytest

# Bundles that an earlier compiler built must not stand in for what this one builds.
os.environ["TUNEFARM_BUILD_CACHE"] = "off"
# Winners of searches are put, and looked for, where no other run does.
BEST = Path(tempfile.mkdtemp(prefix="tunefarm-")) / "best.jsonl"
os.environ["TUNEFARM_BEST"] = str(BEST)


@pytest.fixture(autouse=True)
def nothing_is_tuned():
    """What one test tuned is not what the next one builds by."""
    yield
    BEST.unlink(missing_ok=True)
