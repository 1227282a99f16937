"""`tunefarm device install`, `tunefarm tracker install`: a server becomes a service of systemd."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunefarm_proto.errors import InternalError, InvalidRequestError

from tunefarm.cli.output import print_json
from tunefarm.cli.units import Unit, text, user_text

UNITS, USERS, SECRETS = "etc/systemd/system", "etc/sysusers.d", "etc/tunefarm"
_LATER = ("--print", "--root", "--no-start", "--name", "--json")


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Options of an installation."""
    place = parser.add_argument_group("the service")
    place.add_argument(
        "--name", default=name, help=f"of the unit, its user and its state (default {name})"
    )
    place.add_argument(
        "--print", action="store_true", dest="only_print", help="print the unit and change nothing"
    )
    place.add_argument(
        "--root",
        type=Path,
        default=Path("/"),
        metavar="DIR",
        help="write into this system's files instead, an image's say; nothing is started",
    )
    place.add_argument("--no-start", action="store_true", help="write it, start nothing")


def add_removal(parser: argparse.ArgumentParser, name: str) -> None:
    """Options of a removal."""
    parser.add_argument("--name", default=name, help=f"of the unit (default {name})")
    parser.add_argument(
        "--root", type=Path, default=Path("/"), metavar="DIR", help="in this system"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def words_of(
    parser: argparse.ArgumentParser, given: argparse.Namespace, leave_out: Iterable[str]
) -> list[str]:
    """The options that differ from their defaults, as words that say the same again."""
    words: list[str] = []
    skipped = {*_LATER, *leave_out}
    for action in parser._actions:
        option = next((one for one in action.option_strings if one.startswith("--")), "")
        value = getattr(given, action.dest, None)
        if not option or option in skipped or value == action.default or value is None:
            continue
        if value is True:
            words.append(option)
        else:
            several = value if isinstance(value, list) else [value]
            words += [word for one in several for word in (option, str(one))]
    return words


def python_folders() -> list[Path]:
    """What the service reads to run this Python with these packages."""
    paths = sysconfig.get_paths()
    named = [sys.prefix, sys.base_prefix, paths["purelib"], paths["platlib"]]
    folders = [Path(one).resolve() for one in named]
    return [
        one
        for one in dict.fromkeys(folders)
        if not any(one != o and o in one.parents for o in folders)
    ]


def check_name(name: str) -> None:
    """Refuse what is no name of a unit and a user. Raises: InvalidRequestError."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
        raise InvalidRequestError(
            f"--name {name} is no name of a service",
            "give letters, digits and -, as in farm-board1",
        )


def install(unit: Unit, given: argparse.Namespace) -> int:
    """Write the unit, make its user, keep its secrets, start it; or just print it.

    Raises: InvalidRequestError; InternalError where systemd refuses it.
    """
    check_name(unit.name)
    root: Path = given.root
    kept = {name: Path("/", SECRETS, unit.name, name) for name in unit.credentials}
    final = text(replace(unit, credentials=kept))
    if given.only_print:
        if given.json:
            print_json({"unit": final, "files": [], "started": False})
        else:
            print(final, end="")
        return 0
    live = root == Path("/")
    if live:
        _needs_root(given)
    files = [_keep(root, unit.credentials, kept)] if kept else []
    flat = [path for several in files for path in several]
    for folder, name, words in (
        (USERS, f"{unit.name}.conf", user_text(unit)),
        (UNITS, f"{unit.name}.service", final),
    ):
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(words)
        flat.append(path)
    started = live and not given.no_start
    if live:
        _run("systemd-sysusers", str(root / USERS / f"{unit.name}.conf"))
        _run("systemctl", "daemon-reload")
    if started:
        _run("systemctl", "enable", f"{unit.name}.service")
        _run("systemctl", "restart", f"{unit.name}.service", why=_last_words(unit.name))
    _tell(given, unit.name, flat, started=started)
    return 0


def remove(given: argparse.Namespace) -> int:
    """Stop the service and take its files away; its state and its user stay.

    Raises: InvalidRequestError where there is none.
    """
    check_name(given.name)
    root: Path = given.root
    unit = root / UNITS / f"{given.name}.service"
    if not unit.exists():
        raise InvalidRequestError(f"there is no {unit}", "name the unit by --name")
    live = root == Path("/")
    if live:
        _needs_root(given)
        _run("systemctl", "disable", "--now", unit.name)
    unit.unlink()
    (root / USERS / f"{given.name}.conf").unlink(missing_ok=True)
    shutil.rmtree(root / SECRETS / given.name, ignore_errors=True)
    if live:
        _run("systemctl", "daemon-reload")
    if given.json:
        print_json({"removed": given.name, "state": f"/var/lib/{given.name}"})
    else:
        print(f"{given.name} is removed; its state stays in /var/lib/{given.name}")
    return 0


def _needs_root(given: argparse.Namespace) -> None:
    if os.geteuid() != 0:
        command = f"sudo {sys.executable} -m tunefarm {given.command} {given.verb} ..."
        raise InvalidRequestError("a service is installed by root", f"run `{command}`, or --print")
    if shutil.which("systemctl") is None:
        raise InvalidRequestError(
            "this system has no systemd", "start the server by what starts others here; see --print"
        )


def _keep(root: Path, sources: Any, kept: dict[str, Path]) -> list[Path]:
    """Copy secrets to where root alone reads them."""
    written = []
    for name, source in sources.items():
        path = root / kept[name].relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        data = Path(source).read_bytes()
        part = path.with_suffix(".part")
        part.unlink(missing_ok=True)
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        part.replace(path)
        written.append(path)
    return written


def _last_words(name: str) -> Sequence[str]:
    # By this field only what the server itself said, without systemd's own words on it.
    mine = f"_SYSTEMD_UNIT={name}.service"
    return ("journalctl", mine, "-n", "1", "-o", "cat", "--no-pager")


def _run(*words: str, why: Sequence[str] = ()) -> None:
    """Run a tool of systemd. Raises: InternalError, with what the service said last."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InternalError(f"{words[0]} failed: {error}", "see `systemctl status`") from None
    if done.returncode == 0:
        return
    said = done.stderr.strip().splitlines()[:1] or ["it said nothing"]
    hint = f"`journalctl -u {words[-1]}` tells more"
    if why:
        log = subprocess.run(why, capture_output=True, text=True, timeout=30, check=False).stdout
        said = log.splitlines()[-1:] or said
    raise InternalError(f"{' '.join(words[:2])} failed: {said[0]}", hint)


def _tell(given: argparse.Namespace, name: str, files: list[Path], *, started: bool) -> None:
    if given.json:
        print_json({"service": name, "files": [str(one) for one in files], "started": started})
        return
    for path in files:
        print(f"wrote {path}")
    if started:
        print(f"{name} runs, and starts with this machine; `journalctl -fu {name}` follows it")
    else:
        print(f"start it by `systemctl enable --now {name}`")
