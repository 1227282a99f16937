"""Branches, barriers, warps, limits: who executes what, and what is refused."""

import numpy as np
import pytest
from ptx_harness import Array, kernel, module, run
from tunefarm_device import ptx

RNG = np.random.default_rng(13)
STORE = "  mul.wide.u32 %rd20, %r1, 4; add.s64 %rd20, %rd20, %rd0; st.global.b32 [%rd20], %r10;\n"


def result(body: str, threads: int = 64, grid: int = 1, **options: object) -> Array:
    """Runs a body on `grid` blocks of threads; each leaves its result in %r10."""
    text = module(kernel(body + STORE, 1))
    out = np.zeros(threads * grid, np.uint32)
    after, _ = run(text, [out], block=threads, grid=grid, **options)  # type: ignore[arg-type]
    return after[0]


def test_lanes_go_apart_and_meet_again() -> None:
    got = result("""
  mov.u32 %r10, 0;
  and.b32 %r3, %r0, 1;
  setp.eq.u32 %p1, %r3, 1;
  @%p1 bra $odd;
  add.u32 %r10, %r10, 100;
  bra $meet;
$odd:
  add.u32 %r10, %r10, 200;
$meet:
  activemask.b32 %r4;
  setp.eq.u32 %p2, %r4, -1;
  @%p2 add.u32 %r10, %r10, 1;
""")
    assert got.tolist() == [201 if n % 2 else 101 for n in range(64)]


def test_a_guard_counts_only_where_lanes_execute() -> None:
    got = result("""
  mov.u32 %r10, 0;
  and.b32 %r3, %r0, 1; setp.eq.u32 %p1, %r3, 1;
  setp.lt.u32 %p2, %r0, 60;
  @%p1 bra $end;
  @%p2 mov.u32 %r10, 7;
$end:
""")
    assert got.tolist() == [7 if n % 2 == 0 and n < 60 else 0 for n in range(64)]


def test_lanes_that_come_back_join_those_that_wait() -> None:
    got = result("""
  setp.lt.u32 %p1, %r0, 20; mov.u32 %r3, %r0;
  @%p1 bra $far;
$near:
  shfl.sync.bfly.b32 %r10, %r3, 31, 31, -1;
  bra $end;
$far:
  add.u32 %r3, %r3, 100;
  bra $near;
$end:
""", threads=32)  # fmt: skip
    given = [n + 100 if n < 20 else n for n in range(32)]
    assert got.tolist() == given[::-1]


def test_each_lane_runs_its_own_number_of_rounds() -> None:
    got = result("""
  mov.u32 %r10, 0;
  mov.u32 %r3, 0;
$loop:
  setp.ge.u32 %p1, %r3, %r1;
  @%p1 bra $out;
  add.u32 %r10, %r10, %r3;
  add.u32 %r3, %r3, 1;
  bra $loop;
$out:
""", threads=50, grid=5)  # fmt: skip
    assert got.tolist() == [n * (n - 1) // 2 for n in range(250)]


def test_random_trees_of_branches_are_as_in_python() -> None:
    # Nested conditions and loops, with breaks out of them, against the same in Python.
    for _ in range(12):
        lines, python = _random_program(RNG, 0, [0])
        got = result("  mov.u32 %r10, 1;\n" + "\n".join(lines) + "\n", threads=96)
        for lane in range(96):
            state = {"x": 1, "lane": lane}
            exec("\n".join(python), state)
            assert int(got[lane]) == state["x"] % (1 << 32)


def _random_program(
    rng: np.random.Generator, depth: int, count: list[int], indent: str = ""
) -> tuple[list[str], list[str]]:
    lines: list[str] = []
    python: list[str] = []
    for _ in range(int(rng.integers(1, 4))):
        count[0] += 1
        mark, add, low = count[0], int(rng.integers(1, 99)), int(rng.integers(2, 7))
        choice = int(rng.integers(0, 3)) if depth < 3 else 0
        lines.append(f"  mad.lo.u32 %r10, %r10, 3, {add};")
        python.append(f"{indent}x = (x * 3 + {add}) % (1 << 32)")
        lines.append(f"  add.u32 %r3, %r10, %r0; rem.u32 %r3, %r3, {low};")
        if choice == 1:
            some, more = _random_program(rng, depth + 1, count, indent + "  ")
            lines += [f"  setp.ne.u32 %p1, %r3, 0; @%p1 bra $else{mark};", *some]
            lines += [f"  bra $end{mark};", f"$else{mark}:", "  xor.b32 %r10, %r10, %r0;"]
            lines.append(f"$end{mark}:")
            python += [f"{indent}if (x + lane) % (1 << 32) % {low} == 0:", *more]
            python += [f"{indent}else:", f"{indent}  x ^= lane"]
        elif choice == 2:
            some, more = _random_program(rng, depth + 1, count, indent + "  ")
            counter = f"%r{20 + depth}"
            lines += [f"  mov.u32 {counter}, %r3;", f"$loop{mark}:"]
            lines += [f"  setp.eq.u32 %p2, {counter}, 0; @%p2 bra $out{mark};"]
            lines += [f"  sub.u32 {counter}, {counter}, 1;", *some]
            lines += ["  and.b32 %r4, %r10, 15; setp.eq.u32 %p3, %r4, 3;"]
            lines += [f"  @%p3 bra $out{mark};", f"  bra $loop{mark};", f"$out{mark}:"]
            python += [f"{indent}for _ in range((x + lane) % (1 << 32) % {low}):", *more]
            python += [f"{indent}  if x & 15 == 3: break"]
    return lines, python


def test_a_table_of_targets() -> None:
    got = result("""
  rem.u32 %r3, %r0, 3;
$table: .branchtargets $one, $two, $three;
  brx.idx %r3, $table;
$one:
  mov.u32 %r10, 10;
  bra $end;
$two:
  mov.u32 %r10, 20;
  bra $end;
$three:
  mov.u32 %r10, 30;
$end:
""")
    assert got.tolist() == [10 * (n % 3 + 1) for n in range(64)]


def test_names_between_braces_are_of_their_own() -> None:
    got = result("""
  mov.u32 %r10, 5;
  { .reg .b32 t; mov.u32 t, 7; add.u32 %r10, %r10, t; }
  { .reg .b32 t; mov.u32 t, 1; add.u32 %r10, %r10, t; }
""")
    assert got.tolist() == [13] * 64


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("  setp.lt.u32 %p1, %r0, 40; @%p1 bar.sync 0;", "40 of 64 threads of block 0"),
        ("  setp.lt.u32 %p1, %r0, 32; @%p1 ret; bar.sync 0;", "32 of 64 threads of block 0"),
        ("  setp.lt.u32 %p1, %r0, 32; @%p1 bra $other; bar.sync 0; bra $end;\n"
         "$other:\n  bar.sync 0;\n$end:", "two different instructions of a barrier"),
    ],
)  # fmt: skip
def test_a_barrier_that_only_some_threads_reach_is_an_error(body: str, words: str) -> None:
    with pytest.raises(ptx.DivergentBarrierError, match=words):
        result(f"  mov.u32 %r10, 0;\n{body}\n")


def test_blocks_may_reach_different_barriers() -> None:
    got = result("""
  .shared .align 4 .b8 s[256];
  mov.u32 %r3, s; mad.lo.u32 %r4, %r0, 4, %r3; xor.b32 %r5, %r4, 128;
  mov.u32 %r6, %ctaid.x; setp.eq.u32 %p1, %r6, 1;
  @%p1 bra $other;
  st.shared.b32 [%r4], %r1; bar.sync 0; ld.shared.b32 %r10, [%r5];
  bra $end;
$other:
  st.shared.b32 [%r4], 7; bar.sync 0; ld.shared.b32 %r10, [%r5];
$end:
""", grid=3)  # fmt: skip
    n = np.arange(192)
    assert np.array_equal(got, np.where(n // 64 == 1, 7, n ^ 32))


def test_a_barrier_of_some_warps_and_one_that_does_not_wait() -> None:
    got = result("""
  .shared .align 4 .b8 s[512];
  mov.u32 %r3, s; mad.lo.u32 %r4, %r0, 4, %r3; mov.u32 %r10, 0;
  setp.lt.u32 %p1, %r0, 64;
  @%p1 bra $maker;
  bar.sync 1, 128;
  sub.u32 %r5, %r4, 256; ld.shared.b32 %r10, [%r5];
  bra $end;
$maker:
  st.shared.b32 [%r4], %r0; bar.arrive 1, 128;
$end:
""", threads=128)  # fmt: skip
    assert got[64:].tolist() == list(range(64))


def test_a_barrier_that_counts() -> None:
    got = result("""
  setp.lt.u32 %p1, %r1, 100;
  bar.red.popc.u32 %r10, 0, %p1;
  bar.red.or.pred %p2, 0, !%p1;
  bar.red.and.pred %p3, 0, %p1;
  @%p2 add.u32 %r10, %r10, 1000;
  @%p3 add.u32 %r10, %r10, 2000;
""", threads=48, grid=4)  # fmt: skip
    assert got.tolist() == [2048] * 96 + [1004] * 48 + [1000] * 48


def test_an_endless_loop_is_ended_by_instructions_and_by_time() -> None:
    body = "$loop:\n  add.u32 %r10, %r10, 1;\n  bra $loop;\n"
    with pytest.raises(ptx.EndlessLoopError, match="more than 1000 instructions"):
        result(body, limits=ptx.Limits(instructions=1000))
    with pytest.raises(ptx.EndlessLoopError, match="seconds"):
        result(body, limits=ptx.Limits(instructions=10**12, seconds=0.05))


def test_trap_and_a_division_by_zero_are_errors() -> None:
    with pytest.raises(ptx.TrapError):
        result("  setp.eq.u32 %p1, %r0, 5; @%p1 trap;\n")
    with pytest.raises(ptx.UndefinedResultError, match="division by zero"):
        result("  div.u32 %r10, %r1, %r0;\n")
    assert result("  setp.eq.u32 %p1, %r0, 0; mov.u32 %r10, 3; @!%p1 div.u32 %r10, %r1, %r0;\n")[
        :2
    ].tolist() == [3, 1]


# -- warps


def lanes_of(mode: str, b: int, c: int) -> list[tuple[int, bool]]:
    """The source of each lane, and p, as the ISA's pseudo code has it."""
    found = []
    for lane in range(32):
        segment = c >> 8 & 31
        highest = (lane & segment) | (c & 31 & ~segment)
        lowest = lane & segment
        j = {"up": lane - b, "down": lane + b, "bfly": lane ^ b}.get(mode, lowest | (b & ~segment))
        fine = j >= highest if mode == "up" else j <= highest
        found.append((j if fine else lane, fine))
    return found


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("b", [0, 1, 5, 16])
def test_shfl_is_the_pseudo_code(mode: str, width: int, b: int) -> None:
    c = ((32 - width) << 8) | (0 if mode == "up" else 31) ^ (b & 4)
    text = f"""
  add.u32 %r3, %r1, 1000;
  shfl.sync.{mode}.b32 %r10|%p1, %r3, {b}, {c}, -1;
  @%p1 add.u32 %r10, %r10, 10000;
"""
    got = result(text, assemble=b == 1)
    want = [
        warp * 32 + source + 1000 + 10000 * fine
        for warp in range(2)
        for source, fine in lanes_of(mode, b, c)
    ]
    assert got.tolist() == want


def test_shfl_of_a_lane_that_is_not_there_is_refused() -> None:
    body = """
  setp.lt.u32 %p1, %r0, 16;
  mov.u32 %r10, 0;
  @!%p1 bra $end;
  shfl.sync.{mode}.b32 %r10, %r0, {b}, 31, 0xffff;
$end:
"""
    got = result(body.format(mode="bfly", b=8), threads=32)
    assert got.tolist() == [n ^ 8 if n < 16 else 0 for n in range(32)]
    with pytest.raises(ptx.UndefinedResultError, match="does not take part"):
        result(body.format(mode="bfly", b=16), threads=32)
    with pytest.raises(ptx.UndefinedResultError, match="does not take part"):
        result("  shfl.sync.down.b32 %r10, %r0, 1, 31, -1;\n", threads=48)


def test_lanes_of_a_mask_wait_for_each_other_across_branches() -> None:
    got = result("""
  setp.lt.u32 %p1, %r0, 10;
  mov.u32 %r3, 1;
  @%p1 bra $short;
  mov.u32 %r4, 0;
$loop:
  add.u32 %r3, %r3, 1; add.u32 %r4, %r4, 1;
  setp.lt.u32 %p2, %r4, %r0; @%p2 bra $loop;
$short:
  shfl.sync.bfly.b32 %r10, %r3, 1, 31, -1;
""", threads=32)  # fmt: skip
    counts = [1 if n < 10 else n + 1 for n in range(32)]
    assert got.tolist() == [counts[n ^ 1] for n in range(32)]
    with pytest.raises(ptx.DivergentBarrierError, match="16 threads of a warp"):
        result("""
  mov.u32 %r10, 0;
  setp.lt.u32 %p1, %r0, 16; @%p1 bra $end;
  shfl.sync.bfly.b32 %r10, %r0, 1, 31, -1;
$end:
  bar.warp.sync -1;
""", threads=32)  # fmt: skip


def test_votes_reductions_and_matches() -> None:
    text = module(kernel("""
  setp.gt.u32 %p1, %r0, 30;
  vote.sync.ballot.b32 %r10, %p1, -1;
  vote.sync.any.pred %p2, %p1, -1;
  vote.sync.all.pred %p3, !%p1, -1;
  vote.sync.uni.pred %p4, %p1, -1;
  selp.b32 %r11, 1, 0, %p2; selp.b32 %r12, 2, 0, %p3; selp.b32 %r13, 4, 0, %p4;
  or.b32 %r11, %r11, %r12; or.b32 %r11, %r11, %r13;
  sub.s32 %r14, %r0, 40;
  redux.sync.add.s32 %r15, %r14, -1;
  redux.sync.min.s32 %r16, %r14, -1;
  redux.sync.max.u32 %r17, %r14, -1;
  redux.sync.or.b32 %r18, %r0, -1;
  shr.u32 %r19, %r0, 2;
  match.any.sync.b32 %r20, %r19, -1;
  match.all.sync.b32 %r21|%p5, %r19, -1;
  selp.b32 %r22, 1, 0, %p5;
  mul.wide.u32 %rd9, %r0, 32; add.s64 %rd9, %rd9, %rd0;
  st.global.v4.b32 [%rd9], {%r10, %r11, %r15, %r16};
  st.global.v4.b32 [%rd9+16], {%r17, %r18, %r20, %r22};
""", 1))  # fmt: skip
    after, _ = run(text, [np.zeros((64, 8), np.uint32)], block=64)
    for warp in range(2):
        values = [warp * 32 + n - 40 for n in range(32)]
        yes = [n for n in range(32) if warp * 32 + n > 30]
        ballot = sum(1 << n for n in yes)
        flags = bool(yes) + 2 * (not yes) + 4 * (len(yes) in (0, 32))
        for lane in range(32):
            row = after[0][warp * 32 + lane].tolist()
            assert row[:3] == [ballot, flags, sum(values) % (1 << 32)]
            assert row[3:5] == [min(values) % (1 << 32), max(v % (1 << 32) for v in values)]
            assert row[5] == 31 + 32 * warp and row[6] == 0xF << (lane & ~3) and row[7] == 0


@pytest.mark.parametrize(
    ("grid", "block", "words"),
    [
        ((1,), (1025,), "1024 threads"),
        ((0,), (32,), "a grid of"),
        ((1, 65536), (32,), "65535"),
        ((1,), (1, 1, 65), "64 deep"),
    ],
)
def test_a_launch_that_no_gpu_takes_is_refused(
    grid: tuple[int, ...], block: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ptx.LaunchRefusedError, match=words):
        run(module(kernel("", 1)), [np.zeros(1)], grid=grid, block=block)


def test_shared_memory_and_parameters_are_counted_at_the_launch() -> None:
    text = module(kernel("  .shared .b8 s[1024];", 1).replace(")\n{", ")\n.reqntid 32\n{"))
    run(text, [np.zeros(1)], shared=226 * 1024)
    with pytest.raises(ptx.LaunchRefusedError, match="232449 bytes of shared memory of 232448"):
        run(text, [np.zeros(1)], shared=226 * 1024 + 1)
    with pytest.raises(ptx.LaunchRefusedError, match="2 parameters where k has 1"):
        run(text, [np.zeros(1)] * 2)
    with pytest.raises(ptx.LaunchRefusedError, match=r"reqntid|says 32"):
        run(text, [np.zeros(1)], block=64)


def test_blocks_and_threads_have_three_numbers() -> None:
    body = """
  mov.u32 %r3, %tid.y; mov.u32 %r4, %tid.z; mov.u32 %r5, %ctaid.y; mov.u32 %r6, %ctaid.z;
  mov.u32 %r7, %ntid.y; mov.u32 %r8, %nctaid.z; mov.u32 %r9, %ctaid.x; mov.u32 %r11, %nctaid.y;
  mov.u32 %r12, %nctaid.x; mov.u32 %r13, %ntid.z;
  mad.lo.u32 %r14, %r6, %r11, %r5; mad.lo.u32 %r14, %r14, %r12, %r9;
  mad.lo.u32 %r14, %r14, %r13, %r4; mad.lo.u32 %r14, %r14, %r7, %r3;
  mad.lo.u32 %r14, %r14, %r2, %r0;
  mul.wide.u32 %rd9, %r14, 4; add.s64 %rd9, %rd9, %rd0;
  mad.lo.u32 %r15, %r6, 10, %r5; mad.lo.u32 %r15, %r15, 10, %r9;
  mad.lo.u32 %r15, %r15, 10, %r4; mad.lo.u32 %r15, %r15, 10, %r3; mad.lo.u32 %r15, %r15, 10, %r0;
  st.global.b32 [%rd9], %r15;
"""
    after, _ = run(
        module(kernel(body, 1)), [np.zeros(2 * 3 * 2 * 4 * 5 * 3, np.uint32)],
        grid=(2, 3, 2), block=(4, 5, 3), limits=ptx.Limits(lanes=192),
    )  # fmt: skip
    want = [
        int(f"{cz}{cy}{cx}{tz}{ty}{tx}")
        for cz in range(2) for cy in range(3) for cx in range(2)
        for tz in range(3) for ty in range(5) for tx in range(4)
    ]  # fmt: skip
    assert after[0].tolist() == want


# -- text


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("  frobnicate.u32 %r1, %r2;", ptx.UnsupportedError, "instruction frobnicate"),
        ("  add.what.u32 %r1, %r2, %r3;", ptx.UnsupportedError, "modifier .what"),
        ("  add.u32 %r1, %r2;", ptx.PtxSyntaxError, "operand is missing"),
        ("  add.u32 %r1, %r2, %r3, %r4;", ptx.UnsupportedError, "1 operands more"),
        ("  add.u32 %rd1, %r2, %r3;", ptx.PtxSyntaxError, "%rd1 has 64 bits where .u32"),
        ("  add.u32 %r1, %r2, %nothing;", ptx.UnsupportedError, "register %nothing"),
        ("  add.u32 %r1, %r2, nothing;", ptx.PtxSyntaxError, "nothing is not declared"),
        ("  bra $nowhere;", ptx.PtxSyntaxError, "not declared"),
        ("  mov.u32 %r1, %clock;", ptx.UnsupportedError, "register %clock"),
        ("  mov.u32 %r1, ?;", ptx.PtxSyntaxError, "no part of PTX"),
        ("  call foo;", ptx.UnsupportedError, "instruction call"),
    ],
)
def test_text_that_is_not_known_is_refused_with_its_line(
    body: str, error: type[ptx.PtxError], words: str
) -> None:
    text = module(kernel("\n\n" + body))
    with pytest.raises(error, match=words) as caught:
        ptx.Module(text)
    at = next(n for n, line in enumerate(text.split("\n"), 1) if body.strip() in line)
    assert caught.value.line == at and str(caught.value).startswith(f"line {at}: ")


def test_a_text_that_ends_early_and_a_func_are_refused() -> None:
    with pytest.raises(ptx.PtxSyntaxError, match="ends inside a kernel"):
        ptx.Module(module(".visible .entry k() { ret;"))
    with pytest.raises(ptx.PtxSyntaxError, match=r"line \d+: a second kernel k"):
        ptx.Module(module(kernel(""), kernel("")))
    with pytest.raises(ptx.PtxSyntaxError, match=r"a second \$x"):
        ptx.Module(module(kernel("$x:\n$x:\n")))
    with pytest.raises(ptx.UnsupportedError, match=r"line 5: a \.func"):
        ptx.Module(module("\n.func f() { ret; }"))


def test_what_compilers_write_around_the_code_is_passed_over() -> None:
    text = module(
        kernel("  .loc 1 2 3\n  .pragma \"nounroll\";\n  /* two\n lines */ mov.u32 %r10, 5; // x\n"
               + STORE, 1).replace("\n{", "\n.maxntid 128, 1, 1\n.minnctapersm 2\n{", 1),
        head='\t.file 1 "a.py"\n',
    ) + "\n.section .debug_str\n{\ninfo:\n.b8 97\n.b8 0\n}\n"  # fmt: skip
    after, _ = run(text, [np.zeros(32, np.uint32)])
    assert after[0].tolist() == [5] * 32


# -- statistics


def test_sectors_conflicts_and_instructions_are_counted() -> None:
    body = """
  .shared .align 16 .b8 s[4096];
  mov.u32 %r3, s;
  mul.wide.u32 %rd5, %r0, 4; add.s64 %rd6, %rd5, %rd0;
  ld.global.b32 %r10, [%rd6];
  mul.wide.u32 %rd5, %r0, 64; add.s64 %rd6, %rd5, %rd0;
  ld.global.b32 %r11, [%rd6];
  ld.global.b32 %r12, [%rd0];
  mul.wide.u32 %rd5, %r0, 4; add.s64 %rd6, %rd5, %rd0;
  ld.global.b32 %r13, [%rd6+16];
  mad.lo.u32 %r4, %r0, 4, %r3; st.shared.b32 [%r4], %r10; bar.warp.sync -1;
  mad.lo.u32 %r4, %r0, 8, %r3; st.shared.b32 [%r4], %r10; bar.warp.sync -1;
  mad.lo.u32 %r4, %r0, 128, %r3; st.shared.b32 [%r4], %r10; bar.warp.sync -1;
  mad.lo.u32 %r4, %r0, 16, %r3; st.shared.v4.b32 [%r4], {%r10, %r10, %r10, %r10};
  bar.warp.sync -1;
  mad.lo.u32 %r4, %r0, 2, %r3; cvt.u16.u32 %h1, %r0; st.shared.b16 [%r4], %h1;
  bar.warp.sync -1;
  ld.shared.b32 %r14, [%r3];
  bar.sync 0;
"""
    _, statistics = run(
        module(kernel(body, 1)), [np.zeros((32, 16), np.uint32)], grid=3, statistics=True,
    )  # fmt: skip
    counts = [(a.space, a.requests, a.transactions, a.ideal) for a in statistics.accesses]
    assert counts == [
        ("global", 3, 12, 12),
        ("global", 3, 96, 12),
        ("global", 3, 3, 12),
        ("global", 3, 15, 12),
        ("shared", 3, 3, 3),
        ("shared", 3, 6, 3),
        ("shared", 3, 96, 3),
        ("shared", 3, 12, 12),
        ("shared", 3, 3, 3),
        ("shared", 3, 3, 3),
    ]
    assert statistics.bank_conflicts == 3 + 93
    assert statistics.barriers == 3 and statistics.blocks == 3 and statistics.threads == 32
    assert statistics.instructions["ld.global.b32"] == 12
    assert statistics.total("global").per_request == 126 / 12
    report = statistics.report()
    assert "3 blocks of 32 threads, 3 barriers" in report and "ld.global.b32 %r11" in report


def test_conflicts_that_differ_from_block_to_block_are_counted_in_each() -> None:
    body = """
  .shared .align 16 .b8 s[4096];
  mov.u32 %r3, s; mov.u32 %r5, %ctaid.x; mad.lo.u32 %r5, %r5, 4, 4;
  mul.lo.u32 %r5, %r5, %r0; add.u32 %r4, %r5, %r3; st.shared.b32 [%r4], %r0;
"""
    _, statistics = run(module(kernel(body, 1)), [np.zeros(1)], grid=4, statistics=True)
    # Words 1, 2, 3 and 4 apart.
    assert [(a.requests, a.transactions) for a in statistics.accesses] == [(4, 1 + 2 + 1 + 4)]
