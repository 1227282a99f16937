"""tunefarm targets"""

import argparse
from typing import Any

from tunefarm.cli.output import add_json, print_json, table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument(
        "name", nargs="*", help="only these, as in rasp5 or rasp5+nodotprod (default: all)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show what can be compiled for."""
    from tunefarm_compiler import targets

    rows: list[dict[str, Any]] = []
    for name in arguments.name or targets.NAMES:
        spec = targets.resolve(name)
        entry = targets.REGISTRY.get(name)
        about = "this machine" if name == "local" else entry.about if entry else ""
        bits = 32 * spec.lanes
        rows.append(
            {
                "target": name,
                "triple": spec.triple,
                "cpu": spec.cpu,
                "vector_bits": bits if bits > 32 else 0,
                "features": list(spec.features),
                "about": about,
            }
        )
    if arguments.json:
        print_json(rows)
    else:
        heads = ("target", "triple", "cpu", "vectors", "features that kernels use", "")
        shown = [
            (
                row["target"],
                row["triple"],
                row["cpu"],
                str(row["vector_bits"] or "-"),
                " ".join(row["features"]) or "-",
                row["about"],
            )
            for row in rows
        ]
        print(table(heads, shown))
    return 0
