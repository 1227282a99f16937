"""One stream of server-sent events for each page: the newest frame of every topic that it shows.

A topic is a part of a page, as in "queue" or "fleet?state=idle". Its frame is rendered and encoded
once and shared by all who look at it. A viewer has at most one waiting frame for each of its
topics, so one that reads slowly skips what lies between, and nothing piles up.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from tunefarm_dashboard.who import Viewer

MAX_TOPICS = 24  # of one viewer
_log = logging.getLogger(__name__)

# Of a topic's query and who looks: the html.
Render = Callable[[dict[str, str], Viewer], Awaitable[str]]


@dataclass(frozen=True)
class Section:
    """A kind of topic. `needs`: of what changes it is told. `varies`: with role or name."""

    render: Render
    needs: frozenset[str]
    varies: str = ""


def version_of(html: str) -> str:
    """Names a section's content; a browser that has it does not swap it."""
    return hashlib.sha256(html.encode()).hexdigest()[:12]


def encode(event: str, data: object) -> bytes:
    """One frame. JSON has no line break outside its escapes, so a frame cannot be cut in two."""
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


class Stream:
    """What one viewer has not been sent yet."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self._waiting: dict[str, bytes] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def put(self, name: str, frame: bytes) -> None:
        """Send this frame; one of the same name that still waits is dropped."""
        self._waiting[name] = frame
        self._wake.set()

    def close(self) -> None:
        """End the stream."""
        self._closed = True
        self._wake.set()

    async def frames(self) -> AsyncIterator[bytes]:
        """What is put, together where several wait. Ends when the stream is closed."""
        while not self._closed:
            await self._wake.wait()
            self._wake.clear()
            if self._waiting:
                together = b"".join(self._waiting.values())
                self._waiting.clear()
                yield together


@dataclass(eq=False)
class Topic:
    """A part of a page as some viewers see it; `viewer` is one of them."""

    name: str
    section: Section
    query: dict[str, str]
    viewer: Viewer
    frame: bytes = b""
    version: str = ""
    streams: set[Stream] = field(default_factory=set)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def refresh(self) -> None:
        """Render it, and send it to its viewers where it changed."""
        async with self._one_at_a_time:  # else an older one could arrive after a newer
            self._show(await self.section.render(self.query, self.viewer))

    def _show(self, html: str) -> None:
        version = version_of(html)
        if version == self.version:
            return
        self.version = version
        data = {"topic": self.name, "version": version, "html": html}
        self.frame = encode("section", data)
        for stream in self.streams:
            stream.put(self.name, self.frame)


class Live:
    """The sections that there are, and the topics that somebody views now."""

    def __init__(self) -> None:
        self.sections: dict[str, Section] = {}
        self.streams: set[Stream] = set()
        self._topics: dict[tuple[str, str], Topic] = {}

    async def publish(self, changed: Iterable[str]) -> None:
        """Render again what shows any of these, and send what became different."""
        changed = set(changed)
        for topic in list(self._topics.values()):
            if changed & topic.section.needs:
                try:
                    await topic.refresh()
                except Exception:  # one section that fails must not stop the others
                    _log.exception("rendering %r failed", topic.name)

    def tick(self, now_ms: int) -> None:
        """Tell everybody that we live, and the time, in ms since 1970."""
        frame = encode("tick", {"now": now_ms})
        for stream in self.streams:
            stream.put("", frame)

    def close(self, which: Callable[[Viewer], bool] = lambda _: True) -> None:
        """End the streams of those viewers."""
        for stream in self.streams:
            if which(stream.viewer):
                stream.close()

    def parse(self, name: str) -> tuple[Section, dict[str, str]] | None:
        """What a topic's name says; None where there is no such section."""
        kind, _, query = name.partition("?")
        section = self.sections.get(kind)
        return (section, parse_query(query)) if section is not None else None

    async def follow(self, names: Sequence[str], viewer: Viewer) -> AsyncIterator[bytes]:
        """The frames of these topics for one viewer: each as it is, then as it changes."""
        stream = Stream(viewer)
        self.streams.add(stream)
        topics = []
        try:
            for name in dict.fromkeys(names[:MAX_TOPICS]):
                if (topic := self._topic(name, viewer)) is not None:
                    topics.append(topic)
                    topic.streams.add(stream)
                    await self._show(topic, stream)
            async for frames in stream.frames():
                yield frames
        finally:
            self.streams.discard(stream)
            for topic in topics:
                topic.streams.discard(stream)
                if not topic.streams:
                    self._topics.pop(_key(topic.name, topic.section, viewer), None)

    async def _show(self, topic: Topic, stream: Stream) -> None:
        if not topic.frame:
            await topic.refresh()
        stream.put(topic.name, topic.frame)

    def _topic(self, name: str, viewer: Viewer) -> Topic | None:
        parsed = self.parse(name)
        if parsed is None:
            return None
        section, query = parsed
        key = _key(name, section, viewer)
        if key not in self._topics:
            self._topics[key] = Topic(name, section, query, viewer)
        return self._topics[key]


def parse_query(query: str) -> dict[str, str]:
    """A query as names and values; of several with one name the last counts."""
    return dict(parse_qsl(query, max_num_fields=20))


def _key(name: str, section: Section, viewer: Viewer) -> tuple[str, str]:
    match section.varies:
        case "role":
            return name, viewer.role.value
        case "name":
            return name, f"{viewer.role.value} {viewer.name}"
    return name, ""
