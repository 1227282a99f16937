"""Kernels with threads on a device: their processors, and their end."""

import ctypes
import os
import struct
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from device_harness import Box, _children, boxed, eventually, gone
from tunefarm_compiler import Schedule, build, workload
from tunefarm_device.cores import Cores, physical, spread
from tunefarm_device.facts import find_facts
from tunefarm_proto import bundle as bundle_file
from tunefarm_proto.v1 import bundle_pb2 as bpb
from tunefarm_proto.v1 import common_pb2 as pb
from ziglang import __file__ as zig_file

SOURCE = """
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
int32_t tunefarm_cores[65];
int32_t told(void *const *args) {
  int32_t *x = args[0];
  for (int i = 0; i < 65; ++i) x[i] = tunefarm_cores[i];
  x[65] = sched_getcpu();
  return 0;
}
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Iterator[Box]:
    """One whose claims nobody else minds, so that it has a processor to time on."""
    yield from boxed(tmp_path_factory.mktemp("box"), TUNEFARM_CLAIMS=f"{uuid.uuid4()}-")


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("told")
    (folder / "told.c").write_text(SOURCE)
    out = folder / "told.so"
    zig = Path(zig_file).parent / "zig"
    command = [zig, "cc", "-shared", "-O1", "-fno-sanitize=all", "-o", out, folder / "told.c"]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.mark.parametrize(
    ("first", "others", "order"),
    [
        (0, (), [0]),
        (3, (0, 1, 2, 3), [3, 0, 1, 2]),
        (0, (1, 2, 3, 4, 5), [0, 2, 4, 1, 3, 5]),
        (1, (0, 2, 3), [1, 2, 0, 3]),
    ],
)
def test_one_of_each_core_before_the_second_of_any(first, others, order):
    assert spread(first, others, lambda cpu: str(cpu // 2)) == order


def test_processors_of_one_core_read_alike(tmp_path):
    for cpu, text in ((0, "0,4\n"), (4, "0,4\n"), (1, "1,5\n")):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text)
    assert physical(0, tmp_path) == physical(4, tmp_path) != physical(1, tmp_path)
    assert physical(7, tmp_path) != physical(8, tmp_path)


def test_threads_are_bound_only_where_their_caller_is(library):
    loaded = ctypes.CDLL(str(library))
    Cores(loaded, {5000}).tell()
    told = (ctypes.c_int32 * 65).in_dll(loaded, "tunefarm_cores")
    before = os.sched_getaffinity(0)
    cores = Cores(loaded, {5, 6})
    try:
        cores.tell()
        if len(before) > 1:
            assert list(told[: len(before) + 1]) == [len(before)] + [0] * len(before)
        mine = min(before)
        os.sched_setaffinity(0, {mine})
        cores.tell()
        assert told[0] == len({5, 6, mine})
        assert told[1] == mine + 1
        assert set(told[2 : 1 + told[0]]) == {6, 7} - {mine + 1}
    finally:
        os.sched_setaffinity(0, before)
    with pytest.raises(ValueError, match="tunefarm_cores"):
        Cores(ctypes.CDLL(None), {0})


def test_a_library_is_told_its_processors_the_callers_first(box, client, library):
    manifest = bpb.BundleManifest(workload="told")
    argument = bpb.ArgumentSignature(name="x", dtype="int32", shape=[66], output=True)
    manifest.functions.add(name="told", arguments=[argument])
    here = pb.Target(triple=find_facts().target.triple)
    bundle = bundle_file.pack(manifest, [(here, library.read_bytes())])
    client.upload(bundle.data)
    session = client.session()
    x = session.empty(66, dtype="int32")
    session.call(session.load(bundle.digest), "told", x)
    count, *words, mine = struct.unpack("<66i", session.read(x))
    session.close()
    allowed = os.sched_getaffinity(0)
    assert 1 <= count <= len(allowed)
    if len(allowed) > 1:
        assert words[0] == mine + 1
        assert len(set(words[:count])) == count
        assert {word - 1 for word in words[:count]} <= allowed


def test_threads_work_in_the_sandbox_and_end_with_the_session(box, client):
    parsed = workload.parse("matmul:m=60,n=64,k=32")
    bundle = build(parsed, "local", Schedule((("i", 4), ("j", 16)), 16, threads=4))
    client.upload(bundle.data)
    session = client.session()
    module = session.load(bundle.digest)
    inputs = parsed.inputs(0)
    arrays = []
    for data in inputs:
        arrays.append(session.empty(*data.shape))
        session.write(arrays[-1], data.tobytes())
    arrays.append(session.empty(60, 64))
    for _ in range(20):
        session.call(module, "matmul", *arrays)
    got = np.frombuffer(session.read(arrays[-1]), np.float32).reshape(60, 64)
    assert parsed.check([got], parsed.reference(inputs))
    assert len(session.time(module, "matmul", *arrays, repeat=3, number=50).samples_s) == 3
    (runner,) = _children(box.device.zygote())
    threads = min(4, len(os.sched_getaffinity(0)))
    if threads > 1:  # they sleep between calls
        assert len([*Path(f"/proc/{runner}/task").iterdir()]) == threads
    session.close()
    client.close()
    box.end()
    assert eventually(lambda: gone({runner}))
