"""A scheduler, its time, and short names for what happens to it."""

import itertools

from tunefarm_tracker.core import Config, Scheduler, State
from tunefarm_tracker.core.effects import Effect, Ended
from tunefarm_tracker.core.inputs import DeviceReported, Input, RequestOpened, Tick
from tunefarm_tracker.core.records import DeviceState, FailureKind, Need, Report, Wish


def wish(request: str, key: str = "k", **more) -> Wish:
    """A wish for one device of a key."""
    return Wish(request, (Need((key,)),), **more)


class Farm:
    """A scheduler, its time, and short names for what happens to it."""

    def __init__(self, config: Config | None = None) -> None:
        ids = (f"lease{n}" for n in itertools.count(1))
        self.config = config or Config()
        self.core = Scheduler(State(self.config), self.config, lambda: next(ids))
        self.now = 1000.0

    def do(self, event: Input, after: float = 0.0) -> list[Effect]:
        self.now += after
        return self.core.handle(event, self.now)

    def device(self, stream=1, name="d1", key="k", instance="i1", lease="", fence=0, **attributes):
        pairs = tuple(sorted(attributes.items())) if attributes else None
        report = Report(name, key, ("host:1",), instance, lease, fence, b"facts", b"", pairs)
        return self.do(DeviceReported(stream, report))

    def ask(self, stream, request="r1", after=0.0, **more):
        return self.do(RequestOpened(stream, wish(request, **more)), after)

    def wait(self, seconds: float) -> list[Effect]:
        return self.do(Tick(), seconds)

    def state(self, name="d1") -> DeviceState:
        return self.core.state.devices[name].state


def only(kind, effects):
    """The one effect of a kind."""
    found = [one for one in effects if isinstance(one, kind)]
    assert len(found) == 1, effects
    return found[0]


def to(stream, effects):
    """What one stream is told."""
    return [one for one in effects if getattr(one, "to", None) == stream]


def failure(effects) -> FailureKind | None:
    why = only(Ended, effects).failure
    return why.kind if why else None
