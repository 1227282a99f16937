"""The scheduler's one door: an input and the time go in, effects come out."""

from collections.abc import Callable

from tunefarm_tracker.core import devices, health, inputs, leases, requests
from tunefarm_tracker.core.effects import Effect
from tunefarm_tracker.core.records import Config, EventKind
from tunefarm_tracker.core.state import State
from tunefarm_tracker.core.turn import Turn


class Scheduler:
    """Brokers devices. Deterministic: `new_id` names the leases, the caller tells the time.

    `state` may be read between calls.
    """

    def __init__(self, state: State, config: Config, new_id: Callable[[], str]) -> None:
        self.state = state
        self.config = config
        self._new_id = new_id

    def next_deadline(self) -> float | None:
        """When a Tick is due at the latest."""
        return self.state.timers.next()

    def handle(self, event: inputs.Input, now: float) -> list[Effect]:
        """Take one input at `now`, which never goes back.

        What is due by now comes first, so nothing that arrives late revives what has ended.
        """
        turn = Turn(self.state, self.config, self._new_id, now)
        for kind, subject in self.state.timers.due(now):
            _expire(turn, kind, subject)
        _take(turn, event)
        return turn.effects


def _expire(turn: Turn, kind: str, subject: str) -> None:
    match kind:
        case "lease":
            leases.expire(turn, subject)
        case "lost":
            devices.lost(turn, subject, "went away and did not come back in time")
        case "silent":
            devices.silent(turn, subject)
        case "wait":
            requests.timed_out(turn, subject)
        case "absent":
            requests.stayed_away(turn, subject)
        case "places":
            leases.tell_places(turn, subject)
        case "reserve":
            requests.reserve(turn, subject)
        case "trust":
            health.faults_aged(turn, subject)
        case "recover":
            health.recover(turn, subject)
        case "ends":
            leases.forget_ends(turn)


def _take(turn: Turn, event: inputs.Input) -> None:  # noqa: PLR0912 (one case an input)
    match event:
        case inputs.DeviceReported():
            devices.reported(turn, event)
        case inputs.DeviceDisconnected(stream, device_id):
            devices.disconnected(turn, stream, device_id)
        case inputs.RequestOpened(stream, wish, attempt):
            requests.opened(turn, stream, wish, attempt)
        case inputs.HolderDisconnected(stream, request_id):
            requests.disconnected(turn, stream, request_id)
        case inputs.Heartbeat(stream, request_id, ttl):
            requests.heartbeat(turn, stream, request_id, ttl)
        case inputs.Released():
            requests.released(turn, event)
        case inputs.LeaseRenewed(stream, lease_id, ttl):
            leases.renew(turn, lease_id, stream, ttl)
        case inputs.LeaseReleased(stream, lease_id):
            requests.lease_released(turn, stream, lease_id)
        case inputs.RequestCancelled(stream, request_id):
            requests.cancelled(turn, stream, request_id)
        case inputs.PriorityChanged(stream, request_id, priority):
            requests.priority_changed(turn, stream, request_id, priority)
        case inputs.LeaseRevoked():
            requests.lease_revoked(turn, event)
        case inputs.DeviceManaged():
            health.managed(turn, event)
        case inputs.HealthChecked():
            health.checked(turn, event)
        case inputs.RecoveryEnded():
            health.step_ended(turn, event)
        case inputs.QuotaSet(stream, quota):
            requests.quota_set(turn, stream, quota)
        case inputs.ResultRecorded(result_id, detail):
            turn.happened(EventKind.RESULT, result_id, "recorded", detail)
        case inputs.Tick():
            pass
