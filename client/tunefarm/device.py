"""A leased device, as its holder sees it."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import grpc
from tunefarm_proto import chunks, errors, rpc
from tunefarm_proto.bundle import Bundle
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_proto.v1 import device_pb2_grpc as dpb_grpc
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm.array import Array, check_dtype, check_shape, host_view
from tunefarm.calls import Batch, Pipeline, Profile
from tunefarm.channel import connect, named_errors
from tunefarm.files import Files
from tunefarm.lease import LeaseHolder
from tunefarm.module import Module
from tunefarm.session import Session

# Called with (bytes sent, bytes to send) as an upload goes on.
Progress = Callable[[int, int], None]
_UPLOAD = f"/{dpb.DESCRIPTOR.services_by_name['DeviceService'].full_name}/UploadBlob"


class Device:
    """A leased device. Leaving its `with` block gives it back, or, where it is one of several that
    were requested together, only closes it: they are given back together.

    Attributes: `id`, `key`, `facts` (a `tunefarm.v1.DeviceFacts`), `lease` (a `tunefarm.v1.Lease`),
    `files` of the session.
    """

    def __init__(
        self, holder: LeaseHolder, grant: tpb.Grant, give_back: Callable[[], None]
    ) -> None:
        self._holder = holder
        self._give_back = give_back
        self._closed = False
        self.lease = grant.lease
        self.facts = grant.facts
        self.id = grant.lease.device_id
        self.key = grant.lease.device_key
        self._metadata = rpc.call_metadata(grant.lease.id, grant.token)
        self._lost_error = errors.DeviceLostError(
            f"device {self.id} went away in the middle of the work",
            "request another: `tunefarm status` shows those there are",
        )
        self._address = ""
        self._channel = self._connect(list(grant.addresses))
        self._stub = dpb_grpc.DeviceServiceStub(self._channel)
        self._session = Session(
            self._channel,
            self._metadata,
            self._lost,
            self._lost_error,
            address=self._address,
            credentials=holder.credentials,
        )
        self.files = Files(self._session)
        holder.when_lost(self._session.close)

    def _connect(self, addresses: list[str]) -> grpc.Channel:
        last: errors.TunefarmError | None = None
        for address in addresses:
            try:
                self._address = address
                return connect(
                    address,
                    errors.DeviceUnreachableError(
                        f"device {self.id} does not answer at {address}",
                        "check the network between here and the device, and its --advertise",
                    ),
                    credentials=self._holder.credentials,
                )
            except errors.ConnectionFailedError as error:
                last = error
        raise last or errors.DeviceUnreachableError(
            f"device {self.id} advertises no address", "start it with --advertise HOST:PORT"
        )

    def _lost(self) -> errors.TunefarmError | None:
        return self._holder.error

    @property
    def emulated(self) -> bool:
        """True where its processor is emulated: its timings say nothing about the real one."""
        return self.facts.emulated

    @property
    def target(self) -> pb.Target:
        """What it runs: triple, CPU, features."""
        return self.facts.target

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the device back. Doing it twice is fine."""
        if not self._closed:
            self._closed = True
            self._session.close()
            self._give_back()
            self._channel.close()

    def extend(self, ttl: float) -> None:
        """Keep the lease for so many seconds after this process was last heard of.

        For holders that may be suspended or cut off; the tracker has a limit. Heartbeats go on.
        """
        if ttl <= 0:
            raise errors.InvalidRequestError(f"ttl={ttl} is not a time", "give seconds above 0")
        self._check_open()
        self._holder.extend(ttl)

    def load(
        self,
        bundle: Bundle | str | os.PathLike[str],
        on_progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Module:
        """Load a bundle, or the one in a file, uploading only what the device lacks.

        `timeout` in seconds of the device's own clock, for loading alone (60 unless given).
        Raises: BundleInvalidError, TargetMismatchError, UploadCorruptError, OSError.
        """
        if not isinstance(bundle, Bundle):
            bundle = Bundle.read(bundle)
        sent = self.upload(bundle.data, bundle.digest, on_progress)
        answer = self._session.request(
            dpb.SessionRequest(load=dpb.LoadModule(digest=bundle.digest)), timeout
        )
        return Module(self._session, bundle.digest, answer.loaded, sent)

    def upload(self, data: bytes, digest: str, on_progress: Progress | None = None) -> int:
        """Put a blob into the device's cache unless it is there. Returns the bytes it took.

        A broken upload goes on where it stopped. Raises: UploadCorruptError.
        """
        self._check_open()
        with named_errors(self._lost_error):
            missing = self._stub.FindMissingDigests(
                dpb.FindMissingDigestsRequest(digests=[digest]), metadata=self._metadata
            ).missing
            if not missing:
                return 0
            pieces = _pieces(data, digest, missing[0].held_bytes, on_progress)
            upload = self._channel.stream_unary(
                _UPLOAD,
                request_serializer=chunks.encode,
                response_deserializer=dpb.UploadBlobResponse.FromString,
            )
            answer: dpb.UploadBlobResponse = upload(pieces, metadata=self._metadata)
            return answer.received_bytes

    def array(self, source: Any) -> Array:
        """An array with the contents, dtype and shape of a host array.

        `source`: numpy, DLPack on the CPU, or anything with the buffer protocol.
        Raises: ArgumentMismatchError, OutOfMemoryError.
        """
        view, dtype, shape = host_view(source)
        made = Array(self._session, self._session.allocate(dtype, shape), dtype, shape)
        self._session.write(made.handle(self._session), view)
        return made

    def empty(self, shape: int | Sequence[int], dtype: str = "float32") -> Array:
        """An array of zeros. Raises: ArgumentMismatchError, OutOfMemoryError."""
        axes, name = check_shape(shape), check_dtype(dtype)
        return Array(self._session, self._session.allocate(name, axes), name, axes)

    def pipeline(self, keep_errors: bool = False) -> Pipeline:
        """Calls that do not wait for each other's answers, in a `with` block: see `Pipeline`."""
        self._check_open()
        return Pipeline(self._session, keep_errors)

    def batch(self) -> Batch:
        """Calls that travel in one message and run back to back: see `Batch`."""
        return Batch(self._session)

    def profile(self) -> Profile:
        """What the calls in a `with` block cost on the device, by function: see `Profile`."""
        return Profile(self._session)

    def output(self) -> str:
        """What kernels of this session printed, also before a crash; the last 1 MiB of it."""
        return self._read_log(dpb.ReadLog.SOURCE_RUNNER)

    def log(self) -> str:
        """What the device server logged under this lease; the last 1000 lines."""
        return self._read_log(dpb.ReadLog.SOURCE_DEVICE)

    def _read_log(self, source: dpb.ReadLog.Source.ValueType) -> str:
        operation = dpb.SessionRequest(log=dpb.ReadLog(source=source))
        return b"".join(list(self._session.pieces(operation))).decode(errors="replace")

    def measure(self, candidates: Iterator[dpb.MeasureRequest]) -> Iterator[dpb.MeasureResponse]:
        """Time candidates one after another, each in a runner of its own.

        Their bundles and blobs must be uploaded. Errors of a candidate are values in its response;
        raises DeviceLostError or LeaseLostError where the stream breaks.
        """
        self._check_open()
        try:
            yield from self._stub.Measure(candidates, metadata=self._metadata)
        except grpc.RpcError as error:
            raise self._lost() or rpc.error_of_call(error, self._lost_error) from None

    def _check_open(self) -> None:
        if self._closed:
            raise errors.LeaseLostError("the device was released", "request it again")
        if lost := self._lost():
            raise lost

    def __repr__(self) -> str:
        return f"Device({self.id}, lease {self.lease.id}{', emulated' if self.emulated else ''})"


def _pieces(
    data: bytes, digest: str, offset: int, on_progress: Progress | None
) -> Iterator[dpb.UploadBlobRequest | memoryview]:
    header = dpb.UploadHeader(digest=digest, size_bytes=len(data), offset=offset)
    yield dpb.UploadBlobRequest(header=header)
    view = memoryview(data)
    for start in range(offset, len(data), rpc.CHUNK_BYTES):
        piece = view[start : start + rpc.CHUNK_BYTES]
        yield piece
        if on_progress is not None:
            on_progress(start + len(piece), len(data))
