"""Files, many calls, profiles and logs of a session, as a user of the client has them."""

import os
import signal
import sys
import threading

import pytest
from tunefarm import errors, request_device
from tunefarm.cli.processes import LocalFarm

COUNT = "++*(float *)args[0]; return 0;"
FAILS_ON_THREE = "float *x = args[0]; return ++*x == 3 ? 5 : 0;"
CRASHES = "*(volatile int *)8 = 1; return 0;"
SHOUTS = (
    "extern int open(const char *, int, ...); extern long write(int, const void *, unsigned long);"
    ' int file = open("result.bin", 0101, 0600); write(file, args[0], 4);'
    ' write(1, "done\\n", 5); return 0;'
)


@pytest.fixture
def device(farm):
    with request_device("one", tracker=farm.address) as device:
        yield device


@pytest.fixture
def count(device, c_bundle):
    return device.load(c_bundle(COUNT))["kernel"]


def first(x):
    return x.numpy()[0]


def test_files_go_there_and_come_back(device, tmp_path):
    local = tmp_path / "local.bin"
    local.write_bytes(bytes(range(256)) * 20_000)
    device.files.upload(local, "inputs/weights.bin")
    device.files.upload(b"a few words", "note.txt")
    device.files.upload(b"", "nothing")
    listed = {file.name: file.size for file in device.files.list()}
    assert listed == {"inputs/weights.bin": 5_120_000, "note.txt": 11, "nothing": 0}
    assert device.files.download("note.txt") == b"a few words"
    assert device.files.download("nothing") == b""
    device.files.download("inputs/weights.bin", tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == local.read_bytes()
    device.files.remove("note.txt")
    with pytest.raises(errors.UnknownFileError, match=r"no file 'note\.txt'"):
        device.files.download("note.txt", tmp_path / "never.bin")
    assert not (tmp_path / "never.bin").exists()
    with pytest.raises(errors.FileRefusedError, match=r"\.\."):
        device.files.upload(b"x" * (3 << 20), "../outside")
    with pytest.raises(FileNotFoundError):
        device.files.upload(tmp_path / "absent", "x")


def test_a_kernel_leaves_a_file_and_words(device, c_bundle):
    x = device.empty(16)
    device.load(c_bundle(SHOUTS))["kernel"](x)
    assert device.files.download("result.bin") == bytes(4)
    assert device.output() == "done\n"
    log = device.log()
    assert device.lease.id in log and "is bundle" in log


def test_calls_pipelined(device, count):
    x = device.empty(16)
    with device.pipeline() as pipeline:
        calls = [pipeline.call(count, x) for _ in range(300)]
        assert calls[0].result() > 0
        assert first(x) >= 1  # other operations take their turn
    assert all(call.done and call.error is None for call in calls)
    assert first(x) == 300


def test_errors_stay_with_their_calls(device, c_bundle):
    x = device.empty(16)
    fails = device.load(c_bundle(FAILS_ON_THREE))["kernel"]
    with device.pipeline(keep_errors=True) as pipeline:
        for _ in range(5):
            pipeline.call(fails, x)
    assert [call.error is None for call in pipeline.calls] == [True, True, False, True, True]
    with pytest.raises(errors.KernelFailedError, match="status 5"):
        pipeline.calls[2].result()
    assert first(x) == 5
    y = device.empty(16)
    with pytest.raises(errors.KernelFailedError, match="status 5"), device.pipeline() as pipeline:
        for _ in range(5):
            pipeline.call(fails, y)
    assert first(y) == 5
    with pytest.raises(ZeroDivisionError), device.pipeline() as pipeline:
        pipeline.call(fails, y)
        raise ZeroDivisionError
    assert pipeline.calls[0].done


def test_batches(device, c_bundle, count):
    x, y = device.empty(16), device.empty(16)
    batch = device.batch()
    batch.call(count, x, times=1000)
    for _ in range(3):
        batch.call(count, y)
    assert len(batch) == 1003 and len(batch.run().elapsed) == 1003
    batch.run()
    assert (first(x), first(y)) == (2000, 6)
    assert device.batch().run().elapsed == ()
    fails = device.load(c_bundle(FAILS_ON_THREE))["kernel"]
    broken = device.batch()
    z = device.empty(16)
    broken.call(fails, z, times=5)
    with pytest.raises(errors.KernelFailedError, match="call 2 of the batch, kernel"):
        broken.run()
    assert first(z) == 3
    kept = broken.run(keep_going=True)
    assert len(kept.elapsed) == 5 and not kept.failed
    with pytest.raises(errors.KernelTimeoutError):
        endless = device.batch()
        spin = device.load(c_bundle('for (;;) __asm__ volatile(""); return 0;'))["kernel"]
        endless.call(spin, z)
        endless.run(timeout=0.2)


def test_a_profile(device, count):
    x = device.empty(16)
    with device.profile() as profile:
        for _ in range(10):
            count(x)
    (kernel,) = profile.functions
    assert (kernel.function, kernel.calls) == ("kernel", 10)
    assert 0 < kernel.min <= kernel.max < kernel.total
    assert "kernel" in str(profile) and "10" in str(profile)


def test_threads_share_a_session(device, count):
    arrays = [device.empty(16) for _ in range(6)]

    def work(x):
        for _ in range(50):
            count(x)
        with device.pipeline() as pipeline:
            for _ in range(50):
                pipeline.call(count, x)

    threads = [threading.Thread(target=work, args=(x,)) for x in arrays]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [first(x) for x in arrays] == [100] * 6


def test_a_crash_is_told_by_the_call_that_it_was(device, c_bundle, count):
    x = device.empty(16)
    crash = device.load(c_bundle(CRASHES))["kernel"]
    with device.pipeline(keep_errors=True) as pipeline:
        for function in (count, crash, count):
            pipeline.call(function, x)
    fine, crashed, after = pipeline.calls
    assert fine.error is None
    assert isinstance(crashed.error, errors.KernelCrashedError)
    assert isinstance(after.error, errors.UnknownHandleError)


def test_a_release_by_another_thread_ends_a_call_that_waits(farm, c_bundle):
    with request_device("one", tracker=farm.address) as device:
        x = device.empty(16)
        spin = device.load(c_bundle('for (;;) __asm__ volatile(""); return 0;'))["kernel"]
        threading.Timer(0.5, device.close).start()
        with pytest.raises((errors.DeviceLostError, errors.LeaseLostError)):
            spin(x)


def test_without_a_lane_all_goes_through_grpc(device, count, monkeypatch):
    def refuse(*_):
        raise ConnectionRefusedError

    monkeypatch.setattr("tunefarm.session.Lane", refuse)
    x = device.empty(16)
    count(x)
    with device.pipeline() as pipeline:
        for _ in range(200):
            pipeline.call(count, x)
    batch = device.batch()
    batch.call(count, x, times=100)
    batch.run()
    assert first(x) == 301
    device.files.upload(bytes(5 << 20), "big")
    assert device.files.download("big") == bytes(5 << 20)


def test_a_revoked_lease_and_a_dead_device_cut_a_pipeline_off_by_name(farm, c_bundle, tmp_path):
    spin = c_bundle('for (;;) __asm__ volatile(""); return 0;')
    with request_device("one", tracker=farm.address) as device:
        kernel, x = device.load(spin)["kernel"], device.empty(16)
        revoke = threading.Timer(0.5, farm.run, ["admin", "revoke", device.id, "--reason", "fire"])
        revoke.start()
        with pytest.raises(errors.LeaseLostError, match="fire"), device.pipeline() as pipeline:
            calls = [pipeline.call(kernel, x) for _ in range(10)]
        assert all(isinstance(call.error, errors.LeaseLostError) for call in calls)
        revoke.join()
    words = ["--key", "mortal", "--tracker", farm.address, "--state", str(tmp_path / "state")]
    with LocalFarm(tmp_path) as processes:
        server = [sys.executable, "-m", "tunefarm", "device", *words]
        pid = tmp_path / "pid"
        shell = f'echo $$ > {pid}; exec "$@"'
        processes.start_command("mortal", ["sh", "-c", shell, "sh", *server])
        processes.wait_for_devices(farm.address, ["mortal"])
        with request_device("mortal", tracker=farm.address) as device:
            kernel, x = device.load(spin)["kernel"], device.empty(16)
            threading.Timer(0.5, os.kill, [int(pid.read_text()), signal.SIGKILL]).start()
            with pytest.raises(errors.DeviceLostError), device.pipeline() as pipeline:
                calls = [pipeline.call(kernel, x) for _ in range(10)]
            assert all(isinstance(call.error, errors.DeviceLostError) for call in calls)
