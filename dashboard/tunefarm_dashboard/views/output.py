"""What kernels printed under leases that have ended. They are not trusted: plain text, bounded."""

from collections.abc import Iterable
from dataclasses import dataclass

from tunefarm_proto.plain import plain_tail
from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.views.rows import iso, moment_of


@dataclass(frozen=True)
class OutputRow:
    """The last of what was printed under a lease: `text`, at most 4 KiB of printable lines."""

    lease: str
    device: str
    request_id: str
    holder: str
    ended_at: str
    text: str


def output_rows(past: Iterable[tpb.PastLease], most: int = 100) -> list[OutputRow]:
    """Of the leases under which something was printed that we may read, in their order."""
    found = [
        OutputRow(
            lease=one.lease.id,
            device=one.lease.device_id,
            request_id=one.lease.request_id,
            holder=one.lease.holder,
            ended_at=iso(moment_of(one, "ended_at")),
            text=plain_tail(one.output.encode()),
        )
        for one in past
        if one.output
    ]
    return found[:most]
