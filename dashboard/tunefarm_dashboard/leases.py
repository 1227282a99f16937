"""Leases and the requests that they answer, found by what is known of them."""

from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.board import Board
from tunefarm_dashboard.views.rows import moment_of

SLACK_S = 3600.0  # clocks of clients may be wrong by so much
LOOKED_AT = 200


async def request_of(board: Board, result: tpb.Result) -> str:
    """The request under whose lease a result was measured; "" where that is not known any more."""
    if not result.lease_id:
        return ""
    for lease in board.snapshot.leases:
        if lease.id == result.lease_id:
            return lease.request_id
    moment = moment_of(result, "recorded_at")
    if moment is None or not 0 < moment.timestamp() < 4e9:
        return ""
    at = moment.timestamp()
    past = await board.farm().past_leases(
        device_id=result.device_id, since=max(at - SLACK_S, 1.0), until=at + SLACK_S,
        limit=LOOKED_AT,
    )  # fmt: skip
    return next((one.lease.request_id for one in past if one.lease.id == result.lease_id), "")
