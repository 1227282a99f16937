"""A result's kernel to be read, made anew by the compiler where it is installed beside us.

The compiler is never imported here: LLVM may abort its process, so it runs as one of its own, one
at a time, with a limit of time and memory. Only kernels of results in the tracker's store are made.
"""

import asyncio
import importlib.util
import json
import sys
from collections import OrderedDict
from collections.abc import Mapping

from tunefarm_proto.v1 import tracker_pb2 as tpb

TIMEOUT_S = 60.0
KEPT = 64  # kernels
MOST = 400_000  # characters of a text
WAITING = 8  # visitors who wait for one
COMMAND = (sys.executable, "-m", "tunefarm_compiler.listing")

Texts = Mapping[str, str]


def installed() -> bool:
    """Whether the compiler is there, with what it needs."""
    return all(importlib.util.find_spec(name) for name in ("tunefarm_compiler", "llvmlite"))


class Listings:
    """The kernels read last. `command`: what makes them, as `tunefarm_compiler.listing` does."""

    def __init__(self, command: tuple[str, ...] = COMMAND, timeout_s: float = TIMEOUT_S) -> None:
        self._command = command
        self._timeout_s = timeout_s
        self._kept: OrderedDict[str, Texts] = OrderedDict()
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def of(self, result: tpb.Result) -> Texts:
        """ "loops", "llvm", "assembly" and the "digest" of its bundle; or "error" and "hint"."""
        asked = json.dumps(
            {
                "workload": result.workload,
                "triple": result.target.triple,
                "cpu": result.target.cpu,
                "features": sorted(result.target.features),
                "schedule": result.schedule,
            }
        )
        if asked not in self._kept:
            if self._waiting >= WAITING:
                return {"error": "too many kernels are being made", "hint": "try again soon"}
            self._waiting += 1
            try:
                async with self._turn:
                    if asked not in self._kept:
                        self._keep(asked, await self._make(asked))
            finally:
                self._waiting -= 1
        return self._kept[asked]

    def _keep(self, asked: str, texts: Texts) -> None:
        self._kept[asked] = {name: _cut(text) for name, text in texts.items()}
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    async def _make(self, asked: str) -> Texts:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(asked.encode()), self._timeout_s)
            texts = json.loads(said)
        except TimeoutError:
            return {"error": f"the compiler took over {self._timeout_s:g} s", "hint": ""}
        except ValueError:
            ended = f"the compiler's process ended with status {process.returncode}"
            return {"error": ended, "hint": ""}
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return {str(name): str(text) for name, text in texts.items()}


def _cut(text: str) -> str:
    more = len(text) - MOST
    return text if more <= 0 else f"{text[:MOST]}\n... and {more:,} characters more"
