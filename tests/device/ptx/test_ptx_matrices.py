"""mma and ldmatrix against numpy, each element's lane and register as the PTX ISA's tables say."""

import numpy as np
import pytest
from ptx_harness import Array, kernel, module, run
from tunefarm_device import ptx

RNG = np.random.default_rng(7)
LANE = np.arange(32)
GROUP, THREAD = LANE >> 2, LANE % 4


def a_place(kind: str, i: int) -> tuple[Array, Array]:
    """Row and column of a_i in each lane, as the tables of the ISA are written."""
    if kind in ("f16k16", "bf16k16"):
        row = GROUP if 0 <= i < 2 or 4 <= i < 6 else GROUP + 8
        return row, THREAD * 2 + (i & 1) + (8 if i >= 4 else 0)
    if kind == "f16k8":
        return GROUP + (0 if i < 2 else 8), THREAD * 2 + (i & 1)
    if kind == "tf32k8":
        return GROUP + (0 if i in (0, 2) else 8), THREAD + (0 if i < 2 else 4)
    if kind == "tf32k4":
        return GROUP + (0 if i == 0 else 8), THREAD
    if kind == "s8k16":
        return GROUP + (0 if i < 4 else 8), THREAD * 4 + (i & 3)
    assert kind == "s8k32"
    row = GROUP if 0 <= i < 4 or 8 <= i < 12 else GROUP + 8
    return row, THREAD * 4 + (i & 3) + (16 if i >= 8 else 0)


def b_place(kind: str, i: int) -> tuple[Array, Array]:
    """Row and column of b_i in each lane."""
    if kind in ("f16k16", "bf16k16"):
        return THREAD * 2 + (i & 1) + (8 if i >= 2 else 0), GROUP
    if kind == "f16k8":
        return THREAD * 2 + i, GROUP
    if kind in ("tf32k8", "tf32k4"):
        return THREAD + 4 * i, GROUP
    if kind == "s8k16":
        return THREAD * 4 + (i & 3), GROUP
    return THREAD * 4 + (i & 3) + (16 if i >= 4 else 0), GROUP


def c_place(i: int) -> tuple[Array, Array]:
    """Row and column of c_i in each lane."""
    return GROUP + (0 if i < 2 else 8), THREAD * 2 + (i & 1)


def spread(matrix: Array, places: list[tuple[Array, Array]]) -> Array:
    """(32, elements): what each lane holds."""
    return np.stack([matrix[row, column] for row, column in places], 1)


def mma_text(opcode: str, registers: tuple[int, int, int, int]) -> str:
    """A kernel that loads each lane's registers from rows of words, and stores D's."""
    d, a, b, c = registers
    body, at = [], 10
    names = {}
    for which, count, base in (("a", a, 0), ("b", b, 1), ("c", c, 2)):
        body.append(f"  mul.wide.u32 %rd9, %r0, {4 * count}; add.s64 %rd9, %rd9, %rd{base};")
        names[which] = [f"%r{at + n}" for n in range(count)]
        body += [f"  ld.global.b32 {name}, [%rd9+{4 * n}];" for n, name in enumerate(names[which])]
        at += count
    names["d"] = [f"%r{at + n}" for n in range(d)]
    groups = ", ".join("{" + ", ".join(names[w]) + "}" for w in "dabc")
    body.append(f"  mma.sync.aligned.{opcode} {groups};")
    body.append(f"  mul.wide.u32 %rd9, %r0, {4 * d}; add.s64 %rd9, %rd9, %rd3;")
    body += [f"  st.global.b32 [%rd9+{4 * n}], {name};" for n, name in enumerate(names["d"])]
    return module(kernel("\n".join(body)))


def bfloat(values: Array) -> Array:
    """float32 cut to bfloat16, as bits."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def of_bfloat(bits: Array) -> Array:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def words(elements: Array) -> Array:
    return np.ascontiguousarray(elements).view(np.uint32)


@pytest.mark.parametrize(
    ("opcode", "kind", "shape"),
    [
        ("m16n8k16.row.col.f32.f16.f16.f32", "f16k16", (16, 8, 16)),
        ("m16n8k8.row.col.f32.f16.f16.f32", "f16k8", (16, 8, 8)),
        ("m16n8k16.row.col.f32.bf16.bf16.f32", "bf16k16", (16, 8, 16)),
        ("m16n8k8.row.col.f32.tf32.tf32.f32", "tf32k8", (16, 8, 8)),
        ("m16n8k4.row.col.f32.tf32.tf32.f32", "tf32k4", (16, 8, 4)),
    ],
)
def test_mma_of_floats_matches_the_tables(
    opcode: str, kind: str, shape: tuple[int, int, int]
) -> None:
    m, n, k = shape
    a = RNG.standard_normal((m, k)).astype(np.float32)
    b = RNG.standard_normal((k, n)).astype(np.float32)
    c = RNG.standard_normal((m, n)).astype(np.float32)
    if kind.startswith("f16"):
        bits = [x.astype(np.float16) for x in (a, b)]
        values = [x.astype(np.float64) for x in bits]
        per = 2
    elif kind.startswith("bf16"):
        bits = [bfloat(x) for x in (a, b)]
        values = [of_bfloat(x).astype(np.float64) for x in bits]
        per = 2
    else:
        bits = [a, b]
        cut = [(x.view(np.uint32) & 0xFFFFE000).view(np.float32) for x in bits]
        values = [x.astype(np.float64) for x in cut]
        per = 1
    count_a, count_b = m * k // 32, k * n // 32
    rows = [
        spread(bits[0], [a_place(kind, i) for i in range(count_a)]),
        spread(bits[1], [b_place(kind, i) for i in range(count_b)]),
        spread(c, [c_place(i) for i in range(4)]),
    ]
    text = mma_text(opcode, (4, count_a // per, count_b // per, 4))
    after, _ = run(text, [*[words(x) for x in rows], np.zeros((32, 4), np.float32)])
    want = (values[0] @ values[1] + c).astype(np.float32)
    assert np.array_equal(after[3], spread(want, [c_place(i) for i in range(4)]))


@pytest.mark.parametrize("k", [8, 16])
def test_mma_that_sums_in_float16_packs_two_of_a_row(k: int) -> None:
    kind = f"f16k{k}"
    a = RNG.standard_normal((16, k)).astype(np.float16)
    b = RNG.standard_normal((k, 8)).astype(np.float16)
    c = RNG.standard_normal((16, 8)).astype(np.float16)
    places = [c_place(i) for i in range(4)]
    rows = [
        spread(a, [a_place(kind, i) for i in range(k // 2)]),
        spread(b, [b_place(kind, i) for i in range(k // 4)]),
        spread(c, places),
    ]
    text = mma_text(f"m16n8k{k}.row.col.f16.f16.f16.f16", (2, k // 4, k // 8, 2))
    after, _ = run(text, [*[words(x) for x in rows], np.zeros((32, 2), np.uint32)])
    want = (a.astype(np.float64) @ b.astype(np.float64) + c).astype(np.float16)
    assert np.array_equal(after[3], words(spread(want, places)))


@pytest.mark.parametrize("k", [16, 32])
@pytest.mark.parametrize("kinds", [("s8", "s8"), ("u8", "u8"), ("u8", "s8")])
@pytest.mark.parametrize("clamp", ["", ".satfinite"])
def test_mma_of_bytes_matches_the_tables(k: int, kinds: tuple[str, str], clamp: str) -> None:
    dtypes = [np.int8 if kind == "s8" else np.uint8 for kind in kinds]
    a = RNG.integers(0, 256, (16, k)).astype(np.uint8).view(dtypes[0])
    b = RNG.integers(0, 256, (k, 8)).astype(np.uint8).view(dtypes[1])
    c = RNG.integers(-1000, 1000, (16, 8)).astype(np.int32)
    c[0, :2] = 2**31 - 1, -(2**31)
    places = [c_place(i) for i in range(4)]
    kind = f"s8k{k}"
    rows = [
        spread(a, [a_place(kind, i) for i in range(k // 2)]),
        spread(b, [b_place(kind, i) for i in range(k // 4)]),
        spread(c, places),
    ]
    text = mma_text(
        f"m16n8k{k}.row.col{clamp}.s32.{kinds[0]}.{kinds[1]}.s32", (4, k // 8, k // 16, 4)
    )
    after, _ = run(text, [*[words(x) for x in rows], np.zeros((32, 4), np.int32)])
    want = a.astype(np.int64) @ b.astype(np.int64) + c
    want = np.clip(want, -(2**31), 2**31 - 1) if clamp else want
    assert np.array_equal(after[3], spread(want.astype(np.int32), places))


LDMATRIX = """
  .shared .align 16 .b8 tile[2048];
  mov.u32 %r3, tile;
  // Row r of the four matrices is written by lane r: 16 bytes, 32 bytes apart.
  mul.wide.u32 %rd9, %r0, 16;
  add.s64 %rd9, %rd9, %rd0;
  ld.global.v4.b32 {{%r10, %r11, %r12, %r13}}, [%rd9];
  mad.lo.u32 %r4, %r0, 32, %r3;
  st.shared.v4.b32 [%r4+16], {{%r10, %r11, %r12, %r13}};
  bar.warp.sync -1;
  ldmatrix.sync.aligned.m8n8.{form}.shared.b16 {{{into}}}, [%r4+16];
  mul.wide.u32 %rd9, %r0, 16;
  add.s64 %rd9, %rd9, %rd1;
{stores}
"""


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", ["", ".trans"])
def test_ldmatrix_gives_lane_l_two_halves_of_row_l_over_4(count: int, trans: str) -> None:
    into = [f"%r{20 + n}" for n in range(count)]
    stores = "\n".join(f"  st.global.b32 [%rd9+{4 * n}], {name};" for n, name in enumerate(into))
    body = LDMATRIX.format(form=f"x{count}{trans}", into=", ".join(into), stores=stores)
    rows = RNG.integers(0, 1 << 16, (32, 8)).astype(np.uint16)
    text = module(kernel(body, 2))
    after, _ = run(text, [rows, np.zeros((32, 4), np.uint32)])
    for number in range(count):
        matrix = rows[8 * number : 8 * number + 8]
        matrix = matrix.T if trans else matrix
        low, high = matrix[GROUP, THREAD * 2], matrix[GROUP, THREAD * 2 + 1]
        want = low.astype(np.uint32) | (high.astype(np.uint32) << 16)
        assert np.array_equal(after[1][:, number], want)


def test_ldmatrix_counts_bank_conflicts_by_eight_rows() -> None:
    stores = "  st.global.b32 [%rd9], %r20;"
    body = LDMATRIX.format(form="x4", into="%r20, %r21, %r22, %r23", stores=stores)
    rows = np.zeros((32, 8), np.uint16)
    _, statistics = run(
        module(kernel(body, 2)), [rows, np.zeros((32, 4), np.uint32)], statistics=True
    )
    loads = [a for a in statistics.accesses if a.text.startswith("ldmatrix")]
    # Rows 32 bytes apart: eight of them lie in half of the banks, twice.
    assert [(a.requests, a.transactions, a.ideal) for a in loads] == [(1, 8, 4)]


def test_ldmatrix_reads_for_the_whole_warp() -> None:
    stores = "  st.global.b32 [%rd9], %r20;"
    body = LDMATRIX.format(form="x4", into="%r20, %r21, %r22, %r23", stores=stores)
    text = module(kernel(body.replace("bar.warp.sync -1;", ""), 2))
    with pytest.raises(ptx.SharedRaceError, match=r"ldmatrix.*another thread of the warp wrote"):
        run(text, [np.zeros((32, 8), np.uint16), np.zeros((32, 4), np.uint32)])


def test_a_shape_that_no_table_has_is_refused_with_its_line() -> None:
    body = "  mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 {%r1}, {%r2}, {%r3}, {%r4};"
    with pytest.raises(ptx.UnsupportedError, match=r"line \d+: mma.*m8n8k4 of .f16"):
        ptx.Module(module(kernel(body)))


def test_mma_of_some_threads_of_a_warp_is_a_divergent_barrier() -> None:
    body = """
  setp.lt.u32 %p1, %r0, 7;
  @%p1 bra $out;
  mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%r10, %r11, %r12, %r13}, {%r0, %r0}, {%r0},
    {%r0, %r0, %r0, %r0};
  bra $done;
$out:
  bar.warp.sync 0x7f;
  bar.warp.sync -1;
$done:
"""
    with pytest.raises(ptx.DivergentBarrierError, match="25 threads of a warp"):
        run(module(kernel(body, 1)), [np.zeros(1, np.float32)])


def test_stmatrix_and_movmatrix_are_the_inverse_and_the_transpose() -> None:
    body = """
  .shared .align 16 .b8 tile[512];
  mov.u32 %r3, tile;
  mul.wide.u32 %rd9, %r0, 4;
  add.s64 %rd8, %rd9, %rd0;
  ld.global.b32 %r10, [%rd8];
  movmatrix.sync.aligned.m8n8.trans.b16 %r11, %r10;
  mad.lo.u32 %r4, %r0, 16, %r3;
  stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r4], {%r11};
  bar.warp.sync -1;
  mad.lo.u32 %r5, %r0, 4, %r3;
  ld.shared.b32 %r12, [%r5];
  add.s64 %rd8, %rd9, %rd1;
  st.global.b32 [%rd8], %r12;
"""
    matrix = RNG.integers(0, 1 << 16, (8, 8)).astype(np.uint16)
    text = module(kernel(body, 2), target="sm_90")
    after, _ = run(text, [matrix, np.zeros((8, 8), np.uint16)], arch="sm_90")
    assert np.array_equal(after[1], matrix.T)
