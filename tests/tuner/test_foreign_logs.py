"""Logs of AutoTVM and MetaSchedule: workloads and costs carry over."""

import json
import math

import pytest
from tunefarm.cli import main
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_tuner.foreign_logs import (
    is_log,
    read_autotvm,
    read_log,
    read_metaschedule,
    tasks_of,
    workloads_of,
)
from tunefarm_tuner.tune import tune

DENSE = [["TENSOR", [16, 32], "float32"], ["TENSOR", [64, 32], "float32"], None, "float32"]
CONV = [
    ["TENSOR", [1, 64, 56, 56], "float32"], ["TENSOR", [64, 64, 3, 3], "float32"],
    [1, 1], [1, 1, 1, 1], [1, 1], "float32",
]  # fmt: skip


def autotvm_line(task, arguments, result):
    config = {"index": 5, "code_hash": None, "entity": [["tile_y", "sp", [-1, 4]]]}
    given = ["llvm -keys=cpu -mcpu=znver4", task, arguments, {}]
    return json.dumps({"input": given, "config": config, "result": result, "version": 0.2})


def test_autotvm(tmp_path):
    log = tmp_path / "log.json"
    lines = [
        autotvm_line("dense_nopack.x86", DENSE, [[0.001, 0.003], 0, 1.5, 1700000000.0]),
        autotvm_line("conv2d_nchw.x86", CONV, [[0.5], 0, 1.5, 1700000000.0]),
        autotvm_line("dense_nopack.x86", DENSE, [[1000000000.0], 4, 9.0, 1700000000.0]),
        autotvm_line("mine", [], [[0.25], 0, 1.0, 1700000000.0]),
    ]
    log.write_text("\n".join(lines) + "\n")
    one, two, three, four = read_autotvm(log)
    assert one.workload == "matmul:m=16,n=64,k=32,tb=1,dtype=float32"
    assert one.cost_s == pytest.approx(0.002) and one.samples_s == (0.001, 0.003)
    assert two.workload.startswith("conv2d:c=64,h=56,w=56,k=64,r=3,s=3") and "nchw" in two.workload
    assert three.cost_s == math.inf and three.error and not three.samples_s
    assert (four.workload, four.cost_s) == ("", 0.25) and four.task.startswith("mine")


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "written"),
    [
        ([2, 2], [1, 1, 1, 1], [1, 1], "stride=2,pad=1,"),
        ([1, 1], [1, 0], [1, 1], "pad=1,pad_left=0,"),  # of rows, of columns
        (
            [2, 1],
            [0, 0, 1, 1],
            [1, 2],
            "stride=2,stride_w=1,dilation_w=2,pad_bottom=1,pad_right=1,",
        ),
        (2, 3, 1, "stride=2,pad=3,"),
    ],
)
def test_windows_of_autotvm(tmp_path, stride, padding, dilation, written):
    log = tmp_path / "log.json"
    arguments = [*CONV[:2], stride, padding, dilation, "float32"]
    log.write_text(autotvm_line("conv2d_nchw.x86", arguments, [[0.5], 0, 1.5, 0.0]))
    (one,) = read_autotvm(log)
    want = f"conv2d:c=64,h=56,w=56,k=64,r=3,s=3,{written}layout=nchw,dtype=float32"
    assert one.workload == want


def test_metaschedule(tmp_path):
    """The lines are as TVM 0.27 writes them, but for the traces and the module: shapes alone do
    not say what a product is of. Modules are in test_metaschedule.py."""
    workloads, records = tmp_path / "w.json", tmp_path / "r.json"
    workloads.write_text('["9593177933350849261","nEYAAAA"]\n')
    target = {"keys": ["cpu"], "kind": "llvm", "mcpu": "znver4", "num-cores": 1, "tag": ""}
    shapes = [["TENSOR", "float32", one] for one in ([64, 32], [32, 16], [64, 16])]
    rows = [
        [0, [[[], []], [0.001, 0.002], target, shapes]],
        [0, [[[], []], [1e10], target, shapes]],
        [0, [[[], []], None, target, shapes[:1]]],
    ]
    records.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, two, three = read_metaschedule(workloads, records)
    assert one.workload == "" and one.task.startswith("9593177933350849261 [[64, 32], [32, 16]")
    assert one.cost_s == pytest.approx(0.0015) and "znver4" in one.target
    assert two.cost_s == three.cost_s == math.inf and three.workload == ""


def known_as(tmp_path, template, arguments):
    log = tmp_path / "log.json"
    log.write_text(autotvm_line(template, arguments, [[0.5], 0, 1.5, 0.0]))
    (one,) = read_autotvm(log)
    return one.workload


def tensors(dtype, *shapes):
    return [["TENSOR", list(shape), dtype] for shape in shapes]


WINDOW = [[2, 1], [1, 1, 1, 1], [1, 1]]
PRODUCT = tensors("float32", (4, 16, 32), (4, 64, 32))
LAST = tensors("float32", (1, 14, 14, 8), (3, 3, 8, 16))
FIRST = tensors("float32", (1, 8, 14, 14), (16, 2, 3, 3))
DEPTH = tensors("float32", (1, 8, 14, 14), (8, 2, 3, 3))
BLOCKS = tensors("float32", (1, 2, 14, 14, 4), (3, 2, 3, 3, 4, 4))
SAID = "c=8,h=14,w=14,k=16,r=3,s=3,stride=2,pad=1,stride_w=1"
SQUARE = tensors("float32", (4, 8, 8), (4, 8, 8))


@pytest.mark.parametrize(
    ("template", "arguments", "written"),
    [
        ("dense_pack.x86", DENSE, "matmul:m=16,n=64,k=32,tb=1"),
        ("dense.cuda", [*DENSE[:2], ["TENSOR", [64], "float32"], None], "dense:m=16,n=64,k=32"),
        ("batch_matmul.x86", PRODUCT, "matmul:m=16,n=64,k=32,b=4,tb=1"),
        (
            "batch_matmul.cuda",
            [*PRODUCT, [4, 16, 64], "float32", False, True],
            "matmul:m=16,n=64,k=32,b=4,tb=1",
        ),
        ("batch_matmul.x86", SQUARE, "matmul:m=8,n=8,k=8,b=4,tb=1"),
        ("batch_matmul.x86", [*SQUARE, None, None, 1, 0], "matmul:m=8,n=8,k=8,b=4,ta=1"),
        ("conv2d_nhwc_spatial_pack.arm_cpu", [*LAST, *WINDOW, "float32"], f"conv2d:{SAID}"),
        (
            "group_conv2d_nchw.cuda",
            [*FIRST, *WINDOW, 4, "float32"],
            f"conv2d:{SAID},groups=4,layout=nchw",
        ),
        (
            "depthwise_conv2d_nchw.x86",
            [*DEPTH, *WINDOW, "float32"],
            f"conv2d:{SAID},groups=8,layout=nchw",
        ),
        (
            "depthwise_conv2d_nhwc.mali",
            [*tensors("float32", (1, 14, 14, 8), (3, 3, 8, 2)), *WINDOW, "float32"],
            "depthwise_conv2d:c=8,h=14,w=14,r=3,s=3,stride=2,pad=1,stride_w=1,multiplier=2",
        ),
        (
            "conv2d_NCHWc.x86",
            [*BLOCKS, *WINDOW, "NCHW4c", "NCHW4c", "float32"],
            "conv2d_nchwc:c=8,h=14,w=14,k=12,r=3,s=3,stride=2,pad=1,stride_w=1,block=4",
        ),
    ],
)
def test_tasks_of_autotvm(tmp_path, template, arguments, written):
    assert known_as(tmp_path, template, arguments) == f"{written},dtype=float32"


@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        ("dense_nopack.x86", [*tensors("float16", (16, 32), (64, 32)), None, "float32"]),
        ("dense_nopack.x86", [*tensors("int8", (16, 32), (64, 32)), None, "int8"]),
        ("dense_nopack.x86", [DENSE[0], ["TENSOR", [64, 32], "int8"], None, "float32"]),
        ("dense_nopack.x86", [*DENSE[:2], ["TENSOR", [16], "float32"], "float32"]),
        ("dense_pack.x86", [DENSE[0], ["TENSOR", [4, 32, 16], "float32"], None, "float32"]),
        ("dense_sparse.x86", DENSE),
        ("batch_matmul.x86", tensors("float32", (4, 16, 32), (1, 64, 32))),
        ("batch_matmul.x86", [*PRODUCT, [4, 64, 16]]),
        ("batch_matmul.x86", [*PRODUCT, None, None, False, False]),
        ("conv2d_nchw.image2d", CONV),
        ("conv2d_nchw_winograd.cuda", CONV),
        ("conv2d_nchw.x86", [*CONV[:5], "float16"]),
        ("conv2d_nhwc_direct_simd.micro", [*LAST, *WINDOW, "float32"]),
        ("conv2d_nhwc.x86", [*FIRST, *WINDOW, "float32"]),
        ("conv2d_nchw.x86", [*FIRST, *WINDOW, "float32"]),
        ("group_conv2d_nchw.cuda", [*FIRST, *WINDOW, 2, "float32"]),
        ("depthwise_conv2d_nchw.x86", [*FIRST, *WINDOW, "float32"]),
        ("conv2d_NCHWc.x86", [*CONV[:5], "NCHW", "NCHW", "float32"]),
        ("conv2d_NCHWc.x86", [*BLOCKS, *WINDOW, "NCHW4c", "NCHW8c", "float32"]),
        (
            "conv2d_NCHWc.x86",
            [BLOCKS[0], ["TENSOR", [3, 2, 3, 3, 4, 8], "float32"], *WINDOW, "NCHW4c", "NCHW8c"],
        ),
    ],
)
def test_tasks_of_autotvm_that_are_not_surely_ours(tmp_path, template, arguments):
    assert known_as(tmp_path, template, arguments) == ""


DONE = 1700000000.0


@pytest.fixture
def log(tmp_path):
    """Two tasks that we know too, and one of somebody's."""
    lines = [
        autotvm_line("dense_nopack.x86", DENSE, [[0.004], 0, 1.5, DONE]),
        autotvm_line("dense_nopack.x86", DENSE, [[0.002], 0, 1.5, DONE]),
        autotvm_line("dense_nopack.x86", DENSE, [[1e9], 4, 9.0, DONE]),
        autotvm_line("mine", [7], [[0.25], 0, 1.0, DONE]),
        autotvm_line("conv2d_nchw.x86", CONV, [[1e9], 4, 1.5, DONE]),
    ]
    (tmp_path / "auto.log").write_text("\n".join(lines) + "\n")
    return tmp_path / "auto.log"


def test_a_log_is_its_tasks_with_the_best_of_each(log, tmp_path):
    dense, mine, conv = tasks_of(read_log(log))
    assert (dense.best_s, dense.trials, dense.failed) == (0.002, 3, 1)
    assert (mine.workload, mine.task, mine.best_s) == ("", "mine [7]", 0.25)
    assert conv.best_s == math.inf and conv.failed == 1
    assert workloads_of([dense, mine, conv, dense]) == [dense.workload, conv.workload]
    # MetaSchedule's are two files of known names: the folder, or either.
    (tmp_path / "ms").mkdir()
    (tmp_path / "ms" / "database_workload.json").write_text('["9593177933350849261","nEYAAAA"]\n')
    shapes = [["TENSOR", "float32", one] for one in ([64, 32], [32, 16], [64, 16])]
    row = json.dumps([0, [[[], []], [0.001], "llvm", shapes]])
    (tmp_path / "ms" / "database_tuning_record.json").write_text(row + "\n")
    for path in (tmp_path / "ms", tmp_path / "ms" / "database_workload.json"):
        (task,) = tasks_of(read_log(path))
        assert task.task.endswith("[[64, 32], [32, 16], [64, 16]]") and task.best_s == 0.001
    assert is_log(log) and is_log(tmp_path / "ms") and not is_log(tmp_path)


def test_the_command_shows_what_a_log_holds(log, capsys):
    assert main(["best", "--log", str(log)]) == 0
    heads, dense, mine, conv = capsys.readouterr().out.splitlines()
    assert heads.split() == ["WORKLOAD", "LATENCY", "GFLOPS", "TRIALS", "FAILED", "TARGET"]
    assert dense.split()[:2] == ["matmul:m=16,n=64,k=32,tb=1,dtype=float32", "2"]
    assert "mcpu=znver4" in dense and "(mine [7])" in mine and " -  " in conv
    assert main(["best", "matmul", "--log", str(log), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["best_s"], told["trials"], told["failed"]) == (0.002, 3, 1)
    assert main(["best", "softmax", "--log", str(log)]) == 1


def test_a_log_where_schedules_are_wanted_says_what_it_is_good_for(log, tmp_path, capsys):
    capsys.readouterr()
    for words in (["--import", str(log)], ["--records", str(log)]):
        assert main(["best", *words]) == 2
        said = capsys.readouterr().err
        assert "another tuner's log" in said and "--tasks-from" in said
    with pytest.raises(InvalidRequestError, match=r"do not carry over.*--tasks-from"):
        tune("add:n=16", "any", trials=1, records=tmp_path / "r.jsonl", transfer=[log])


def test_what_is_no_log_is_one_clear_error(tmp_path):
    bad = tmp_path / "bad.json"
    for text in ("nonsense", "{}", '{"input": [], "result": []}', "[1, 2, 3]"):
        bad.write_text(text + "\n")
        with pytest.raises(InvalidRequestError, match=r"bad\.json:1"):
            list(read_autotvm(bad))
        with pytest.raises(InvalidRequestError, match=r"bad\.json:1"):
            list(read_metaschedule(bad, bad))
    for reader in (lambda: read_autotvm(bad), lambda: read_metaschedule(bad, bad)):
        bad.write_bytes(b"\xff\xfe\n")
        with pytest.raises(InvalidRequestError, match=r"bad\.json:1"):
            list(reader())


JUNK = (None, -1, math.inf, math.nan, "x", [], {}, [[1]], {"a": 1}, True)


def places(data, path=()):
    yield path
    inside = enumerate(data) if isinstance(data, list) else ()
    for key, value in data.items() if isinstance(data, dict) else inside:
        yield from places(value, (*path, key))


def spoilt(text, path, junk):
    data = {"": json.loads(text)}
    here, *inside = ("", *path)
    held = data
    for key in inside:
        held, here = held[here], key
    held[here] = junk
    return json.dumps(data[""]) + "\n"


def test_junk_anywhere_in_a_log_is_one_clear_error_or_no_harm(tmp_path):
    log, known = tmp_path / "log.json", tmp_path / "known.json"
    known.write_text('["9593177933350849261","nEYAAAA"]\n')
    shapes = [["TENSOR", "float32", one] for one in ([64, 32], [32, 16], [64, 16])]
    ours = autotvm_line("dense_nopack.x86", DENSE, [[0.001, 0.003], 0, 1.5, 1.0])
    theirs = json.dumps([0, [[[], []], [0.001], {"kind": "llvm"}, shapes]])
    readers = ((ours, lambda: read_autotvm(log)), (theirs, lambda: read_metaschedule(known, log)))
    for text, reader in readers:
        for path in places(json.loads(text)):
            for junk in JUNK:
                log.write_text(spoilt(text, path, junk))
                try:
                    assert all(one.cost_s > 0 for one in reader())
                except InvalidRequestError as error:
                    assert "log.json:1" in str(error)
