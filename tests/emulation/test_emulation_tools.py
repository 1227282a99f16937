"""What the emulated boards say where a tool is missing or fails. Nothing is downloaded here."""

from pathlib import Path

import pytest
from tunefarm_device import emulation
from tunefarm_proto.errors import InternalError, InvalidRequestError

QEMU = {"arm64": "qemu-aarch64-static", "armhf": "qemu-arm-static"}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PATH to put tools on, and an empty cache."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def put(tools: Path, name: str, script: str = "exit 0") -> None:
    path = tools / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("arch", sorted(QEMU))
def test_the_missing_tool_is_named_with_what_installs_it(tools, arch):
    lacking = emulation.available(arch)
    assert lacking is not None
    assert QEMU[arch] in lacking
    assert "apt-get install qemu-user-static" in lacking
    put(tools, QEMU[arch])
    lacking = emulation.available(arch)
    assert lacking is not None
    assert "apt-get install mmdebstrap" in lacking
    put(tools, "mmdebstrap")
    assert emulation.available(arch) is None


def test_building_without_the_tools_names_them(tools):
    with pytest.raises(InternalError, match="qemu-user-static"):
        emulation.build_root("arm64", lambda line: None)


def test_an_unknown_architecture_is_told_the_known_ones():
    with pytest.raises(InvalidRequestError, match="known are arm64, armhf"):
        emulation.available("sparc")


def test_a_failing_tool_is_quoted_and_leaves_no_half_root(tools, tmp_path):
    put(tools, "qemu-arm-static")
    put(tools, "mmdebstrap", "echo 'I: starting' >&2; echo 'E: mirror is gone' >&2; exit 25")
    with pytest.raises(InternalError, match="mmdebstrap failed: E: mirror is gone"):
        emulation.build_root("armhf", lambda line: None)
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_dir()]
    assert [path.name for path in left if path.name.startswith("armhf")] == []


@pytest.mark.parametrize("arch", sorted(QEMU))
def test_the_guest_sees_our_packages_and_not_the_hosts(tools, tmp_path, arch):
    put(tools, QEMU[arch])
    root, state = tmp_path / "the root", tmp_path / "state"
    words, environment = emulation.command(
        arch, root, "rasp3b", "127.0.0.1:1", state, "--port", "9"
    )
    assert words[:3] == [str(tools / QEMU[arch]), "-L", str(root)]
    assert words[-2:] == ["--port", "9"]
    site, packages = environment["PYTHONPATH"].split(":")
    assert Path(site) == root / "site"
    assert sorted(path.name for path in Path(packages).iterdir()) == [
        "tunefarm_device",
        "tunefarm_proto",
    ]
    assert f"'{root}'" in environment["TUNEFARM_PYTHON"]
    assert environment["TUNEFARM_EMULATED"] == "qemu-user"
