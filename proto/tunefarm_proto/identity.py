"""Who calls: a name and a role, known to the handlers of one call."""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a token allows. The first three include one another; a device's stands apart."""

    VIEWER = "viewer"
    USER = "user"
    OPERATOR = "operator"
    DEVICE = "device"

    def includes(self, needed: "Role") -> bool:
        """Whether this role allows what `needed` allows. An operator may do everything."""
        if self is Role.OPERATOR or self is needed:
            return True
        return self is Role.USER and needed is Role.VIEWER


@dataclass(frozen=True)
class Identity:
    """Who calls. `name` and `token_id` are "" where nobody had to say who they are."""

    name: str
    role: Role
    token_id: str = ""


ANONYMOUS = Identity("", Role.OPERATOR)
CURRENT: ContextVar[Identity] = ContextVar("tunefarm-identity", default=ANONYMOUS)


def current_identity() -> Identity:
    """Who makes the call being handled; an anonymous operator where tokens are not in use."""
    return CURRENT.get()
