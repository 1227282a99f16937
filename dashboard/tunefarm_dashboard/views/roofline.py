"""Rooflines (Williams, Waterman, Patterson, 2009): what measured roofs let a kernel reach.

The memory's roof is the anchor "memory" of the device, a copy by one core that fits into no cache.
That of the arithmetic is the workload "peak" (`tunefarm bench peak`), float32 multiply-adds of one
core; where nobody has measured it, the highest rate of any result of the device, which is a lower
bound. A kernel's intensity takes each argument once, the least that it can move.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunefarm_proto.v1 import tracker_pb2 as tpb

from tunefarm_dashboard.views.rows import result_row

PEAK = "peak"
MEMORY = "anchor memory"
DRAWN = 4  # devices in the picture
GRID = [2.0 ** (n / 2) for n in range(-8, 25)]


@dataclass(frozen=True)
class Roofs:
    """What a device reaches. None: not measured. `is_peak`: not just the best of some kernel."""

    memory_gbs: float | None
    compute_gflops: float | None
    is_peak: bool


@dataclass(frozen=True)
class RoofRow:
    """A result under its device's roofs. `intensity` in operations a byte; None: not known.

    `compute_from`: "peak", or "best kernel", a lower bound. `share` is of the lower roof, 0 to 1;
    above 1 where the data stay in caches that are faster than the memory, or where a kernel takes
    fewer operations than its workload counts (Winograd's filtering).
    """

    id: str
    workload: str
    device: str
    emulated: bool
    gflops: float
    intensity: float | None
    memory_gbs: float | None
    compute_gflops: float | None
    compute_from: str
    roof_gflops: float | None
    bound_by: str
    share: float | None


def roofs(
    memory: Sequence[tpb.Result], peak: Sequence[tpb.Result], others: Sequence[tpb.Result]
) -> Roofs:
    """A device's roofs by its readings of the anchor, of the peak, and its other results."""
    rates = [_bandwidth(one) for one in memory]
    best = max((rate for rate in rates if rate is not None), default=None)
    for found, is_peak in ((peak, True), (others, False)):
        rows = [result_row(one, frozenset()) for one in found]
        known = [row.gflops for row in rows if row.gflops and row.correct is not False]
        if known:
            return Roofs(best, max(known), is_peak)
    return Roofs(best, None, False)


def _bandwidth(reading: tpb.Result) -> float | None:
    median = result_row(reading, frozenset()).median_s
    moved = reading.argument_bytes
    return moved / median / 1e9 if median and moved else None


def roof_rows(
    results: Sequence[tpb.Result], of_device: dict[str, Roofs], emulated: frozenset[str]
) -> list[RoofRow]:
    """The results that have a rate, each under the roofs of its device."""
    rows = []
    for one in results:
        row = result_row(one, emulated)
        if row.gflops is None:
            continue
        known = of_device.get(row.device, Roofs(None, None, False))
        intensity = one.operations / one.argument_bytes if one.argument_bytes else None
        slope = intensity * known.memory_gbs if intensity and known.memory_gbs else None
        lower = [roof for roof in (slope, known.compute_gflops) if roof is not None]
        both = slope is not None and known.compute_gflops is not None
        roof = min(lower) if both else None
        rows.append(
            RoofRow(
                id=row.id,
                workload=row.workload,
                device=row.device,
                emulated=row.emulated,
                gflops=row.gflops,
                intensity=intensity,
                memory_gbs=known.memory_gbs,
                compute_gflops=known.compute_gflops,
                compute_from="" if known.compute_gflops is None
                else PEAK if known.is_peak else "best kernel",
                roof_gflops=roof,
                bound_by="" if roof is None else "memory" if roof == slope else "arithmetic",
                share=row.gflops / roof if roof else None,
            )
        )  # fmt: skip
    return rows


def roof_plot(rows: Sequence[RoofRow]) -> dict[str, Any]:
    """The roofs of the first devices and the kernels under them, for charts.js; both axes log."""
    drawable = [row for row in rows if row.intensity and row.memory_gbs and row.compute_gflops]
    devices = list(dict.fromkeys(row.device for row in drawable))[:DRAWN]
    drawable = [row for row in drawable if row.device in devices]
    x = sorted({*GRID, *(row.intensity for row in drawable if row.intensity)})
    series: list[dict[str, Any]] = []
    for colour, device in enumerate(devices):
        own = [row for row in drawable if row.device == device]
        slope, top = own[0].memory_gbs or 0.0, own[0].compute_gflops or 0.0
        at = {row.intensity: row.gflops for row in own}
        common = {"unit": "GFLOPS", "digits": 2, "colour": colour}
        roof = [min(top, one * slope) for one in x]
        series.append({"label": f"{device} roof", "points": False, "values": roof, **common})
        kernels = [at.get(one) for one in x]
        series.append({"label": f"{device} kernel", "points": True, "values": kernels, **common})
    return {"x": x if series else [], "series": series, "time": False, "log": True, "height": 300,
            "xlabel": "operations a byte"}  # fmt: skip
