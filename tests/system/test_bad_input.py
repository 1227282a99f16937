"""What bad input gets: one clear line, a named error, and a device that is healthy afterwards."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from tunefarm import Bundle, Tracker, errors, request_device
from tunefarm.cli.processes import free_port
from tunefarm_compiler import build
from tunefarm_proto.v1 import device_pb2 as dpb


@pytest.fixture
def device(farm):
    with request_device("one", tracker=farm.address, timeout=30) as leased:
        yield leased
    with request_device("one", tracker=farm.address, timeout=30) as next_user:
        module = next_user.load(build("add:n=16", "local"))
        x = next_user.array(np.ones(16, np.float32))
        total = next_user.empty(16)
        module["add"](x, x, total)
        assert total.numpy().tolist() == [2.0] * 16


def one_line(error: BaseException) -> str:
    text = str(error)
    assert text and "\n" not in text
    return text


def test_a_wrong_tracker_address_fails_at_once():
    address = f"127.0.0.1:{free_port(0)}"
    with pytest.raises(errors.TrackerUnreachableError) as caught:
        request_device("one", tracker=address)
    assert address in one_line(caught.value)


@pytest.mark.parametrize("address", ["nonsense", "host:", ":9190", "host:99999", "a:b"])
def test_an_address_that_is_none(address):
    with pytest.raises(errors.InvalidRequestError, match="HOST:PORT"):
        request_device("one", tracker=address)


def test_an_unknown_key_lists_the_keys_there_are(farm):
    with pytest.raises(errors.UnknownKeyError) as caught:
        request_device("rasp9", tracker=farm.address)
    text = one_line(caught.value)
    assert "rasp9" in text
    assert "one" in text and "two" in text


def test_an_unknown_key_may_be_waited_for(farm, tmp_path):
    with pytest.raises(errors.RequestTimeoutError):
        request_device("late", tracker=farm.address, wait_for_key=True, timeout=0.5)
    words = ("device", "--key", "late", "--tracker", farm.address, "--state", str(tmp_path))
    waits = threading.Event()
    starter = threading.Thread(
        target=lambda: (waits.wait(30), farm.processes.start("late", *words))
    )
    starter.start()
    with request_device(
        "late",
        tracker=farm.address,
        wait_for_key=True,
        timeout=60,
        on_wait=lambda position: waits.set(),
    ) as device:
        assert device.key == "late"
    starter.join()


def test_a_busy_device_times_out_with_its_reason(farm):
    with (
        request_device("one", tracker=farm.address, timeout=30),
        pytest.raises(errors.RequestTimeoutError) as caught,
    ):
        request_device("one", tracker=farm.address, timeout=0.5)
    assert "one" in one_line(caught.value)


def test_a_bundle_for_another_target(device):
    with pytest.raises(errors.TargetMismatchError, match="aarch64"):
        device.load(build("add:n=16", "rasp3b"))


def test_a_file_that_is_no_bundle(device, tmp_path):
    path = tmp_path / "x.tf"
    path.write_bytes(b"hello")
    with pytest.raises(errors.BundleInvalidError, match="not a bundle"):
        device.load(path)


def test_a_truncated_bundle(device, tmp_path):
    path = tmp_path / "x.tf"
    path.write_bytes(build("add:n=16", "local").data[:3000])
    with pytest.raises(errors.BundleInvalidError):
        device.load(path)


def test_an_altered_upload_is_refused_and_the_right_one_taken(device):
    bundle = build("add:n=77", "local")
    altered = bytearray(bundle.data)
    altered[-2000] ^= 1
    with pytest.raises(errors.UploadCorruptError):
        device.upload(bytes(altered), bundle.digest)
    assert device.load(bundle).uploaded_bytes == len(bundle.data)


def test_a_truncated_upload_goes_on_where_it_stopped(device):
    bundle = Bundle(os.urandom(3 << 20))
    header = dpb.UploadHeader(digest=bundle.digest, size_bytes=len(bundle.data))
    pieces = [
        dpb.UploadBlobRequest(header=header),
        dpb.UploadBlobRequest(chunk=bundle.data[: 1 << 20]),
    ]
    import grpc

    with pytest.raises(grpc.RpcError):
        device._stub.UploadBlob(iter(pieces), metadata=device._metadata)
    sent = device.upload(bundle.data, bundle.digest)
    assert sent == 2 << 20


@pytest.fixture
def add(device):
    return device.load(build("add:n=16", "local"))


def test_a_wrong_argument_count(device, add):
    x = device.empty(16)
    with pytest.raises(errors.ArgumentMismatchError, match="3"):
        add["add"](x, x)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((17,), "float32"), ((16,), "float64"), ((4, 4), "float32")]
)
def test_a_wrong_shape_or_dtype(device, add, shape, dtype):
    x, bad = device.empty(16), device.empty(shape, dtype)
    with pytest.raises(errors.ArgumentMismatchError) as caught:
        add["add"](x, x, bad)
    assert "float32[16]" in one_line(caught.value).replace(" ", "").replace("(", "[").replace(
        ",)", "]"
    )


def test_a_function_that_is_not_there(add):
    with pytest.raises(errors.UnknownFunctionError, match="add"):
        add["sub"]


def test_an_argument_that_is_not_on_the_device(add):
    x = np.ones(16, np.float32)
    with pytest.raises(errors.ArgumentMismatchError, match=r"device\.array"):
        add["add"](x, x, x)


def test_a_shape_that_no_memory_holds(device):
    with pytest.raises(errors.OutOfMemoryError):
        device.empty((1 << 24, 1 << 24))
    device.empty(16)


@pytest.mark.parametrize(
    ("body", "kind", "word"),
    [
        ("*(volatile int *)0 = 1; return 0;", errors.KernelCrashedError, "SIGSEGV"),
        ("abort();", errors.KernelCrashedError, "SIGABRT"),
        ("exit(0);", errors.KernelCrashedError, ""),
        ("return 7;", errors.KernelFailedError, "7"),
        ('for (;;) __asm__ volatile("");', errors.KernelTimeoutError, "1"),
    ],
    ids=["segfault", "abort", "exit", "status", "loop"],
)
def test_a_kernel_that_misbehaves(device, c_bundle, body, kind, word):
    bundle = c_bundle(body)
    for use in ("call", "time"):
        module = device.load(bundle)
        x = device.empty(16)
        with pytest.raises(kind) as caught:
            if use == "call":
                module["kernel"](x, timeout=1)
            else:
                module.time_evaluator("kernel")(x, timeout=1)
        assert word in one_line(caught.value)


def test_what_was_lost_with_a_crash_is_named(device, c_bundle):
    module = device.load(c_bundle("*(volatile int *)0 = 1; return 0;"))
    x = device.empty(16)
    with pytest.raises(errors.KernelCrashedError):
        module["kernel"](x)
    with pytest.raises(errors.UnknownHandleError, match="lost"):
        x.numpy()


def test_a_killed_client_frees_its_device(farm):
    script = textwrap.dedent(
        f"""
        import time
        from tunefarm import request_device
        device = request_device("two", tracker="{farm.address}", timeout=30)
        print("held", flush=True)
        time.sleep(600)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"held\n"
        client.send_signal(signal.SIGKILL)
    # The ten seconds of the promise are this request's own limit, on the tracker's clock.
    with request_device("two", tracker=farm.address, timeout=10) as device:
        assert device.empty(4).numpy().tolist() == [0.0] * 4


def test_a_killed_client_whose_kernel_loops_frees_its_device(farm, c_bundle, tmp_path):
    path = tmp_path / "loop.tf"
    c_bundle('for (;;) __asm__ volatile("");').write(path)
    script = textwrap.dedent(
        f"""
        from tunefarm import request_device
        device = request_device("two", tracker="{farm.address}", timeout=30)
        module = device.load({str(path)!r})
        x = device.empty(16)
        print("held", flush=True)
        module["kernel"](x, timeout=600)
        """
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"held\n"
        client.send_signal(signal.SIGKILL)
    with request_device("two", tracker=farm.address, timeout=10) as device:
        assert device.empty(4).numpy().tolist() == [0.0] * 4


def test_an_exception_in_the_block_frees_the_device(farm):
    with pytest.raises(ZeroDivisionError), request_device("two", tracker=farm.address, timeout=30):
        _ = 1 / 0
    with Tracker(farm.address) as tracker:
        assert not [lease for lease in tracker.leases() if lease.device_key == "two"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("bench", "matmull:m=1", "--device", "one"), "matmul"),
        (("bench", "matmul:m=1,q=2", "--device", "one"), "k"),
        (("bench", "matmul:m=0,n=1,k=1", "--device", "one"), "m"),
        (("bench", "add:n=16", "--device", "nobody"), "one"),
        (("bench", "add:n=16", "--device", "one", "--target", "rasp9"), "rasp3b"),
        (("bench", "add:n=16", "--device", "one", "--schedule", "{"), "schedule"),
        (("bench", "add:n=16", "--device", "one", "--repeat", "0"), "repeat"),
        (("tune", "add:n=16", "--device", "one", "--trials", "0", "--records", "r"), "trials"),
    ],
)
def test_the_command_line_answers_in_one_line(farm, words, expected):
    done = farm.run(*words)
    assert done.returncode == (6 if "nobody" in words else 2)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert expected in done.stderr
