"""Records: whole lines, once each, whatever ends a run; and the same rows in SQLite."""

import json
import sqlite3
from pathlib import Path

import pytest
from tunefarm_proto.errors import InvalidRequestError
from tunefarm_tuner.experience import entries_of, experience_of
from tunefarm_tuner.records import FULL, Record, RecordFile, append, read, trial_id

TASK = ("matmul:m=64,n=64,k=64,dtype=float32", "k", "x86_64-unknown-linux-gnu znver4")
SCHEDULE = '{"lanes":16,"loops":[["k",64],["i",4],["j",16]],"unroll":1}'


def record(schedule="s", *samples, **more):
    workload, key, target = TASK
    return Record(
        workload=workload,
        target=target,
        device="d",
        device_key=key,
        emulated=False,
        schedule=schedule,
        samples_s=list(samples),
        id=more.pop("id", trial_id(*TASK, schedule)),
        **more,
    )


def rows(path):
    table = sqlite3.connect(path.with_name(path.name + ".sqlite"))
    return table.execute("SELECT id, schedule, median_s, error FROM trials ORDER BY id").fetchall()


def test_lines_and_rows_say_the_same(tmp_path):
    path = tmp_path / "r.jsonl"
    good, bad = record("a", 3.0, 1.0, 2.0, number=4), record("b", error="KernelCrashedError")
    with RecordFile(path) as file:
        file.add([good])
        file.add([bad])
    assert list(read(path)) == [good, bad]
    assert rows(path) == sorted(
        [(good.id, "a", 2.0, ""), (bad.id, "b", None, "KernelCrashedError")]
    )


def test_a_line_that_a_kill_cut_off_is_mended_and_the_table_catches_up(tmp_path):
    path = tmp_path / "r.jsonl"
    append(path, record("a", 1.0))
    with path.open("a") as file:
        file.write(json.dumps({"workload": "x"})[:-3])
    assert len(list(read(path))) == 1
    (tmp_path / "r.jsonl.sqlite").unlink()
    append(path, record("b", 1.0))
    assert [one.schedule for one in read(path)] == ["a", "b"]
    assert len(rows(path)) == 2


def test_a_record_that_lacks_no_more_than_its_end_is_kept(tmp_path):
    path = tmp_path / "r.jsonl"
    append(path, record("a", 1.0))
    path.write_text(path.read_text().removesuffix("\n"))
    assert [one.schedule for one in read(path)] == ["a"]
    append(path, record("b", 1.0))
    assert [one.schedule for one in read(path)] == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        "my notes",
        "one line\nmy notes",
        '{"loops":[["i",4]],"lanes":16}',
        '{"loops":[["i",4',
        '{"error": "of somebody"}',
        '[]\n{"workload": "x',
        "\0\0\0",
        '{"workload":"x","target":"t","device":"d","device_key":"k","emulated":false,'
        '"schedule":"s","samples_s":"abc"}\n',
    ],
)
def test_a_file_of_something_else_stays_as_it_is(tmp_path, text):
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(InvalidRequestError, match=r"notes\.txt:\d is not a tuning record"):
        RecordFile(path)
    assert path.read_text() == text


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(InvalidRequestError, match=r"r\.jsonl:1"):
        list(read(path))


def test_what_is_no_plain_file_is_no_file_of_records():
    with pytest.raises(InvalidRequestError, match="/dev/null is no plain file"):
        RecordFile(Path("/dev/null"))


def test_a_table_that_takes_no_more_says_so_and_the_lines_are_kept(tmp_path):
    path = tmp_path / "r.jsonl"
    with RecordFile(path) as file:
        file._table._connection.execute("PRAGMA max_page_count = 3")
        with pytest.raises(OSError, match=r"full.*r\.jsonl\.sqlite"):
            for n in range(100):
                file.add([record(str(n), 1.0, message="x" * 4000)])
    held = list(read(path))
    RecordFile(path).close()
    assert len(rows(path)) == len(held) > 0


def test_every_beginning_of_a_record_is_mended(tmp_path):
    path = tmp_path / "r.jsonl"
    append(path, record("a", 1.0))
    line = path.read_text()
    for length in range(1, len(line) - 1):
        path.write_text(line + line[:length])
        RecordFile(path).close()
        assert path.read_text() == line


def test_two_runs_do_not_write_one_file(tmp_path):
    path = tmp_path / "r.jsonl"
    with RecordFile(path), pytest.raises(InvalidRequestError, match="another run"):
        RecordFile(path)
    RecordFile(path).close()


def test_what_is_no_record_is_said_by_line(tmp_path):
    path = tmp_path / "r.jsonl"
    append(path, record("a", 1.0))
    path.write_text(path.read_text() + "[]\n")
    with pytest.raises(InvalidRequestError, match=r"r\.jsonl:2"):
        RecordFile(path)
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with RecordFile(path) as file:  # the one that failed let go of it
        assert len(file.records) == 1


def test_records_of_the_first_version_are_read(tmp_path):
    path = tmp_path / "r.jsonl"
    old = {
        "workload": TASK[0], "target": TASK[2], "device": "d", "device_key": "k", "version": 1,
        "emulated": False, "schedule": "s", "samples_s": [2.0], "number": 3, "error": "",
        "message": "", "bundle_digest": "ab", "recorded_at": "2025-01-01T00:00:00+00:00",
    }  # fmt: skip
    path.write_text(json.dumps(old) + "\n")
    (one,) = read(path)
    assert one.median_s == 2.0 and one.trial == trial_id(*TASK, "s")


def test_experience_and_the_database_take_what_worked():
    features = ["avx512f"]
    screened = record(SCHEDULE, 1.0, features=features)
    final = record(SCHEDULE, 1.2, features=features, tier=FULL, id="x")
    bad = record("b", error="WrongAnswerError", features=features)
    custom = Record(**{**screened.__dict__, "workload": "mine"})
    emulated = Record(**{**screened.__dict__, "emulated": True})
    known = experience_of([screened, bad, custom])
    assert [one.cost_s for one in known] == [1.0, float("inf")]
    assert [one.seconds for one in entries_of([screened, final, bad, custom, emulated])] == [1.2]
    assert [one.seconds for one in entries_of([screened])] == [1.0]
    given = record(SCHEDULE, 1.0, features=features, threads=4)  # it takes one of the four
    assert [one.threads for one in entries_of([screened, given])] == [1, 4]
    newer = record('{"loops":[],"lanes":4,"mode":"new"}', 0.5, features=features)
    assert [one.seconds for one in entries_of([screened, newer])] == [1.0]
