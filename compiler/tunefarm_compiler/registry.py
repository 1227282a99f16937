"""Operators by name: those of this package, then users' own, of their files and packages.

Files are named by TUNEFARM_OPERATORS, a list as PATH is one, which worker processes inherit;
packages by the entry point `tunefarm.operators`, a module or an operator. They are read when a name
is none of ours. A file that was edited is read again.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import sys
import threading
import traceback
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from tunefarm_proto.errors import OperatorInvalidError, TunefarmError

from tunefarm_compiler.operators import OPERATORS, Operator
from tunefarm_compiler.wrong import ExpressionError

VARIABLE = "TUNEFARM_OPERATORS"
GROUP = "tunefarm.operators"
HINT = "docs/adding-an-operator.md shows how one is written"
Files = Sequence[str]


def files() -> tuple[str, ...]:
    """The files that the environment names."""
    given = os.environ.get(VARIABLE, "").split(os.pathsep)
    return tuple(dict.fromkeys(str(Path(one).absolute()) for one in given if one))


def use_operators(*given: str | os.PathLike[str]) -> None:
    """Have the operators of files known here, and in all processes that are started from here.

    Raises: OperatorInvalidError for a file that cannot be used.
    """
    paths = dict.fromkeys((*(str(Path(one).absolute()) for one in given), *files()))
    for path in paths:
        if os.pathsep in path:
            raise OperatorInvalidError(f"{path}: {os.pathsep!r} parts paths", "rename it")
    own(tuple(paths))
    os.environ[VARIABLE] = os.pathsep.join(paths)


def find(name: str, among: Files | None = None) -> Operator | None:
    """The operator of that name; users' own are looked for `among` these files, or `files()`.

    Raises: OperatorInvalidError for a file or package that cannot be used.
    """
    return OPERATORS.get(name) or own(among).get(name) or _installed().get(name)


def every(among: Files | None = None) -> dict[str, Operator]:
    """All operators by name. Raises: OperatorInvalidError."""
    return {**OPERATORS, **_installed(), **own(among)}


def own(among: Files | None = None) -> dict[str, Operator]:
    """Those of files. Raises: OperatorInvalidError."""
    found: dict[str, Operator] = {}
    for path in files() if among is None else among:
        for name, operator in _read(path).items():
            if name in found:
                raise OperatorInvalidError(
                    f"{path}: operator {name} is in {found[name].file}, too", "rename one of them"
                )
            found[name] = operator
    return found


@dataclass(frozen=True)
class _Loaded:
    text: bytes
    operators: Mapping[str, Operator]


_loaded: dict[str, _Loaded] = {}
_begun: set[str] = set()  # files that are being read
_loading = threading.RLock()


def _read(path: str) -> Mapping[str, Operator]:
    """A file's operators. Its text decides: two edits may bear one time."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise OperatorInvalidError(
            f"{path}: {error.strerror}", f"name files of operators by --operators or {VARIABLE}"
        ) from None
    with _loading:
        known = _loaded.get(path)
        if path in _begun:
            raise OperatorInvalidError(
                f"{path} uses its operators while it is read",
                'put that under `if __name__ == "__main__":`',
            )
        if known is None or known.text != text:
            _begun.add(path)
            try:
                known = _loaded[path] = _Loaded(text, _executed(path, text))
            finally:
                _begun.remove(path)
        return known.operators


def _executed(path: str, text: bytes) -> dict[str, Operator]:
    """Without bytecode on the disk, which may be that of an earlier text."""
    name = f"tunefarm_operators_{hashlib.sha256(path.encode()).hexdigest()[:8]}_{Path(path).stem}"
    module = types.ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module  # dataclasses look there
    with blamed(path), contextlib.redirect_stdout(sys.stderr):  # answers go to stdout
        exec(compile(text, path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 (asked)
    return _operators(path, vars(module), path)


def _operators(where: str, names: Mapping[str, object], path: str = "") -> dict[str, Operator]:
    found = {name: one for name, one in names.items() if isinstance(one, Operator)}
    if not found:
        raise OperatorInvalidError(f"{where} defines no operator", HINT)
    if taken := sorted(name for name in found if name in OPERATORS):
        raise OperatorInvalidError(
            f"{where}: operator {taken[0]} is one of tunefarm's own", "give it another name"
        )
    return {name: replace(one, file=path) for name, one in found.items()}


@cache
def _installed() -> dict[str, Operator]:
    """Those of installed packages."""
    found: dict[str, Operator] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        where = f"{entry.value} of {entry.dist.name if entry.dist else 'a package'}"
        with blamed(where):
            loaded = entry.load()
        names = {entry.name: loaded} if isinstance(loaded, Operator) else vars(loaded)
        found |= _operators(where, names)
    return found


@contextlib.contextmanager
def blamed(where: str, *passing: type[Exception]) -> Iterator[None]:
    """What somebody's code raises is one line that names it, but for our errors and `passing`."""
    known: tuple[type[Exception], ...] = (TunefarmError, *passing)
    try:
        yield
    except ExpressionError as error:
        raise OperatorInvalidError(
            f"{_place(error, where)}: {error.message}", error.hint
        ) from error
    except known:
        raise
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {getattr(error, 'msg', error)}".splitlines()[0]
        raise OperatorInvalidError(f"{_place(error, where)}: {said[:300]}", HINT) from error


def _place(error: BaseException, path: str) -> str:
    """The file with its last line that it went through, where it did."""
    frames = traceback.extract_tb(error.__traceback__)
    line = next((one.lineno for one in reversed(frames) if one.filename == path), None)
    line = error.lineno if isinstance(error, SyntaxError) else line
    return f"{path}:{line}" if line else path
