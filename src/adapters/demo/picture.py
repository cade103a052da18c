"""The picture of the training curve."""

from pathlib import Path

from .report import Result
from .training import Progress

_SMOOTHING = 0.9


def draw_curve(path: Path, curve: list[Progress], baselines: list[Result]) -> None:
    """Write a picture of the loss and of the test accuracy over the steps, with the accuracy of every baseline."""
    import matplotlib

    matplotlib.use("Agg")  # draws to files; needs no screen
    from matplotlib import pyplot

    figure, (loss_axes, accuracy_axes) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 7), layout="constrained")
    figure.suptitle("An adapter learns which part of the library a docstring comes from")

    steps = [point.step for point in curve]
    losses = [point.loss for point in curve]
    loss_axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8, label="one batch")
    loss_axes.plot(steps, _smoothed(losses), color="tab:blue", label="moving average")
    loss_axes.set_ylabel("training loss (cross-entropy)")
    loss_axes.legend(frameon=False)

    measured = [(point.step, point.test_accuracy) for point in curve if point.test_accuracy is not None]
    accuracy_axes.plot(*zip(*measured, strict=True), color="tab:blue", marker="o", label="adapter")
    for baseline, style in zip(baselines, ("-", "--", ":"), strict=False):
        accuracy_axes.axhline(baseline.accuracy, color="gray", linestyle=style, label=baseline.name)
    accuracy_axes.set_ylim(0, 1)
    accuracy_axes.set_xlabel("training step")
    accuracy_axes.set_ylabel("test accuracy")
    accuracy_axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4)  # above the lines

    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _smoothed(values: list[float]) -> list[float]:
    smooth = values[:1]
    for value in values[1:]:
        smooth.append(_SMOOTHING * smooth[-1] + (1 - _SMOOTHING) * value)
    return smooth
