"""Conditions on a device's attributes, as users write them.

    memory_mb: ">=2048"       numbers compare by >=, <=, >, <
    cpu: "cortex-a*"          texts by equality, with * and ? as in file names; != is the opposite
    features: "sve,fp16"      lists hold every word that is named
    labels: "lab=berlin,usb"  as do labels: with this value, or with any

Attributes are texts; lists are joined by commas, labels are attributes named `label.NAME`.
"""

import fnmatch
from collections.abc import Iterable, Mapping

from tunefarm_tracker.core.record import record

LISTS = ("features", "isolation")
LABEL = "label."
_ORDERED = (">=", "<=", ">", "<")
_OPERATORS = (*_ORDERED, "!=", "==", "=")


@record
class Condition:
    """One condition: `operator` is one of >= <= > < = != has is-set."""

    attribute: str
    operator: str
    value: str

    def holds(self, attributes: Mapping[str, str]) -> bool:
        """Whether a device with these attributes meets it; without the attribute it does not."""
        own = attributes.get(self.attribute)
        if own is None:
            return False
        match self.operator:
            case "is-set":
                return True
            case "has":
                return self.value in own.split(",")
            case "=":
                return fnmatch.fnmatchcase(own, self.value)
            case "!=":
                return not fnmatch.fnmatchcase(own, self.value)
            case _:
                return _compare(own, self.operator, float(self.value))

    def __str__(self) -> str:
        return f"{self.attribute} {self.operator} {self.value}".removesuffix(" is-set ")


def _compare(own: str, operator: str, value: float) -> bool:
    try:
        number = float(own)
    except ValueError:
        return False
    match operator:
        case ">=":
            return number >= value
        case "<=":
            return number <= value
        case ">":
            return number > value
        case _:
            return number < value


def parse(where: Iterable[tuple[str, str]]) -> tuple[Condition, ...]:
    """The conditions of one need, sorted. Raises: ValueError, in one line."""
    found: list[Condition] = []
    for name, text in where:
        if name == "labels":
            found += [_label(part.strip()) for part in text.split(",")]
        elif name in LISTS:
            found += [Condition(name, "has", part.strip()) for part in text.split(",")]
        else:
            found.append(_condition(name, text))
    return tuple(sorted(found, key=str))


def _label(text: str) -> Condition:
    name, equals, value = text.partition("=")
    if not name:
        raise ValueError(f"labels: {text!r} names no label; write it as in lab=berlin")
    return Condition(LABEL + name, "=" if equals else "is-set", value)


def _condition(name: str, text: str) -> Condition:
    text = text.strip()
    operator = next((one for one in _OPERATORS if text.startswith(one)), "=")
    value = text.removeprefix(operator).strip() if text.startswith(operator) else text
    if not name or not value:
        raise ValueError(f"{name}: {text!r} is no condition; write it as in memory_mb: >=2048")
    if operator in _ORDERED:
        try:
            float(value)
        except ValueError:
            raise ValueError(f"{name}: {value!r} is no number to compare with") from None
    return Condition(name, "=" if operator == "==" else operator, value)
