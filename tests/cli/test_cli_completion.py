"""Completion in real shells: the keys that a user presses."""

import json
import os
import pty
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from tunefarm.cli import COMMANDS, main

LIMIT_S = 100.0  # says what is shown where a shell hangs; how slow a busy machine is, is no matter


@pytest.fixture
def script(capsys, tmp_path):
    """The file of a shell's completion."""

    def write(shell: str) -> Path:
        assert main(["completion", shell]) == 0
        path = tmp_path / f"completion.{shell}"
        path.write_text(capsys.readouterr().out)
        return path

    return write


def _needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is missing; `apt-get install {shell}` installs it")


class Shell:
    """A shell at a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="dumb", PS1="> ", PROMPT="> ")
            os.execvp(words[0], words)

    def read_until(self, *texts: str) -> str:
        """What it shows until one of the texts is in it."""
        shown, limit = "", time.monotonic() + LIMIT_S
        while not any(text in shown for text in texts):
            ready, _, _ = select.select([self._terminal], [], [], limit - time.monotonic())
            assert ready, f"not shown: {texts}; shown: {shown!r}"
            try:
                shown += os.read(self._terminal, 65536).decode(errors="replace")
            except OSError:  # it has ended
                raise AssertionError(f"not shown: {texts}; shown: {shown!r}") from None
        return shown

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def close(self) -> None:
        os.close(self._terminal)
        os.waitpid(self.pid, 0)


TYPED = [
    ("tunefarm sta", "tus "),
    ("tunefarm device ins", "tall "),
    ("tunefarm device unin", "stall "),
    ("tunefarm token create x --role oper", "ator "),
    ("tunefarm tracker back", "up "),
    ("tunefarm status --wat", "ch "),
]


@pytest.mark.parametrize(
    ("shell", "words", "setup"),
    [
        ("bash", ("bash", "--norc", "-i"), "source {}; echo rea''dy"),
        (
            "zsh",
            ("zsh", "-f", "-i"),
            "autoload -Uz compinit; compinit -u -D; source {}; echo rea''dy",
        ),
    ],
)
def test_tab_completes(shell, words, setup, script):
    _needs(shell)
    running = Shell(*words)
    try:
        running.type(setup.format(script(shell)) + "\n")
        running.read_until("ready")
        for typed, more in TYPED:
            running.type(typed + "\t")
            running.read_until(typed + more)
            running.type("\x15")  # the line is empty again
    finally:
        running.type("\x15exit\n")
        running.close()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tunefarm sta", {"status"}),
        ("tunefarm token ", {"create", "list", "revoke"}),
        ("tunefarm token create x --role ", {"viewer", "user", "operator", "device"}),
        ("tunefarm admin quota ann --max-d", {"--max-devices"}),
        ("tunefarm completion ", {"bash", "zsh", "fish"}),
        ("tunefarm status --wat", {"--watch"}),
        ("tunefarm bench --repeat ", set()),
    ],
)
def test_fish_completes(line, expected, script):
    _needs("fish")
    said = subprocess.run(
        ["fish", "-N", "-c", f"source {script('fish')}; complete -C '{line}'"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert said.stderr == ""
    assert {row.split("\t")[0] for row in said.stdout.splitlines()} == expected


def test_files_are_completed_where_a_file_is_wanted(script, tmp_path):
    (tmp_path / "farm.pem").write_text("")
    call = (
        f"source {script('bash')}; COMP_WORDS=(tunefarm status --tls-ca {tmp_path}/fa); "
        "COMP_CWORD=3; _tunefarm; echo ${COMPREPLY[@]}"
    )
    said = subprocess.run(["bash", "-c", call], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"{tmp_path}/farm.pem"


def test_the_words_are_those_of_the_parsers(capsys):
    assert main(["completion", "bash", "--json"]) == 0
    words = json.loads(capsys.readouterr().out)
    assert set(words["tunefarm"]["verbs"]) == set(COMMANDS)
    assert words["tunefarm compare"]["takes"]["--fail-if"] == [
        "faster",
        "slower",
        "same",
        "not decidable",
    ]
    assert words["tunefarm tracker backup"]["files"] is True
