"""What is answered where something is wrong: a page to people, JSON to programs and acts."""

from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException
from tunefarm_proto.errors import (
    AccessError,
    InvalidRequestError,
    PermissionDeniedError,
    TrackerUnreachableError,
    TunefarmError,
    UnknownDeviceError,
)

from tunefarm_dashboard.access import ForgedError, LoginNeededError, visitor
from tunefarm_dashboard.board import NOBODY, Board
from tunefarm_dashboard.tables import problem

_STATUS: tuple[tuple[type[TunefarmError], int], ...] = (
    (PermissionDeniedError, 403),
    (AccessError, 401),
    (UnknownDeviceError, 404),
    (InvalidRequestError, 400),
    (TrackerUnreachableError, 503),
)


def status_of(error: TunefarmError) -> int:
    """The HTTP status of an error of the farm."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 502)


def add(board: Board, app: FastAPI) -> None:
    """Answer what goes wrong in any route."""

    async def said(request: Request, status: int, error: str, hint: str = "") -> Response:
        if request.url.path.startswith("/api/") or request.method != "GET":
            return problem(status, error, hint)
        try:
            viewer = await visitor(request)
        except (LoginNeededError, TunefarmError):
            viewer = NOBODY
        return await board.page(
            "trouble.html", viewer, "Not here" if status == 404 else "Trouble", status,
            error=error, hint=hint,
        )  # fmt: skip

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        detail = str(error.detail)
        if detail == "Not Found":
            detail = f"There is no page {request.url.path}"
        answer = await said(request, error.status_code, detail)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first: dict[str, Any] = dict(next(iter(error.errors()), {}))
        where = ".".join(str(one) for one in first.get("loc", ())[1:])
        return await said(request, 422, f"{where or 'the request'}: {first.get('msg', 'is wrong')}")

    @app.exception_handler(TunefarmError)
    async def farm(request: Request, error: TunefarmError) -> Response:
        return await said(request, status_of(error), error.message, error.hint)

    @app.exception_handler(ForgedError)
    async def forged(request: Request, error: ForgedError) -> Response:
        return problem(403, "this page is too old, or not ours", "load it again")

    @app.exception_handler(LoginNeededError)
    async def login_needed(request: Request, error: LoginNeededError) -> Response:
        path = request.url.path
        if path.startswith(("/api/", "/events")) or request.method != "GET":
            return problem(401, "this farm asks who you are", "log in at /login, or send a token")
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"/login?next={quote(path + query)}", 303)
