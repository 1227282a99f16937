"""Modules in MetaSchedule's databases: what is one of our workloads, and what only looks so.

`metaschedule.jsonl.xz` holds what TVM wrote; `make_metaschedule.py` made it. Cases whose names
begin with "near" are of shapes that one of ours has too, or almost.
"""

import base64
import json
import lzma
from pathlib import Path

import pytest
from tunefarm_compiler import workload
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_tuner import foreign_graph, foreign_logs
from tunefarm_tuner.foreign_logs import read_log, tasks_of, workloads_of
from tunefarm_tuner.foreign_match import words_of, workload_of

HELD = Path(__file__).with_name("metaschedule.jsonl.xz").read_bytes()
LINES = [json.loads(line) for line in lzma.decompress(HELD).decode().splitlines()]
MODULES = {(version, name): text for version, name, _, text, _ in LINES}
# Of float32 where nothing is said.
EXPECTED = {
    "matmul": "matmul:m=8,n=24,k=16",
    "dense_bias_relu": "dense:m=8,n=24,k=16,act=relu",
    "square_tn": "matmul:m=16,n=16,k=16,ta=1",
    "batch_matmul": "matmul:m=8,n=24,k=16,b=3,tb=1",
    "nchw": "conv2d:c=8,h=14,w=12,k=16,r=3,s=5,stride=2,pad=1,stride_w=1,pad_left=2,layout=nchw",
    "conv_bias_relu": "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,pad=1,bias=1,act=relu",
    "grouped": "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,pad=1,groups=4",
    "depthwise_multiplier": (
        "depthwise_conv2d:c=8,h=14,w=12,r=3,s=3,dilation_w=2,pad_left=1,multiplier=2"
    ),
    "max_pool": "max_pool2d:c=8,h=14,w=12,r=3,s=3,stride=2,pad=1",
    "avg_pool": "avg_pool2d:c=8,h=14,w=12,r=3,s=3,stride=2,pad=1",
    "softmax": "softmax:m=16,n=32",
    "layer_norm": "layer_norm:m=16,n=32",
    "conv_float16": "conv2d:c=8,h=10,w=10,k=4,r=3,s=3,pad=1,dtype=float16",
    "dense_int8": "matmul:m=8,n=24,k=16,tb=1,dtype=int8",
    "fused_conv_bias_relu": "conv2d:c=8,h=14,w=14,k=16,r=3,s=3,pad=1,bias=1,act=relu",
    "matmul_tt": "matmul:m=8,n=24,k=16,tb=1",
    "matmul_nt_by_flag": "matmul:m=8,n=24,k=16,tb=1",
    "dense": "matmul:m=8,n=24,k=16,tb=1",
    "dense_bias": "dense:m=8,n=24,k=16",
    "dense_relu": "dense:m=8,n=24,k=16,bias=0,act=relu",
    "dense_bias_tanh": "dense:m=8,n=24,k=16,act=tanh",
    "dense_bias_sigmoid": "dense:m=8,n=24,k=16,act=sigmoid",
    "square_nn": "matmul:m=16,n=16,k=16",
    "square_nt": "matmul:m=16,n=16,k=16,tb=1",
    "square_tt": "matmul:m=16,n=16,k=16,ta=1,tb=1",
    "square_other_way_round": "matmul:m=16,n=16,k=16,tb=1",
    "gemv": "gemv:m=16,n=16",
    "gemv_turned": "matmul:m=16,n=1,k=16,ta=1",
    "batch_matmul_nn": "matmul:m=8,n=24,k=16,b=3",
    "broadcast_of_one": "matmul:m=24,n=24,k=16,tb=1",
    "linear_of_three_axes": "matmul:m=24,n=24,k=16,tb=1",
    "gmm": "matmul:m=16,n=32,k=16,b=2",
    "conv": "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,pad=1",
    "conv_stride": "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,stride=2,pad=1,stride_w=1",
    "conv_stride_turned": "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,pad=1,stride_w=2",
    "conv_dilation": "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,pad=2,dilation=2,dilation_w=1",
    "conv_no_padding": "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,stride=2",
    "conv_padding_after": "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,pad_bottom=2,pad_right=2",
    "conv_padding_split": (
        "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,pad=2,pad_bottom=0,pad_left=0,pad_right=2"
    ),
    "conv_pointwise": "conv2d:c=4,h=9,w=9,k=6,r=1,s=1,n=2",
    "conv_pointwise_stride": "conv2d:c=4,h=9,w=9,k=6,r=1,s=1,n=2,stride=2",
    "nchw_dilation": (
        "conv2d:c=8,h=14,w=12,k=16,r=3,s=5,dilation=2,pad_bottom=2,pad_left=1,"
        "pad_right=3,layout=nchw"
    ),
    "conv_bias": "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,pad=1,bias=1",
    "conv_relu": "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,pad=1,act=relu",
    "nchw_bias_relu": "conv2d:c=8,h=14,w=12,k=16,r=3,s=5,pad=1,bias=1,act=relu,layout=nchw",
    "grouped_nchw": "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,pad=1,groups=4,layout=nchw",
    "depthwise": "depthwise_conv2d:c=8,h=14,w=12,r=3,s=3,stride=2,pad=1",
    "depthwise_grouped": "depthwise_conv2d:c=8,h=14,w=12,r=3,s=3,pad=1",
    "depthwise_nchw": "conv2d:c=8,h=14,w=12,k=8,r=3,s=3,pad=1,groups=8,layout=nchw",
    "depthwise_nchw_multiplier": "conv2d:c=8,h=14,w=12,k=16,r=3,s=3,pad=1,groups=8,layout=nchw",
    "nchwc": "conv2d_nchwc:c=8,h=10,w=10,k=12,r=3,s=3,pad=1,block=4",
    "te_C2D": "conv2d:c=3,h=224,w=224,k=64,r=7,s=7,stride=2,pad=3",
    "te_GRP": "conv2d:c=64,h=56,w=56,k=128,r=3,s=3,stride=2,pad=1,groups=4",
    "te_DIL": "conv2d:c=3,h=224,w=224,k=64,r=7,s=7,stride=2,pad=3,dilation=2",
    "te_DEP": "depthwise_conv2d:c=32,h=112,w=112,r=3,s=3,pad=1",
    "conv_by_hand": "conv2d:c=8,h=12,w=12,k=8,r=3,s=3,pad=1",
    "conv_shifted_padding": "conv2d:c=8,h=12,w=12,k=8,r=3,s=3,pad=2,pad_bottom=0,pad_left=1",
    "conv_stride_of_rows": "conv2d:c=8,h=12,w=12,k=8,r=3,s=3,stride=2,stride_w=1",
    "max_pool_unequal": "max_pool2d:c=8,h=14,w=12,r=3,s=2,pad=1,stride_w=2,pad_bottom=0,pad_left=0",
    "max_pool_nchw": "max_pool2d:c=1,h=14,w=12,r=3,s=3,n=8,stride=2,pad=1",
    "avg_pool_dilation": "avg_pool2d:c=8,h=14,w=12,r=2,s=3,dilation=2",
    "avg_pool_no_padding": "avg_pool2d:c=8,h=14,w=12,r=2,s=2,stride=2",
    "avg_pool_nchw": "avg_pool2d:c=1,h=14,w=12,r=2,s=3,n=8,stride=2,stride_w=3",
    "global_avg_pool": "avg_pool2d:c=1,h=14,w=12,r=14,s=12,n=8",
    "global_avg_pool_nhwc": "avg_pool2d:c=8,h=14,w=12,r=14,s=12",
    "softmax_of_three_axes": "softmax:m=16,n=32",
    "layer_norm_in_one_pass": "layer_norm:m=16,n=32",
    "layer_norm_of_three_axes": "layer_norm:m=16,n=32",
    "sum": "sum:m=16,n=32",
    "sum_of_columns": "sum:m=32,n=32,axis=0",
    "max": "max:m=16,n=32",
    "min_of_columns": "min:m=16,n=32,axis=0",
    "relu": "relu:n=512",
    "tanh": "tanh:n=512",
    "exp": "exp:n=512",
    "add": "add:n=512",
    "bias_act": "bias_act:m=16,n=32,act=relu",
    "transpose": "transpose:m=16,n=32",
    "transpose_batches": "transpose:m=8,n=32,b=2",
    "dense_float16": "matmul:m=8,n=24,k=16,tb=1,dtype=float16",
    "max_pool_float16": "max_pool2d:c=8,h=10,w=10,r=2,s=2,stride=2,dtype=float16",
    "dense_bfloat16": "matmul:m=8,n=24,k=16,tb=1,dtype=bfloat16",
    "conv_bfloat16": "conv2d:c=8,h=10,w=10,k=4,r=3,s=3,pad=1,dtype=bfloat16",
    "max_pool_bfloat16": "max_pool2d:c=8,h=10,w=10,r=2,s=2,stride=2,dtype=bfloat16",
    "conv_int8": "conv2d:c=8,h=10,w=10,k=4,r=3,s=3,pad=1,dtype=int8",
    "max_pool_of_padding_int8": "max_pool2d:c=3,h=4,w=5,r=2,s=2,pad=2,dtype=int8",
    "max_pool_int8": "max_pool2d:c=8,h=10,w=10,r=2,s=2,stride=2,dtype=int8",
    "softmax_float16": "softmax:m=16,n=32,dtype=float16",
    "layer_norm_float16": "layer_norm:m=16,n=32,dtype=float16",
    "dense_int8_bias_relu": "dense:m=8,n=24,k=16,act=relu,dtype=int8",
    "fused_nchw_bias_relu": (
        "conv2d:c=8,h=14,w=14,k=16,r=3,s=3,stride=2,pad=1,bias=1,act=relu,layout=nchw"
    ),
    "fused_depthwise_bias": "depthwise_conv2d:c=8,h=14,w=14,r=3,s=3,pad=1,bias=1",
    "fused_linear_gelu": "dense:m=16,n=64,k=32,act=gelu",
    "fused_attention_scores": "matmul:m=16,n=16,k=8,b=8",
    "fused_layer_norm": "layer_norm:m=16,n=32",
    "fused_softmax": "softmax:m=128,n=16",
    "fused_max_pool": "max_pool2d:c=1,h=14,w=14,r=3,s=3,n=8,stride=2,pad=1",
    "fused_mean": "mean:m=8,n=49",
}


def encoded(text):
    """As a database has it: after its length."""
    data = text.encode()
    return base64.b64encode(len(data).to_bytes(8, "little") + data).decode()


def expected(name):
    text = EXPECTED.get(name, "")
    return text if "dtype=" in text or not text else f"{text},dtype=float32"


@pytest.mark.parametrize(("version", "name"), MODULES)
def test_a_module_is_known_by_what_it_computes(version, name):
    assert (name in EXPECTED) != name.startswith("near")
    assert workload_of(encoded(MODULES[version, name])) == expected(name)


def test_what_is_expected_is_how_a_workload_is_written():
    for name in EXPECTED:
        assert str(workload.parse(expected(name))) == expected(name)
    assert {name for _, name in MODULES} >= EXPECTED.keys()


def nest_names(nodes, place):
    """Values that have names were around the statements that use them."""
    items = nodes[int(nodes[place]["attrs"]["seq"])]["data"]
    named = [at for at in items if nodes[at]["type_key"] == "tir.Bind"]
    if named:
        nodes.append({"type_key": "Array", "data": [at for at in items if at not in named]})
        nodes.append({"type_key": "tir.SeqStmt", "attrs": {"seq": str(len(nodes) - 1)}})
    for at in reversed(named):
        fields = {**nodes[at]["attrs"], "body": str(len(nodes) - 1)}
        nodes.append({"type_key": "tir.LetStmt", "attrs": fields})
    if named:
        nodes[place] = nodes[-1]


def old_writing(text):
    """As TVM wrote it until 0.20: everything is a string, and kinds have other first words."""
    given = json.loads(text)
    words = {"tirx": "tir.", "ir": "", "relax": "relax."}
    nodes = []
    for node in given["nodes"]:
        first, _, last = node["type"].rpartition(".")
        kind = words.get(first.partition(".")[0], "") + {"SBlock": "Block", "None": ""}.get(
            last, last.replace("SBlock", "Block")
        )
        data = node.get("data")
        if isinstance(data, dict):
            fields = {key: str(value) for key, value in data.items() if key != "step"}
            nodes.append({"type_key": kind, "attrs": fields})
        elif isinstance(data, list):
            nodes.append({"type_key": kind, "data": data} if data else {"type_key": kind})
        elif kind == "Op":
            nodes.append({"type_key": kind, "repr_str": data.replace("tirx.", "tir.")})
        else:
            nodes.append({"type_key": kind, "repr_str": str(data)})
    for place in [at for at, node in enumerate(nodes) if node["type_key"] == "tir.SeqStmt"]:
        nest_names(nodes, place)
    more = {"b64ndarrays": [], "attrs": {"tvm_version": "0.12.dev0"}}
    return json.dumps({"root": given["root_index"], "nodes": nodes, **more}, indent=2)


@pytest.mark.parametrize("name", [name for version, name in MODULES if version == "0.25.0"])
def test_the_writing_of_old_versions(name):
    assert workload_of(encoded(old_writing(MODULES["0.25.0", name]))) == expected(name)


@pytest.fixture
def database(tmp_path):
    """All of the last version's, as TVM's two files."""
    held = [line for line in LINES if line[0] == "0.27.0"]
    known = [json.dumps([digest, encoded(text)]) for _, _, digest, text, _ in held]
    rows = [json.dumps([number, row[1]]) for number, (*_, row) in enumerate(held)]
    (tmp_path / "database_workload.json").write_text("\n".join(known) + "\n")
    (tmp_path / "database_tuning_record.json").write_text("\n".join(rows) + "\n")
    return tmp_path


def test_a_database(database):
    records = list(read_log(database))
    names = [name for version, name, *_ in LINES if version == "0.27.0"]
    assert [one.workload for one in records] == [expected(name) for name in names]
    assert all(one.cost_s == pytest.approx(0.0015) and "znver4" in one.target for one in records)
    digests = [digest for version, _, digest, *_ in LINES if version == "0.27.0"]
    assert all(one.task.startswith(digest) for one, digest in zip(records, digests, strict=True))
    (unknown,) = (one.task for one, name in zip(records, names, strict=True) if name == "near_C1D")
    assert unknown.split(" ", 1)[1].startswith("PadInput conv1d_nlc [[1, 256, 64], [3, 64, 128]")
    found = workloads_of(tasks_of(records))
    assert set(found) == {expected(name) for name in EXPECTED if name in names}


def test_a_file_larger_than_any_log_is_refused_unread(database):
    with (database / "database_workload.json").open("r+b") as file:
        file.truncate(foreign_logs.LARGEST + 1)  # sparse
    with pytest.raises(InvalidRequestError, match="larger than any log"):
        list(read_log(database))


def nodes_of(name="matmul", version="0.27.0"):
    return json.loads(MODULES[version, name])


def test_hostile_modules_are_unknown():
    whole = MODULES["0.27.0", "matmul"]
    data = encoded(whole)
    long = json.dumps({"root_index": 0, "nodes": [{"type": "None"}] * (foreign_graph.MOST + 1)})
    texts = [
        data[:-5], data[:400], "", "!" + data, data + "=", "nEYAAAA", None, 7, [data], {},
        base64.b64encode(whole.encode()).decode(),  # without its length
        "A" * (foreign_graph.LARGEST + 4), encoded("[" * 100_000), encoded("[" * 900 + "]" * 900),
        encoded(long), encoded('{"root_index": 0}'), encoded('{"root_index": 0, "nodes": {}}'),
        encoded('{"root_index": 1e400, "nodes": []}'), encoded("9" * 10_000),
        encoded('{"root_index": 0, "nodes": [7]}'), encoded("null"), encoded(whole)[:-4] + "AAAA",
    ]  # fmt: skip
    assert [workload_of(one) for one in texts] == [""] * len(texts)


def looped(kind, name, at):
    """The module with one field of the last node of a kind naming what is above it."""
    given = nodes_of()
    places = [n for n, node in enumerate(given["nodes"]) if node["type"].endswith(kind)]
    for place in places:
        given["nodes"][place]["data"][name] = place if at is None else at(given)
    return encoded(json.dumps(given))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("For", "body"), ("SBlockRealize", "block"), ("SBlock", "body"), ("Mul", "a"), ("Add", "b"),
     ("BufferStore", "value"), ("TensorLoad", "indices"), ("IntImm", "value"), ("PrimFunc", "body"),
     ("PrimType", "dtype"), ("IRModule", "functions")],
)  # fmt: skip
def test_nodes_that_name_themselves_are_unknown(kind, name):
    assert workload_of(looped(kind, name, None)) == ""
    assert workload_of(looped(kind, name, lambda given: given["root_index"])) == ""


def test_an_array_within_itself_is_unknown():
    given = nodes_of()
    for place, node in enumerate(given["nodes"]):
        if node["type"] == "ffi.Array":
            node["data"] = [place] * 3
    assert workload_of(encoded(json.dumps(given))) == ""


def doubled(name, kind, field, combine, times=100):
    """A module in which what a field names is combined with itself, and that with itself again."""
    given = nodes_of(name)
    nodes = given["nodes"]
    place = next(n for n, node in enumerate(nodes) if node["type"].endswith(kind))
    holder = nodes[place]["data"]
    value = holder[field]
    ty = nodes[value]["data"].get("ty", 0)
    for _ in range(times):
        nodes.append({"type": combine, "data": {"span": 0, "ty": ty, "a": value, "b": value}})
        value = len(nodes) - 1
    holder[field] = value
    return encoded(json.dumps(given))


@pytest.mark.parametrize(
    ("name", "kind", "field", "combine"),
    [
        ("relu", "BufferStore", "value", "prim.Add"),
        ("relu", "BufferStore", "value", "prim.Max"),
        ("conv", "prim.LE", "b", "prim.Add"),
        ("conv", "prim.And", "a", "prim.And"),
        ("avg_pool", "prim.Cast", "value", "prim.Mul"),
    ],
)
def test_what_doubles_a_hundred_times_is_unknown(name, kind, field, combine):
    """Two to the hundredth terms, in a few nodes."""
    assert workload_of(doubled(name, kind, field, combine, 0)) == expected(name)
    assert workload_of(doubled(name, kind, field, combine)) == ""


def test_two_buffers_of_one_memory_are_unknown():
    given = nodes_of("matmul", "0.25.0")
    buffers = [node["data"] for node in given["nodes"] if node["type"] == "tirx.Buffer"]
    buffers[1]["data"] = buffers[0]["data"]
    assert workload_of(encoded(json.dumps(given))) == ""


def test_a_buffer_read_beyond_its_end_is_unknown():
    """The padded copy of the image a row too short: what is read then is of nobody."""
    given = nodes_of("conv", "0.27.0")
    nodes = given["nodes"]
    for node in nodes:
        if node["type"] == "int" and node["data"] == 16:
            node["data"] = 15  # rows of the copy, and channels
    assert workload_of(encoded(json.dumps(given))) == ""


def test_words_of_a_module_are_plain_ones():
    given = nodes_of()
    assert words_of(encoded(json.dumps(given))) == "T_matmul"
    for node in given["nodes"]:
        if node.get("data") == "T_matmul":
            node["data"] = "T\x1b[2J"
    assert words_of(encoded(json.dumps(given))) == words_of("nEYAAAA") == ""


JUNK = (None, -1, 0.5, "x")


def test_junk_anywhere_in_a_module_makes_it_unknown_or_does_no_harm():
    given = nodes_of()
    for node in given["nodes"]:
        held = node.get("data")
        for holder in [node, *([held] if isinstance(held, dict | list) else [])]:
            for key in list(range(len(holder)) if isinstance(holder, list) else holder):
                before = holder[key]
                for junk in JUNK:
                    holder[key] = junk
                    assert workload_of(encoded(json.dumps(given))) in ("", expected("matmul"))
                holder[key] = before
