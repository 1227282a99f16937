"""What a run's result shows: a table, HTML for notebooks, pictures."""

import math

import pytest
from tunefarm_proto.errors import InvalidRequestError, MissingPackageError
from tunefarm_tuner.foreign_logs import ForeignTask
from tunefarm_tuner.result import TaskResult, TuneResult


def task(workload="matmul:m=8,n=8,k=8", points=((1, 2e-3, 0.1), (5, 1e-3, 0.4))):
    return TaskResult(
        workload=workload, device_key="board<1>", target="t", operations=10**8, weight=1.0,
        trials=9, failed=0, duplicates=0, best="{}" if points else None, best_s=1e-3,
        default_s=2e-3, screened_s=1e-3, points=list(points),
    )  # fmt: skip


def test_a_result_is_a_table_here_and_in_a_notebook():
    result = TuneResult([task()], [], 1.0)
    assert "100.0" in str(result) and "2.00 x" in str(result)
    assert "<td>board&lt;1&gt;</td>" in result._repr_html_()


def test_the_cost_of_another_tuner_stands_beside_ours():
    result = TuneResult([task(), task("add:n=16", points=())], [], 1.0)
    assert "theirs" not in str(result)
    log = [
        ForeignTask("autotvm", "dense", "matmul:m=8,n=8,k=8", "llvm", seconds, 1, 0)
        for seconds in (3e-3, 1.5e-3, math.inf)
    ]
    heads, first, second = result.beside(log).rows()
    assert first[heads.index("theirs")] == "1.5 ms (1.50 x)"
    assert second[heads.index("theirs")] == "-"
    assert result.beside(log).as_dict()["tasks"][0]["theirs_s"] == 1.5e-3
    assert result.beside([]) == result


@pytest.mark.parametrize("tasks", [[], [task(points=())], [task()], [task(), task("add:n=16")]])
def test_the_best_so_far_is_drawn(tmp_path, tasks):
    pytest.importorskip("matplotlib")
    result = TuneResult(tasks, [], 1.0)
    result.plot(tmp_path / "new" / "best.png")
    assert (tmp_path / "new" / "best.png").read_bytes().startswith(b"\x89PNG")
    result.plot(str(tmp_path / "best.svg"))
    text = (tmp_path / "best.svg").read_text()
    assert "<svg" in text and "</svg>" in text


def test_what_cannot_be_drawn_is_one_error(tmp_path, monkeypatch):
    result = TuneResult([task()], [], 1.0)
    with pytest.raises(InvalidRequestError, match=r"best\.txt is no picture .*\.png, \.svg"):
        result.plot(tmp_path / "best.txt")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match=r"matplotlib .pip install '.*\[plot\]'"):
        result.plot(tmp_path / "best.png")
