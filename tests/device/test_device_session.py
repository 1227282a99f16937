"""Sessions with native kernels that do what only they can; the rest is in `conformance`."""

import array

import pytest
from device_harness import eventually, gone
from tunefarm_proto import errors


def numbers(data: bytes) -> list[float]:
    return list(array.array("f", data))


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
