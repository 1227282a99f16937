"""What is asked of a search: which workloads, on devices of which keys, by which files."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tunefarm_compiler import workload
from tunefarm_proto import errors

from tunefarm_tuner.foreign_logs import is_log
from tunefarm_tuner.tasks import Custom
from tunefarm_tuner.templates import TemplateSpace


@dataclass(frozen=True)
class Tuned:
    """A workload to be tuned, `weight` times as important as one of weight 1."""

    workload: str
    weight: float = 1.0

    @property
    def name(self) -> str:
        """What it is called."""
        return self.workload


Wanted: TypeAlias = str | Tuned | Custom | TemplateSpace[Any]


def listed(tasks: Wanted | Iterable[Wanted]) -> list[Tuned | Custom]:
    """One or several, each as it is tuned. Raises: InvalidRequestError for what cannot be."""
    if isinstance(tasks, str) or not isinstance(tasks, Iterable):
        return [_as_tuned(tasks)]
    return [_as_tuned(one) for one in tasks]


def _as_tuned(one: object) -> Tuned | Custom:
    if isinstance(one, TemplateSpace):
        return Custom.from_space(one)
    if isinstance(one, Tuned | Custom):
        return one
    if isinstance(one, str):
        return Tuned(one)
    if callable(one):
        hint = "make it a space, as in Custom.of(workload, function) or TemplateSpace(function)"
    else:
        hint = "give a workload as text, a Tuned, a Custom or a TemplateSpace"
    raise errors.InvalidRequestError(f"{type(one).__name__} is nothing to tune", hint)


def there(path: str | os.PathLike[str]) -> Path:
    """A file of records to learn from. Raises: InvalidRequestError where there is none of ours."""
    found = Path(path)
    if not found.exists():
        raise errors.InvalidRequestError(
            f"there are no records in {found} to learn from", "name another file by --transfer"
        )
    if is_log(found):
        raise errors.InvalidRequestError(
            f"{found} is another tuner's log, whose schedules do not carry over",
            "tune its workloads by --tasks-from",
        )
    return found


def once(wanted: Sequence[Tuned | Custom]) -> list[Tuned | Custom]:
    """Each workload once: what is named again counts that much more.

    Raises: InvalidRequestError, UnknownWorkloadError.
    """
    found: dict[str, Tuned | Custom] = {}
    for one in wanted:
        if not 0 < one.weight < math.inf:
            raise errors.InvalidRequestError(
                f"{one.name}: {one.weight} is no weight", "give a number above 0"
            )
        name = str(workload.parse(one.workload)) if isinstance(one, Tuned) else one.name
        first = found.get(name)
        if first is None:
            found[name] = one
        elif isinstance(first, Tuned) and isinstance(one, Tuned):
            found[name] = Tuned(first.workload, first.weight + one.weight)
        else:
            raise errors.InvalidRequestError(
                f"two tasks are named {name}", "give each a name of its own"
            )
    return list(found.values())


def keys_of(devices: str | Sequence[str] | Mapping[str, int]) -> dict[str, int]:
    if isinstance(devices, str):
        return {devices: 1}
    keys = dict(devices) if isinstance(devices, Mapping) else dict(Counter(devices))
    for key, count in keys.items():
        if not key or count < 1:
            raise errors.InvalidRequestError(
                f"{count} devices of key {key!r}", 'name keys, as in {"rasp4b": 3}'
            )
    return keys
