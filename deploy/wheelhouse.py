"""A folder from which boards install tunefarm without a network.

    python deploy/wheelhouse.py FOLDER                      # for machines like this one
    python deploy/wheelhouse.py FOLDER --arch aarch64       # for a Raspberry Pi with 64 bits
    python deploy/wheelhouse.py FOLDER --arch armv7l --python 3.11

Then, on the board, which needs Python and nothing else: `sh FOLDER/install.sh`.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLATFORMS = {
    "x86_64": ("manylinux2014_x86_64", "manylinux_2_28_x86_64"),
    "aarch64": ("manylinux2014_aarch64", "manylinux_2_28_aarch64"),
    "armv7l": ("manylinux2014_armv7l", "manylinux_2_31_armv7l", "linux_armv7l"),
}
INSTALL = """\
#!/bin/sh
# Installs tunefarm from this folder into a Python of its own: sh install.sh [PLACE]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
place=${1:-/opt/tunefarm}
python3 -m venv --without-pip "$place"
# pip comes as a wheel, which Python runs as it is: Debian's own is not needed.
for pip in "$here"/pip-*.whl; do :; done
"$place/bin/python" "$pip/pip" install --no-index --find-links "$here" \\
    --disable-pip-version-check --quiet tunefarm@EXTRAS@
"$place/bin/tunefarm" --version
echo "next: $place/bin/tunefarm device install --key KEY --tracker HOST:PORT"
"""


def pip(*words: str) -> None:
    """Run pip, or end with what it says."""
    done = subprocess.run([sys.executable, "-m", "pip", *words], check=False)
    if done.returncode != 0:
        sys.exit(done.returncode)


def build(folder: Path, arch: str | None, python: str, extras: str) -> None:
    """Fill the folder: our wheel, what it needs, pip, and a script."""
    folder.mkdir(parents=True, exist_ok=True)
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    where: list[str] = []
    if arch is not None:
        short = python.replace(".", "")
        where = ["--python-version", short, "--implementation", "cp"]
        where += ["--abi", f"cp{short}", "--abi", "abi3", "--abi", "none"]
        where += [word for one in (*PLATFORMS[arch], "any") for word in ("--platform", one)]
    named = f"[{extras}]" if extras else ""
    wheel = max(folder.glob("tunefarm-*.whl"), key=lambda one: one.stat().st_mtime)
    pip(
        "download",
        "--quiet",
        "--only-binary=:all:",
        *where,
        "--dest",
        str(folder),
        f"{wheel}{named}",
        "pip",
    )
    (folder / "install.sh").write_text(INSTALL.replace("@EXTRAS@", named))


def main() -> None:
    """Read the words and do it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--arch", choices=tuple(PLATFORMS), help="default: this machine, this Python"
    )
    parser.add_argument("--python", default="3.11", help="of the board, with --arch (default 3.11)")
    parser.add_argument("--extras", default="", help="as in host,dashboard (default: none)")
    given = parser.parse_args()
    if not re.fullmatch(r"3\.\d+", given.python):
        parser.error(f"--python {given.python} is no version; give it as in 3.11")
    build(given.folder, given.arch, given.python, given.extras)
    total = sum(one.stat().st_size for one in given.folder.glob("*.whl"))
    print(f"{given.folder}: {len(list(given.folder.glob('*.whl')))} wheels, {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
