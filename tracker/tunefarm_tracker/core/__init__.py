"""The scheduler: plain synchronous code over plain data; time comes in, effects go out."""

from tunefarm_tracker.core.records import Config, Snapshot
from tunefarm_tracker.core.scheduler import Scheduler
from tunefarm_tracker.core.state import State, restore

__all__ = ["Config", "Scheduler", "Snapshot", "State", "restore"]
