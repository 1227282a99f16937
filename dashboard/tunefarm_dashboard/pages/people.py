"""Users, for everybody; tokens and the audit log, for operators."""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

from fastapi import FastAPI, Form, Query
from fastapi.responses import HTMLResponse
from pydantic import BaseModel
from tunefarm_proto.errors import PermissionDeniedError
from tunefarm_proto.v1 import account_pb2 as apb

from tunefarm_dashboard.access import Acting, Who
from tunefarm_dashboard.acts import Done, farm_of
from tunefarm_dashboard.board import Board
from tunefarm_dashboard.frame import Entry, render
from tunefarm_dashboard.tables import REFUSALS
from tunefarm_dashboard.views import people as view
from tunefarm_dashboard.views.rows import iso
from tunefarm_dashboard.who import Viewer

AUDIT = 200
Limit = Annotated[int, Query(ge=1, le=10_000)]
After = Annotated[int, Query(ge=0, le=2**62)]


class GivenRole(StrEnum):
    """What a new token allows."""

    VIEWER = "viewer"
    USER = "user"
    OPERATOR = "operator"
    DEVICE = "device"


class NewToken(BaseModel):
    """A new token. Its secret is told this once."""

    message: str
    id: str
    secret: str


def add(board: Board, app: FastAPI) -> None:
    """Add the pages, their sections, tables and acts."""

    async def users() -> Sequence[view.UserRow]:
        """Who holds, waits, has used devices lately or has a quota."""
        return [view.user_row(one) for one in await board.farm().users()]

    async def tokens(viewer: Who) -> Sequence[view.TokenRow]:
        """Every token, newest first. For operators."""
        now = iso(datetime.now(UTC))
        return [view.token_row(one, now) for one in await farm_of(viewer).tokens()]

    async def audit(
        viewer: Who, newest: Limit = AUDIT, after: After = 0
    ) -> Sequence[view.AuditRow]:
        """The newest entries of the audit log, newest first. For operators."""
        found = await farm_of(viewer).audit(newest, after)
        return [view.audit_row(one) for one in reversed(found)]

    async def users_section(query: dict[str, str], viewer: Viewer) -> str:
        rows = await users() if board.mirror.farm else None
        return render("sections/users.html", users=rows)

    board.navigation += [
        Entry("Users", "/users"),
        Entry("Tokens", "/tokens", "operator"),
        Entry("Audit", "/audit", "operator"),
    ]
    board.section("users", users_section, needs=("users", "leases", "queue"))
    board.table(app, "users", view.UserRow, users)
    board.table(app, "tokens", view.TokenRow, tokens)
    board.table(app, "audit", view.AuditRow, audit)

    @app.get("/users", response_class=HTMLResponse, include_in_schema=False)
    async def users_page(viewer: Who) -> HTMLResponse:
        """Who uses the farm."""
        part = await board.part("users", viewer)
        return await board.page("users.html", viewer, "Users", users=part)

    @app.get("/tokens", response_class=HTMLResponse, include_in_schema=False)
    async def tokens_page(viewer: Who) -> HTMLResponse:
        """Every token."""
        _check(viewer)
        rows = await tokens(viewer)
        return await board.page("tokens.html", viewer, "Tokens", tokens=rows, roles=list(GivenRole))

    @app.get("/audit", response_class=HTMLResponse, include_in_schema=False)
    async def audit_page(viewer: Who) -> HTMLResponse:
        """What was done."""
        _check(viewer)
        rows = await audit(viewer)
        return await board.page("audit.html", viewer, "Audit", entries=rows)

    _add_acts(app)


def _check(viewer: Viewer) -> None:
    """The tracker refuses too; this says it before anything is asked."""
    if not viewer.may("operator"):
        raise PermissionDeniedError("this page is for operators", "log in with another token")


def _add_acts(app: FastAPI) -> None:
    @app.post("/api/act/create-token", tags=["acts"], responses=REFUSALS)
    async def create(
        actor: Acting,
        name: Annotated[str, Form(min_length=1, max_length=64)],
        role: Annotated[GivenRole, Form()],
    ) -> NewToken:
        """Make a token. For operators."""
        number = apb.Role.Value(f"ROLE_{role.name}")
        token, secret = await farm_of(actor).create_token(name, number)
        message = f"The token of {name}, told this once: {secret}"
        return NewToken(message=message, id=token.id, secret=secret)

    @app.post("/api/act/revoke-token", tags=["acts"], responses=REFUSALS)
    async def revoke(
        actor: Acting, token: Annotated[str, Form(min_length=1, max_length=64)]
    ) -> Done:
        """End a token for good. For operators."""
        ended = await farm_of(actor).revoke_token(token)
        if not ended:
            return Done(message="The token had ended already.", changed=False)
        return Done(message=f"The token of {ended[0].name} is revoked.")
