"""tunefarm token: who may use the farm"""

import argparse
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_proto.identity import Role
from tunefarm_proto.v1 import account_pb2 as apb

from tunefarm.accounts import Accounts
from tunefarm.cli.output import add_json, add_tracker, print_json, table
from tunefarm.tracker import Tracker

UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_STATE = "the tracker's state folder, on its own machine: needs no token and no running tracker"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a token; its secret is shown this once")
    create.add_argument("name", help="whose it is: a user's or a device's name")
    create.add_argument(
        "--role", required=True, choices=[role.value for role in Role], help="what it allows"
    )
    create.add_argument("--expires", metavar="TIME", help="ends by itself after, as in 12h or 90d")
    create.add_argument(
        "--out", type=Path, metavar="FILE", help="write the secret there, mode 0600"
    )
    listing = actions.add_parser("list", help="show the tokens, without their secrets")
    revoke = actions.add_parser("revoke", help="end a token, and all calls made with it")
    revoke.add_argument("which", metavar="ID_OR_NAME", help="one token, or all of a name")
    for one in (create, listing, revoke):
        add_tracker(one)
        add_json(one)
        one.add_argument("--state", type=Path, metavar="DIR", help=_STATE)


def run(arguments: argparse.Namespace) -> int:
    """Create, list or revoke."""
    if arguments.state is not None and not (
        arguments.action == "create" or arguments.state.is_dir()
    ):
        raise InvalidRequestError(f"{arguments.state} is no folder", "name the tracker's --state")
    actions = {"create": _create, "list": _list, "revoke": _revoke}
    return actions[arguments.action](arguments)


def expiry(text: str | None) -> datetime | None:
    """When a token made now for a time as in 12h or 90d ends. Raises: InvalidRequestError."""
    if text is None:
        return None
    found = re.fullmatch(r"([1-9]\d{0,4})([mhdw])", text)
    if found is None:
        raise InvalidRequestError(
            f"--expires {text} is no time", "give a number and m, h, d or w, as in 90d"
        )
    return datetime.now(UTC) + timedelta(**{UNITS[found[2]]: int(found[1])})


def _create(arguments: argparse.Namespace) -> int:
    ends, role = expiry(arguments.expires), Role(arguments.role)
    out: Path | None = arguments.out
    # First the file, so that no token is made whose secret would be lost.
    descriptor = _open_new(out) if out is not None else None
    try:
        identity, secret = _made(arguments, role, ends)
    except BaseException:
        if out is not None and descriptor is not None:
            os.close(descriptor)
            out.unlink()
        raise
    if descriptor is not None:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{secret}\n")
    if arguments.json:
        kept = {"file": str(out)} if out is not None else {"secret": secret}
        print_json({"id": identity, "name": arguments.name, "role": role.value, **kept})
        return 0
    if descriptor is None:
        print(secret)
    where = f", written to {out}" if out is not None else "; it is not shown again"
    print(f"token {identity} of {arguments.name}, role {role.value}{where}", file=sys.stderr)
    return 0


def _open_new(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InvalidRequestError(f"{path} exists already", "name a new file") from None


def _made(arguments: argparse.Namespace, role: Role, ends: datetime | None) -> tuple[str, str]:
    if arguments.state is not None:
        with _open_file(arguments) as accounts:
            at = ends.timestamp() if ends is not None else None
            token, secret = accounts.create(arguments.name, role, at).result()
            return token.id, secret
    with Tracker(arguments.tracker) as tracker:
        sent = apb.Role.Value(f"ROLE_{role.name}")
        made, secret = Accounts(tracker).create(arguments.name, sent, ends)
        return made.id, secret


def _open_file(arguments: argparse.Namespace) -> Any:
    from contextlib import closing

    from tunefarm_tracker.accounts import Accounts as AccountsFile

    return closing(AccountsFile(arguments.state))


def _tokens(arguments: argparse.Namespace) -> list[apb.Token]:
    if arguments.state is None:
        with Tracker(arguments.tracker) as tracker:
            return Accounts(tracker).tokens()
    from tunefarm_tracker.account_service import token_message

    with _open_file(arguments) as accounts:
        return [token_message(one) for one in accounts.tokens()]


def moment(at: Timestamp) -> str:
    """A time in UTC, to the second."""
    return at.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _list(arguments: argparse.Namespace) -> int:
    listed = [
        {
            "id": one.id,
            "name": one.name,
            "role": apb.Role.Name(one.role).removeprefix("ROLE_").lower(),
            "created": moment(one.created_at),
            "created_by": one.created_by,
            "expires": moment(one.expires_at) if one.HasField("expires_at") else "",
            "revoked": moment(one.revoked_at) if one.HasField("revoked_at") else "",
        }
        for one in _tokens(arguments)
    ]
    if arguments.json:
        print_json(listed)
    elif listed:
        head = [name.upper().replace("_", " ") for name in listed[0]]
        print(table(head, [list(one.values()) for one in listed]))
    else:
        print("no tokens (make the first with `tunefarm token create NAME --role operator`)")
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    which = arguments.which
    by_id = any(one.id == which for one in _tokens(arguments))
    asked = {"token_id": which} if by_id else {"name": which}
    if arguments.state is None:
        with Tracker(arguments.tracker) as tracker:
            ended = [one.id for one in Accounts(tracker).revoke(**asked)]
    else:
        with _open_file(arguments) as accounts:
            ended = [one.id for one in accounts.revoke(**asked).result()]
    if arguments.json:
        print_json({"revoked": ended})
        return 0
    print(f"revoked {', '.join(ended)}" if ended else f"{which} had been revoked before")
    return 0
