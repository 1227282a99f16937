"""Operators of a user's own, through the commands of docs/adding-an-operator.md."""

import re
import shlex
from pathlib import Path

import pytest
from tunefarm import Bundle
from tunefarm.cli import main
from tunefarm_tuner.records import read

PAGE = Path(__file__, "../../../docs/adding-an-operator.md").resolve()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (code,) = (text for kind, text in BLOCKS if kind == "python" and "def filter1d" in text)
    (tmp_path / "filter1d.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_of_the_page_work(farm, folder):
    (commands,) = (text for kind, text in BLOCKS if kind == "sh")
    said = []
    for line in commands.splitlines():
        words = shlex.split(
            line.replace("KEY", "one").replace("--trials 32", "--trials 4 --quick")
        )[1:]
        if words[0] == "build":
            assert main(words) == 0
            continue
        done = farm.run(*words)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert ", correct, " in said[0] and ", correct, " in said[2]
    assert Bundle.read("filter1d.tf").manifest.functions[0].name == "filter1d"
    records = list(read(folder / "r.jsonl"))
    assert len(records) >= 4 and not any(one.error for one in records)
    (text,) = {one.workload for one in records}
    assert re.fullmatch(r"filter1d:n=4096,k=9,dtype=float32,source=[0-9a-f]{12}", text)


def test_an_edited_operator_is_built_again(farm, folder, monkeypatch):
    monkeypatch.setenv("TUNEFARM_BUILD_CACHE", str(folder / "cache"))
    monkeypatch.setenv("TUNEFARM_OPERATORS", str(folder / "filter1d.py"))
    bench = ("bench", "filter1d:n=64,k=3", "--device", "one")
    first = farm.json(*bench)
    file = folder / "filter1d.py"
    file.write_text(file.read_text().replace("w[r], r)", "w[r] * 2.0, r)"))
    wrong = farm.run(*bench)  # it is what the file says, and no longer what the reference says
    assert wrong.returncode == 1 and "WRONG ANSWER" in wrong.stdout
    file.write_text(file.read_text().replace("np.correlate", "2 * np.correlate"))
    second = farm.json(*bench)
    assert second["correct"] is True
    assert second["bundle_digest"] != first["bundle_digest"]
    gone = farm.run("bench", first["workload"], "--device", "one")
    assert gone.returncode == 2 and "it was edited since" in gone.stderr


def test_what_is_wrong_with_a_file_is_one_line(folder, capsys):
    (folder / "bad.py").write_text("x = 1\nraise ValueError('no')\n")
    for words, said in (
        (("--operators", "nosuch.py"), "nosuch.py: No such file"),
        (("--operators", "bad.py"), "bad.py:2: ValueError: no"),
        (("--operators", "filter1d.py"), "9 taps on 3 samples"),
        ((), "no workload 'filter1d'"),
    ):
        assert main(["build", "filter1d:n=3,k=9", "-o", "x.tf", *words]) == 2
        told = capsys.readouterr()
        assert said in told.err and len(told.err.splitlines()) == 1 and not told.out
    for words in ("bench", "tune", "compare", "best", "dashboard"):
        with pytest.raises(SystemExit):
            main([words, "--help"])
        assert "--operators FILE" in capsys.readouterr().out
