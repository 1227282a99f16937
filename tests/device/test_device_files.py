"""A session's files: whole, its own, gone with it; names and links that lead out are refused."""

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from device_harness import eventually
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tunefarm_device.files import SessionFolder, remove_tree
from tunefarm_proto import errors
from tunefarm_proto.rpc import CHUNK_BYTES
from tunefarm_proto.v1 import device_pb2 as dpb


def put(session, name, data):
    for offset in range(0, max(len(data), 1), CHUNK_BYTES):
        piece = data[offset : offset + CHUNK_BYTES]
        session.ask(write_file=dpb.WriteFile(name=name, offset=offset, data=piece))


def get(session, name):
    answer = session.ask(read_file=dpb.ReadFile(name=name))
    pieces = [answer.data.data]
    while not answer.data.last:
        answer = session.next()
        pieces.append(answer.data.data)
    return b"".join(pieces)


def names(session):
    listed = session.ask(list_files=dpb.ListFiles()).files.files
    return {file.name: file.size_bytes for file in listed}


def remove(session, name):
    session.ask(remove_file=dpb.RemoveFile(name=name))


def test_what_is_put_there_comes_back(session):
    big = os.urandom(3 * CHUNK_BYTES + 17)
    put(session, "data/big.bin", big)
    put(session, "empty", b"")
    put(session, "ümlaut", b"before, and longer")
    put(session, "ümlaut", b"after")
    assert names(session) == {"data/big.bin": len(big), "empty": 0, "ümlaut": 5}
    assert hashlib.sha256(get(session, "data/big.bin")).digest() == hashlib.sha256(big).digest()
    assert (get(session, "empty"), get(session, "ümlaut")) == (b"", b"after")
    remove(session, "empty")
    assert "empty" not in names(session)
    for ask in (get, remove):
        with pytest.raises(errors.UnknownFileError, match="no file 'empty'"):
            ask(session, "empty")


def test_kernels_work_there_and_what_they_leave_outlives_their_crash(session, kernels):
    module, x = session.load(kernels.native.digest), session.empty(16)
    session.call(module, "leave_file", x)
    assert get(session, "out.txt") == b"left by a kernel"
    with pytest.raises(errors.KernelCrashedError):
        session.call(module, "leave_and_die", x)
    assert get(session, "out.txt") == b"last words"
    module, x = session.load(kernels.native.digest), session.empty(16)
    session.call(module, "leave_file", x)
    assert get(session, "out.txt") == b"left by a kernel"


def test_another_session_does_not_see_them_and_the_end_deletes_them(box, client):
    one, two = client.session(), client.session()
    put(one, "mine", b"one")
    assert names(two) == {}
    (folder,) = [p for p in (box.device.state / "scratch").iterdir() if list(p.iterdir())]
    one.close()
    eventually(lambda: not folder.exists())
    assert names(two) == {}
    two.close()


HOSTILE = [
    "", ".", "..", "../x", "a/../../x", "/etc/passwd", "//x", "a//b", "a/", "./a", "a/./b",
    "nul\0byte", "x" * 256, "a/" * 16 + "a", "/".join(["y" * 200] * 6), "\0",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_names_that_lead_out_are_refused_in_one_line(session, name):
    calls = (
        lambda: put(session, name, b"x"),
        lambda: get(session, name),
        lambda: remove(session, name),
    )
    for call in calls:
        with pytest.raises(errors.FileRefusedError) as caught:
            call()
        assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300
    assert names(session) == {}


STEPS = st.sampled_from(["..", ".", "", "a", "b", "~", "-rf", "%2e%2e", "\\", "…", "a b", "\n"])
ANY_NAME = st.one_of(
    st.lists(STEPS, min_size=1, max_size=20).map("/".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=ANY_NAME)
def test_any_name_is_refused_or_stays_inside(box, session, name):
    state = box.device.state
    outside = {p for p in state.parent.rglob("*") if "session-" not in str(p)}
    try:
        put(session, name, name.encode())
    except errors.FileRefusedError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert get(session, name) == name.encode()
        assert name in names(session)
        remove(session, name)
    assert {p for p in state.parent.rglob("*") if "session-" not in str(p)} == outside


def test_links_and_pipes_that_a_kernel_planted_lead_nowhere(basic_session, kernels, basic_box):
    session = basic_session
    put(session, "own.bin", b"mine")
    module, x = session.load(kernels.native.digest), session.empty(16)
    session.call(module, "plant", x)
    for name in ("link", "folder/passwd", "folder", "pipe", "twice", "own.bin"):
        with pytest.raises(errors.FileRefusedError):
            get(session, name)
        with pytest.raises(errors.FileRefusedError):
            put(session, name, b"overwritten")
    assert b"overwritten" not in Path("/etc/passwd").read_bytes()
    assert names(session) == {}
    for name in ("link", "folder", "twice"):  # the links themselves
        remove(session, name)
    assert get(session, "own.bin") == b"mine"
    session.close()
    eventually(lambda: not list((basic_box.device.state / "scratch").iterdir()))


def test_a_kernel_that_makes_files_without_end_is_ended(session, kernels):
    module, x = session.load(kernels.native.digest), session.empty(16)
    with pytest.raises(errors.KernelCrashedError, match="filled the session's folder"):
        session.call(module, "many_files", x, timeout=60)
    with pytest.raises(errors.FileRefusedError, match="more than 10000 files"):
        put(session, "one_more", b"x")


def test_the_bound_holds_for_all_files_together(tmp_path):
    folder = SessionFolder(tmp_path, limit_bytes=3 << 20)
    folder.write("one", 0, bytes(1 << 20))
    folder.write("one", 1 << 20, bytes(1 << 20))
    with pytest.raises(errors.FileRefusedError, match="more than 3145728 bytes"):
        for offset in range(0, 2 << 20, 1 << 20):
            folder.write("two", offset, bytes(1 << 20))
    folder.remove("one")
    folder.write("three", 0, bytes(1 << 20))
    with pytest.raises(errors.FileRefusedError, match="in order"):
        folder.write("three", (1 << 20) + 1, b"x")
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_a_tree_of_any_depth_and_modes_is_deleted(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    fd = os.open(root, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, 0o000, dir_fd=fd))
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.fchmod(fd, 0o500)
        os.close(fd)
        fd = below
    os.close(fd)
    (tmp_path / "kept").write_text("outside")
    root.chmod(0o700)
    (root / "link").symlink_to(tmp_path / "kept")
    remove_tree(root)
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_two_threads_may_close_a_folder_at_once(tmp_path, monkeypatch):
    folder, close = SessionFolder(tmp_path), os.close

    def slowly(descriptor):
        close(descriptor)
        time.sleep(0.05)  # another thread runs meanwhile

    monkeypatch.setattr("tunefarm_device.files.os.close", slowly)
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(folder.close) for _ in range(2)]:
            done.result()
    assert not folder.path.exists()
