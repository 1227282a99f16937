"""PTX text as words, numbers and marks."""

import re
import struct
from dataclasses import dataclass

from .errors import PtxSyntaxError
from .syntax import Immediate

_TOKEN = re.compile(
    r"""
    (?P<blank>(?:\s+|//[^\n]*|/\*.*?\*/)+)
  | (?P<string>"[^"\n]*")
  | (?P<number>0[fF][0-9a-fA-F]{8}(?![\w])|0[dD][0-9a-fA-F]{16}(?![\w])
      |0[xX][0-9a-fA-F]+U?|0[bB][01]+U?
      |\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+|\d+U?)
  | (?P<word>[%$._A-Za-z][\w$]*(?:(?:\.|::)[\w$]+)*)
  | (?P<mark>[{}()\[\]<>,;:@!|=+\-*])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """One word, number, string or mark, and where it starts."""

    sort: str
    text: str
    line: int
    start: int


def tokens_of(text: str) -> list[Token]:
    """The tokens of a text, an `end` last. Raises: PtxSyntaxError."""
    found: list[Token] = []
    place, line = 0, 1
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise PtxSyntaxError(f"{text[place : place + 20]!r} is no part of PTX", line)
        sort = match.lastgroup or ""
        if sort != "blank":
            found.append(Token(sort, match[0], line, place))
        line += match[0].count("\n")
        place = match.end()
    found.append(Token("end", "", line, len(text)))
    return found


def number_of(text: str) -> Immediate:
    """A literal: hexadecimal, octal, binary or decimal integers, `0f...`, `0d...`, or 1.5."""
    lower = text.lower()
    if lower.startswith("0f"):
        return Immediate(int(text[2:], 16), 32)
    if lower.startswith("0d") and len(text) == 18:
        return Immediate(int(text[2:], 16), 64)
    if not lower.startswith("0x") and re.search(r"[.e]", lower):
        return Immediate(int.from_bytes(struct.pack("<d", float(text)), "little"), 64)
    digits = lower.rstrip("u")
    if digits.startswith(("0x", "0b")):
        return Immediate(int(digits, 0))
    return Immediate(int(digits, 8 if digits.startswith("0") else 10))
