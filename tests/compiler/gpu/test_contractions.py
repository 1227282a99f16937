"""Sums of products in blocks on GPUs: assembled without spills, right, without bank conflicts."""

import random
from dataclasses import replace

import gpu_kernels as kernels
import kernel_cases as cases
import numpy as np
import pytest
from tunefarm_compiler import Schedule, default_schedule, targets, te, workload
from tunefarm_compiler.binding import Gpu
from tunefarm_compiler.contract import Contract
from tunefarm_compiler.gpu import contracts
from tunefarm_compiler.gpu.assemble import ptxas
from tunefarm_compiler.gpu.fitting import check
from tunefarm_compiler.gpu.products import product
from tunefarm_compiler.spaces import rules_of
from tunefarm_proto.errors import InvalidScheduleError

ptx = kernels.ptx
needs_ptxas = pytest.mark.skipif(not ptxas(), reason="there is no ptxas on this machine")

SCALAR = Contract((32, 64, 8), (1, 2))
THIN = Contract((32, 32, 16), (1, 2), stages=3)
HALF = Contract((64, 32, 32), (2, 1), mma="f16", stages=3)
BRAIN, BYTES = replace(HALF, mma="bf16"), replace(HALF, block=(64, 32, 64), mma="s8")
# Primes, each transpose and each way that a block is copied; contracts differ to meet every path.
ODD = "m=67,n=61,k=37"
EVEN = "m=64,n=72,k=80"
ANSWERS = [
    (f"matmul:{ODD}", SCALAR), (f"matmul:{ODD},ta=1,b=2", THIN), (f"matmul:{ODD},tb=1", SCALAR),
    (f"matmul:{EVEN},ta=1,tb=1", replace(SCALAR, layout="plain")), ("matmul:m=1,n=1,k=1", THIN),
    (f"matmul:{ODD},dtype=float16,tb=1", THIN), (f"matmul:{ODD},dtype=int8,ta=1", SCALAR),
    (f"matmul:{EVEN},dtype=float16", HALF), (f"matmul:{EVEN},dtype=float16,ta=1", HALF),
    (f"matmul:{EVEN},dtype=float16,tb=1", replace(HALF, layout="pad")),
    (f"matmul:{ODD},dtype=float16", replace(HALF, split=2)),
    (f"matmul:{EVEN},dtype=int8", BYTES), (f"matmul:{ODD},dtype=int8,ta=1,tb=1", BYTES),
    (f"matmul:{EVEN},dtype=int8,tb=1", replace(BYTES, group=1)),
    ("dense:m=33,n=47,k=153,act=gelu", replace(SCALAR, split=3)),
    ("dense:m=33,n=48,k=53,act=relu,dtype=float16", replace(HALF, split=2)),
    ("gemv:m=67,n=131", Contract((32, 1, 32), (1, 1), (32, 1))),
    ("gemv:m=64,n=128,dtype=float16", Contract((32, 8, 32), (2, 1), mma="f16")),
    ("conv2d:c=8,h=9,w=9,k=16,r=3,s=3,pad=1,bias=1,act=relu", SCALAR),
    ("conv2d:c=8,h=9,w=9,k=16,r=3,s=3,pad=1,layout=nchw,stride=2", SCALAR),
    ("conv2d:c=12,h=9,w=7,k=18,r=3,s=2,pad=1,stride=2,dilation=2,groups=3,n=2", THIN),
    ("conv2d:c=16,h=9,w=9,k=32,r=3,s=3,pad=1,dtype=float16,act=gelu,bias=1", HALF),
    ("conv2d:c=16,h=7,w=5,k=32,r=3,s=3,pad=1,dtype=float16,layout=nchw", HALF),
    ("conv2d:c=32,h=9,w=9,k=16,r=1,s=1,dtype=int8", replace(BYTES, block=(64, 16, 64))),
    ("conv2d:c=8,h=8,w=9,k=16,r=3,s=3,stride=2,pad_bottom=1,pad_right=2", SCALAR),
    ("conv2d:c=16,h=9,w=9,k=32,r=3,s=3,stride_w=2,pad=1,pad_left=0,dtype=float16", HALF),
    ("depthwise_conv2d:c=5,h=9,w=9,r=3,s=3,pad=1", Contract((32, 4, 16), (1, 1), (8, 4))),
]  # fmt: skip
BRAINS = [
    (f"matmul:{ODD},dtype=bfloat16,ta=1,b=2", BRAIN),
    (f"dense:{EVEN},dtype=bfloat16,act=relu", BRAIN),
]
# Tensor cores of whole groups of warps: each way that a factor lies, several groups, rounds.
GROUPS = Contract((64, 32, 64), (4, 1), mma="wgmma", stages=3)
GROUPED = [
    (f"matmul:{ODD},dtype=float16,tb=1", GROUPS),
    ("matmul:m=72,n=64,k=200,dtype=bfloat16,tb=1", replace(GROUPS, block=(128, 64, 32), stages=4)),
    (f"matmul:{EVEN},dtype=float16", replace(GROUPS, block=(128, 64, 64), warps=(8, 1))),
    ("matmul:m=128,n=128,k=96,dtype=float16,ta=1",
     replace(GROUPS, block=(128, 128, 32), warps=(4, 2))),
    ("conv2d:c=16,h=9,w=9,k=32,r=3,s=3,pad=1,dtype=float16,bias=1,act=relu",
     replace(GROUPS, block=(64, 64, 32), split=2)),
]  # fmt: skip
# What the defaults are for: large squares, odd sides, thin ones, layers of networks.
LARGE = (
    "matmul:m=4096,n=4096,k=4096", "matmul:m=4096,n=4096,k=4096,dtype=float16",
    "matmul:m=4096,n=4096,k=4096,dtype=bfloat16,tb=1", "matmul:m=4096,n=4096,k=4096,dtype=int8",
    "matmul:m=127,n=131,k=257,dtype=float16", "matmul:m=512,n=512,k=512",
    "dense:m=16,n=4096,k=4096,act=gelu,dtype=float16",
    "conv2d:c=64,h=56,w=56,k=64,r=3,s=3,pad=1,n=8",
    "conv2d:c=256,h=14,w=14,k=256,r=3,s=3,pad=1,dtype=float16,bias=1,act=relu",
    "conv2d:c=3,h=224,w=224,k=64,r=7,s=7,pad=3,stride=2,layout=nchw",
)  # fmt: skip


def scheduled(contract):
    return Schedule((), 1, gpu=Gpu(contract=contract))


def candidates(pairs, target):
    return [
        kernels.candidate(workload.parse(text), target, f"k{number}", scheduled(contract))
        for number, (text, contract) in enumerate(pairs)
    ]


def test_answers_by_asynchronous_copies():
    assert kernels.wrong(candidates(ANSWERS + BRAINS, "sm_80"), "sm_80") == []


def test_answers_by_copies_through_registers():
    assert kernels.wrong(candidates(ANSWERS[::3], "sm_75"), "sm_75") == []


def test_answers_by_groups_of_warps():
    found = candidates(GROUPED, "sm_90a")
    assert kernels.wrong(found, "sm_90a") == []
    if ptxas():
        assert all(not one.spill_store_bytes for one in kernels.assembled(found, "sm_90a").values())


def test_groups_of_warps_must_wait_before_their_memory_is_filled_again():
    (made,) = candidates([("matmul:m=64,n=32,k=512,dtype=float16,tb=1", GROUPS)], "sm_90a")
    text = kernels.text_of([made], "sm_90a")
    given = made.workload.inputs(1)
    expected = made.workload.reference(given)[0]
    early = text.replace("wgmma.wait_group.sync.aligned 1;", "")
    with pytest.raises(ptx.SharedRaceError):
        kernels.run(ptx.Module(early), made.code, given, expected)


@needs_ptxas
@pytest.mark.parametrize("target", kernels.TARGETS)
def test_defaults_need_no_more_than_there_is(target):
    spec = targets.resolve(target)
    texts = LARGE[::2] if target == "sm_80" else LARGE[1:4:2]
    made = [kernels.candidate(workload.parse(t), target, f"k{n}") for n, t in enumerate(texts)]
    assert all(one.schedule.gpu.contract for one in made)
    resources = kernels.assembled(made, target)
    for one in made:
        for launch in one.code.launches:
            used = resources[launch.kernel]
            assert used.spill_store_bytes == used.stack_bytes == 0, one
            assert used.registers * launch.block[0] <= 1 << 16, one
            assert launch.shared_bytes <= spec.shared_bytes


@pytest.mark.parametrize(
    ("dtype", "ta", "tb"),
    [
        ("float32", 0, 0), ("float32", 1, 1), ("float16", 0, 0), ("float16", 0, 1),
        ("bfloat16", 1, 0), ("int8", 0, 0), ("int8", 0, 1),
    ],
)  # fmt: skip
def test_defaults_read_without_bank_conflicts(dtype, ta, tb):
    big = workload.parse(f"matmul:m=4096,n=4096,k=4096,ta={ta},tb={tb},dtype={dtype}")
    spec = targets.resolve("sm_80")
    contract = default_schedule(big, spec).gpu.contract
    m, n, k = contract.block
    small = workload.parse(f"matmul:m={m},n={n},k={2 * k},ta={ta},tb={tb},dtype={dtype}")
    (made,) = candidates([(str(small), contract)], "sm_80")
    module = ptx.Module(kernels.text_of([made], "sm_80"))
    memory = ptx.Memory()
    places = [memory.put(array) for array in small.inputs(1)]
    places.append(memory.allocate(m * n * 4))
    (launch,) = made.code.launches
    statistics = ptx.launch(
        module.kernels[launch.kernel], launch.grid, launch.block, launch.shared_bytes, places,
        memory, statistics=True,
    )  # fmt: skip
    copied = statistics.total("shared")
    if dtype == "int8" and (ta or not tb):  # bytes that change places: two pairs of lines collide
        reads = [a for a in statistics.accesses if a.text.startswith("ldmatrix")]
        assert sum(a.conflicts for a in reads) == 0
        return
    assert statistics.bank_conflicts == 0 and copied.requests > 0
    read = [a for a in statistics.accesses if a.space == "global" and "cp.async" in a.text]
    assert sum(a.transactions for a in read) == sum(a.ideal for a in read) > 0


def test_without_its_barrier_the_machine_sees_a_race():
    (made,) = candidates([("matmul:m=64,n=64,k=64", SCALAR)], "sm_80")
    text = kernels.text_of([made], "sm_80")
    before, loop, after = text.rpartition("bar.sync")
    module = ptx.Module(f"{before}// {loop}{after}")
    given = made.workload.inputs(1)
    with pytest.raises(ptx.PtxError):
        kernels.run(module, made.code, given, made.workload.reference(given)[0])


def test_tf32_is_taken_only_where_it_is_asked_for():
    one = workload.parse("matmul:m=64,n=64,k=64")
    for target in kernels.TARGETS:
        contract = default_schedule(one, targets.resolve(target)).gpu.contract
        assert contract.mma == ""
    (made,) = candidates([(str(one), replace(HALF, block=(64, 64, 16), mma="tf32"))], "sm_80")
    given = one.inputs(1)
    expected = one.reference(given)[0]
    answer = kernels.run(ptx.Module(kernels.text_of([made], "sm_80")), made.code, given, expected)
    worst = np.abs(answer - expected).max()
    assert 1e-4 < worst < 64 * 2**-11  # inputs of 10 bits, products rounded either way


def test_other_products_are_found():
    x = te.placeholder("X", (24, 40), "float16")
    r = te.reduce_axis("r", 40)
    gram = te.compute(
        "G",
        (("i", 24), ("j", 24)),
        lambda i, j: te.sum_of(te.cast(x[i, r], "float32") * te.cast(x[j, r], "float32"), r) * 0.5,
    )
    found = product(gram)
    assert (found.m.total, found.n.total, found.k.total) == (24, 24, 40)
    spec = targets.resolve("sm_80")
    assert contracts.default(gram, spec).mma == "f16"
    total = te.compute("S", (("i", 24),), lambda i: te.sum_of(te.cast(x[i, r], "float32"), r))
    assert product(total) is None
    most = te.compute("M", (("i", 24),), lambda i: te.max_of(te.cast(x[i, r], "float32"), r))
    assert product(most) is None
    assert contracts.default(total, spec) is None


REFUSED = (
    (replace(SCALAR, block=(48, 64, 8)), "power of two"),
    (replace(SCALAR, lanes=(4, 4)), "lanes"),
    (replace(SCALAR, block=(2, 64, 8)), "tiles of a warp"),
    (replace(SCALAR, block=(256, 256, 8), warps=(8, 8)), "2048 threads"),
    (replace(SCALAR, block=(256, 256, 8)), "sums in a thread"),
    (replace(SCALAR, stages=1), "stages=1"),
    (replace(SCALAR, mma="f64"), "mma"),
    (replace(SCALAR, mma="f16"), "float32"),
    (replace(SCALAR, block=(128, 128, 128)), "shared memory"),
    (replace(SCALAR, split=99), "parts of k"),
    (replace(GROUPS, warps=(2, 1)), "four warps"),
    (GROUPS, "has no wgmma"),
)


@pytest.mark.parametrize(("contract", "said"), REFUSED)
def test_what_makes_no_sense_is_refused_in_a_line(contract, said):
    one, spec = workload.parse("matmul:m=64,n=64,k=64"), targets.resolve("sm_80")
    with pytest.raises(InvalidScheduleError, match=said) as caught:
        check(product(one.output), contract, spec)
    assert len(str(caught.value).splitlines()) == 1


def test_a_contract_stands_alone():
    spec = targets.resolve("sm_80")
    both = Schedule((("i", 8),), 1, gpu=Gpu(("block",), contract=SCALAR))
    with pytest.raises(InvalidScheduleError, match="one or the other"):
        kernels.candidate(workload.parse("matmul:m=64,n=64,k=64"), "sm_80", schedule=both)
    with pytest.raises(InvalidScheduleError, match="no sum of products"):
        kernels.candidate(workload.parse("add:n=64"), "sm_80", schedule=scheduled(SCALAR))
    with pytest.raises(InvalidScheduleError, match="sm_80"):
        old = targets.resolve("sm_75")
        check(product(workload.parse("matmul:m=64,n=64,k=64,dtype=bfloat16").output), BRAIN, old)
    assert Schedule.from_json(scheduled(HALF).to_json()) == scheduled(HALF)
    with pytest.raises(InvalidScheduleError, match="unknown field"):
        Schedule.from_json(scheduled(HALF).to_json().replace("stages", "steps"))
    shown = te.show(workload.parse("matmul:m=64,n=64,k=64").output, None, spec.cpu)
    assert "for k 64" in shown


def test_more_elements_than_indices_are_refused_only_where_they_are_taken_apart():
    big, r = 1 << 17, te.reduce_axis("r", 64)
    a, b = te.placeholder("A", (big, 64), "int8"), te.placeholder("B", (64, big), "int8")

    def total(i, j):
        return te.sum_of(te.cast(a[i, r], "int32") * te.cast(b[r, j], "int32"), r)

    spec, contract = targets.resolve("sm_80"), replace(BYTES, stages=2)
    check(product(te.compute("C", (("i", big), ("j", big)), total)), contract, spec)
    turned = te.compute(
        "T", (("h", 2), ("j", big), ("i", big // 2)), lambda h, j, i: total(h * (big // 2) + i, j)
    )
    with pytest.raises(InvalidScheduleError, match="elements"):
        check(product(turned), contract, spec)


def test_sums_of_warp_groups_need_registers():
    block, spec = (64, 256, 32), targets.resolve("sm_90a")
    fits = Contract(block, (4, 1), mma="wgmma", stages=3)
    found = product(workload.parse("matmul:m=64,n=256,k=64,dtype=bfloat16").output)
    check(found, fits, spec)
    with pytest.raises(InvalidScheduleError, match="128 registers where 4 blocks"):
        check(found, replace(fits, resident=4), spec)


@pytest.mark.kernels
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("name", ["matmul", "dense", "conv2d", "gemv"])
def test_a_hundred_random_contracts(name, dtype):
    seed = random.randrange(1 << 32)
    print(f"{name} {dtype}: seed {seed}")
    for number, target in enumerate(("sm_75", "sm_80", "sm_90a", "sm_120")):
        rng, pairs = random.Random(seed + number), []
        spec = targets.resolve(target)
        while len(pairs) < 25:
            shape = cases.one(rng, name, dtype)
            pairs.append((str(shape), contracts.draw(shape.output, spec, rng.choice)))
        found = candidates(pairs, target)
        if ptxas():
            kernels.assembled(found, target)
        assert kernels.wrong(found, target) == []


def test_the_space_of_sm_90a_has_contracts_of_groups_and_they_are_right():
    one = workload.parse("matmul:m=96,n=80,k=72,dtype=float16")
    rules = rules_of(one, targets.resolve("sm_90a"))
    rng, found = random.Random(3), []
    while len(found) < 3:
        schedule = rules.sample(rng)
        if schedule.gpu.contract and schedule.gpu.contract.mma == "wgmma":
            found.append(kernels.candidate(one, "sm_90a", f"k{len(found)}", schedule))
    assert kernels.wrong(found, "sm_90a") == []
