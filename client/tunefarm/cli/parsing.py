"""How words on the command line are read: errors in one line, values with a range."""

import argparse
import difflib
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from tunefarm_proto.exits import Exit

_CHOICE = re.compile(r"argument (.+?): invalid choice: '(.*?)' \(choose from (.*)\)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line with what comes next; no option is abbreviated."""

    def __init__(self, *words: object, **more: object) -> None:
        more.setdefault("allow_abbrev", False)
        self._words: list[str] = []
        super().__init__(*words, **more)  # type: ignore[arg-type]

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        """As ever; the words are kept, to tell what is wrong with them."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def _unknown(self, given: str) -> str:
        """An option that there is not, whose value `given` was taken for a verb; "" for none."""
        before = self._words[: self._words.index(given)] if given in self._words else []
        named = (word.partition("=")[0] for word in before if word.startswith("--"))
        return next((one for one in named if one not in self._option_string_actions), "")

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with status 2."""
        found = _CHOICE.match(message)
        if found is not None and (option := self._unknown(found[2])):
            message = f"there is no option {option}"
            if near := difflib.get_close_matches(option, self._option_string_actions, 1):
                message += f"; did you mean {near[0]}?"
        line = " ".join(_readable(message).split())
        print(f"{self.prog}: {line} (`{self.prog} --help` tells more)", file=sys.stderr)
        sys.exit(Exit.USAGE)


def _readable(message: str) -> str:
    """A wrong choice gets the nearest right one, or all."""
    found = _CHOICE.match(message)
    if found is None:
        return message
    what, given, known = found.groups()
    names = re.findall(r"'?([\w.-]+)'?", known)
    near = difflib.get_close_matches(given, names, 1)
    hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(names)}"
    return f"there is no {what} {given!r}; {hint}"


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """A type for options: a whole number from `least` to `most`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,10}", text) or not least <= int(text) <= most:
            end = f"to {most}" if most < 2**31 - 1 else "or more"
            raise argparse.ArgumentTypeError(
                f"{text!r} is none; give a whole number, {least} {end}"
            )
        return int(text)

    return parse


def number(least: float, *, above: bool = False, most: float = 1e9) -> Callable[[str], float]:
    """A type for options: a number from `least`, or `above` it, to `most`; no nan, no infinity."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least < value if above else least <= value) or not value <= most:
            start = f"above {least:g}" if above else f"{least:g} or more"
            end = f", at most {most:g}" if most < 1e9 else ""
            raise argparse.ArgumentTypeError(f"{text!r} is none; give a number, {start}{end}")
        return value

    return parse


port = whole(0, 65535)


def leaves(
    parser: argparse.ArgumentParser, words: Sequence[str] = ()
) -> "list[tuple[tuple[str, ...], argparse.ArgumentParser]]":
    """Every command with its words: ("token", "create") and its parser; those with verbs first."""
    found = [(tuple(words), parser)]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                found += leaves(sub, (*words, name))
    return found
