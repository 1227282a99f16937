"""Two devices of one server, used at once: apart in all things, and never timed together."""

import os
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import ziglang
from tunefarm import Tracker, errors, request_device, request_devices
from tunefarm.cli.processes import LocalFarm, free_port
from tunefarm_device.topology import parse_cpus, read_topology, spell_cpus, turns
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto import rpc
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import device_pb2 as dpb
from tunefarm_proto.v1 import device_pb2_grpc as dpb_grpc

ZIG = Path(ziglang.__file__).parent / "zig"
STAMPS = 4000
SOURCE = """
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int64_t loading;

static int64_t mask(void) {
  cpu_set_t set;
  int64_t bits = 0;
  sched_getaffinity(0, sizeof set, &set);
  for (int cpu = 0; cpu < 63; ++cpu) if (CPU_ISSET(cpu, &set)) bits |= (int64_t)1 << cpu;
  return bits;
}
__attribute__((constructor)) static void loaded(void) { loading = mask(); }
static void *threaded(void *to) { *(int64_t *)to = mask(); return 0; }

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* x[0] counts the calls; each leaves its begin and its end, 2 ms later. */
int32_t stamp(void *const *args) {
  int64_t *x = args[0], begin = now();
  if (2 * x[0] + 2 >= %d) return 1;
  while (now() < begin + 2000000) {}
  x[2 * x[0] + 1] = begin;
  x[2 * x[0] + 2] = now();
  ++x[0];
  return 0;
}
int32_t processors(void *const *args) {
  int64_t *x = args[0];
  pthread_t thread;
  x[0] = loading;
  x[1] = mask();
  if (pthread_create(&thread, 0, threaded, x + 2)) return 1;
  return pthread_join(thread, 0);
}
int32_t nap(void *const *args) { usleep(1500000); ++*(int64_t *)args[0]; return 0; }
int32_t crash(void *const *args) { abort(); }
""" % (STAMPS + 1)  # noqa: UP031 (braces are C's)
FUNCTIONS = ("stamp", "processors", "nap", "crash")


@pytest.fixture(scope="module")
def cores() -> tuple[str, str]:
    """Processors for two devices, two for the first where there are some to spare."""
    here = sorted(os.sched_getaffinity(0))
    if len(here) < 2:
        pytest.skip("one processor is not enough for two devices")
    first = here[:2] if len(here) > 2 else here[:1]
    return spell_cpus(first, "+"), str(here[len(first)])


@contextmanager
def serving(folder: Path, *words: str, claims: str = "") -> Iterator[str]:
    """The address of a tracker with one device server, whose claims nobody else minds."""
    folder.mkdir()
    port = free_port(0)
    address = f"127.0.0.1:{port}"
    with LocalFarm(folder) as farm, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEFARM_CLAIMS", claims or f"{uuid.uuid4()}-")
        farm.start("tracker", "tracker", "--port", str(port), "--state", str(folder / "t"))
        farm.wait_for_tracker(address)
        state = ("--state", str(folder / "d"), "--anchor-interval", "0")
        farm.start("many", "device", "--tracker", address, *state, *words)
        farm.wait_for_devices(address, ["one", "two"])
        yield address


@pytest.fixture(scope="module")
def keys(cores) -> tuple[str, ...]:
    one, two = cores
    return "--key", f"one:cores={one},label.side=left", "--key", f"two:cores={two}"


@pytest.fixture(scope="module")
def address(tmp_path_factory, keys):
    with serving(tmp_path_factory.mktemp("many") / "f", *keys, "--label", "lab=here") as address:
        yield address


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, address):
    folder = tmp_path_factory.mktemp("kernels")
    source, library = folder / "kernels.c", folder / "kernels.so"
    source.write_text(SOURCE)
    command = [str(ZIG), "cc", "-shared", "-O1", "-fno-sanitize=all", "-o", str(library)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    manifest = bpb.BundleManifest()
    for name in FUNCTIONS:
        function = manifest.functions.add(name=name)
        function.arguments.add(name="x", dtype="int64", shape=[STAMPS + 1], output=True)
    with Tracker(address) as tracker:
        triple = tracker.devices("one")[0].facts.target.triple
    return bundle_file.pack(manifest, [(pb.Target(triple=triple), library.read_bytes())])


def at_once(*work) -> None:
    """Do all of it at the same moment, each in a thread; the first that fails is raised."""
    start, failed = threading.Barrier(len(work)), []

    def do(one) -> None:
        try:
            start.wait(30)
            one()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=do, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def test_one_server_shows_two_devices(address, cores):
    with Tracker(address) as tracker:
        (one,), (two,) = tracker.devices("one"), tracker.devices("two")
    assert list(one.addresses) == list(two.addresses)
    for device, own in ((one, cores[0]), (two, cores[1])):
        held = parse_cpus(own, "+")
        assert device.facts.cores == spell_cpus(held)
        assert device.facts.cpu_count == len(held)
        assert not device.facts.time_together
        assert device.attributes["cores"] == spell_cpus(held)
    assert one.attributes["label.side"] == "left" and "label.side" not in two.attributes
    assert one.attributes["label.lab"] == two.attributes["label.lab"] == "here"


def test_each_kernel_sees_its_own_processors_and_so_do_its_threads(address, bundle, cores):
    with request_devices("one", "two", tracker=address, timeout=30) as devices:
        for device, own in zip(devices, cores, strict=True):
            allowed = sum(1 << cpu for cpu in parse_cpus(own, "+"))
            module, x = device.load(bundle), device.empty(STAMPS + 1, "int64")
            module["processors"](x)
            loading, calling, threaded = (int(mask) for mask in x.numpy()[:3])
            for mask in (loading, calling, threaded):
                assert mask and not mask & ~allowed
            assert calling.bit_count() == 1  # the processor that is timed on
            if allowed.bit_count() > 1:
                assert not loading & calling  # loads keep off that


def test_what_one_uploads_the_other_has(address, bundle):
    manifest, entry = bpb.BundleManifest(), bundle.manifest.libraries[0]
    manifest.CopyFrom(bundle.manifest)
    manifest.workload = "never seen before"
    fresh = bundle_file.pack(manifest, [(entry.target, bundle.library(entry))])
    with request_device("one", tracker=address, timeout=30) as one:
        assert one.load(fresh).uploaded_bytes == len(fresh.data)
    with request_device("two", tracker=address, timeout=30) as two:
        assert two.load(fresh).uploaded_bytes == 0


def test_a_crash_and_the_end_of_a_lease_leave_the_other_device_alone(address, bundle):
    with request_device("one", tracker=address, timeout=30) as one:
        module, x = one.load(bundle), one.empty(STAMPS + 1, "int64")
        kept = one.array(np.array([1.5, 2.5], np.float32))
        with request_device("two", tracker=address, timeout=30) as two:
            crashing, y = two.load(bundle), two.empty(STAMPS + 1, "int64")
            with pytest.raises(errors.KernelCrashedError, match="SIGABRT"):
                crashing["crash"](y)
            assert kept.numpy().tolist() == [1.5, 2.5]

            def cut_off() -> None:
                with Tracker(address) as tracker:
                    for _ in range(3):  # while the first one's kernel naps
                        with request_device("two", tracker=address, timeout=30) as again:
                            assert again.empty(4).numpy().tolist() == [0] * 4
                    assert {lease.device_key for lease in tracker.leases()} == {"one"}

            two.close()
            at_once(lambda: module["nap"](x), cut_off)
        assert int(x.numpy()[0]) == 1
        assert kept.numpy().tolist() == [1.5, 2.5]


def test_the_log_of_one_device_tells_nothing_of_the_other(address, bundle):
    with request_devices("one", "two", tracker=address, timeout=30) as devices:
        one, two = devices
        two.load(bundle)
        with pytest.raises(errors.KernelCrashedError):
            two.load(bundle)["crash"](two.empty(STAMPS + 1, "int64"))
        assert one.lease.id in one.log() and two.lease.id not in one.log()
        assert bundle.digest not in one.log() and "SIGABRT" not in one.log()
        assert bundle.digest in two.log() and "SIGABRT" in two.log()


def test_a_lease_opens_its_own_device_with_its_own_token_alone(address):
    def ask(lease_id: str, token: str) -> None:
        metadata = rpc.call_metadata(lease_id, token)
        with grpc.insecure_channel(one.addresses[0]) as channel:
            stub = dpb_grpc.DeviceServiceStub(channel)
            stub.FindMissingDigests(dpb.FindMissingDigestsRequest(), metadata=metadata, timeout=20)

    with Tracker(address) as tracker:
        (one,) = tracker.devices("one")
    with request_devices("one", "two", tracker=address, timeout=30) as devices:
        tokens = [dict(device._metadata)[rpc.LEASE_TOKEN_HEADER] for device in devices]
        for device, token in zip(devices, tokens, strict=True):
            ask(device.lease.id, token)
        for lease_id, words in (
            (devices[1].lease.id, "the token does not open lease"),
            ("none", "lease none opens no device of this server"),
            ("", "the call names none"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                ask(lease_id, tokens[0])
            assert words in str(rpc.error_of_call(caught.value, errors.DeviceLostError("away")))


def spans(address: str, bundle, rounds: int = 3) -> list[list[tuple[int, int]]]:
    """Time on both devices at once: for each device begin and end of each timing, by its kernel."""
    with request_devices("one", "two", tracker=address, timeout=30) as devices:
        found: list[list[tuple[int, int]]] = [[], []]

        def time(which: int) -> None:
            device = devices[which]
            module, x = device.load(bundle), device.empty(STAMPS + 1, "int64")
            for _ in range(rounds):
                timer = module.time_evaluator("stamp", number=5, repeat=20)
                before = int(x.numpy()[0])
                timing = timer(x)
                together.add(timing.raw.before.time_together)
                assert timing.raw.before.time_together == ("other devices" in str(timing))
                stamps = x.numpy()
                last = int(stamps[0])
                assert last - before >= 100
                found[which].append((int(stamps[2 * before + 1]), int(stamps[2 * last])))

        together: set[bool] = set()
        at_once(lambda: time(0), lambda: time(1))
        assert together == {devices[0].facts.time_together}
        return found


def overlaps(found: list[list[tuple[int, int]]]) -> int:
    """How many timings of one device ran while one of the other did."""
    return sum(a < d and c < b for a, b in found[0] for c, d in found[1])


def test_what_shares_a_cache_is_never_timed_together(address, bundle, cores):
    sets = [parse_cpus(own, "+") for own in cores]
    first, second = turns(sets, read_topology(sets[0] | sets[1]))
    if set(first).isdisjoint(second):
        pytest.skip("these processors share no cache")
    found = spans(address, bundle)
    assert len(found[0]) == len(found[1]) == 3
    assert overlaps(found) == 0


def test_told_to_time_together_they_do_and_say_so(tmp_path, keys, cores, bundle):
    sets = [parse_cpus(own, "+") for own in cores]
    first, second = turns(sets, read_topology(sets[0] | sets[1]), together=True)
    if not set(first).isdisjoint(second):
        pytest.skip("these processors share a core, or nobody knows")
    with serving(tmp_path / "f", *keys, "--time-together") as address:
        with Tracker(address) as tracker:
            assert all(device.facts.time_together for device in tracker.devices())
        assert any(overlaps(spans(address, bundle)) for _ in range(5))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--key", "a:cores=FIRST", "--key", "b:cores=FIRST"), "both given processor FIRST"),
        (("--key", "a:cores=5000"), "cannot run on processor 5000"),
        (("--key", "a:core=0"), "there are backend=NAME, cores=0-3+8, gpu=0, unit=NAME and label"),
    ],
)
def test_what_cannot_be_offered_is_one_line(capfd, tmp_path, words, said):
    from tunefarm.cli import main

    first = str(min(os.sched_getaffinity(0)))
    words = [word.replace("FIRST", first) for word in words]
    assert main(["device", *words, "--state", str(tmp_path)]) == 2
    told = capfd.readouterr().err
    assert said.replace("FIRST", first) in told and told.count("\n") == 1


def test_another_server_does_not_get_the_same_processors(capfd, tmp_path, keys, cores, monkeypatch):
    from tunefarm.cli import main

    claims = f"{uuid.uuid4()}-"
    with serving(tmp_path / "f", *keys, claims=claims):
        monkeypatch.setenv("TUNEFARM_CLAIMS", claims)
        assert main(["device", "--key", f"c:cores={cores[1]}", "--state", str(tmp_path / "s")]) == 2
    told = capfd.readouterr().err
    assert f"another device server of this host has processor {cores[1]}" in told
    assert told.count("\n") == 1
