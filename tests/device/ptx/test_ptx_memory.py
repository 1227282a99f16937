"""Loads, stores, atomics, asynchronous copies; what a GPU refuses, and what it would not notice."""

import numpy as np
import pytest
from ptx_harness import Array, assembles, kernel, module, run
from tunefarm_device import ptx

RNG = np.random.default_rng(11)


def place(register: str, base: str, size: int, index: str = "%r1") -> str:
    """The address of an element."""
    return f"mul.wide.u32 {register}, {index}, {size}; add.s64 {register}, {register}, {base};"


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_vectors_are_loaded_and_stored_in_order(count: int, width: int) -> None:
    if count * width > 128:
        pytest.skip("wider than 16 bytes")
    register = {8: "%h", 16: "%h", 32: "%r", 64: "%rd"}[width]
    names = [f"{register}{9 + n}" for n in range(count)]
    vector = "{" + ", ".join(names) + "}" if count > 1 else names[0]
    turned = "{" + ", ".join(names[::-1]) + "}" if count > 1 else names[0]
    form = f"v{count}." if count > 1 else ""
    body = f"""
  {place("%rd20", "%rd0", count * width // 8)}
  {place("%rd21", "%rd1", count * width // 8)}
  ld.global.{form}b{width} {vector}, [%rd20];
  st.global.{form}b{width} [%rd21], {turned};
"""
    dtype = np.dtype(f"uint{width}")
    given = RNG.integers(0, 1 << min(width, 62), (96, count), dtype=np.uint64).astype(dtype)
    after, _ = run(module(kernel(body, 2)), [given, np.zeros_like(given)], grid=3)
    assert np.array_equal(after[1], given[:, ::-1])


def test_signed_bytes_fill_the_register_with_their_sign() -> None:
    body = f"""
  {place("%rd20", "%rd0", 1)} {place("%rd21", "%rd1", 4)} {place("%rd22", "%rd2", 4)}
  ld.global.s8 %r10, [%rd20];
  ld.global.u8 %r11, [%rd20];
  st.global.b32 [%rd21], %r10;
  st.global.b32 [%rd22], %r11;
"""
    given = np.arange(-16, 16).astype(np.int8)
    after, _ = run(module(kernel(body, 3)), [given, *[np.zeros(32, np.int32)] * 2])
    assert np.array_equal(after[1], given) and np.array_equal(after[2], given.view(np.uint8))


@pytest.mark.parametrize(
    ("offset", "error", "words"),
    [
        (4, ptx.IllegalAddressError, "4 bytes at 0x.*1 bytes past|across its end|past its end"),
        (-4, ptx.IllegalAddressError, "outside every|below every"),
        (2, ptx.MisalignedAddressError, "no multiple of 4, thread 0"),
    ],
)
def test_an_access_outside_or_misaligned_names_the_instruction(
    offset: int, error: type[ptx.PtxError], words: str
) -> None:
    body = f"  {place('%rd20', '%rd0', 4)}\n  ld.global.b32 %r10, [%rd20+{offset}];\n"
    text = module(kernel(body, 1))
    with pytest.raises(error, match=words) as caught:
        run(text, [np.zeros(32, np.float32)])
    line = next(n for n, x in enumerate(text.split("\n"), 1) if "ld.global.b32 %r10" in x)
    assert caught.value.line == line
    assert caught.value.text.startswith("ld.global.b32 %r10, [%rd20+")


def test_threads_that_write_different_values_to_one_address_are_refused() -> None:
    text = module(kernel("  st.global.b32 [%rd0], %r0;", 1))
    with pytest.raises(ptx.UndefinedResultError, match="different values to 0x"):
        run(text, [np.zeros(1, np.uint32)])
    after, _ = run(module(kernel("  st.global.b32 [%rd0], %r2;", 1)), [np.zeros(1, np.uint32)])
    assert after[0][0] == 32


@pytest.mark.parametrize(
    ("body", "words"),
    [
        # Each block writes its own part and reads the next block's.
        ("st.global.b32 [%rd20], %r1; bar.sync 0; ld.global.b32 %r5, [%rd21];",
         "0x.*was written by block [01]|another block read|block [01] read"),
        ("ld.global.b32 %r5, [%rd21]; st.global.b32 [%rd20], %r1;", "read 0x|was written"),
        ("st.global.b32 [%rd22], %r1;", "different values to|block 0 wrote"),
        ("st.global.b32 [%rd20], %r1; ld.global.nc.b32 %r5, [%rd20];", ".nc promises"),
        ("setp.ge.u32 %p1, %r1, 32; ld.global.b32 %r5, [%rd22]; @%p1 st.global.b32 [%rd22], 5;",
         "read 0x"),
        ("ld.global.nc.b32 %r5, [%rd20]; st.global.b32 [%rd20], %r1;", "another block read"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("lanes", [32, 8192])
def test_blocks_that_use_each_others_memory_are_refused(body: str, words: str, lanes: int) -> None:
    start = f"""
  {place("%rd20", "%rd0", 4)}
  xor.b32 %r3, %r1, 32; {place("%rd21", "%rd0", 4, "%r3")} {place("%rd22", "%rd0", 4, "%r0")}
"""
    limits = ptx.Limits(lanes=lanes)
    with pytest.raises((ptx.GlobalRaceError, ptx.UndefinedResultError), match=words):
        run(module(kernel(start + body, 1)), [np.full(64, 99, np.uint32)], grid=2, limits=limits)
    same = start + "st.global.b32 [%rd22], 5; ld.global.b32 %r5, [%rd20+256];"
    run(module(kernel(same, 1)), [np.full(128, 99, np.uint32)], grid=2, limits=limits)
    fenced = start + "st.global.b32 [%rd20], %r1; membar.gl; ld.global.b32 %r5, [%rd21];"
    run(module(kernel(fenced, 1)), [np.full(64, 99, np.uint32)], grid=2, limits=limits)


def test_each_lane_may_use_an_allocation_of_its_own() -> None:
    body = f"""
  {place("%rd20", "%rd0", 8)} {place("%rd21", "%rd1", 4)}
  ld.global.b64 %rd22, [%rd20];
  ld.global.b32 %r10, [%rd22];
  add.s32 %r10, %r10, 1;
  st.global.b32 [%rd22], %r10;
  st.global.b32 [%rd21], %r10;
"""
    memory = ptx.Memory()
    cells = [memory.put(np.array([n * 10], np.int32)) for n in range(32)]
    table, out = memory.put(np.array(cells, np.uint64)), memory.put(np.zeros(32, np.int32))
    ptx.launch(
        ptx.Module(module(kernel(body, 2))).kernels["k"], (1,), (32,), 0, [table, out], memory
    )
    assert memory.get(out, np.int32, 32).tolist() == [n * 10 + 1 for n in range(32)]
    assert [int(memory.get(c, np.int32, 1)[0]) for c in cells] == [n * 10 + 1 for n in range(32)]


SHARED = "  .shared .align 16 .b8 s[512];\n  mov.u32 %r3, s;\n  mad.lo.u32 %r4, %r0, 4, %r3;\n"
OUT = place("%rd20", "%rd0", 4)


def shared(body: str, threads: int = 64, **options: object) -> Array:
    """Runs a body that leaves its result in %r10."""
    text = module(kernel(f"{SHARED}{body}\n  {OUT}\n  st.global.b32 [%rd20], %r10;", 1))
    after, _ = run(text, [np.zeros(threads, np.uint32)], block=threads, **options)  # type: ignore[arg-type]
    return after[0]


def test_a_barrier_lets_another_warp_read() -> None:
    got = shared("""
  st.shared.b32 [%r4], %r0;
  bar.sync 0;
  xor.b32 %r5, %r0, 32;
  mad.lo.u32 %r5, %r5, 4, %r3;
  ld.shared.b32 %r10, [%r5];""")
    assert got.tolist() == [n ^ 32 for n in range(64)]


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("st.shared.b32 [%r4], %r0; xor.b32 %r5, %r0, 32; mad.lo.u32 %r5, %r5, 4, %r3;"
         " ld.shared.b32 %r10, [%r5];", ptx.SharedRaceError, "warp 1 wrote shared address 128"),
        ("st.shared.b32 [%r4], %r0; bar.sync 0; ld.shared.b32 %r10, [%r3];"
         " st.shared.b32 [%r4], %r10;", ptx.SharedRaceError, "several warps read"),
        ("setp.eq.u32 %p1, %r0, 5; setp.ge.u32 %p2, %r0, 32; @%p1 st.shared.b32 [%r3], 0;"
         " bar.sync 0; ld.shared.b32 %r10, [%r3]; @%p2 st.shared.b32 [%r3], 3;",
         ptx.SharedRaceError, "several warps read"),
        ("st.shared.b32 [%r4], %r0; xor.b32 %r5, %r0, 1; mad.lo.u32 %r5, %r5, 4, %r3;"
         " ld.shared.b32 %r10, [%r5];", ptx.SharedRaceError,
         "since the last bar.warp.sync another thread of the warp wrote shared address 4"),
        ("st.shared.b32 [%r4], %r0; xor.b32 %r5, %r0, 1; mad.lo.u32 %r5, %r5, 4, %r3;"
         " bar.warp.sync -1; ld.shared.b32 %r10, [%r5]; st.shared.b32 [%r4], %r10;",
         ptx.SharedRaceError, "since the last bar.warp.sync another thread of the warp read"),
        ("st.shared.b32 [%r4], %r0; bar.warp.sync -1; xor.b32 %r5, %r0, 32;"
         " mad.lo.u32 %r5, %r5, 4, %r3; ld.shared.b32 %r10, [%r5];",
         ptx.SharedRaceError, "warp 1 wrote shared address 128"),
        ("st.shared.b32 [%r4], 0; bar.sync 0; setp.ge.u32 %p2, %r0, 32; mov.u32 %r10, 0;"
         " @!%p2 ld.shared.b32 %r10, [%r3]; @%p2 ld.shared.b32 %r10, [%r3];"
         " setp.eq.u32 %p1, %r0, 63; @%p1 st.shared.b32 [%r3], 3;",
         ptx.SharedRaceError, "several warps read"),
        ("setp.lt.u32 %p1, %r0, 32; @%p1 st.shared.b32 [%r3], 5; setp.eq.u32 %p2, %r0, 31;"
         " mov.u32 %r10, 0; @%p2 ld.shared.b32 %r10, [%r3];",
         ptx.SharedRaceError, "another thread of the warp wrote shared address 0"),
        ("st.shared.b32 [%r4], %r0; xor.b32 %r5, %r0, 1; mad.lo.u32 %r5, %r5, 4, %r3;"
         " setp.lt.u32 %p1, %r0, 32; @%p1 bar.warp.sync -1; ld.shared.b32 %r10, [%r5];",
         ptx.SharedRaceError, "thread of the warp wrote shared address 132, thread 32"),
        ("st.shared.b32 [%r3], 1; mov.u32 %r10, 0;", ptx.SharedRaceError, "at the same time"),
        ("ld.shared.b32 %r10, [%r4];", ptx.UninitialisedReadError, "shared address 0"),
        ("shl.b32 %r5, %r0, 3; and.b32 %r5, %r5, 504; add.u32 %r5, %r5, %r3;"
         " st.shared.b32 [%r5], %r0; ld.shared.v2.b32 {%r10, %r6}, [%r5]; add.u32 %r10, %r10, %r6;",
         ptx.UninitialisedReadError, "shared address 4, thread 0"),
        ("and.b32 %r5, %r0, 32; add.u32 %r5, %r5, %r3; st.shared.b32 [%r5], %r0;"
         " mov.u32 %r10, 0;", ptx.SharedRaceError, "different values to one address"),
        ("st.shared.b32 [%r4+512], %r0; mov.u32 %r10, 0;", ptx.IllegalAddressError, "of 512"),
        ("st.shared.b32 [%r4+2], %r0; mov.u32 %r10, 0;", ptx.MisalignedAddressError, "of 4"),
        ("st.shared.v4.b32 [%r4], {%r0, %r0, %r0, %r0}; mov.u32 %r10, 0;",
         ptx.MisalignedAddressError, "address 4 is no multiple of 16"),
    ],
)  # fmt: skip
def test_what_a_gpu_would_not_notice_is_an_error(
    body: str, error: type[ptx.PtxError], words: str
) -> None:
    with pytest.raises(error, match=words):
        shared(body)


def test_a_gap_that_a_wider_load_closes_may_be_unwritten() -> None:
    # As LLVM does between two numbers with padding between them: nothing uses the second register.
    got = shared("""
  and.b32 %r5, %r0, 31; shl.b32 %r5, %r5, 4; add.u32 %r5, %r5, %r3;
  setp.lt.u32 %p1, %r0, 32;
  @%p1 st.shared.b32 [%r5], 7;
  @%p1 st.shared.b32 [%r5+8], %r0;
  bar.sync 0;
  ld.shared.v4.b32 {%r7, %r6, %r10, %r8}, [%r5];
  add.u32 %r10, %r10, %r7;""")
    assert got.tolist() == [n % 32 + 7 for n in range(64)]


def test_a_warp_is_put_in_order_by_its_own_barrier() -> None:
    got = shared("""
  st.shared.b32 [%r4], %r0;
  bar.warp.sync -1;
  xor.b32 %r5, %r0, 31; mad.lo.u32 %r5, %r5, 4, %r3;
  ld.shared.b32 %r10, [%r5];
  bar.warp.sync -1;
  st.shared.b32 [%r4], %r10;
  bar.sync 0;
  xor.b32 %r5, %r0, 32; mad.lo.u32 %r5, %r5, 4, %r3;
  ld.shared.b32 %r10, [%r5];
  ld.shared.b32 %r10, [%r5];""")
    assert got.tolist() == [n ^ 63 for n in range(64)]


def test_halves_beside_each_other_are_no_race() -> None:
    got = shared("""
  mad.lo.u32 %r5, %r0, 2, %r3;
  cvt.u16.u32 %h1, %r0;
  st.shared.b16 [%r5], %h1;
  bar.sync 0;
  and.b32 %r6, %r0, 31;
  mad.lo.u32 %r6, %r6, 4, %r3;
  ld.shared.b32 %r10, [%r6];""")
    assert got[:32].tolist() == [2 * n | (2 * n + 1) << 16 for n in range(32)]


def test_generic_addresses_reach_shared_local_and_global_memory() -> None:
    body = f"""
  .shared .align 4 .b8 s[128];
  .local .align 8 .b8 l[16];
  mov.u64 %rd5, s; cvta.shared.u64 %rd5, %rd5;
  mov.u64 %rd6, l; cvta.local.u64 %rd6, %rd6;
  {place("%rd10", "%rd5", 4, "%r0")} mov.u64 %rd5, %rd10;
  {place("%rd7", "%rd0", 4)}
  st.b32 [%rd5], %r0;
  add.s32 %r5, %r0, 100;
  st.b32 [%rd6+8], %r5;
  bar.warp.sync -1;
  ld.local.b32 %r6, [l+8];
  ld.shared.b32 %r7, [s];
  setp.lt.u32 %p1, %r0, 10;
  selp.b64 %rd8, %rd5, %rd6, %p1;
  @!%p1 add.s64 %rd8, %rd8, 8;
  ld.b32 %r8, [%rd8];
  add.s32 %r8, %r8, %r6;
  st.b32 [%rd7], %r8;
  isspacep.shared %p2, %rd8;
  selp.b32 %r9, 1, 0, %p2;
  {place("%rd9", "%rd1", 4)}
  st.global.b32 [%rd9], %r9;
"""
    after, _ = run(module(kernel(body, 2)), [np.zeros(32, np.int32)] * 2)
    lane = np.arange(32)
    assert np.array_equal(after[0], np.where(lane < 10, lane, lane + 100) + lane + 100)
    assert np.array_equal(after[1], lane < 10)


def test_atomics_at_one_address_go_one_after_another() -> None:
    body = f"""
  atom.global.add.u32 %r10, [%rd0], 2;
  {place("%rd20", "%rd1", 4)}
  st.global.b32 [%rd20], %r10;
  cvt.rn.f32.u32 %r11, %r0;
  red.global.add.f32 [%rd0+4], %r11;
  atom.global.max.s32 %r12, [%rd0+8], %r0;
  atom.global.cas.b32 %r13, [%rd0+12], 0, %r0;
  rem.u32 %r14, %r0, 3;
  {place("%rd21", "%rd2", 4, "%r14")}
  red.global.inc.u32 [%rd21], 1000;
"""
    cells = np.array([5, 0, -7 % (1 << 32), 0], np.uint32)
    after, _ = run(
        module(kernel(body, 3)), [cells, np.zeros(64, np.uint32), np.zeros(3, np.uint32)], block=64
    )
    assert sorted(after[1].tolist()) == [5 + 2 * n for n in range(64)]
    assert after[0][0] == 5 + 128 and after[0].view(np.float32)[1] == sum(range(64))
    assert after[0][2] == 63 and after[0][3] == 1
    assert after[2].tolist() == [22, 21, 21]


def test_atomics_on_shared_memory_are_no_race_but_a_read_beside_them_is() -> None:
    start = "setp.eq.u32 %p1, %r0, 0; @%p1 st.shared.b32 [%r3], 0; bar.sync 0;"
    add = "atom.shared.add.u32 %r5, [%r3], 1;"
    got = shared(f"{start} {add} bar.sync 0; ld.shared.b32 %r10, [%r3];")
    assert got.tolist() == [64] * 64
    with pytest.raises(ptx.SharedRaceError, match="atomic"):
        shared(f"{start} {add} ld.shared.b32 %r10, [%r3];")


COPY = """
  mul.wide.u32 %rd20, %r0, 4; add.s64 %rd20, %rd20, %rd0;
  cp.async.ca.shared.global [%r4], [%rd20], 4;
  cp.async.commit_group;
"""


def copied(body: str) -> Array:
    """Runs a body with 64 words in %rd0, on 64 threads; the result is in %r10."""
    text = module(kernel(
        f"{SHARED}{body}\n {place('%rd21', '%rd1', 4)}\n  st.global.b32 [%rd21], %r10;", 2
    ))  # fmt: skip
    after, _ = run(text, [np.arange(64, dtype=np.uint32) + 7, np.zeros(64, np.uint32)], block=64)
    return after[1]


def test_an_asynchronous_copy_lands_when_it_is_waited_for() -> None:
    other = "xor.b32 %r5, %r0, 32; mad.lo.u32 %r5, %r5, 4, %r3; ld.shared.b32 %r10, [%r5];"
    got = copied(COPY + f"cp.async.wait_group 0; bar.sync 0; {other}")
    assert got.tolist() == [(n ^ 32) + 7 for n in range(64)]
    with pytest.raises(ptx.SharedRaceError, match="warp 1 wrote"):
        copied(COPY + f"cp.async.wait_group 0; {other}")
    with pytest.raises(ptx.SharedRaceError, match="not waited for"):
        copied(COPY + "bar.sync 0;" + other)
    some = "setp.lt.u32 %p1, %r0, 9; @%p1 cp.async.wait_group 0; ld.shared.b32 %r10, [%r4];"
    with pytest.raises(ptx.SharedRaceError, match=r"warp 0, not waited for.*thread 9 "):
        copied(COPY + some)
    with pytest.raises(ptx.SharedRaceError, match="not waited for"):
        copied(COPY + "cp.async.wait_group 1; bar.sync 0;" + other)


def test_waiting_for_all_but_the_newest_group_lands_the_older() -> None:
    second = """
  cp.async.ca.shared.global [%r4+256], [%rd20], 4;
  cp.async.commit_group;
  cp.async.wait_group 1;
"""
    got = copied(COPY + second + "ld.shared.b32 %r10, [%r4];")
    assert got.tolist() == [n + 7 for n in range(64)]
    with pytest.raises(ptx.SharedRaceError, match="not waited for"):
        copied(COPY + second + "ld.shared.b32 %r10, [%r4+256];")
    got = copied(COPY + second + "cp.async.wait_all; ld.shared.b32 %r10, [%r4+256];")
    assert got.tolist() == [n + 7 for n in range(64)]


def test_a_copy_that_ignores_its_source_writes_zeros_and_reads_nothing() -> None:
    body = """
  mul.wide.u32 %rd20, %r0, 4; add.s64 %rd20, %rd20, %rd0; setp.ge.u32 %p1, %r0, 60;
  @%p1 add.s64 %rd20, %rd20, 1048576;
  cp.async.ca.shared.global [%r4], [%rd20], 4, %p1;
  cp.async.commit_group; cp.async.wait_group 0; ld.shared.b32 %r10, [%r4];
"""
    assert copied(body).tolist() == [n + 7 if n < 60 else 0 for n in range(64)]
    with pytest.raises(ptx.IllegalAddressError):
        copied(body.replace("4, %p1", "4, !%p1"))


def test_a_copy_of_fewer_bytes_than_it_fills_adds_zeros_and_reads_no_more() -> None:
    body = """
  mul.wide.u32 %rd20, %r0, 16; add.s64 %rd20, %rd20, %rd0;
  mad.lo.u32 %r4, %r0, 16, %r3;
  setp.lt.u32 %p1, %r0, 15; selp.b32 %r5, 16, 6, %p1;
  setp.lt.u32 %p2, %r0, 16; selp.b32 %r5, %r5, 0, %p2;
  cp.async.cg.shared.global [%r4], [%rd20], 16, %r5;
  cp.async.wait_all;
  ld.shared.v4.b32 {%r10, %r11, %r12, %r13}, [%r4];
  mul.wide.u32 %rd21, %r0, 16; add.s64 %rd21, %rd21, %rd1;
  st.global.v4.b32 [%rd21], {%r10, %r11, %r12, %r13};
"""
    given = RNG.integers(0, 256, 16 * 15 + 6).astype(np.uint8)
    after, _ = run(
        module(kernel(SHARED.replace("512", "1024") + body, 2)), [given, np.ones(512, np.uint8)]
    )
    want = np.zeros(512, np.uint8)
    want[: len(given)] = given
    assert np.array_equal(after[1], want)


def test_fresh_memory_is_a_nan_and_capacity_is_kept() -> None:
    memory = ptx.Memory(1 << 20)
    place_of = memory.allocate(400)
    assert np.isnan(memory.get(place_of, np.float32, 100)).all()
    with pytest.raises(MemoryError, match="1048176 that are free"):
        memory.allocate(1 << 20)
    memory.free(place_of)
    with pytest.raises(ptx.IllegalAddressError):
        memory.read(place_of, 1)
    with pytest.raises(ptx.IllegalAddressError):
        memory.write(memory.allocate(16), bytes(17))
    assert memory.used == 16


def test_variables_of_a_module_are_there_once_for_each_memory() -> None:
    head = (
        ".global .align 4 .u32 counter = 5;\n"
        ".const .align 4 .f32 table[4] = {0f3F800000, 0f40000000, 0f40400000, 0f40800000};\n"
    )
    body = f"""
  mov.u64 %rd5, counter;
  atom.global.add.u32 %r10, [%rd5], 1;
  and.b32 %r5, %r0, 3;
  mov.u64 %rd6, table;
  {place("%rd8", "%rd6", 4, "%r5")}
  ld.const.f32 %r11, [%rd8];
  setp.eq.u32 %p1, %r0, 31;
  {place("%rd7", "%rd0", 4)}
  st.global.f32 [%rd7], %r11;
  @%p1 st.global.u32 [%rd1], %r10;
"""
    made = ptx.Module(module(kernel(body, 2), head=head))
    memory = ptx.Memory()
    out, last = memory.allocate(128), memory.allocate(4)
    for _ in range(2):
        ptx.launch(made.kernels["k"], (1,), (32,), 0, [out, last], memory)
    assert memory.get(out, np.float32, 32).tolist() == [1.0, 2.0, 3.0, 4.0] * 8
    assert memory.get(last, np.uint32, 1)[0] == 5 + 63


def test_a_parameter_may_be_a_structure_that_is_indexed() -> None:
    text = module(kernel(f"""
  and.b32 %r5, %r0, 3; mul.wide.u32 %rd5, %r5, 4;
  mov.b64 %rd6, s; add.s64 %rd6, %rd6, %rd5;
  ld.param.u32 %r10, [%rd6];
  ld.param.u32 %r11, [s+12];
  add.u32 %r10, %r10, %r11;
  ld.param.f32 %r12, [x];
  cvt.rzi.u32.f32 %r12, %r12; add.u32 %r10, %r10, %r12;
  {OUT} st.global.b32 [%rd20], %r10;
""", 1, extra=", .param .align 4 .b8 s[16], .param .f32 x"))  # fmt: skip
    memory = ptx.Memory()
    out = memory.allocate(128)
    made = ptx.Module(text).kernels["k"]
    assembles(text)
    values = np.array([10, 20, 30, 40], np.uint32).tobytes()
    ptx.launch(made, (1,), (32,), 0, [out, values, 1000.0], memory)
    assert memory.get(out, np.uint32, 32).tolist() == [1050, 1060, 1070, 1080] * 8
    with pytest.raises(ptx.LaunchRefusedError, match="15 bytes for s of 16"):
        ptx.launch(made, (1,), (32,), 0, [out, values[:15], 1.0], memory)


def test_much_memory_that_nobody_touches_is_cheap() -> None:
    memory = ptx.Memory(1 << 34)
    far = memory.allocate(1 << 31)
    memory.write(far + (1 << 31) - 4, b"abcd")
    assert memory.read(far + (1 << 31) - 4, 4) == b"abcd"
