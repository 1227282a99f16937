"""What calls cost on a device, by function. Standard library: it runs in the runner."""

import math
import resource
from typing import Any

from tunefarm_device.answers import MOST_PROFILED
from tunefarm_device.backend import Kernel
from tunefarm_device.counters import Counters, difference

COUNTED = {
    "major_page_faults": "ru_majflt",
    "context_switches": "ru_nvcsw",
    "preemptions": "ru_nivcsw",
    "user_s": "ru_utime",
    "system_s": "ru_stime",
}


class Profile:
    """What calls cost, by function: times, and what processor and system count."""

    def __init__(self, counters: Counters) -> None:
        self.counters = counters
        self.costs: dict[tuple[int, str], list[float]] = {}
        self.counted: dict[tuple[int, str], dict[str, float]] = {}

    def call(self, key: tuple[int, str], kernel: Kernel) -> float:
        """Call once, and keep what it cost."""
        before = self.read()
        elapsed = kernel.sample(1)
        counted = difference(before, self.read())
        if key not in self.costs and len(self.costs) >= MOST_PROFILED:
            return elapsed
        cost = self.costs.setdefault(key, [0, 0.0, math.inf, 0.0])
        cost[:] = cost[0] + 1, cost[1] + elapsed, min(cost[2], elapsed), max(cost[3], elapsed)
        sums = self.counted.setdefault(key, {})
        for name, value in counted.items():
            sums[name] = sums.get(name, 0.0) + max(value, 0.0)
        return elapsed

    def read(self) -> dict[str, float]:
        """All that was counted so far."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        found = {name: float(getattr(usage, field)) for name, field in COUNTED.items()}
        return found | self.counters.read()

    def told(self) -> list[list[Any]]:
        """Each function: module, name, calls, total, min, max, counters."""
        return [[*key, *cost, self.counted[key]] for key, cost in self.costs.items()]
