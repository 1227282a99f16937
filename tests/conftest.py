"""What holds for all tests."""

import os
import tempfile
from pathlib import Path

# Bundles that an earlier compiler built must not stand in for what this one builds.
os.environ["TUNEFARM_BUILD_CACHE"] = "off"
# Winners of searches are put, and looked for, where no other run does.
os.environ["TUNEFARM_BEST"] = str(Path(tempfile.mkdtemp(prefix="tunefarm-")) / "best.jsonl")
