"""The zygote and the runners, as the server sees them. The server itself never forks."""

import asyncio
import contextlib
import fcntl
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunefarm_proto.errors import InternalError, KernelCrashedError, KernelTimeoutError

from tunefarm_device import answers, sandbox
from tunefarm_device.backend import RunnerError
from tunefarm_device.frames import FrameConnection
from tunefarm_device.leftovers import Sweeper

START_S = 30.0  # an emulated processor is slow
END_S = 10.0
GRACE_S = 1.0
WORDS_BYTES = 4096
OUTPUT_BYTES = 1 << 20


def zygote_command(
    isolation: str,
    folder: Path,
    backend: str,
    *,
    cores: str = "",
    unit: str = "",
    addresses: str = "fixed",
    nice: int = 0,
) -> list[str]:
    """How to start the zygote. TUNEFARM_PYTHON, shell-quoted words, overrides the interpreter."""
    words = shlex.split(os.environ.get("TUNEFARM_PYTHON", "")) or [sys.executable]
    script = str(Path(__file__).with_name("zygote.py"))
    steady = [addresses, str(nice)]
    return [*words, "-I", script, isolation, str(folder.absolute()), backend, cores, unit, *steady]


def describe_status(status: int) -> str:
    """How a process ended, from its wait status: "by signal 11 (SIGSEGV)"."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(ValueError):
            return f"by signal {number} ({signal.Signals(number).name})"
        return f"by signal {number}"
    return f"with exit status {os.waitstatus_to_exitcode(status)}"


class Runner:
    """One runner process. Whoever spawned it closes it."""

    def __init__(self, output: int, grace_s: float) -> None:
        self.pid = 0
        self._grace_s = grace_s
        self._frames = 0
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._output = output
        self._said = b""
        self._connection: FrameConnection | None = None

    async def attach(self, connection: socket.socket) -> None:
        """Use our end of its socket; returns when the runner is ready."""
        self._connection = FrameConnection(connection)
        await self._connection.exchange(None)

    async def request(
        self,
        header: Mapping[str, Any],
        payload: bytes = b"",
        *,
        limit_s: float,
        doing: str = "the kernel",
        soon: bool = False,
    ) -> tuple[dict[str, Any], bytes]:
        """One frame and its answer. Kills the runner at the time limit (in seconds).

        `soon`: the answer may come within microseconds, and there is no payload.

        Raises: KernelCrashedError, KernelTimeoutError, RunnerError.
        """
        try:
            self._frames += 1  # an answer out of turn is the kernel's own
            if self._connection is None:
                raise EOFError
            frame = {**header, "limit_s": limit_s}
            found = self._connection.try_exchange(frame, self._frames) if soon else None
            if found is None:
                whole = None if soon else {**frame, "id": self._frames}
                async with asyncio.timeout(limit_s + self._grace_s):
                    found = await self._connection.exchange(whole, payload)
            answer, data = found
        except TimeoutError:
            await self.close()
            raise _too_long(doing, limit_s) from None
        except ValueError as error:
            await self.close()
            raise KernelCrashedError(
                f"{doing} made its process answer what no runner answers: {error}",
                "it writes to a descriptor, or over memory, that is not its own",
            ) from None
        except (OSError, EOFError):
            raise await self._crashed(doing) from None
        if "failed" not in answer:
            return answer, data
        text = answers.printable(answer["text"])
        if answer["failed"] in ("crash", "timeout"):  # its last answer
            await self.close()
            if answer["failed"] == "timeout":
                raise _too_long(doing, limit_s)
            raise KernelCrashedError(f"{doing} was ended by the device: {text}")
        raise RunnerError(answer["failed"], text)

    async def _crashed(self, doing: str) -> KernelCrashedError:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.ended), 1.0)
        by_itself = self.ended.done()
        words = self.last_words()
        await self.close()
        if not by_itself:
            return KernelCrashedError(f"{doing} cut its process off from the device server")
        return KernelCrashedError(
            f"{doing} ended its process {describe_status(self.ended.result())}",
            f"its last words: {words}" if words else "",
        )

    def last_words(self) -> str:
        """The last line of what it printed; "" where there is none."""
        lines = self.output(WORDS_BYTES).decode(errors="replace").strip().splitlines()
        return answers.printable(lines[-1])[:200] if lines else ""

    def output(self, most: int = OUTPUT_BYTES) -> bytes:
        """The last of what it printed, also when it has ended."""
        if self._output < 0:
            return self._said[-most:]
        end = min(os.lseek(self._output, 0, os.SEEK_CUR), OUTPUT_BYTES)
        start = max(end - most, 0)
        return os.pread(self._output, end - start, start)

    def kill(self) -> None:
        """Kill it and its process group."""
        if self.pid and not self.ended.done():
            for kill in (os.killpg, os.kill):
                with contextlib.suppress(OSError):
                    kill(self.pid, signal.SIGKILL)

    def drop(self) -> None:
        """Kill it and let go of what it holds here. Doing it twice is fine."""
        self.kill()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._output >= 0:
            self._said = self.output()
            os.close(self._output)
            self._output = -1

    async def close(self) -> None:
        """Kill it, and wait until it is gone. Doing it twice is fine."""
        self.drop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.ended), END_S)


def output_file() -> int:
    """A file in memory for what a runner prints, which nobody can make longer or shorter.

    Its size is always the most; how far it is written is where its descriptor stands.
    """
    made = os.memfd_create("output", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(made, OUTPUT_BYTES)
    fcntl.fcntl(made, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    return made


def _too_long(doing: str, limit_s: float) -> KernelTimeoutError:
    return KernelTimeoutError(
        f"{doing} ran longer than the {limit_s:g} s it was allowed to", "give a longer timeout"
    )


class Zygote:
    """One zygote process and the runners it forked."""

    def __init__(self, command: list[str], grace_s: float) -> None:
        self._grace_s = grace_s
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        read, write = os.pipe()
        with theirs:
            try:
                # subprocess execs by vfork: nothing of gRPC is forked.
                self._process = subprocess.Popen(
                    command, stdin=theirs.fileno(), stdout=write, start_new_session=True
                )
            except OSError:
                os.close(read)
                raise
            finally:
                os.close(write)
        self._next_id = 1
        self._spawning: dict[int, Runner] = {}
        self._runners: dict[int, Runner] = {}
        self.isolation: list[str] = []
        self.steadied: list[str] = []
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self._listener = asyncio.ensure_future(self._listen(read))

    @property
    def alive(self) -> bool:
        """Whether it can still fork."""
        return not self._listener.done()

    async def _listen(self, read: int) -> None:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read, "rb")
        )
        try:
            while line := await reader.readline():
                self._take(json.loads(line))
        finally:
            transport.close()
            self._process.kill()
            self._process.wait()
            self._control.close()
            for runner in [*self._spawning.values(), *self._runners.values()]:
                runner.kill()
                if not runner.ended.done():
                    runner.ended.set_result(signal.SIGKILL)
            if not self.ready.done():
                self.ready.set_exception(InternalError("the zygote did not start"))

    def _take(self, told: dict[str, Any]) -> None:
        if "ready" in told:
            self.isolation, self.steadied = told["isolation"], told["steadied"]
            self.ready.set_result(None)
        elif "spawned" in told:
            runner = self._spawning.pop(told["spawned"])
            runner.pid = told["pid"]
            self._runners[runner.pid] = runner
        elif (ended := self._runners.pop(told["exited"], None)) and not ended.ended.done():
            ended.ended.set_result(told["status"])

    async def spawn(self, folder: Path | None) -> Runner:
        """A new runner in `folder`, an absolute path; ready. Raises: InternalError."""
        output = output_file()
        runner = Runner(output, self._grace_s)
        ours, theirs = socket.socketpair()
        identity = self._next_id
        self._next_id += 1
        self._spawning[identity] = runner
        try:
            async with asyncio.timeout(START_S):
                with theirs:
                    fds = [theirs.fileno(), output]
                    packet = os.fsencode(f"{identity} {folder or ''}")
                    socket.send_fds(self._control, [packet], fds)
                await runner.attach(ours)
        except (OSError, EOFError, ValueError) as error:
            said = str(error) or runner.last_words()
            self.kill()
            runner.drop()  # stops watching the socket, so before that is closed
            ours.close()
            raise InternalError(f"no runner could be started: {said}".strip(": ")) from None
        except BaseException:
            runner.drop()
            ours.close()
            raise
        return runner

    def kill(self) -> None:
        """End it the hard way; its runners die with it."""
        self._process.kill()

    async def stop(self) -> None:
        """End it and every runner."""
        self._control.close()
        try:
            await asyncio.wait_for(asyncio.shield(self._listener), END_S)
        except TimeoutError:
            self.kill()
            await self._listener


class ProcessHost:
    """Spawns runners; starts another zygote where one died.

    `isolation` is "full" or "basic"; runners may read `folder` besides the system's libraries.
    `backend` is a name or a file, and `unit` one of its units. Where it ends runaways itself
    (`ends_runaways`), the runner is killed only when it has had a second for that. `cores`, as in
    "0,1", are the processors that runners stay on; "" stands for this process's own. `addresses`
    and `nice` are as for `steady`.
    """

    def __init__(
        self,
        folder: Path,
        isolation: str = "full",
        backend: str = "native",
        ends_runaways: bool = False,
        *,
        cores: str = "",
        unit: str = "",
        addresses: str = "fixed",
        nice: int = 0,
    ) -> None:
        self._command = zygote_command(
            isolation, folder, backend, cores=cores, unit=unit, addresses=addresses, nice=nice
        )
        self._grace_s = GRACE_S if ends_runaways else 0.0
        self._zygote: Zygote | None = None
        self._lock = asyncio.Lock()
        self._stopped = False
        self._sweeper = Sweeper()
        self.runners: set[Runner] = set()
        self._spawning: set[asyncio.Future[Runner]] = set()

    async def start(self) -> tuple[list[str], list[str]]:
        """Start the zygote. Raises: InternalError.

        Returns the isolation primitives that hold, and what steadies timings.
        """
        zygote = await self._ready_zygote()
        return zygote.isolation, zygote.steadied

    async def _ready_zygote(self) -> Zygote:
        async with self._lock:
            if self._stopped:
                raise InternalError("the device server is stopping")
            if self._zygote is None or not self._zygote.alive:
                try:
                    self._zygote = Zygote(self._command, self._grace_s)
                except OSError as error:
                    raise InternalError(f"the zygote did not start: {error}") from None
                try:
                    await asyncio.wait_for(asyncio.shield(self._zygote.ready), START_S)
                except TimeoutError:
                    self._zygote.kill()
                    raise InternalError(f"the zygote was not ready in {START_S:g} s") from None
            return self._zygote

    async def spawn(self, folder: Path | None = None) -> Runner:
        """A runner, ready; one second try where the zygote had just died. Raises: InternalError.

        `folder`, an absolute path, is where it works, and all that it may write.
        """
        task = asyncio.ensure_future(self._spawn(folder))
        self._spawning.add(task)
        task.add_done_callback(self._spawning.discard)
        return await task

    async def _spawn(self, folder: Path | None) -> Runner:
        zygote = await self._ready_zygote()
        if sandbox.IPC not in zygote.isolation:
            self._sweeper.begin()
        try:
            runner = await zygote.spawn(folder)
        except InternalError as first:
            try:
                runner = await (await self._ready_zygote()).spawn(folder)
            except InternalError as second:  # that of a zygote on its way out tells nothing
                raise max(first, second, key=lambda one: len(one.message)) from None
        self.runners.add(runner)
        runner.ended.add_done_callback(lambda _: self.runners.discard(runner))
        return runner

    async def kill_all(self) -> None:
        """Kill every runner, those just being started too, and wait until they are gone."""
        if self._spawning:
            await asyncio.wait(self._spawning)
        for runner in list(self.runners):
            runner.kill()
        if self.runners:
            await asyncio.wait([r.ended for r in self.runners], timeout=END_S)
        self._sweeper.sweep()

    async def stop(self) -> None:
        """End the zygote and all runners for good."""
        self._stopped = True
        await self.kill_all()
        async with self._lock:
            if self._zygote is not None:
                await self._zygote.stop()
