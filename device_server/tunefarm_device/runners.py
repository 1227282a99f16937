"""The server's side of runner processes: starts them, talks to them, ends them."""

import asyncio
import json
import os
import shlex
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from tunefarm_proto import errors
from tunefarm_proto.v1 import common_pb2 as pb

PYTHON_VARIABLE = "TUNEFARM_PYTHON"
EXIT_NOTICE_S = 5.0


def python_command() -> list[str]:
    """The words that start Python: TUNEFARM_PYTHON, as an emulated board needs it, or our own."""
    return shlex.split(os.environ.get(PYTHON_VARIABLE, "")) or [sys.executable]


class Runner:
    """One runner process. Its requests are answered one after another."""

    def __init__(
        self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid = pid
        self._reader = reader
        self._writer = writer
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def request(
        self, op: str, data: bytes = b"", timeout: float | None = None, **fields: Any
    ) -> tuple[dict[str, Any], bytes]:
        """One request; `timeout` in seconds, after which the process is killed.

        Raises: KernelTimeoutError, KernelCrashedError, or what the runner answers.
        """
        text = json.dumps({"op": op, "bytes": len(data), **fields}).encode()
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(struct.pack("<I", len(text)) + text + data)
                await self._writer.drain()
                (size,) = struct.unpack("<I", await self._reader.readexactly(4))
                answer = json.loads(await self._reader.readexactly(size))
                out = await self._reader.readexactly(answer["bytes"])
        except TimeoutError:
            await self.kill()
            raise errors.KernelTimeoutError(
                f"{op} took over {timeout:g} s on the device's clock and was ended",
                "give a longer timeout=, or mend the kernel",
            ) from None
        except (OSError, EOFError, ValueError):
            await self.kill()
            raise errors.KernelCrashedError(_how_it_ended(await self.ended)) from None
        if "error" in answer:
            code = pb.ErrorCode.Value(f"ERROR_CODE_{answer['error']}")
            raise errors.from_proto(pb.Error(code=code, message=answer["message"]))
        return answer, out

    async def kill(self) -> None:
        """End the process and all that it started; returns when it is gone."""
        if not self.ended.done():
            for end in (os.killpg, os.kill):
                try:
                    end(self.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            try:
                async with asyncio.timeout(EXIT_NOTICE_S):
                    await asyncio.shield(self.ended)
            except TimeoutError:
                self.ended.set_result(signal.SIGKILL)
        self._writer.close()


def _how_it_ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = "unknown"
        return f"the kernel ended its process by signal {number} ({name})"
    return f"the kernel ended its process with exit status {os.WEXITSTATUS(status)}"


class RunnerPool:
    """Runners, forked by one zygote that is started when first needed and again when it dies."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._watch: asyncio.Task[None] | None = None
        self._spawned: asyncio.Queue[int] = asyncio.Queue()
        self._lock = asyncio.Lock()
        self.live: dict[int, Runner] = {}
        self._exits: dict[int, int] = {}

    async def spawn(self) -> Runner:
        """A new runner. Raises: InternalError where none can be started."""
        async with self._lock:
            for attempt in (1, 2):
                if self._process is None or self._process.returncode is not None:
                    await self._start()
                try:
                    return await self._fork()
                except (OSError, TimeoutError):
                    await self._stop()
                    if attempt == 2:
                        break
        raise errors.InternalError("the device cannot start a runner process")

    async def close(self) -> None:
        """End every runner and the zygote."""
        await asyncio.gather(*(runner.kill() for runner in list(self.live.values())))
        await self._stop()

    async def _start(self) -> None:
        await self._stop()
        ours, theirs = socket.socketpair()
        script = str(Path(__file__).with_name("zygote.py"))
        self._process = await asyncio.create_subprocess_exec(
            *python_command(), "-I", script, stdin=theirs.fileno(), start_new_session=True
        )
        theirs.close()
        ours.setblocking(False)
        self._control = ours
        self._spawned = asyncio.Queue()
        self._watch = asyncio.create_task(self._listen(ours, self._spawned))

    async def _stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if self._watch is not None:
            self._watch.cancel()
        if self._control is not None:
            self._control.close()
        # Its runners die with the zygote; nobody else will tell.
        for runner in list(self.live.values()):
            if not runner.ended.done():
                runner.ended.set_result(signal.SIGKILL)
        self.live.clear()
        self._process = self._control = self._watch = None

    async def _fork(self) -> Runner:
        ours, theirs = socket.socketpair()
        assert self._control is not None  # noqa: S101 (set by _start)
        with theirs:
            socket.send_fds(self._control, [b"spawn"], [theirs.fileno()])
            async with asyncio.timeout(30):
                pid = await self._spawned.get()
        ours.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=ours)
        runner = Runner(pid, reader, writer)
        self.live[pid] = runner
        runner.ended.add_done_callback(lambda _: self.live.pop(pid, None))
        if pid in self._exits:
            runner.ended.set_result(self._exits.pop(pid))
        return runner

    async def _listen(self, control: socket.socket, spawned: "asyncio.Queue[int]") -> None:
        loop = asyncio.get_running_loop()
        buffer = b""
        while data := await loop.sock_recv(control, 4096):
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                said = json.loads(line)
                if "pid" in said:
                    spawned.put_nowait(said["pid"])
                elif (runner := self.live.get(said["exit"])) and not runner.ended.done():
                    runner.ended.set_result(said["status"])
                else:
                    self._exits[said["exit"]] = said["status"]
        for runner in list(self.live.values()):
            if not runner.ended.done():
                runner.ended.set_result(signal.SIGKILL)
