"""The wheels that the tests of deployment install."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "wheelhouse.py"


@pytest.fixture(scope="session")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels for this machine's Python, as `deploy/wheelhouse.py` makes it."""
    folder = tmp_path_factory.mktemp("wheels") / "wheelhouse"
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], check=True, timeout=600)
    return folder
