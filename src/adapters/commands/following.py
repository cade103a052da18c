"""What a training shows while it runs: a bar and a table on a terminal, a line for each evaluation elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

_HIDDEN = ("epoch", "step", "steps", "runtime")


@contextmanager
def followed(quiet: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Within it, what a training measures is shown."""
    if quiet:
        yield lambda point: None
    elif sys.stderr.isatty():
        yield from _on_terminal()
    else:
        yield _Rows(_line).watch


class _Rows:
    """Makes a row of each evaluation: where the training is, its own loss since the last one, what was measured."""

    def __init__(self, show: Callable[[Mapping[str, Any], dict[str, str]], None]) -> None:
        self._show = show
        self._losses: list[float] = []

    def watch(self, point: Mapping[str, Any]) -> None:
        """Take what was measured."""
        if "loss" in point:
            self._losses.append(float(point["loss"]))
        shown = _evaluated(point)
        if shown:
            own = {"train loss": f"{sum(self._losses) / len(self._losses):.4g}"} if self._losses else {}
            self._losses = []
            self._show(point, {"epoch": f"{point.get('epoch', 0):.3g}", **own, **shown})


def _line(point: Mapping[str, Any], row: dict[str, str]) -> None:
    values = "  ".join(f"{name} {value}" for name, value in row.items())
    typer.echo(f"step {point['step']}/{point['steps']}  {values}", err=True)


def _on_terminal() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    training = bar.add_task("loading", total=None, loss="")
    evaluating = bar.add_task("evaluating", total=None, loss="", visible=False)
    table: Table | None = None

    with Live(bar, console=Console(stderr=True), refresh_per_second=4) as live:

        def show(point: Mapping[str, Any], row: dict[str, str]) -> None:
            nonlocal table
            if table is None:
                table = Table("step", *row, box=None, pad_edge=False)
                live.update(Group(table, bar))
            table.add_row(str(point["step"]), *row.values())

        rows = _Rows(show)

        def watch(point: Mapping[str, Any]) -> None:
            bar.update(training, description="training", completed=point["step"], total=point["steps"])
            if "loss" in point:
                bar.update(training, loss=f"loss {float(point['loss']):.3f}")
            is_within = point.get("batch", 0) < point.get("batches", 0)
            bar.update(evaluating, completed=point.get("batch", 0), total=point.get("batches"), visible=is_within)
            rows.watch(point)

        yield watch


def _evaluated(point: Mapping[str, Any]) -> dict[str, str]:
    """What an evaluation measured, as texts."""
    found = {key.removeprefix("eval_"): value for key, value in point.items() if key.startswith("eval_")}
    kept = {key: value for key, value in found.items() if isinstance(value, float) and "per_second" not in key}
    return {key: f"{value:.4g}" for key, value in kept.items() if key not in _HIDDEN}
