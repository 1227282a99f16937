"""The best so far against the trials, as a picture: PNG, SVG, or what else matplotlib writes."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunefarm_proto import extras
from tunefarm_proto.errors import InvalidRequestError, MissingPackageError

if TYPE_CHECKING:
    from tunefarm_tuner.result import TaskResult

FORMATS = (".png", ".svg", ".pdf")
MOST_NAMED = 10  # tasks; more have no room in a legend


def check_path(path: str | PathLike[str]) -> Path:
    """A picture's path. Raises: InvalidRequestError where it cannot be one."""
    found = Path(path)
    if found.suffix.lower() not in FORMATS:
        raise InvalidRequestError(
            f"{found} is no picture", f"name a file that ends in {', '.join(FORMATS)}"
        )
    _library()
    return found


def plot_best(tasks: Sequence["TaskResult"], path: str | PathLike[str]) -> None:
    """Write the picture: GFLOPS of one task; of several, shares of the best that each found."""
    name = check_path(path)
    figure = _library()(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    shown = [task for task in tasks if task.points]
    alone = len(shown) == 1 and shown[0].operations > 0
    for task in shown:
        steps, seconds = [one[0] for one in task.points], [one[1] for one in task.points]
        steps.append(max(task.trials, steps[-1]))
        seconds.append(seconds[-1])
        scale = task.operations / 1e9 if alone else seconds[-1] * 100
        label = f"{task.workload} on {task.device_key}"
        axes.step(steps, [scale / one for one in seconds], where="post", label=label)
    axes.set_xlabel("trials")
    axes.set_ylabel("best so far, GFLOPS" if alone else "best so far, % of the best speed found")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if 0 < len(shown) <= MOST_NAMED:
        axes.legend(fontsize="small", loc="lower right")
    name.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(name, dpi=150)


def _library() -> Any:
    """A figure that belongs to no window. Raises: MissingPackageError."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingPackageError("pictures need matplotlib", extras.install("plot")) from None
    return Figure
