"""What the operator wants done: a file of recovery steps, notices and how long results are kept.

    keep_results_days = 365
    recover_after_s = 60              # offline for so long starts the ladder

    [[recovery]]                      # taken in this order while a device stays offline
    name = "restart the agent"
    command = ["ssh", "{host}", "sudo systemctl restart tunefarm-device"]
    wait_s = 60                       # then comes the next step

    [notify]                          # when a device is quarantined
    webhook = "https://chat.example/hooks/farm"
    command = ["mail", "-s", "{text}", "lab@example"]

Commands are lists, run without a shell. {device}, {key}, {host}, {address}, {text} and the device's
labels as {label_NAME} stand for what they say.
"""

import asyncio
import contextlib
import json
import logging
import string
import tomllib
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunefarm_proto.errors import InvalidRequestError

from tunefarm_tracker.core import Config
from tunefarm_tracker.core.effects import Action, Notify, RunRecovery
from tunefarm_tracker.core.inputs import RecoveryEnded
from tunefarm_tracker.core.records import Device, RecoveryStep
from tunefarm_tracker.core.where import LABEL
from tunefarm_tracker.hub import Hub

_log = logging.getLogger(__name__)
AT_A_TIME = 8  # commands
WEBHOOK_S = 10.0
WEBHOOK_TRIES = 3
OUTPUT_KEPT = 200
SWEEP_S = 3600.0
_FIELDS = {"device", "key", "host", "address", "text"}


@dataclass(frozen=True)
class Step:
    """A step of the recovery ladder. Times in seconds."""

    name: str
    command: tuple[str, ...]
    wait_s: float = 60.0
    timeout_s: float = 60.0


@dataclass(frozen=True)
class Operations:
    """The file's content. `keep_results_days` None keeps results for ever."""

    recovery: tuple[Step, ...] = ()
    webhook: str = ""
    notify_command: tuple[str, ...] = ()
    keep_results_days: float | None = None
    recover_after_s: float = 60.0

    def apply_to(self, config: Config) -> Config:
        """The scheduler's numbers with the ladder in them."""
        ladder = tuple(RecoveryStep(one.name, one.wait_s) for one in self.recovery)
        return replace(config, recovery=ladder, recover_after=self.recover_after_s)


def read_operations(path: Path) -> Operations:
    """Read the file. Raises: InvalidRequestError, one line naming the entry."""
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidRequestError(
            f"{path} cannot be read: {error}", "see docs/operating.md"
        ) from None
    try:
        return _operations(data)
    except (TypeError, ValueError) as error:
        raise InvalidRequestError(f"{path}: {error}", "see docs/operating.md") from None


def _operations(data: dict[str, Any]) -> Operations:
    _only(data, {"recovery", "notify", "keep_results_days", "recover_after_s"}, "the file")
    if not isinstance(data.get("recovery", []), list):
        raise ValueError("recovery is no list of [[recovery]] steps")
    notify = data.get("notify", {})
    _only(notify, {"webhook", "command"}, "[notify]")
    for name in ("keep_results_days", "recover_after_s"):
        value = data.get(name, 1)
        if not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{name} = {value!r} is no number above 0")
    webhook = notify.get("webhook", "")
    if webhook and not str(webhook).startswith(("http://", "https://")):
        raise ValueError(f"webhook = {webhook!r} is no http or https address")
    command = notify.get("command", [])
    return Operations(
        recovery=tuple(_step(one) for one in data.get("recovery", [])),
        webhook=webhook,
        notify_command=_command(command, "[notify]") if command else (),
        keep_results_days=data.get("keep_results_days"),
        recover_after_s=data.get("recover_after_s", 60.0),
    )


def _step(data: dict[str, Any]) -> Step:
    _only(data, {"name", "command", "wait_s", "timeout_s"}, "[[recovery]]")
    name = data.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("a [[recovery]] step has no name")
    times = {key: data[key] for key in ("wait_s", "timeout_s") if key in data}
    for key, value in times.items():
        if not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{key} = {value!r} of {name!r} is no number of seconds")
    return Step(name, _command(data.get("command"), f"step {name!r}"), **times)


def _only(data: Mapping[str, Any], known: set[str], where: str) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"{where} is no table")
    if strange := sorted(set(data) - known):
        raise ValueError(f"{where} has {', '.join(strange)}; known are {', '.join(sorted(known))}")


def _command(words: Any, where: str) -> tuple[str, ...]:
    if not isinstance(words, list) or not words or not all(isinstance(w, str) for w in words):
        raise ValueError(f"the command of {where} is no list of texts")
    for word in words:
        for _, field, _, _ in string.Formatter().parse(word):
            if field is not None and field not in _FIELDS and not field.startswith("label_"):
                raise ValueError(f"{{{field}}} in the command of {where} stands for nothing")
    return tuple(words)


def fill(command: tuple[str, ...], device: Device, text: str = "") -> list[str]:
    """A command with what its fields stand for; a label that the device lacks is empty."""
    address = device.addresses[0] if device.addresses else ""
    words = {
        "device": device.id,
        "key": device.key,
        "address": address,
        "host": address.rpartition(":")[0].strip("[]"),
        "text": text,
    }
    for name, value in device.attributes:
        if name.startswith(LABEL):
            words["label_" + name.removeprefix(LABEL)] = value
    return [string.Formatter().vformat(word, (), _Empty(words)) for word in command]


class _Empty(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return ""


class Operator:
    """Carries out the scheduler's actions in the running loop."""

    def __init__(self, hub: Hub, operations: Operations) -> None:
        self._hub = hub
        self._operations = operations
        self._slots = asyncio.Semaphore(AT_A_TIME)
        self._tasks: set[asyncio.Task[None]] = set()
        hub.on_action = self.act
        if operations.keep_results_days is not None:
            self._spawn(self._forget_old(operations.keep_results_days * 86400.0))

    def act(self, action: Action) -> None:
        """Start what the scheduler asks for."""
        match action:
            case RunRecovery(device, step):
                self._spawn(self._recover(device, step))
            case Notify(device, text):
                _log.warning("%s", text)
                self._spawn(self._notify(device, text))

    async def stop(self) -> None:
        """Cancel what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _recover(self, device: Device, number: int) -> None:
        step = self._operations.recovery[number]
        detail = await self._run(fill(step.command, device), step.timeout_s)
        self._hub.feed(RecoveryEnded(device.id, number, detail))

    async def _run(self, command: list[str], limit_s: float) -> str:
        """Run a command to its end, or kill it. Returns what came of it, in one line."""
        async with self._slots:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                )
            except OSError as error:
                return f"{command[0]} cannot be run: {error.strerror}"
            try:
                async with asyncio.timeout(limit_s):
                    output, _ = await process.communicate()
            except TimeoutError:
                return f"killed after {limit_s:g} s"
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
        last = " ".join(output.decode(errors="replace").split())[-OUTPUT_KEPT:]
        return f"exit status {process.returncode}" + (f": {last}" if last else "")

    async def _notify(self, device: Device, text: str) -> None:
        if self._operations.notify_command:
            command = fill(self._operations.notify_command, device, text)
            outcome = await self._run(command, 60.0)
            _log.info("notify command: %s", outcome)
        if self._operations.webhook:
            await self._post(device, text)

    async def _post(self, device: Device, text: str) -> None:
        body = json.dumps({"device": device.id, "key": device.key, "text": text}).encode()
        for attempt in range(WEBHOOK_TRIES):
            try:
                await asyncio.to_thread(_post, self._operations.webhook, body)
            except OSError as error:
                # The address may carry a secret: it is not logged.
                _log.warning("the webhook did not take a notice: %s", error)
                await asyncio.sleep(2.0**attempt)
            else:
                return

    async def _forget_old(self, seconds: float) -> None:
        while True:
            before = self._hub.clock() - seconds
            count = await asyncio.wrap_future(self._hub.store.forget_results(before))
            if count:
                _log.info("%d results older than %g days are gone", count, seconds / 86400)
            await asyncio.sleep(SWEEP_S)


def _post(address: str, body: bytes) -> None:
    request = urllib.request.Request(  # noqa: S310 (http and https only, checked when read)
        address, data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=WEBHOOK_S):  # noqa: S310
        pass
