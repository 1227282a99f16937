"""Who sends a request, as the routes ask for it: `viewer: Who`, `actor: Acting`."""

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request
from tunefarm_proto.bearer import token_of
from tunefarm_proto.security import is_loopback

from tunefarm_dashboard.guard import LOCAL_NAMES, name_of
from tunefarm_dashboard.sessions import COOKIE, same
from tunefarm_dashboard.who import Viewer

if TYPE_CHECKING:
    from tunefarm_dashboard.board import Board

CSRF_HEADER = "x-csrf-token"


class LoginNeededError(Exception):
    """The farm asks who they are, and the visitor has not said."""


class ForgedError(Exception):
    """An act came without the secret that our pages send with it."""


def board_of(request: Request) -> "Board":
    """The board of the application that serves this request."""
    board: Board = request.app.state.board
    return board


async def visitor(request: Request) -> Viewer:
    """Who looks. Raises: LoginNeededError; as `Sessions.bearing` for those with a token."""
    board = board_of(request)
    await board.mirror.ready()
    if token := token_of(request.headers.get("authorization", "")):
        return await board.sessions.bearing(token)
    found = board.sessions.find(request.cookies.get(COOKIE, ""))
    if found is not None:
        return found
    if board.closed:
        raise LoginNeededError
    return board.anybody if _is_here(request) else board.passer_by


def _is_here(request: Request) -> bool:
    """Whether the visitor sits at this machine: by its address, and by the name it asks for."""
    client = request.client.host if request.client else ""
    return is_loopback(client) and name_of(request.headers.get("host", "")) in LOCAL_NAMES


async def acting(request: Request) -> Viewer:
    """Who acts, by a page of ours or with a token. Raises: as `visitor`; ForgedError."""
    viewer = await visitor(request)
    if token_of(request.headers.get("authorization", "")):
        return viewer  # no browser adds that by itself
    if not same(request.headers.get(CSRF_HEADER, ""), viewer.csrf):
        raise ForgedError
    return viewer


Who = Annotated[Viewer, Depends(visitor)]
Acting = Annotated[Viewer, Depends(acting)]
