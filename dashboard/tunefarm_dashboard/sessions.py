"""Who is logged in: a random cookie each, for whom the tracker knew the token."""

import asyncio
import contextlib
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tunefarm.farm import AsyncFarm
from tunefarm_proto.errors import (
    AccessError,
    InvalidRequestError,
    PermissionDeniedError,
    TunefarmError,
)
from tunefarm_proto.identity import Role
from tunefarm_proto.security import TOKEN_PREFIX, Credentials
from tunefarm_proto.v1 import account_pb2 as apb

from tunefarm_dashboard.who import Viewer

COOKIE = "tunefarm_session"
LIFE_S = 12 * 3600.0  # without a visit
MOST = 1000
ASK_AGAIN_S = 10.0  # whether the token still holds
AT_A_TIME = 8  # tokens shown to the tracker
_log = logging.getLogger(__name__)


@dataclass
class Session:
    """Somebody who showed a token. Times by the monotonic clock."""

    viewer: Viewer
    seen: float
    asked: float
    key: str = field(repr=False)


class Sessions:
    """Every session, in memory: a dashboard that starts anew asks for the tokens again."""

    def __init__(
        self, tracker: str, credentials: Credentials, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._tracker = tracker
        self._credentials = credentials
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._slots = asyncio.Semaphore(AT_A_TIME)

    def __len__(self) -> int:
        return len(self._sessions)

    async def open(self, token: str) -> str:
        """Log in. Returns the cookie's value.

        Raises: UnauthenticatedError, PermissionDeniedError for a device's token,
        TrackerUnreachableError.
        """
        secret = secrets.token_urlsafe(32)
        await self._begin(token, _key(secret))
        return secret

    async def bearing(self, token: str) -> Viewer:
        """Whoever calls with a token instead of a cookie; known for a while. Raises: as `open`."""
        key = _key("bearer " + token)
        if (found := self._live(key)) is None:
            found = await self._begin(token, key)
        return found.viewer

    def find(self, cookie: str) -> Viewer | None:
        """Who has this cookie."""
        session = self._live(_key(cookie)) if cookie else None
        return session.viewer if session is not None else None

    async def close(self, cookie: str) -> None:
        """Log out."""
        await self._end(_key(cookie))

    async def close_all(self) -> None:
        """Let go of everything."""
        for key in list(self._sessions):
            await self._end(key)

    async def sweep(self) -> list[str]:
        """End the sessions of tokens that hold no longer. Returns the ids of those tokens."""
        ended = []
        now = self._clock()
        for key, session in list(self._sessions.items()):
            if session.seen + LIFE_S < now:
                await self._end(key)
            elif session.asked + ASK_AGAIN_S <= now and not await self._holds(session):
                ended.append(session.viewer.token_id)
                await self._end(key)
        return ended

    async def _holds(self, session: Session) -> bool:
        session.asked = self._clock()
        farm = session.viewer.farm
        try:
            if farm is not None:
                await farm.identity()
        except AccessError:
            return False
        except TunefarmError as error:  # a tracker that is away says nothing about tokens
            _log.debug("not asked: %s", error)
        return True

    async def _begin(self, token: str, key: str) -> Session:
        if not (token.startswith(TOKEN_PREFIX) and token.isascii() and token.isprintable()):
            raise InvalidRequestError(
                "that is no token", f"a token is one line and starts with {TOKEN_PREFIX}"
            )
        async with self._slots:
            viewer = await self._ask(token)
        if (other := self._live(key)) is not None:  # the same token came twice at once
            await _leave(viewer)
            return other
        now = self._clock()
        while len(self._sessions) >= MOST:
            await self._end(min(self._sessions, key=lambda one: self._sessions[one].seen))
        session = self._sessions[key] = Session(viewer, now, now, key)
        return session

    async def _ask(self, token: str) -> Viewer:
        farm = AsyncFarm(self._tracker, replace(self._credentials, token=token))
        await farm.__aenter__()
        try:
            viewer = viewer_of(await farm.identity(), farm)
            if viewer.role is Role.DEVICE:
                raise PermissionDeniedError(
                    "the token of a device opens no page", "use one of a viewer, user or operator"
                )
        except BaseException:
            await farm.__aexit__(None, None, None)
            raise
        return viewer

    def _live(self, key: str) -> Session | None:
        session = self._sessions.get(key)
        if session is None or session.seen + LIFE_S < self._clock():
            return None
        session.seen = self._clock()
        return session

    async def _end(self, key: str) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            await _leave(session.viewer)


async def _leave(viewer: Viewer) -> None:
    if viewer.farm is not None:
        with contextlib.suppress(TunefarmError):
            await viewer.farm.__aexit__(None, None, None)


def viewer_of(identity: apb.GetIdentityResponse, farm: AsyncFarm) -> Viewer:
    """Whom the tracker takes us for."""
    role = Role(apb.Role.Name(identity.role).removeprefix("ROLE_").lower())
    csrf = secrets.token_urlsafe(24)
    return Viewer(identity.name, role, identity.token_id, csrf, farm)


def same(given: str, expected: str) -> bool:
    """Whether two secrets are the same, in a time that tells nothing."""
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


def _key(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
