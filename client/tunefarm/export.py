"""Results as flat records: JSON lines and Parquet, with raw samples and conditions."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from tunefarm_proto import extras
from tunefarm_proto.errors import MissingPackageError
from tunefarm_proto.v1 import common_pb2 as pb
from tunefarm_proto.v1 import tracker_pb2 as tpb

BATCH = 1000


def as_record(result: tpb.Result) -> dict[str, Any]:
    """One result: times in seconds, `recorded_at` in ISO 8601, absent values as None."""
    timing = result.timing
    return {
        "id": result.id,
        "workload": result.workload,
        "device_id": result.device_id,
        "device_key": result.device_key,
        "triple": result.target.triple,
        "cpu": result.target.cpu,
        "lease_id": result.lease_id,
        "user": result.user,
        "recorded_at": result.recorded_at.ToJsonString(),
        "bundle_digest": result.bundle_digest,
        "schedule": result.schedule,
        "operations": result.operations,
        "correct": result.correct if result.HasField("correct") else None,
        "samples_s": list(timing.samples_s),
        "number": timing.number,
        "first_call_s": timing.first_call_s,
        "warmup_calls": timing.warmup_calls,
        "cache": timing.cache,
        "emulated": timing.emulated,
        "before": _conditions(timing.before) if timing.HasField("before") else None,
        "after": _conditions(timing.after) if timing.HasField("after") else None,
        "error": pb.ErrorCode.Name(result.error.code) if result.HasField("error") else None,
        "error_message": result.error.message if result.HasField("error") else None,
    }


def _conditions(conditions: pb.Conditions) -> dict[str, Any]:
    return MessageToDict(conditions, preserving_proto_field_name=True)


def write_jsonl(results: Iterable[tpb.Result], path: Path) -> int:
    """A JSON object a line. Returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for result in results:
            file.write(json.dumps(as_record(result)) + "\n")
            count += 1
    return count


def write_parquet(results: Iterable[tpb.Result], path: Path) -> int:
    """A Parquet file; conditions are JSON texts. Needs pyarrow. Returns how many.

    Raises: MissingPackageError where pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        hint = f"install it by `{extras.install('parquet')}`"
        raise MissingPackageError("Parquet needs pyarrow", hint) from None
    text, number, whole, truth = (
        pyarrow.string(), pyarrow.float64(), pyarrow.uint64(), pyarrow.bool_(),
    )  # fmt: skip
    kinds = {
        "operations": whole, "number": whole, "warmup_calls": whole, "first_call_s": number,
        "correct": truth, "emulated": truth, "samples_s": pyarrow.list_(number),
        "recorded_at": pyarrow.timestamp("us", tz="UTC"),
    }  # fmt: skip
    names = list(as_record(tpb.Result()))
    schema = pyarrow.schema([(name, kinds.get(name, text)) for name in names])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for batch in _batches(results):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
            count += len(batch)
    return count


def _batches(results: Iterable[tpb.Result]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for result in results:
        record = as_record(result)
        record["recorded_at"] = result.recorded_at.ToMicroseconds()
        for name in ("before", "after"):
            record[name] = json.dumps(record[name]) if record[name] is not None else None
        batch.append(record)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
