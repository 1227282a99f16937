"""What a device server is told to offer, `--key NAME[:OPTION=VALUE[,...]]`, and where that runs."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tunefarm_proto.errors import InvalidRequestError

from tunefarm_device.topology import parse_cpus, spell_cpus

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_OPTIONS = "backend=NAME, cores=0-3+8, gpu=0, unit=NAME and label.NAME=VALUE"


@dataclass(frozen=True)
class Key:
    """One `--key`: `cores` are None and texts empty where it does not say.

    `gpu`: its unit was given as that of a GPU, so its backend is `cuda` where none other is named.
    """

    name: str
    cores: frozenset[int] | None = None
    backend: str = ""
    unit: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    gpu: bool = False

    def backend_of(self, default: str) -> str:
        """Its backend, on a server whose keys have `default` where they name none."""
        if self.backend or not self.gpu or default != "native":
            return self.backend or default
        return "cuda"


@dataclass(frozen=True)
class Place:
    """One device: its unit of the backend, and the processors on which its kernels run."""

    key: Key
    unit: str
    cores: frozenset[int]

    def __str__(self) -> str:
        return f"{self.key.name} unit {self.unit}" if self.unit else self.key.name


def parse_key(text: str) -> Key:
    """Read one. Raises: InvalidRequestError."""
    name, colon, rest = text.partition(":")
    if not _NAME.fullmatch(name) or not text.isprintable():
        raise InvalidRequestError(
            f"{name!r} is no device key",
            "use up to 64 letters, digits, dots, dashes and _, as in rasp3b",
        )
    given: dict[str, str] = {}
    for word in rest.split(",") if colon else ():
        option, _, value = word.partition("=")
        known = option in ("backend", "cores", "gpu", "unit") or re.fullmatch(r"label\..+", option)
        if not known or not value:
            raise InvalidRequestError(
                f"--key {text}: {word!r} is no option of a key", f"there are {_OPTIONS}"
            )
        if option in given:
            raise InvalidRequestError(f"--key {text}: {option} is given twice")
        given[option] = value
    labels = {n.removeprefix("label."): v for n, v in given.items() if n.startswith("label.")}
    cores = _cores(text, given["cores"]) if "cores" in given else None
    if "gpu" in given and "unit" in given:
        raise InvalidRequestError(f"--key {text}: gpu and unit are one thing", "give one of them")
    unit = given.get("gpu") or given.get("unit", "")
    return Key(name, cores, given.get("backend", ""), unit, labels, "gpu" in given)


def _cores(text: str, value: str) -> frozenset[int]:
    try:
        return parse_cpus(value, "+")
    except ValueError as error:
        raise InvalidRequestError(
            f"--key {text}: {error}", "give processors as in cores=0-3 or cores=0+2+4-7"
        ) from None


def place(
    keys: Sequence[Key], allowed: Iterable[int], units: Callable[[Key], Sequence[str]]
) -> list[Place]:
    """The devices of these keys, in order: one for each unit where a key names none.

    `allowed` are the processors of this process, `units` those of a key's backend. A key without
    cores runs on what the others leave.
    Raises: InvalidRequestError.
    """
    allowed = frozenset(allowed)
    given: dict[int, Key] = {}
    for key in keys:
        cores = key.cores or frozenset()
        if missing := cores - allowed:
            raise InvalidRequestError(
                f"--key {key.name}: this server cannot run on processor {spell_cpus(missing)}",
                f"it may run on {spell_cpus(allowed)}",
            )
        if twice := cores.intersection(given):
            raise InvalidRequestError(
                f"{given[min(twice)].name} and {key.name} are both given processor "
                f"{spell_cpus(twice)}",
                "give each device cores of its own",
            )
        given.update(dict.fromkeys(cores, key))
    left = allowed.difference(given)
    places: list[Place] = []
    for key in keys:
        if key.cores is None and not left:
            raise InvalidRequestError(
                f"no processor is left for {key.name}", "leave one out of the others' cores"
            )
        places += [Place(key, unit, key.cores or left) for unit in _units(key, units(key))]
    _check_once(places)
    return places


def _units(key: Key, there: Sequence[str]) -> Sequence[str]:
    if key.unit and key.unit not in there:
        raise InvalidRequestError(
            f"--key {key.name}: its backend has no unit {key.unit!r}",
            f"its units are {', '.join(there)}" if there else "it has no units: leave unit= out",
        )
    return [key.unit] if key.unit else there or [""]


def _check_once(places: Sequence[Place]) -> None:
    seen: set[tuple[str, str]] = set()
    for one in places:
        if one.unit and (one.key.backend, one.unit) in seen:
            raise InvalidRequestError(
                f"unit {one.unit} of backend {one.key.backend!r} is offered twice",
                "give each key a unit of its own",
            )
        seen.add((one.key.backend, one.unit))
