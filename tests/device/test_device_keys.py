"""What `--key` says, where that is placed, and what one server of a host has to itself."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunefarm_device.building import Builder, Options
from tunefarm_device.claims import Claims
from tunefarm_device.keys import Key, Place, parse_key, place
from tunefarm_proto.errors import InvalidRequestError


def no_units(key: Key) -> list[str]:
    return []


def placed(*words: str, allowed: range = range(8)) -> list[tuple[str, str, frozenset[int]]]:
    places = place([parse_key(word) for word in words], allowed, no_units)
    return [(one.key.name, one.unit, one.cores) for one in places]


def test_a_key_with_everything() -> None:
    key = parse_key("x86:cores=0+2+4-6,backend=./mine.py,unit=1,label.lab=berlin,label.rack=7")
    assert key == Key(
        "x86", frozenset({0, 2, 4, 5, 6}), "./mine.py", "1", {"lab": "berlin", "rack": "7"}
    )
    assert parse_key("rasp3b") == Key("rasp3b")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is no device key"),
        ("a b", "'a b' is no device key"),
        ("x:cores=0\n", "'x' is no device key"),
        (":cores=0", "'' is no device key"),
        ("x:", "'' is no option of a key"),
        ("x:core=0", r"'core=0' is no option.*backend=NAME, cores=0-3\+8, gpu=0, unit=NAME"),
        ("x:cores", "'cores' is no option"),
        ("x:cores=", "'cores=' is no option"),
        ("x:label.=v", "no option"),
        ("x:cores=0,1", "'1' is no option"),
        ("x:cores=a", r"'a' is no processor.*cores=0-3 or cores=0\+2\+4-7"),
        ("x:cores=3-1", "3-1 is an empty range"),
        ("x:cores=0,cores=1", "cores is given twice"),
    ],
)
def test_what_is_no_key_is_a_line(text: str, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words) as caught:
        parse_key(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_key_or_a_line(text: str) -> None:
    try:
        parse_key(text)
    except InvalidRequestError as error:
        assert "\n" not in str(error)


def test_a_key_without_cores_has_what_the_others_leave() -> None:
    assert placed("a:cores=0-3", "b", "c", "d:cores=6") == [
        ("a", "", {0, 1, 2, 3}),
        ("b", "", {4, 5, 7}),
        ("c", "", {4, 5, 7}),
        ("d", "", {6}),
    ]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (["0"], "its backend has no unit '5' (its units are 0)"),
        (["0", "1"], "its backend has no unit '5' (its units are 0, 1)"),
        ([], "its backend has no unit '5' (it has no units: leave unit= out)"),
    ],
)
def test_a_unit_that_is_not_there_is_told_with_those_that_are(there, said) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        place([parse_key("a:unit=5")], range(8), lambda key: there)
    assert str(caught.value) == f"--key a: {said}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a:cores=0-2", "b:cores=2-3"), "a and b are both given processor 2 "),
        (("a:cores=7-9",), r"cannot run on processor 8-9 \(it may run on 0-7\)"),
        (("a:cores=0-7", "b"), "no processor is left for b"),
        (("a:unit=0",), "has no unit '0' .*leave unit= out"),
    ],
)
def test_what_cannot_be_placed_is_a_line(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said) as caught:
        placed(*words)
    assert "\n" not in str(caught.value)


def test_a_gpu_is_a_unit_of_cuda_unless_another_backend_is_named() -> None:
    key = parse_key("rtx:gpu=1")
    assert (key.unit, key.backend_of("native"), key.backend_of("nullgpu")) == (
        "1",
        "cuda",
        "nullgpu",
    )
    assert parse_key("rtx:gpu=1,backend=./mine.py").backend_of("native") == "./mine.py"
    assert parse_key("rtx:unit=1").backend_of("native") == "native"


def test_a_device_for_each_unit_or_for_the_one_named() -> None:
    def units(key: Key) -> list[str]:
        return ["0", "1"] if key.name == "gpu" else []

    def names(*words: str) -> list[str]:
        return [str(one) for one in place([parse_key(w) for w in words], {0, 1, 2}, units)]

    assert names("gpu", "cpu") == ["gpu unit 0", "gpu unit 1", "cpu"]
    assert names("gpu:unit=1") == ["gpu unit 1"]
    assert names("gpu:unit=1", "gpu:unit=0") == ["gpu unit 1", "gpu unit 0"]
    with pytest.raises(InvalidRequestError, match=r"no unit '2' \(its units are 0, 1\)"):
        names("gpu:unit=2")
    with pytest.raises(InvalidRequestError, match="offered twice"):
        names("gpu", "gpu:unit=0")


cores = st.none() | st.frozensets(st.integers(0, 9), min_size=1, max_size=4)


@given(st.lists(cores, min_size=1, max_size=4))
def test_given_cores_are_never_shared(wanted: list[frozenset[int] | None]) -> None:
    keys = [Key(f"k{number}", some) for number, some in enumerate(wanted)]
    given_ = [some for some in wanted if some is not None]
    fits = frozenset().union(*given_) <= set(range(8))
    apart = sum(map(len, given_)) == len(frozenset().union(*given_))
    left = frozenset(range(8)).difference(*given_)
    try:
        places = place(keys, range(8), no_units)
    except InvalidRequestError:
        assert not fits or not apart or (None in wanted and not left)
        return
    assert fits and apart
    assert [one.cores for one in places] == [left if some is None else some for some in wanted]


def test_a_unit_in_words() -> None:
    assert str(Place(Key("gpu"), "3", frozenset({0}))) == "gpu unit 3"


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setenv("TUNEFARM_CLAIMS", "test-keys-")
    first, second = Claims(), Claims()
    yield first, second
    first.close()
    second.close()


def test_two_servers_never_time_on_one_processor(two) -> None:
    first, second = two
    assert first.timing_cpu({0, 1}) == 1
    assert second.timing_cpu({0, 1}) == 0
    assert second.timing_cpu({1}) is None
    first.close()
    assert second.timing_cpu({1}) == 1


@pytest.mark.parametrize(
    ("cpus", "words", "expected"),
    [
        ({0, 1, 2, 3}, ["a"], [3]),
        ({0, 1, 2, 3}, ["a", "b"], [3, 2]),
        ({0, 1, 2, 3}, ["a", "b", "c", "d"], [3, 2, 1, 3]),  # 0 is left for loads
        ({0, 1}, ["a", "b"], [1, 1]),
        ({0}, ["a"], [None]),
        ({0, 1, 2, 3}, ["a:cores=0-1", "b:cores=2", "c"], [1, 2, 3]),
        ({0}, ["a:cores=0"], [0]),
    ],
)
def test_each_device_times_on_a_processor_of_its_own(
    tmp_path, monkeypatch, two, cpus, words, expected
) -> None:
    kept: list[set[int]] = []
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: cpus)
    monkeypatch.setattr("os.sched_setaffinity", lambda pid, mask: kept.append(set(mask)))
    builder = Builder(Options(state_dir=tmp_path, claim_cpu=True))
    try:
        builder.build(words)
        assert [device.bench.timing_cpu for device in builder.devices] == expected
        assert not kept or not kept[-1] & set(expected)
        if len(cpus) > len(set(expected)):
            assert kept
        again = Builder(Options(state_dir=tmp_path / "again", claim_cpu=True))
        with contextlib.suppress(InvalidRequestError):
            again.build(words)
        theirs = {device.bench.timing_cpu for device in again.devices} - {None}
        assert not theirs & set(expected)
        again.close()
    finally:
        builder.close()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a", "a"], ["a", "a"]),
        (["a:cores=1", "b"], ["b"]),
        (["a:cores=2", "a:cores=3"], []),
        (["c"], []),
    ],
)
def test_another_server_of_the_same_whole_machine_is_told(
    tmp_path, monkeypatch, caplog, two, words, told
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr("os.sched_setaffinity", lambda pid, mask: None)
    first = Builder(Options(state_dir=tmp_path / "first"))
    second = Builder(Options(state_dir=tmp_path / "second"))
    try:
        first.build(["a", "a", "b"])  # several of one server are meant
        assert not caplog.messages
        second.build(words)
        assert [text.split(" offers ")[1].split()[0] for text in caplog.messages] == told
    finally:
        first.close()
        second.close()


def test_a_unit_of_a_file_with_a_long_path(two) -> None:
    first, second = two
    name = f"unit-{'x' * 300}-"
    assert first.take(name + "0")
    assert second.take(name + "1")
    assert not second.take(name + "0")


def test_a_set_of_processors_is_one_server_s(two) -> None:
    first, second = two
    first.cores({2, 3})
    with pytest.raises(InvalidRequestError, match=r"another device server .* has processor 3"):
        second.cores({3, 4})
    assert first.timing_cpu({2, 3}) == 3
    assert second.timing_cpu({1, 2, 3}) == 1  # 2 is free to time on, and the first one's
    second.close()
    first.cores({4})
