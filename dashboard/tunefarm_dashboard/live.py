"""Server-sent events: each frame is encoded once and shared by everyone who views the page.

A viewer has no queue that could grow: it is sent, of each section, the newest frame that it has
not seen. One that reads slowly skips what lies between.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

_log = logging.getLogger(__name__)

Render = Callable[[str], Awaitable[Mapping[str, str]]]


def encode(event: str, data: Mapping[str, object]) -> bytes:
    """One frame. JSON has no line break outside its escapes, so a frame cannot be cut in two."""
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


class Channel:
    """The newest frame of each section of one page."""

    def __init__(self) -> None:
        self.viewers = 0
        self._html: dict[str, str] = {}
        self._frames: dict[str, tuple[int, bytes]] = {}
        self._version = 0
        self._changed = asyncio.Event()
        self._closed = False

    def publish(self, sections: Mapping[str, str]) -> None:
        """Show these sections; those that are as before are not sent again."""
        changed = {name: html for name, html in sections.items() if self._html.get(name) != html}
        self._html.update(changed)
        for name, html in changed.items():
            self._put(name, encode("section", {"section": name, "html": html}))

    def tick(self, now_ms: int) -> None:
        """Tell the viewers that we live, and the time, in ms since 1970."""
        self._put("", encode("tick", {"now": now_ms}))

    def close(self) -> None:
        """End every viewer's stream."""
        self._closed = True
        self._wake()

    def _put(self, name: str, frame: bytes) -> None:
        self._version += 1
        self._frames[name] = (self._version, frame)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self) -> AsyncIterator[bytes]:
        """Every section as it is, then as it changes. Ends when the channel is closed."""
        seen = 0
        while not self._closed:
            fresh = sorted(frame for frame in self._frames.values() if frame[0] > seen)
            seen, changed = self._version, self._changed
            if fresh:
                yield b"".join(frame for _, frame in fresh)
            else:
                await changed.wait()


class Live:
    """The channels that someone views now. `render` makes the sections of the page of that name."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._channels: dict[str, Channel] = {}

    async def publish(self) -> None:
        """Render every page that is viewed, and send what changed."""
        for name, channel in list(self._channels.items()):
            try:
                channel.publish(await self._render(name))
            except Exception:  # one page that fails must not stop the others
                _log.exception("rendering the page %r failed", name)

    def tick(self, now_ms: int) -> None:
        """A sign of life to all viewers."""
        for channel in self._channels.values():
            channel.tick(now_ms)

    def close(self) -> None:
        """End every stream."""
        for channel in self._channels.values():
            channel.close()

    async def follow(self, name: str) -> AsyncIterator[bytes]:
        """The frames for one viewer of the page of that name."""
        channel = self._channels.setdefault(name, Channel())
        channel.viewers += 1
        try:
            channel.publish(await self._render(name))
            async for frames in channel.follow():
                yield frames
        finally:
            channel.viewers -= 1
            if not channel.viewers and self._channels.get(name) is channel:
                del self._channels[name]
