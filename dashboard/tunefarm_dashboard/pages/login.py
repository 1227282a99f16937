"""Logging in by a token, and out."""

import os
from typing import Annotated

from fastapi import FastAPI, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from tunefarm_proto.errors import TunefarmError
from tunefarm_proto.security import INSECURE, is_loopback

from tunefarm_dashboard.access import Acting
from tunefarm_dashboard.answers import status_of
from tunefarm_dashboard.board import NOBODY, Board
from tunefarm_dashboard.sessions import COOKIE

PLAIN = "tokens are not taken in plaintext beyond loopback: serve the dashboard behind TLS"


def inside(address: str) -> str:
    """The address where it is a page of ours, else the first page."""
    ours = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if ours and address.isprintable() else "/"


def is_private(request: Request) -> bool:
    """Whether nobody on the way reads what the browser sends."""
    client = request.client.host if request.client else ""
    return (
        request.url.scheme == "https" or is_loopback(client) or os.environ.get(INSECURE, "") == "1"
    )


def add(board: Board, app: FastAPI) -> None:
    """Add the routes."""

    @app.get("/login", response_class=HTMLResponse, include_in_schema=False)
    async def ask(next: str = "/") -> Response:  # noqa: A002 (the name in the address)
        """Ask for a token."""
        await board.mirror.ready()
        if not board.closed:
            return RedirectResponse(inside(next), 303)
        return await board.page("login.html", NOBODY, "Log in", next=inside(next), error="")

    @app.post("/login", include_in_schema=False)
    async def log_in(
        request: Request,
        token: Annotated[str, Form(max_length=500)],
        next: Annotated[str, Form(max_length=2000)] = "/",  # noqa: A002
    ) -> Response:
        """Begin a session."""
        error, status = PLAIN, 403
        if is_private(request):
            try:
                cookie = await board.sessions.open(token.strip())
            except TunefarmError as refused:
                error, status = refused.message, status_of(refused)
            else:
                answer = RedirectResponse(inside(next), 303)
                answer.set_cookie(
                    COOKIE,
                    cookie,
                    httponly=True,
                    samesite="strict",
                    secure=request.url.scheme == "https",
                )
                return answer
        return await board.page(
            "login.html", NOBODY, "Log in", status, next=inside(next), error=error
        )

    @app.post("/logout", include_in_schema=False)
    async def log_out(request: Request, actor: Acting) -> Response:
        """End the session."""
        await board.sessions.close(request.cookies.get(COOKIE, ""))
        board.live.close(lambda viewer: bool(actor.token_id) and viewer.token_id == actor.token_id)
        answer = Response(status_code=200, headers={"HX-Redirect": "/login"})
        answer.delete_cookie(COOKIE)
        return answer
