"""Candidates: each in a session of its own, prepared ahead, timed one after another."""

import asyncio
from collections.abc import AsyncIterator

from tunefarm_proto import errors, rpc
from tunefarm_proto.bundle import find_function
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb

from tunefarm_device.cache import BlobCache
from tunefarm_device.runners import RunnerPool
from tunefarm_device.session import CALL_TIMEOUT_S, Session


class Candidate:
    """One candidate: loaded, its arguments filled, then called, checked against nothing, timed."""

    def __init__(
        self,
        request: dpb.MeasureRequest,
        runners: RunnerPool,
        cache: BlobCache,
        facts: pb.DeviceFacts,
    ) -> None:
        self._request, self._cache = request, cache
        self._limit = request.timeout.ToTimedelta().total_seconds() or CALL_TIMEOUT_S
        self._session = Session(runners, cache, facts)
        self._call = dpb.CallFunction()
        self._outputs: list[int] = []

    async def run(self) -> dpb.MeasureResponse:
        """Measure it. Errors are answers; nothing is left behind."""
        answer = dpb.MeasureResponse(id=self._request.id)
        try:
            async with asyncio.timeout(self._limit):
                await self._prepare()
                await self._session.call(self._call, self._limit)
                if self._request.return_outputs:
                    for number in self._outputs:
                        pieces = [piece.data async for piece in self._session.read(number)]
                        answer.outputs.append(b"".join(pieces))
                timing = await self._session.time(self._call, self._request.options, self._limit)
                answer.timing.CopyFrom(timing)
        except errors.TunefarmError as error:
            answer.error.CopyFrom(error.to_proto())
        except TimeoutError:
            late = errors.KernelTimeoutError(
                f"the candidate took over {self._limit:g} s on the device's clock and was ended"
            )
            answer.error.CopyFrom(late.to_proto())
        finally:
            await self._session.close()
        if answer.HasField("error"):
            del answer.outputs[:]
        return answer

    async def _prepare(self) -> None:
        loaded = await self._session.load(self._request.bundle_digest, self._limit)
        manifest = bpb.BundleManifest.FromString(loaded.manifest)
        signature = find_function(manifest, self._request.function)
        if len(self._request.arguments) != len(signature.arguments):
            raise errors.ArgumentMismatchError(
                f"{signature.name} takes {len(signature.arguments)} arguments, "
                f"{len(self._request.arguments)} were given"
            )
        numbers = []
        for wanted, given in zip(signature.arguments, self._request.arguments, strict=True):
            number = await self._session.allocate(wanted.dtype, tuple(wanted.shape))
            numbers.append(number)
            if wanted.output:
                self._outputs.append(number)
            if given.WhichOneof("source") == "blob_digest":
                data = self._cache.read(given.blob_digest)
                for offset in range(0, len(data), rpc.CHUNK_BYTES):
                    piece = data[offset : offset + rpc.CHUNK_BYTES]
                    await self._session.write(number, offset, piece)
        self._call = dpb.CallFunction(
            module_id=loaded.module_id, function=signature.name, array_ids=numbers
        )


async def measure(
    requests: AsyncIterator[dpb.MeasureRequest],
    runners: RunnerPool,
    cache: BlobCache,
    facts: pb.DeviceFacts,
) -> AsyncIterator[dpb.MeasureResponse]:
    """Answer candidates in order, one at a time: nothing else runs while one is timed."""
    async for request in requests:
        yield await Candidate(request, runners, cache, facts).run()
