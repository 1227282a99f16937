"""What an act answers. Acts are done with the actor's own token: the tracker says who may."""

from pydantic import BaseModel
from tunefarm.farm import AsyncFarm
from tunefarm_proto.errors import PermissionDeniedError, TrackerUnreachableError
from tunefarm_proto.identity import Role

from tunefarm_dashboard.who import Viewer


class Done(BaseModel):
    """What was done, in one line for people. `changed` is false where there was nothing to do."""

    message: str
    changed: bool = True


def farm_of(actor: Viewer) -> AsyncFarm:
    """The tracker, asked as the actor. Raises: TrackerUnreachableError, PermissionDeniedError."""
    if actor.role is Role.VIEWER:
        raise PermissionDeniedError(
            "the role viewer may look and not act", "log in with a token that may"
        )
    if actor.farm is None:
        raise TrackerUnreachableError("the tracker is out of reach", "try again when it is back")
    return actor.farm
