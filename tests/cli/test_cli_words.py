"""What the command line makes of its words: nonsense gets one line and a documented status."""

import argparse
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tunefarm.cli import COMMANDS, build_parser, main
from tunefarm.cli.output import table
from tunefarm.cli.parsing import Parser, leaves, number, whole
from tunefarm.cli.processes import free_port
from tunefarm.export import write_parquet
from tunefarm_proto import errors, extras
from tunefarm_proto.bundle import Bundle
from tunefarm_proto.exits import MEANING, Exit, exit_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """No tracker answers, and nothing of the surroundings is read."""
    for name in ("TUNEFARM_TOKEN", "TUNEFARM_TOKEN_FILE", "TUNEFARM_TLS_CA", "TUNEFARM_DASHBOARD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUNEFARM_TRACKER", f"127.0.0.1:{free_port(0)}")


def _run(*words: str) -> int:
    try:
        return main(words)
    except SystemExit as left:
        return int(left.code or 0)


def _commands() -> list[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command that does something: those with verbs only where they work without one too."""
    optional = {("device",), ("tracker",)}
    return [
        (words, parser)
        for words, parser in leaves(build_parser())
        if words in optional
        or not any(isinstance(one, argparse._SubParsersAction) for one in parser._actions)
    ]


ALL = _commands()


def _one_line(capsys) -> str:
    out, said = capsys.readouterr()
    assert out == ""
    assert len(said.splitlines()) == 1, said
    assert said.startswith("tunefarm")
    assert "a bug" not in said and "Traceback" not in said
    return said


@pytest.mark.parametrize("words", [words for words, _ in ALL], ids=" ".join)
def test_an_unknown_option_is_named(words, capsys):
    assert _run(*words, "--nonsense") == Exit.USAGE
    assert "--help" in _one_line(capsys)


@pytest.mark.parametrize("words", [words for words, _ in ALL], ids=" ".join)
def test_every_command_prints_json(words):
    parser = dict(ALL)[words]
    assert "--json" in parser._option_string_actions


@pytest.mark.parametrize("words", [words for words, _ in ALL], ids=" ".join)
def test_every_option_tells_what_it_is(words):
    for action in dict(ALL)[words]._actions:
        if action.option_strings and action.help is None:
            assert action.choices or action.metavar, action


def _typed() -> list[tuple[tuple[str, ...], str]]:
    return [
        (words, action.option_strings[-1])
        for words, parser in ALL
        for action in parser._actions
        if action.option_strings and action.type not in (None, Path)
    ]


@pytest.mark.parametrize("value", ["nonsense", "nan", "", "1e400"])
@pytest.mark.parametrize(("words", "option"), _typed(), ids="".join)
def test_a_value_that_is_none_is_refused_by_name(words, option, value, capsys):
    assert _run(*words, f"{option}={value}") == Exit.USAGE
    said = _one_line(capsys)
    assert option in said


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "COMMAND"),
        (["statsu"], 2, "did you mean status?"),
        (["token", "creat"], 2, "did you mean create?"),
        (["token", "create", "ann", "--role", "king"], 2, "viewer, user, operator"),
        (["completion", "tcsh"], 2, "bash"),
        (["status", "--track", "x:1"], 2, "--track"),  # nothing is abbreviated
        (["status", "--tracker", "nowhere"], 2, "HOST:PORT"),
        (["status"], 4, "tunefarm tracker"),
        (["top"], 4, "tunefarm tracker"),
        (["logs"], 4, "tunefarm tracker"),
        (["status", "--watch"], 4, "tunefarm tracker"),
        (["results", "--since", "yesterday"], 2, "7d"),
        (["results", "--since", "99999999999d"], 2, "no time"),
        (["logs", "--since", "yesterday"], 2, "7d"),
        (["status", "--token-file", "/nonexistent"], 2, "token"),
        (["status", "--tls-ca", "/etc/hostname"], 2, "PEM"),
        (["build", "matmull:m=1", "-o", "x.tf"], 2, "did you mean matmul"),
        (["build", "add:n=16", "--target", "rasp9", "-o", "x.tf"], 2, "rasp3b"),
        (
            ["build", "add:n=16", "--schedule", '{"lanes": 4}', "-o", "x.tf"],
            2,
            "it has no loops",
        ),
        (["build", "add:n=16", "--schedule", "@/nonexistent", "-o", "x.tf"], 2, "/nonexistent"),
        (["build", "add:n=16", "-o", "/nonexistent/x.tf"], 2, "/nonexistent"),
        (["build", "/nonexistent.c", "--args", "a:float32[1]", "-o", "x.tf"], 2, "nonexistent.c"),
        (["bench", "/nonexistent.tf", "--device", "one"], 2, "nonexistent.tf"),
        (["bench", "add:n=16", "--device", "one", "--where", "?"], 2, "memory_mb"),
        (["bench", "add:n=16", "--device", "one", "--repeat", "0"], 2, "--repeat"),
        (["bench", "add:n=16", "--device", "one", "--timeout", "0"], 2, "--timeout"),
        (["device"], 2, "--key"),
        (["device", "--key", "a b"], 2, "a b"),
        (["device", "--key", "a" * 65], 2, "up to 64"),
        (["device", "--key", "a:cores=z"], 2, "cores"),
        (["device", "--key", "a", "--label", "b"], 2, "lab=berlin"),
        (["device", "--key", "a", "--backend", "cuba"], 2, "cuba"),
        (["device", "--key", "a", "--host", "0.0.0.0"], 2, "--insecure"),
        (["device", "--key", "a", "--tls-cert", "x"], 2, "--tls-key"),
        (["device", "--key", "a", "--timing-cpu", "99999"], 2, "--timing-cpu"),
        (["device", "--key", "a", "--nice", "99"], 2, "--nice"),
        (["device", "install", "--key", "a", "--tracker", "t.lab:9190"], 2, "--insecure"),
        (["device", "install", "--key", "a", "--state", "x"], 2, "--state"),
        (["device", "install", "--key", "a", "--name", "A b", "--print"], 2, "--name"),
        (["device", "uninstall", "--name", "nothing-here"], 2, "nothing-here"),
        (["tracker", "--host", "0.0.0.0", "--state", "@"], 2, "--insecure"),
        (["tracker", "--operations", "/nonexistent"], 2, "/nonexistent"),
        (["tracker", "--metrics", "x"], 2, "HOST:PORT"),
        (["tracker", "--dashboard", "x"], 2, "http://"),
        (["tracker", "backup", "x", "--state", "/nonexistent"], 2, "/nonexistent"),
        (["tracker", "restore", "/nonexistent"], 2, "/nonexistent"),
        (["tracker", "restore", "/etc/hostname", "--state", "@"], 2, "no whole backup"),
        (["token", "create", "ann", "--role", "user", "--expires", "soon"], 2, "90d"),
        (["token", "list", "--state", "/nonexistent"], 2, "/nonexistent"),
        (["tls", "create", "--dir", "/proc/nothing", "--host", "a"], 2, "/proc/nothing"),
        (["admin", "quota", "ann", "--max-devices", "-1"], 2, "--max-devices"),
        (["build", "add:n=16", "--target", "rasp5,rasp5", "-o", "x.tf"], 2, "given twice"),
        (["build", "x.tf", "-o", "y.tf"], 2, "x.tf is a bundle, built already"),
        (["compare", "a", "b", "--device", "one", "--confidence", "2"], 2, "--confidence"),
        (["check", "--every", "0"], 2, "--every"),
        (["audit", "--limit", "0"], 2, "--limit"),
        (["dashboard", "--port", "65536"], 2, "--port"),
        (["dashboard", "--host", "0.0.0.0"], 2, "or say --insecure"),
        (["tracker", "--prot", "5"], 2, "there is no option --prot; did you mean --port?"),
        (["tune", "add:n=16", "--device", "a", "--records", "/no/x"], 2, "there is no folder /no"),
        (["build", "add:n=16", "-o", "/no/x.tf"], 2, "/no/x.tf: No such file"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else None,
)
def test_nonsense_gets_one_line(words, status, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [str(tmp_path / "state") if word == "@" else word for word in words]
    assert _run(*given) == status
    assert said in _one_line(capsys)


def test_every_target_of_a_build_counts(capsys, tmp_path):
    """However they are named."""
    words = ["--target", "x86-64-v3,znver4", "--target", "rasp4b"]
    out = tmp_path / "x.tf"
    assert _run("build", "add:n=16", *words, "-o", str(out), "--json") == 0
    assert json.loads(capsys.readouterr().out)["target"] == "x86-64-v3,znver4,rasp4b"
    made = Bundle.read(out).manifest.libraries
    assert [one.target.cpu for one in made] == ["x86-64-v3", "znver4", "cortex-a72"]


def test_a_failure_is_an_object_where_json_is_asked_for(capsys):
    assert _run("status", "--json") == Exit.UNREACHABLE
    out, said = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["name"] == "TrackerUnreachableError" and error["exit"] == 4
    assert error["message"] in said and error["hint"] in said
    assert len(said.splitlines()) == 1


def test_a_bug_is_told_in_one_line(capsys, monkeypatch):
    def broken(given: object) -> int:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("tunefarm.cli.status.run", broken)
    assert _run("status") == Exit.BUG
    out, said = capsys.readouterr()
    assert out == "" and len(said.splitlines()) == 1
    assert "ZeroDivisionError" in said and "TUNEFARM_DEBUG=1" in said
    monkeypatch.setenv("TUNEFARM_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        main(["status"])


def test_a_missing_package_is_named(capsys, monkeypatch):
    def lacking(given: object) -> int:
        raise ModuleNotFoundError("No module named 'numpy'", name="numpy")

    monkeypatch.setattr("tunefarm.cli.status.run", lacking)
    assert _run("status") == Exit.MISSING
    assert f"pip install '{ROOT}[all]'" in capsys.readouterr().err


def test_parquet_without_its_package_ends_as_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(errors.MissingPackageError, match="pyarrow") as caught:
        write_parquet([], tmp_path / "x.parquet")
    assert exit_of(caught.value) == Exit.MISSING and "[parquet]'" in caught.value.hint


def test_what_was_installed_from_a_folder_is_installed_from_it_again(monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "_CHECKOUT", tmp_path / "lib")
    told = {"url": tmp_path.as_uri(), "dir_info": {}}
    made = SimpleNamespace(read_text=lambda name: json.dumps(told))
    monkeypatch.setattr(extras.importlib.metadata, "distribution", lambda name: made)
    assert extras.install("tls") == f"pip install '{tmp_path}[tls]'"
    told["url"] = "file:///gone"
    assert extras.install("tls") == "pip install 'tunefarm[tls]'"


def test_ctrl_c_and_a_reader_that_left_have_their_own_status(monkeypatch):
    def interrupted(given: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("tunefarm.cli.status.run", interrupted)
    assert _run("status") == Exit.INTERRUPTED


def test_every_error_has_a_status():
    for kind in errors.CLASS_OF_CODE.values():
        assert exit_of(kind("x")) in MEANING
    assert exit_of(errors.UnknownKeyError("x")) == 6
    assert exit_of(errors.KernelCrashedError("x")) == 7
    assert exit_of(errors.PermissionDeniedError("x")) == 5
    assert exit_of(errors.DeviceLostError("x")) == 6
    assert set(MEANING) == set(Exit)


def test_the_table_of_statuses_is_in_the_docs():
    text = (DOCS / "command-line.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE))
    assert rows == {str(int(status)): meaning for status, meaning in MEANING.items()}


def test_every_command_and_verb_is_in_the_docs():
    text = (DOCS / "command-line.md").read_text()
    for words, _ in ALL:
        assert f"tunefarm {' '.join(words)}" in text, words


def test_one_command_is_read_without_the_others():
    assert "--watch" not in build_parser("build").format_help()
    options = dict(leaves(build_parser("status")))
    assert "--watch" in options[("status",)]._option_string_actions
    assert set(options[("bench",)]._option_string_actions) == {"-h", "--help"}
    assert {words[0] for words, _ in ALL} == set(COMMANDS)


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("7", 7), ("-3", -3)])
def test_whole_numbers(text, value):
    assert whole(-5)(text) == value


@pytest.mark.parametrize("text", ["-6", "1.5", "1e3", "1_000", " 1", "99999999999999"])
def test_what_is_no_whole_number(text):
    with pytest.raises(argparse.ArgumentTypeError):
        whole(-5)(text)


@pytest.mark.parametrize("text", ["0", "-1", "inf", "2e9", "x"])
def test_what_is_no_number_above_0(text):
    with pytest.raises(argparse.ArgumentTypeError):
        number(0, above=True)(text)


def test_a_parser_says_what_choices_there_are(capsys):
    parser = Parser(prog="tunefarm x")
    parser.add_argument("--mode", choices=("fast", "slow"))
    with pytest.raises(SystemExit):
        parser.parse_args(["--mode", "nonsense"])
    assert "give one of fast, slow" in capsys.readouterr().err


class _Terminal:
    """Standard output as a terminal is."""

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing is held."""


def test_colours_are_for_terminals_and_for_those_who_want_them(monkeypatch):
    rows = [["one", "idle"], ["two", "offline"]]
    plain = table(["DEVICE", "STATE"], rows)
    assert "\x1b" not in plain
    monkeypatch.setattr("sys.stdout", _Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = table(["DEVICE", "STATE"], rows)
    assert "\x1b[32midle\x1b[0m" in coloured and "\x1b[31moffline\x1b[0m" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as other:
            other.setenv(name, value)
            assert table(["DEVICE", "STATE"], rows) == plain


def test_what_others_wrote_cannot_command_the_terminal():
    shown = table(["FOR"], [["a\x1b[2Jb\rc"]])
    assert "\x1b" not in shown and "\r" not in shown


def test_the_dashboard_tells_where_it_is(capsys, monkeypatch):
    def serve(tracker, host, port, on_ready, *, names):
        on_ready(4711)  # what a free one came to

    monkeypatch.setattr("tunefarm_dashboard.server.serve", serve)
    assert _run("dashboard", "--port", "0") == 0
    assert "http://127.0.0.1:4711/" in capsys.readouterr().out
    assert _run("dashboard", "--port", "0", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"url": "http://127.0.0.1:4711/"}


def test_the_help_of_a_service_tells_its_own_defaults(capsys):
    with pytest.raises(SystemExit):
        main(["device", "install", "--help"])
    shown = capsys.readouterr().out
    assert "port (default 9200)" in shown and "--state" not in shown
