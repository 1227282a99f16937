"""What every kind of device does, whatever is behind it: one suite, run on each of them."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from device_harness import SessionClient
from tunefarm_compiler import build, targets
from tunefarm_compiler.workload import parse
from tunefarm_proto import errors
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb

HOSTILE = (
    "trap", "wild_write", "wild_read", "wild_call", "scribble", "deep", "misaligned", "wild_shared"
)  # fmt: skip


def array_of(session: SessionClient, values: np.ndarray) -> int:
    array = session.empty(*values.shape, dtype=str(values.dtype))
    session.write(array, values.tobytes())
    return array


def values_of(session: SessionClient, array: int, dtype: str = "float32") -> np.ndarray:
    return np.frombuffer(session.read(array), dtype)


def adds(session: SessionClient, module: int) -> bool:
    """Whether this session computes."""
    x, y = np.arange(16, dtype="float32"), np.full(16, 0.5, "float32")
    a, b, c = array_of(session, x), array_of(session, y), session.empty(16)
    session.call(module, "add", a, b, c)
    return bool((values_of(session, c) == x + y).all())


@pytest.fixture(autouse=True)
def healthy_afterwards(client, bundles):
    """The next session finds a device that works, whatever the test has done to its own."""
    yield
    session = client.session()
    try:
        assert adds(session, session.load(bundles.whole.digest))
    finally:
        session.close()


def test_it_says_what_it_is(device, kind):
    facts = device.tracker.reports[0].facts
    assert facts.target.triple == targets.resolve(kind.target).triple
    assert set(targets.resolve(kind.target).features) <= set(facts.target.features)
    assert facts.emulated == kind.emulated
    assert facts.cpu_model


def test_a_compiled_workload_agrees_with_numpy(client, session, device):
    spec = targets.from_device(device.tracker.reports[0].facts.target)
    for text in ("matmul:m=33,n=35,k=37", "add:n=301", "relu:n=19"):
        parsed, bundle = parse(text), build(text, spec)
        client.upload(bundle.data)
        inputs, expected = parsed.inputs(0), parsed.reference(parsed.inputs(0))
        arrays = [array_of(session, data) for data in inputs]
        outputs = [session.empty(*each.shape) for each in expected]
        session.call(session.load(bundle.digest), parsed.function, *arrays, *outputs)
        got = [
            values_of(session, array).reshape(each.shape)
            for array, each in zip(outputs, expected, strict=True)
        ]
        assert parsed.check(got, expected)


def test_of_several_libraries_it_takes_the_best_that_it_can_run(client, session, device):
    own = targets.from_device(device.tracker.reports[0].facts.target)
    less = replace(own, features=own.features[:-1]) if len(own.features) > 1 else own
    others = [targets.resolve(name) for name in ("rasp5", "riscv64-v", "x86-64", "wasm", "armv7")]
    others = [spec for spec in others if spec.arch != own.arch]
    parsed = parse("matmul:m=7,n=9,k=5")
    bundle = build(parsed, list(dict.fromkeys([less, *others, own])))
    client.upload(bundle.data)
    module = session.ask(load=dpb.LoadModule(digest=bundle.digest)).loaded
    assert module.target == own.to_proto()
    inputs, expected = parsed.inputs(0), parsed.reference(parsed.inputs(0))
    arrays = [array_of(session, data) for data in inputs]
    output = session.empty(7, 9)
    session.call(module.module_id, "matmul", *arrays, output)
    assert parsed.check([values_of(session, output).reshape(7, 9)], expected)
    foreign = build(parsed, others)
    client.upload(foreign.data)
    with pytest.raises(errors.TargetMismatchError) as caught:
        session.load(foreign.digest)
    said = str(caught.value)
    assert own.triple in said
    assert all(f"{spec.triple} {spec.cpu} needs" in said for spec in others)
    assert "\n" not in said


@pytest.mark.parametrize("which", ["whole", "plain"])
def test_a_call_gives_the_right_answer(session, bundles, which):
    assert adds(session, session.load(getattr(bundles, which).digest))


def test_arrays_are_zeros_and_take_pieces(session):
    big = session.empty(3, 1 << 19)
    assert session.read(big) == bytes(6 << 20)
    session.write(big, b"abcd", offset=(5 << 20) + 4)
    data = session.read(big)
    assert data[(5 << 20) + 4 :][:4] == b"abcd"
    assert data.count(0) == (6 << 20) - 4
    assert session.read(session.empty(0, 4)) == b""


def test_pieces_reach_an_array_that_a_kernel_has_used(session, module):
    x = session.empty(1 << 16)
    session.call(module, "walk", x)
    session.write(x, np.ones(2, "float32").tobytes(), offset=4)
    session.call(module, "walk", x)
    assert values_of(session, x)[:4].tolist() == [1, 1, 1, 0]


def test_modules_share_the_arrays_of_a_session(session, bundles):
    modules = [session.load(b.digest) for b in (bundles.whole, bundles.plain, bundles.whole)]
    x, y = session.empty(16), session.empty(16)
    for turn in range(6):
        session.call(modules[turn % 3], "count", x)
        session.call(modules[turn % 2], "count", y)
    assert values_of(session, x)[0] == values_of(session, y)[0] == 6


def test_what_a_module_keeps_stays_its_own(session, bundles):
    module, x = session.load(bundles.whole.digest), session.empty(16)
    session.call(module, "remember", x)
    session.call(session.load(bundles.plain.digest), "count", x)
    session.call(module, "remember", x)
    assert values_of(session, x, "int32")[0] == 42


def test_one_array_can_be_all_arguments(session, module):
    x = array_of(session, np.arange(16, dtype="float32"))
    session.call(module, "add", x, x, x)
    assert (values_of(session, x) == 2 * np.arange(16)).all()


def test_freed_memory_comes_back(session, module):
    for _ in range(8):
        x = session.empty(1 << 16)
        assert session.read(x) == bytes(1 << 18)
        session.write(x, np.ones(1 << 16, "float32").tobytes())
        session.call(module, "walk", x)
        assert values_of(session, x)[0] == 4096
        session.ask(free=dpb.FreeArray(array_id=x))
        with pytest.raises(errors.UnknownHandleError):
            session.read(x)


@pytest.mark.parametrize("which", ["whole", "plain"])
def test_a_timing_has_the_samples_asked_for(session, bundles, kind, which):
    module, x = session.load(getattr(bundles, which).digest), session.empty(16)
    timing = session.time(module, "count", x, number=5, repeat=7)
    assert (timing.number, len(timing.samples_s)) == (5, 7)
    assert min(timing.samples_s) > 0 and timing.first_call_s > 0
    assert timing.cache == "hot" and timing.emulated == kind.emulated
    # Every call is told of: first, warm-up, samples.
    taken = len(timing.samples_s) + len(timing.discarded_s)
    assert values_of(session, x)[0] == 1 + timing.warmup_calls + 5 * taken


def test_calibration_makes_samples_long_enough(session, module):
    call = dpb.CallFunction(module_id=module, function="count", array_ids=[session.empty(16)])
    request = dpb.TimeFunction(call=call)
    request.options.repeat = 3
    request.options.min_repeat.FromMilliseconds(5)
    timing = session.ask(time=request).timing
    assert timing.number > 1
    assert len(timing.samples_s) == 3


def test_a_cold_timing_is_of_single_calls(session, module):
    timing = session.time(module, "walk", session.empty(1 << 16), repeat=3, cache="cold")
    assert (timing.number, len(timing.samples_s), timing.cache) == (1, 3, "cold")


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (["float32[16]"] * 2, "takes 3 arguments, got 2"),
        (["float32[16]"] * 2 + ["float32[17]"], r"float32\[16\], got float32\[17\]"),
        (["float32[16]"] * 2 + ["float64[16]"], r"float32\[16\], got float64\[16\]"),
    ],
)
def test_wrong_arguments_are_refused(session, module, shapes, words):
    parts = [shape.rstrip("]").split("[") for shape in shapes]
    arrays = [session.empty(int(length), dtype=dtype) for dtype, length in parts]
    with pytest.raises(errors.ArgumentMismatchError, match=words):
        session.call(module, "add", *arrays)


def test_what_is_not_there_is_named(session, module):
    x = session.empty(16)
    with pytest.raises(errors.UnknownFunctionError, match="wild_write"):
        session.call(module, "nonsense", x)
    with pytest.raises(errors.UnknownHandleError, match="99"):
        session.call(99, "count", x)
    with pytest.raises(errors.UnknownDigestError):
        session.load("0" * 64)
    with pytest.raises(errors.UnknownHandleError, match="99"):
        session.read(99)
    with pytest.raises(errors.ArgumentMismatchError, match="float31"):
        session.empty(16, dtype="float31")
    with pytest.raises(errors.ArgumentMismatchError, match="fit"):
        session.write(x, bytes(65))


def test_memory_that_no_device_has(session):
    with pytest.raises(errors.OutOfMemoryError):
        session.empty(1 << 40, 1 << 20)
    assert session.read(session.empty(1)) == bytes(4)


def test_a_bundle_for_another_target_is_refused(session, bundles):
    with pytest.raises(errors.TargetMismatchError, match="riscv64"):
        session.load(bundles.foreign.digest)


def test_a_library_without_a_function_is_refused(session, bundles):
    with pytest.raises(errors.BundleInvalidError, match="absent"):
        session.load(bundles.lying.digest)


@pytest.mark.parametrize("which", ["cut", "noise"])
def test_a_library_that_is_none_is_refused(session, bundles, which):
    with pytest.raises(errors.BundleInvalidError, match="cannot be loaded") as caught:
        session.load(getattr(bundles, which).digest)
    assert "\n" not in str(caught.value)


def test_a_truncated_bundle_is_refused(client, session, bundles):
    part = bundles.whole.data[:700]  # in the manifest; half of a small one lacks only padding
    client.upload(part)
    with pytest.raises(errors.BundleInvalidError, match="not a bundle"):
        session.load(hashlib.sha256(part).hexdigest())


@pytest.fixture
def statuses(kind):
    if kind.gpu:
        pytest.skip("a GPU's kernels have no status")


def test_a_status_is_told_and_nothing_is_lost(session, module, statuses):
    x = session.empty(16)
    for use in (session.call, session.time):
        with pytest.raises(errors.KernelFailedError, match="status 7"):
            use(module, "status", x)
    session.call(module, "count", x)
    assert values_of(session, x)[0] == 1


@pytest.mark.parametrize("which", ["whole", "plain"])
def test_the_timing_loop_stops_at_the_first_status(session, bundles, which, statuses):
    module, x = session.load(getattr(bundles, which).digest), session.empty(16)
    with pytest.raises(errors.KernelFailedError, match="status -5"):
        session.time(module, "late_status", x, number=100, repeat=1)
    assert values_of(session, x)[0] == 3


@pytest.mark.parametrize("use", ["call", "time"])
@pytest.mark.parametrize("kernel", HOSTILE)
def test_a_kernel_that_crashes_is_named_and_gone(kind, session, module, bundles, kernel, use):
    if kernel not in kind.kernels():
        pytest.skip(f"there is no {kernel} for a {kind.name}")
    x = session.empty(16)
    with pytest.raises(errors.KernelCrashedError) as caught:
        getattr(session, use)(module, kernel, x, timeout=60)
    assert "\n" not in str(caught.value)
    lost_and_found(session, module, x, bundles)


@pytest.mark.parametrize("use", ["call", "time"])
@pytest.mark.parametrize("which", ["whole", "plain"])
def test_an_endless_kernel_is_ended_at_its_time_limit(session, bundles, which, use):
    module, x = session.load(getattr(bundles, which).digest), session.empty(16)
    with pytest.raises(errors.KernelTimeoutError, match=r"0\.5 s"):
        getattr(session, use)(module, "loop", x, timeout=0.5)
    lost_and_found(session, module, x, bundles)


def lost_and_found(session: SessionClient, module: int, array: int, bundles) -> None:
    """What the session had is lost, by name, and it can go on with new things."""
    with pytest.raises(errors.UnknownHandleError, match="lost when the kernel"):
        session.read(array)
    with pytest.raises(errors.UnknownHandleError, match="lost when the kernel"):
        session.call(module, "count", array)
    assert adds(session, session.load(bundles.whole.digest))


def test_results_of_candidates_come_in_order(client, kind, bundles):
    """The stream that tuning uses: one that crashes leaves the others alone."""
    failing = {"trap": errors.KernelCrashedError, "status": errors.KernelFailedError}
    names = [name for name in ("count", *failing, "count") if name in kind.kernels()]
    requests = [
        dpb.MeasureRequest(id=n, bundle_digest=bundles.whole.digest, function=name)
        for n, name in enumerate(names, 1)
    ]
    for request in requests:
        request.options.number, request.options.repeat = 2, 3
    answers = client.measure(requests)
    assert [answer.id for answer in answers] == list(range(1, len(names) + 1))
    told = [errors.from_proto(a.error) if a.HasField("error") else None for a in answers]
    assert [type(error) for error in told] == [failing.get(name, type(None)) for name in names]
    assert len(answers[-1].timing.samples_s) == 3


def test_modules_in_one_batch_and_in_turns_share_arrays_too(session, bundles):
    modules = [session.load(b.digest) for b in (bundles.whole, bundles.plain)]
    x = session.empty(16)
    calls = [dpb.CallFunction(module_id=m, function="count", array_ids=[x]) for m in modules]
    many = session.ask(call_many=dpb.CallMany(calls=calls, order=[0, 1] * 5)).many_returned
    assert len(many.elapsed_s) == 10 and not many.failed
    assert values_of(session, x)[0] == 10
    options = pb.TimingOptions(repeat=4)
    compare = dpb.CompareFunctions(calls=calls, options=options, numbers=[2, 3])
    first, second = session.ask(compare=compare).comparison.timings
    assert len(first.samples_s) == len(second.samples_s) == 4
    taken = len(first.samples_s) + len(first.discarded_s) + 1  # and one each to warm up
    assert values_of(session, x)[0] == 10 + 5 * taken
