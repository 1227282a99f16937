"""What leases printed last, as their devices told: in memory, bounded; and who may read it."""

from collections import OrderedDict

from tunefarm_proto.identity import Identity, Role
from tunefarm_proto.plain import plain_tail
from tunefarm_proto.v1 import tracker_pb2 as tpb

MOST_LEASES = 10_000  # of 4 KiB at most
MOST_NAME = 200


class Outputs:
    """The output of the last leases that told one.

    A device tells that of its last lease again at each new stream, after a restart of the tracker
    too. It speaks for itself alone: what it says of another's lease is never looked up.
    """

    def __init__(self, most: int = MOST_LEASES) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def keep(self, device_id: str, told: tpb.RunnerOutput) -> None:
        """Take what a device tells of a lease. Whatever it sends is made plain text of 4 KiB."""
        text = plain_tail(told.text.encode())
        if not text or not 0 < len(told.lease_id) <= MOST_NAME:
            return
        self._kept[device_id, told.lease_id] = text.encode()
        self._kept.move_to_end((device_id, told.lease_id))
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def of(self, device_id: str, lease_id: str) -> str:
        """What is kept of a lease; "" for nothing."""
        return self._kept.get((device_id, lease_id), b"").decode()


def may_read(caller: Identity, holder: str) -> bool:
    """Whether a caller may read what was printed under a lease: its holder's, or an operator's."""
    return caller.role.includes(Role.OPERATOR) or (bool(holder) and caller.name == holder)
