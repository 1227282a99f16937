"""What no page has to think of: headers, the size of requests, who sends them from where."""

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunefarm_dashboard.assets import PREFIX

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": a form would then be sent with the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
MAX_BODY = 64 * 1024
MAX_QUERY = 8 * 1024
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})


def refusal(status: int, error: str, hint: str = "") -> JSONResponse:
    """An answer that says what is wrong and what would be right."""
    return JSONResponse({"error": error, "hint": hint}, status)


class Headed:
    """Adds the headers to every answer, without touching its body: streams stay plain."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                if not (scope["path"].startswith(PREFIX) and message["status"] == 200):
                    headers["Cache-Control"] = "no-store"
            await send(message)

        await self._app(scope, receive, with_headers)


class Guard:
    """Refuses what is too large, for another host, or sent by a page from elsewhere.

    `names`: the hosts that we answer for; empty: any. A dashboard that listens on loopback answers
    for loopback only, so that no name of a stranger's can be made to lead a browser here.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        self._app = app
        self._names = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (answer := self._refused(scope)) is not None:
            await answer(scope, receive, send)
            return
        await self._app(scope, _Limited(receive), send)

    def _refused(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._names and name_of(host) not in self._names:
            return refusal(421, "this host is not served here", "use the address it listens on")
        if len(scope.get("query_string", b"")) > MAX_QUERY:
            return refusal(414, f"the query is longer than {MAX_QUERY} bytes")
        if scope["method"] in SAFE_METHODS:
            return None
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return refusal(413, f"the request is larger than {MAX_BODY} bytes")
        site, origin = headers.get("sec-fetch-site", "same-origin"), headers.get("origin")
        strange = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if strange or site not in ("same-origin", "none"):
            return refusal(403, "this was sent by a page from elsewhere", "use our own pages")
        return None


def name_of(host: str) -> str:
    """The host of a Host header, without its port."""
    bare = host.lower()
    return bare.rpartition("]")[0] + "]" if bare.startswith("[") else bare.partition(":")[0]


class _Limited:
    """A body that ends the request where it goes on for too long."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._size = 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self._size > MAX_BODY:
            return {"type": "http.disconnect"}
        return message
