"""Who looks at a page, and what they may do."""

from dataclasses import dataclass, field

from tunefarm.farm import AsyncFarm
from tunefarm_proto.identity import Role


@dataclass(frozen=True)
class Viewer:
    """Somebody at a browser. `name` is "" where the farm asks nobody who they are.

    `csrf` comes back with every act. `farm` is where acts are done, with the viewer's own token.
    """

    name: str
    role: Role
    token_id: str = ""
    csrf: str = field(default="", repr=False)
    farm: AsyncFarm | None = field(default=None, repr=False, compare=False)

    def may(self, role: Role | str) -> bool:
        """Whether the viewer may do what that role may."""
        return self.role.includes(Role(role))

    def may_move(self, user: str) -> bool:
        """Whether the viewer may cancel a request of that user, or change its priority."""
        return self.may(Role.OPERATOR) or (self.may(Role.USER) and bool(user) and user == self.name)
