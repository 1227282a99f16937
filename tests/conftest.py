"""What holds for all tests."""

import os

# Bundles that an earlier compiler built must not stand in for what this one builds.
os.environ["TUNEFARM_BUILD_CACHE"] = "off"
