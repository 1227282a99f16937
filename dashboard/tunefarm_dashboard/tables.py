"""Every table as JSON and as CSV, at one address each: /api/NAME and /api/NAME.csv."""

import csv
import inspect
import io
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, fields
from typing import Annotated, Any, Generic, TypeVar

from fastapi import FastAPI, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

T = TypeVar("T")
MOST = 10_000
Limit = Annotated[int, Query(ge=1, le=MOST, description="At most so many rows.")]
Offset = Annotated[int, Query(ge=0, le=10_000_000, description="Rows to leave out first.")]
# A cell that begins with one of these is a formula to a spreadsheet.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Page(BaseModel, Generic[T]):
    """Some rows of a table, and how many it has."""

    total: int
    rows: list[T]


class Problem(BaseModel):
    """Why there is no answer, and what would be right."""

    error: str
    hint: str = ""


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 404, 409, 413, 414, 421, 422, 503)
}


def page_of(rows: Sequence[T], limit: int, offset: int) -> Page[T]:
    """A part of the rows."""
    return Page(total=len(rows), rows=list(rows[offset : offset + limit]))


def to_csv(row_type: type, rows: Iterable[Any]) -> str:
    """The rows with a line of names. Texts that a spreadsheet would run are quoted by a '."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow([one.name for one in fields(row_type)])
    for row in rows:
        writer.writerow([_cell(value) for value in asdict(row).values()])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return "'" + value if value.startswith(_FORMULA) else value
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    return "" if value is None else value


def add_table(
    app: FastAPI,
    name: str,
    row_type: type[T],
    rows: Callable[..., Awaitable[Sequence[T]]],
    dependencies: Sequence[Any],
) -> None:
    """Serve a table. `rows` is as a route: its parameters are the filters in the address."""

    async def csv_route(**filters: Any) -> Response:
        text = to_csv(row_type, await rows(**filters))
        return Response(text, media_type="text/csv; charset=utf-8")

    async def json_route(limit: Limit = 1000, offset: Offset = 0, **filters: Any) -> Any:
        return page_of(await rows(**filters), limit, offset)

    _sign(json_route, rows, keep=("limit", "offset"))
    _sign(csv_route, rows, keep=())
    common: dict[str, Any] = {"dependencies": dependencies, "tags": ["tables"]}
    page: Any = Page
    app.get(f"/api/{name}", name=name, response_model=page[row_type], responses=REFUSALS, **common)(
        json_route
    )
    text: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/csv": {"schema": {"type": "string"}}}}
    }
    app.get(
        f"/api/{name}.csv",
        name=f"{name} as CSV",
        response_class=Response,
        responses={**REFUSALS, **text},
        **common,
    )(csv_route)


def _sign(route: Any, rows: Callable[..., Any], keep: Sequence[str]) -> None:
    """Give a route the parameters of `rows` beside its own."""
    own = inspect.signature(route).parameters
    theirs = inspect.signature(rows, eval_str=True).parameters
    parameters = [*theirs.values(), *(own[name] for name in keep)]
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    route.__signature__ = inspect.Signature(parameters)
    route.__doc__ = rows.__doc__


def problem(status: int, error: str, hint: str = "") -> JSONResponse:
    """An answer that says what is wrong."""
    return JSONResponse({"error": error, "hint": hint}, status)
