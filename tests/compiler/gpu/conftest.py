"""Tests of kernels for GPUs use the random shapes of those for processors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
