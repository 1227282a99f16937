"""One turn of the scheduler: an input at one moment, and the effects it gathers."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tunefarm_tracker.core.effects import Effect, EventHappened, Message
from tunefarm_tracker.core.records import Config, Event, EventKind
from tunefarm_tracker.core.state import State


@dataclass(slots=True)
class Turn:
    """What every rule works on."""

    state: State
    config: Config
    new_id: Callable[[], str]
    now: float
    effects: list[Effect] = field(default_factory=list)

    def want(self, effect: Effect) -> None:
        """Add an effect. Messages to stream 0, which is nobody, are dropped."""
        if not (isinstance(effect, Message) and effect.to == 0):
            self.effects.append(effect)

    def happened(self, kind: EventKind, subject: str, action: str, detail: str) -> None:
        """Add an event."""
        self.state.cursor += 1
        event = Event(self.state.cursor, self.now, kind, subject, action, detail)
        self.want(EventHappened(event))
