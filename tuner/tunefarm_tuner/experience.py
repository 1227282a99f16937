"""What records of earlier searches are for a new one: experience, and entries of the database."""

from collections import Counter
from collections.abc import Iterable

from tunefarm_compiler import workload
from tunefarm_compiler.database import Entry, replace
from tunefarm_compiler.schedule import Schedule
from tunefarm_compiler.targets import TargetSpec
from tunefarm_compiler.workload import Workload
from tunefarm_proto.errors import InvalidScheduleError, OperatorInvalidError, UnknownWorkloadError

from tunefarm_tuner.records import Record
from tunefarm_tuner.search import Experience


def spec_of(record: Record) -> TargetSpec:
    """The target that it was built for."""
    triple, _, cpu = record.target.partition(" ")
    return TargetSpec(triple, cpu, tuple(record.features))


def workload_of(record: Record) -> Workload | None:
    """The compiler's workload, where it is one."""
    try:
        return workload.parse(record.workload)
    except (UnknownWorkloadError, OperatorInvalidError):
        return None


def experience_of(records: Iterable[Record]) -> list[Experience]:
    """Measured candidates of the compiler's workloads; failed ones cost infinitely much."""
    found = []
    for record in records:
        parsed = workload_of(record)
        if parsed is not None and record.schedule and record.features:
            spec, cost = spec_of(record), record.median_s
            found.append(
                Experience(parsed, spec, record.schedule, cost, record.device_key, record.threads)
            )
    return found


def readable(record: Record) -> bool:
    """Whether its schedule is one of this version's."""
    try:
        Schedule.from_json(record.schedule)
    except InvalidScheduleError:
        return False
    return True


def entries_of(records: Iterable[Record]) -> list[Entry]:
    """What the database may keep of them: those that worked on real processors.

    Those timed by the full protocol count before those that were only screened.
    """
    good = [one for one in records if one.samples_s and not one.error and not one.emulated]
    trials = Counter((record.task, record.threads) for record in good)
    full = {(record.task, record.threads) for record in good if record.tier == "full"}
    entries = []
    for record in good:
        parsed, search = workload_of(record), (record.task, record.threads)
        if parsed is None or (search in full and record.tier != "full"):
            continue
        if not readable(record):  # of a newer version, say
            continue
        spec, threads = spec_of(record), record.threads
        entry = Entry.of(parsed, spec, record.schedule, record.median_s, threads)
        entries.append(
            replace(
                entry,
                device=record.device,
                device_key=record.device_key,
                trials=trials[search],
                recorded_at=record.recorded_at,
            )
        )
    return entries
