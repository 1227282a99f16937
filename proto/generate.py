"""Generate the stubs beside the .proto files; with --check, fail where they are out of step."""

import subprocess
import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).resolve().parent
SOURCES = sorted(PROTO.glob("tunefarm_proto/v1/*.proto"))


def generate(into: Path) -> None:
    """Write the stubs of every source under `into`."""
    outs = [f"--{kind}_out={into}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    bin_dir = str(Path(sys.executable).parent)
    plugins = [
        f"--plugin=protoc-gen-{name}={bin_dir}/protoc-gen-{name}" for name in ("mypy", "mypy_grpc")
    ]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *plugins, *outs]
    subprocess.run([*command, *map(str, SOURCES)], check=True)


def stale() -> list[str]:
    """Names of the stubs that differ from what the sources give."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        made = {
            p.relative_to(scratch): p.read_bytes() for p in Path(scratch).rglob("*") if p.is_file()
        }
    committed = {p.relative_to(PROTO) for p in PROTO.glob("tunefarm_proto/v1/*_pb2*")}
    return sorted(
        str(name)
        for name in committed | set(made)
        if not (PROTO / name).exists() or made.get(name) != (PROTO / name).read_bytes()
    )


if __name__ == "__main__":
    if "--check" in sys.argv:
        if names := stale():
            sys.exit(f"stubs are out of step, run `make stubs`: {', '.join(names)}")
    else:
        generate(PROTO)
