"""What one core of a device reaches at all in float32: the roof of its roofline."""

import tempfile
from pathlib import Path
from typing import Any

from tunefarm import Tracker
from tunefarm_compiler import targets
from tunefarm_compiler.peak import peak_bundle
from tunefarm_proto.errors import UnknownKeyError

from tunefarm_tuner.bench import Measurement, target_of_key
from tunefarm_tuner.bundles import bench_bundle

WORKLOAD = "peak"  # under which the tracker keeps it


def bench_peak(key: str, *, tracker: str | None = None, **options: Any) -> Measurement:
    """Time multiply-adds that depend on nothing, on a device of that key, and record it.

    `options` as of `bench_bundle`. Raises: UnknownKeyError, and what that raises.
    """
    with Tracker(tracker) as connection:
        reported = target_of_key(connection, key)
    if reported is None:
        raise UnknownKeyError(f"no device has the key {key}", "see `tunefarm status`")
    bundle = peak_bundle(targets.from_device(reported))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "peak.tf"
        path.write_bytes(bundle.data)
        return bench_bundle(path, key, tracker=tracker, **options)
