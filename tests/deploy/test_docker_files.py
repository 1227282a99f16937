"""The files for Docker, as far as they can be looked at without an engine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCKER = Path(__file__).parents[2] / "deploy" / "docker"


def _tool(name: str) -> str:
    here = Path(sys.executable).with_name(name)
    found = str(here) if here.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing")
    return found


def test_hadolint_finds_nothing():
    done = subprocess.run(
        [_tool("hadolint"), str(DOCKER / "Dockerfile")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_compose_reads_the_file():
    compose = [_tool("docker-compose"), "-f", str(DOCKER / "compose.yaml")]
    done = subprocess.run([*compose, "config"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for service in ("tracker", "dashboard", "prometheus"):
        assert re.search(rf"^  {service}:$", done.stdout, re.MULTILINE)
    assert done.stdout.count("no-new-privileges:true") == 3


def _words_in(text: str) -> list[str]:
    return re.findall(r"--[a-z-]+", text)


@pytest.mark.parametrize("what", ["tracker", "dashboard"])
def test_the_options_are_those_of_the_commands(what):
    from tunefarm.cli import build_parser
    from tunefarm.cli.parsing import leaves

    known = dict(leaves(build_parser(what)))[(what,)]._option_string_actions
    docker = (DOCKER / "Dockerfile").read_text()
    stage = docker.split(f"FROM base AS {what}")[1].split("FROM ")[0]
    ours = stage[stage.index("ENTRYPOINT") :]
    compose = (DOCKER / "compose.yaml").read_text()
    service = compose.split(f"\n  {what}:\n")[1].split("\n\n")[0]
    command = service.split("command:")[1].split("ports:")[0].split("environment:")[0]
    given = [*_words_in(ours), *_words_in(command)]
    assert given and set(given) <= set(known)


def test_everything_that_the_wheel_is_made_of_reaches_the_build():
    import tomllib

    root = DOCKER.parents[1]
    ignored = (root / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    wheel = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    for path in [*wheel, "README.md", "LICENSE", "pyproject.toml"]:
        assert f"!{path.split('/')[0]}" in ignored


def test_the_alerts_speak_of_metrics_that_there_are():
    source = (DOCKER.parents[1] / "tracker/tunefarm_tracker/metrics.py").read_text()
    used = re.findall(r"tunefarm_[a-z_]+", (DOCKER / "alerts.yml").read_text())
    assert used and all(f'"{name}"' in source for name in set(used))
