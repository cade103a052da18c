"""The picture of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..checkpoints.files import atomically


def draw(path: Path, history: Sequence[Mapping[str, Any]], metric: str, title: str) -> bool:
    """Draw loss and metric over the steps; without matplotlib nothing is drawn.

    Args:
        path: The picture.
        history: What was measured, as the Trainer notes it.
        metric: The metric to draw.
        title: What is above it.

    Returns:
        Whether there is a picture.
    """
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")  # draws to files; needs no screen
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 1, sharex=True, figsize=(7, 6), layout="constrained")
    figure.suptitle(title)
    for key, label in (("loss", "training"), ("eval_loss", "development")):
        _line(axes[0], history, key, label)
    axes[0].set_ylabel("loss")
    axes[0].legend(frameon=False)
    _line(axes[1], history, f"eval_{metric}", "development")
    axes[1].set_ylabel(metric)
    axes[1].set_xlabel("step")
    atomically(path, lambda temporary: figure.savefig(temporary, dpi=120, format="png"))
    pyplot.close(figure)
    return True


def _line(axes: Any, history: Sequence[Mapping[str, Any]], key: str, label: str) -> None:
    points = {point["step"]: point[key] for point in history if key in point}
    if points:
        axes.plot(list(points), list(points.values()), marker="o" if key.startswith("eval_") else "", label=label)
