"""How a command ends: the one table of exit statuses, for scripts."""

from enum import IntEnum

from tunefarm_proto import errors


class Exit(IntEnum):
    """Exit statuses of every command."""

    DONE = 0
    NO = 1
    USAGE = 2
    VERDICT = 3
    UNREACHABLE = 4
    REFUSED = 5
    NO_DEVICE = 6
    WORK = 7
    MISSING = 8
    BUG = 70
    INTERRUPTED = 130
    PIPE = 141


MEANING = {
    Exit.DONE: "done",
    Exit.NO: "it ran, and the answer is no: a wrong answer (`bench`, `compare`), no candidate that "
    "worked (`tune`), a failed check (`check`), nothing there to end (`admin cancel`, `admin "
    "revoke`), nothing known of what was named (`logs`), something needed that is missing "
    "(`doctor`); and what has no status of its own",
    Exit.USAGE: "what was asked for makes no sense: an option, a workload, a target, a schedule, a "
    "bundle, a file that cannot be read",
    Exit.VERDICT: "a verdict named by `compare --fail-if`",
    Exit.UNREACHABLE: "the tracker or the device does not answer, or speaks another protocol",
    Exit.REFUSED: "no token, a wrong one, or one whose role does not allow it",
    Exit.NO_DEVICE: "no device was had, or it was lost: an unknown key or device, a time-out in "
    "the queue, a quota, an overloaded server, a lease that ended",
    Exit.WORK: "the work itself failed: the kernel crashed, ran too long or was refused by the "
    "device, or the compiler failed",
    Exit.MISSING: "a package or tool is not installed; the line says what installs it",
    Exit.BUG: "a bug of tunefarm; `TUNEFARM_DEBUG=1` shows where",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
    Exit.PIPE: "what read the output has gone, as `head` does",
}

# The first class that fits counts.
_OF_ERRORS: tuple[tuple[type[errors.TunefarmError], Exit], ...] = (
    (errors.InvalidRequestError, Exit.USAGE),
    (errors.UnknownWorkloadError, Exit.USAGE),
    (errors.UnknownTargetError, Exit.USAGE),
    (errors.OperatorInvalidError, Exit.USAGE),
    (errors.InvalidScheduleError, Exit.USAGE),
    (errors.BundleInvalidError, Exit.USAGE),
    (errors.UnknownFunctionError, Exit.USAGE),
    (errors.DeviceLostError, Exit.NO_DEVICE),
    (errors.ConnectionFailedError, Exit.UNREACHABLE),
    (errors.ProtocolMismatchError, Exit.UNREACHABLE),
    (errors.AccessError, Exit.REFUSED),
    (errors.MissingPackageError, Exit.MISSING),
    (errors.RequestError, Exit.NO_DEVICE),
    (errors.UnknownDeviceError, Exit.NO_DEVICE),
    (errors.OverloadedError, Exit.NO_DEVICE),
    (errors.LeaseError, Exit.NO_DEVICE),
    (errors.WrongAnswerError, Exit.NO),
    (errors.InternalError, Exit.NO),
    (errors.TunefarmError, Exit.WORK),
)


def exit_of(error: errors.TunefarmError) -> Exit:
    """The status for a command that ended by this error."""
    return next(status for kind, status in _OF_ERRORS if isinstance(error, kind))
