"""Sessions: the right answer, checked arguments, and kernels that misbehave."""

import array

import pytest
from device_harness import eventually, gone
from tunefarm_proto import errors
from tunefarm_proto.v1 import device_pb2 as dpb


def floats(*values: float) -> bytes:
    return array.array("f", values).tobytes()


def numbers(data: bytes) -> list[float]:
    return list(array.array("f", data))


@pytest.fixture
def module(session, kernels):
    return session.load(kernels.native.digest)


def test_add_gives_the_right_answer(session, module):
    a, b, c = (session.empty(16) for _ in range(3))
    session.write(a, floats(*range(16)))
    session.write(b, floats(*range(0, 1600, 100)))
    assert session.call(module, "add", a, b, c) > 0
    assert numbers(session.read(c)) == [101.0 * i for i in range(16)]


def test_arrays_are_zeros_and_take_pieces(session):
    big = session.empty(3, 1 << 19)
    assert session.read(big) == bytes(6 << 20)
    session.write(big, b"abcd", offset=(5 << 20) + 4)
    data = session.read(big)
    assert data[(5 << 20) + 4 :][:4] == b"abcd"
    assert data.count(0) == (6 << 20) - 4
    nothing = session.empty(0, 4)
    assert session.read(nothing) == b""


@pytest.mark.parametrize("bundle", ["native", "plain"])
def test_a_timing_has_the_samples_asked_for(session, kernels, bundle):
    module = session.load(getattr(kernels, bundle).digest)
    x = session.empty(16)
    timing = session.time(module, "count", x, number=5, repeat=7)
    assert (timing.number, len(timing.samples_s)) == (5, 7)
    assert min(timing.samples_s) > 0
    assert timing.first_call_s > 0
    assert timing.cache == "hot" and not timing.emulated
    assert timing.before.HasField("load_average") and timing.after.read_at.seconds > 0
    # Every call is told of: first, warm-up, samples.
    taken = len(timing.samples_s) + len(timing.discarded_s)
    assert numbers(session.read(x))[0] == 1 + timing.warmup_calls + 5 * taken


def test_calibration_makes_samples_long_enough(session, module):
    x = session.empty(16)
    options = {"repeat": 3}
    request = dpb.TimeFunction(
        call=dpb.CallFunction(module_id=module, function="count", array_ids=[x])
    )
    request.options.repeat = options["repeat"]
    request.options.min_repeat.FromMilliseconds(5)
    timing = session.ask(time=request).timing
    assert timing.number > 1
    assert len(timing.samples_s) == 3


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ((2,), "takes 3 arguments, got 2"),
        ((16, 16, 17), r"float32\[16\], got float32\[17\]"),
        ((16, 16, "float64"), r"float32\[16\], got float64\[16\]"),
    ],
)
def test_wrong_arguments_are_refused(session, module, wrong, words):
    if wrong == (2,):
        arrays = [session.empty(16), session.empty(16)]
    else:
        arrays = [
            session.empty(16, dtype=each) if isinstance(each, str) else session.empty(each)
            for each in wrong
        ]
    with pytest.raises(errors.ArgumentMismatchError, match=words):
        session.call(module, "add", *arrays)


def test_what_is_not_there_is_named(session, module):
    x = session.empty(16)
    with pytest.raises(errors.UnknownFunctionError, match="segfault"):
        session.call(module, "nonsense", x)
    with pytest.raises(errors.UnknownHandleError, match="99"):
        session.call(99, "count", x)
    with pytest.raises(errors.UnknownHandleError, match="99"):
        session.read(99)
    with pytest.raises(errors.UnknownDigestError):
        session.load("0" * 64)
    with pytest.raises(errors.ArgumentMismatchError, match="float31"):
        session.empty(16, dtype="float31")
    with pytest.raises(errors.ArgumentMismatchError, match="fit"):
        session.write(x, bytes(65))
    session.ask(free=dpb.FreeArray(array_id=x))
    with pytest.raises(errors.UnknownHandleError):
        session.read(x)


def test_memory_that_no_device_has(session):
    with pytest.raises(errors.OutOfMemoryError):
        session.empty(1 << 40, 1 << 20)
    assert session.read(session.empty(1)) == bytes(4)


def test_bundles_that_do_not_fit(session, client, kernels):
    for each in (kernels.foreign, kernels.broken):
        client.upload(each.data)
    with pytest.raises(errors.TargetMismatchError, match="riscv64"):
        session.load(kernels.foreign.digest)
    with pytest.raises(errors.BundleInvalidError, match="absent"):
        session.load(kernels.broken.digest)
    noise = b"no bundle at all"
    client.upload(noise)
    import hashlib

    with pytest.raises(errors.BundleInvalidError, match="not a bundle"):
        session.load(hashlib.sha256(noise).hexdigest())


@pytest.mark.parametrize(
    ("kernel", "kind", "words"),
    [
        ("segfault", errors.KernelCrashedError, r"signal 11 \(SIGSEGV\)"),
        ("abort_", errors.KernelCrashedError, "SIGABRT.*it hurts"),
        ("exit_", errors.KernelCrashedError, "exit status 0"),
        ("close_all", errors.KernelCrashedError, "ended its process"),
        ("babble", errors.KernelCrashedError, "SIGABRT"),
        ("loop", errors.KernelTimeoutError, "0.3 s"),
    ],
)
@pytest.mark.parametrize("use", ["call", "time"])
def test_a_kernel_that_ends_its_process(session, kernels, kernel, kind, words, use):
    module, x = session.load(kernels.native.digest), session.empty(16)
    limit = 0.3 if kernel == "loop" else 10
    with pytest.raises(kind, match=words):
        getattr(session, use)(module, kernel, x, timeout=limit)
    with pytest.raises(errors.UnknownHandleError, match="lost when the kernel"):
        session.read(x)
    with pytest.raises(errors.UnknownHandleError, match="lost when the kernel"):
        session.call(module, "count", x)
    again, y = session.load(kernels.native.digest), session.empty(16)
    session.call(again, "count", y)
    assert numbers(session.read(y))[0] == 1


def test_a_status_is_told_and_nothing_is_lost(session, module):
    x = session.empty(16)
    for use in (session.call, session.time):
        with pytest.raises(errors.KernelFailedError, match="7"):
            use(module, "status", x)
    session.call(module, "count", x)
    assert numbers(session.read(x))[0] == 1


def test_a_kernel_cannot_fill_the_disk(basic_session, kernels):
    session = basic_session
    module, x = session.load(kernels.native.digest), session.empty(16)
    session.call(module, "fill_disk", x)
    assert 0 < numbers(session.read(x))[0] <= 1024  # KiB


def test_what_a_kernel_forks_is_killed(basic_session, basic_box, kernels):
    session = basic_session
    module, x = session.load(kernels.native.digest), session.empty(16)
    before = basic_box.device.children()
    session.call(module, "fork_", x)
    forked = eventually(lambda: basic_box.device.children() - before)
    assert len(forked) >= 3
    session.close()
    eventually(lambda: gone(forked))


@pytest.mark.parametrize("use", ["call", "time"])
def test_a_kernel_that_kills_the_zygote_ends_itself_alone(basic_session, kernels, use):
    session = basic_session
    module, x = session.load(kernels.native.digest), session.empty(16)
    with pytest.raises(errors.KernelCrashedError, match="ended its process"):
        getattr(session, use)(module, "kill_parent", x, timeout=10)
    again, y = session.load(kernels.native.digest), session.empty(16)
    session.call(again, "count", y)
    assert numbers(session.read(y))[0] == 1
