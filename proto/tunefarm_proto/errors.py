"""The errors of tunefarm, as users see them.

    TunefarmError
    +-- InternalError                 a bug on the answering side
    +-- ProtocolMismatchError         the peer speaks another major version
    +-- InvalidRequestError           a request's own fields make no sense
    +-- AccessError
    |   +-- UnauthenticatedError      no token, or a wrong or revoked one
    |   +-- PermissionDeniedError     the role does not allow it
    +-- MissingPackageError           what was asked for needs a package that is not installed
    +-- OverloadedError               the server takes no more calls at the moment
    +-- ConnectionFailedError
    |   +-- TrackerUnreachableError
    |   +-- DeviceUnreachableError
    |   +-- DeviceLostError           the device went away in the middle of the work
    +-- RequestError
    |   +-- UnknownKeyError           no device has that key
    |   +-- RequestTimeoutError       waited as long as it was allowed to
    |   +-- RequestCancelledError
    |   +-- QuotaExceededError        as many requests or devices as the user may have
    +-- UnknownDeviceError            no device of that id
    +-- LeaseError
    |   +-- LeaseLostError            expired, released or revoked
    |   +-- LeaseRefusedError         the token does not open this device
    +-- BundleError
    |   +-- BundleInvalidError        damaged, or not a bundle
    |   +-- UploadCorruptError        what arrived is not what was announced
    |   +-- TargetMismatchError       nothing in it that this device can run
    |   +-- UnknownFunctionError
    |   +-- UnknownDigestError        not in the device's cache
    +-- ArgumentMismatchError         number, shape or dtype differ from the manifest
    +-- UnknownHandleError            not an array or module of this session
    +-- OutOfMemoryError
    +-- UnknownFileError              not in the session's folder
    +-- FileRefusedError              a name that leads out of the session's folder, or no room
    +-- KernelError
    |   +-- KernelCrashedError        ended its process
    |   +-- KernelTimeoutError        ran longer than it was allowed to
    |   +-- KernelFailedError         returned a status other than 0
    |   +-- WrongAnswerError          differs from the reference
    +-- CompileError
        +-- BuildFailedError
        +-- UnknownWorkloadError
        +-- UnknownTargetError
        +-- InvalidScheduleError
        +-- CompilerCrashedError
        +-- OperatorInvalidError      a user's file of operators cannot be used

On the wire an error is a `tunefarm.v1.Error`: the answer to one operation of a stream, or the
trailing metadata of a call that failed (see `tunefarm_proto.rpc`).
"""

from typing import ClassVar

from tunefarm_proto.v1 import common_pb2 as pb


class TunefarmError(Exception):
    """Anything that tunefarm reports. `str()` is one line: what is wrong, then what would be right.

    Attributes: `message` says what is wrong; `hint` what would be right, or "".
    """

    code: ClassVar[pb.ErrorCode.ValueType] = pb.ERROR_CODE_INTERNAL

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def to_proto(self) -> pb.Error:
        """The error as it travels."""
        return pb.Error(code=self.code, message=self.message, hint=self.hint)


class InternalError(TunefarmError):
    """A bug on the answering side."""


class ProtocolMismatchError(TunefarmError):
    """The peer speaks another major version of the protocol."""

    code = pb.ERROR_CODE_PROTOCOL_MISMATCH


class InvalidRequestError(TunefarmError):
    """A request's own fields make no sense."""

    code = pb.ERROR_CODE_INVALID_REQUEST


class AccessError(TunefarmError):
    """The caller may not do this."""


class UnauthenticatedError(AccessError):
    """The call names nobody that the tracker knows: no token, or a wrong or revoked one."""

    code = pb.ERROR_CODE_UNAUTHENTICATED


class PermissionDeniedError(AccessError):
    """The caller's role does not allow this."""

    code = pb.ERROR_CODE_PERMISSION_DENIED


class MissingPackageError(TunefarmError, ImportError):
    """What was asked for needs a package that is not installed; the hint installs it."""

    code = pb.ERROR_CODE_MISSING_PACKAGE


class OverloadedError(TunefarmError):
    """The server takes no more calls at the moment."""

    code = pb.ERROR_CODE_OVERLOADED


class ConnectionFailedError(TunefarmError):
    """A peer cannot be reached."""


class TrackerUnreachableError(ConnectionFailedError):
    """No tracker answers at the address."""

    code = pb.ERROR_CODE_TRACKER_UNREACHABLE


class DeviceUnreachableError(ConnectionFailedError):
    """The device does not answer at any address that it advertises."""

    code = pb.ERROR_CODE_DEVICE_UNREACHABLE


class DeviceLostError(ConnectionFailedError):
    """The device went away in the middle of the work."""

    code = pb.ERROR_CODE_DEVICE_LOST


class RequestError(TunefarmError):
    """A request ended without a device."""


class UnknownKeyError(RequestError):
    """No device with that key is known to the tracker."""

    code = pb.ERROR_CODE_UNKNOWN_KEY


class RequestTimeoutError(RequestError, TimeoutError):
    """The request waited as long as it was allowed to."""

    code = pb.ERROR_CODE_REQUEST_TIMEOUT


class RequestCancelledError(RequestError):
    """The request was cancelled before it was granted."""

    code = pb.ERROR_CODE_REQUEST_CANCELLED


class QuotaExceededError(RequestError):
    """The user already has as many requests or devices as it may have."""

    code = pb.ERROR_CODE_QUOTA_EXCEEDED


class UnknownDeviceError(TunefarmError, LookupError):
    """The tracker knows no device of that id."""

    code = pb.ERROR_CODE_UNKNOWN_DEVICE


class LeaseError(TunefarmError):
    """The right to the device is missing."""


class LeaseLostError(LeaseError):
    """The lease has ended: expired, released or revoked."""

    code = pb.ERROR_CODE_LEASE_LOST


class LeaseRefusedError(LeaseError):
    """The token does not open this device: wrong, or of an earlier lease."""

    code = pb.ERROR_CODE_LEASE_REFUSED


class BundleError(TunefarmError):
    """Something is wrong with a bundle."""


class BundleInvalidError(BundleError):
    """The archive or its manifest is damaged, or is no bundle at all."""

    code = pb.ERROR_CODE_BUNDLE_INVALID


class UploadCorruptError(BundleError):
    """What arrived does not have the digest or size that was announced."""

    code = pb.ERROR_CODE_UPLOAD_CORRUPT


class TargetMismatchError(BundleError):
    """The bundle holds nothing that this device can run."""

    code = pb.ERROR_CODE_TARGET_MISMATCH


class UnknownFunctionError(BundleError, KeyError):
    """The module has no function of that name."""

    code = pb.ERROR_CODE_UNKNOWN_FUNCTION

    __str__ = TunefarmError.__str__


class UnknownDigestError(BundleError):
    """The digest is not in the device's cache."""

    code = pb.ERROR_CODE_UNKNOWN_DIGEST


class ArgumentMismatchError(TunefarmError, ValueError):
    """The number, shape or dtype of the arguments differs from the manifest."""

    code = pb.ERROR_CODE_ARGUMENT_MISMATCH


class UnknownHandleError(TunefarmError):
    """The array or module is not of this session, or was lost with its runner."""

    code = pb.ERROR_CODE_UNKNOWN_HANDLE


class OutOfMemoryError(TunefarmError, MemoryError):
    """The device could not get the memory that was asked for."""

    code = pb.ERROR_CODE_OUT_OF_MEMORY


class UnknownFileError(TunefarmError, LookupError):
    """The session's folder has no file of that name."""

    code = pb.ERROR_CODE_UNKNOWN_FILE


class FileRefusedError(TunefarmError):
    """The name leads out of the session's folder, to a link say, or the folder is full."""

    code = pb.ERROR_CODE_FILE_REFUSED


class KernelError(TunefarmError):
    """The kernel misbehaved."""


class KernelCrashedError(KernelError):
    """The kernel ended its process, by a signal for instance."""

    code = pb.ERROR_CODE_KERNEL_CRASHED


class KernelTimeoutError(KernelError, TimeoutError):
    """The kernel ran longer than it was allowed to."""

    code = pb.ERROR_CODE_KERNEL_TIMEOUT


class KernelFailedError(KernelError):
    """The kernel returned a status other than 0."""

    code = pb.ERROR_CODE_KERNEL_FAILED


class WrongAnswerError(KernelError):
    """The kernel's answer differs from the reference."""

    code = pb.ERROR_CODE_WRONG_ANSWER


class CompileError(TunefarmError):
    """A kernel could not be compiled."""


class BuildFailedError(CompileError):
    """The candidate could not be built."""

    code = pb.ERROR_CODE_BUILD_FAILED


class UnknownWorkloadError(CompileError, ValueError):
    """No workload of that name, or a field of it is unknown or out of range."""

    code = pb.ERROR_CODE_UNKNOWN_WORKLOAD


class UnknownTargetError(CompileError, ValueError):
    """No target of that name."""

    code = pb.ERROR_CODE_UNKNOWN_TARGET


class InvalidScheduleError(CompileError, ValueError):
    """The schedule cannot be applied to the workload."""

    code = pb.ERROR_CODE_INVALID_SCHEDULE


class CompilerCrashedError(CompileError):
    """The process that compiles died."""

    code = pb.ERROR_CODE_COMPILER_CRASHED


class OperatorInvalidError(CompileError):
    """A file of operators cannot be used, or an operator of a user's own misbehaves."""

    code = pb.ERROR_CODE_OPERATOR_INVALID


def _leaves(cls: type[TunefarmError]) -> list[type[TunefarmError]]:
    below = [leaf for sub in cls.__subclasses__() for leaf in _leaves(sub)]
    return below or [cls]


CLASS_OF_CODE: dict[int, type[TunefarmError]] = {leaf.code: leaf for leaf in _leaves(TunefarmError)}


def from_proto(error: pb.Error) -> TunefarmError:
    """The exception for an error that travelled; an unknown code becomes InternalError."""
    return CLASS_OF_CODE.get(error.code, InternalError)(error.message, error.hint)
