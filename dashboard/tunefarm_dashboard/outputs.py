"""Runner output, asked for with the visitor's own token: the tracker says who may read it.

It is part of no live section: those are made without anybody's token, and shared.
"""

from tunefarm_dashboard.board import Board
from tunefarm_dashboard.views.output import OutputRow, output_rows
from tunefarm_dashboard.who import Viewer

LEASES = 100  # looked through


async def outputs_of(
    board: Board, viewer: Viewer, *, device_id: str = "", request_id: str = "", most: int = LEASES
) -> list[OutputRow]:
    """What the leases of a device or a request printed, last ended first. Raises: TunefarmError."""
    if board.mirror.farm is None or viewer.farm is None:
        return []
    past = await viewer.farm.past_leases(device_id=device_id, request_id=request_id, limit=LEASES)
    return output_rows(past, most)
