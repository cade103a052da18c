"""What a training shows while it runs: a bar and a table on a terminal, a line for each evaluation elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer

_HIDDEN = ("epoch", "step", "steps", "grad_norm", "learning_rate", "total_flos")


@contextmanager
def followed(quiet: bool) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Within it, what a training measures is shown."""
    if quiet:
        yield lambda point: None
    elif sys.stderr.isatty():
        yield from _on_terminal()
    else:
        yield _in_lines


def _in_lines(point: Mapping[str, Any]) -> None:
    shown = _evaluated(point)
    if shown:
        values = "  ".join(f"{name} {value}" for name, value in shown.items())
        typer.echo(f"step {point['step']}/{point['steps']}  {values}", err=True)


def _on_terminal() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    steps = bar.add_task("training", total=None, loss="")
    table = Table("step", box=None)
    with Live(Group(table, bar), console=Console(stderr=True), refresh_per_second=4) as live:

        def watch(point: Mapping[str, Any]) -> None:
            nonlocal table
            bar.update(steps, completed=point["step"], total=point["steps"])
            if "loss" in point:
                bar.update(steps, loss=f"loss {float(point['loss']):.3f}")
            shown = _evaluated(point)
            if shown:
                if len(table.columns) == 1:
                    table = Table("step", *shown, box=None)
                    live.update(Group(table, bar))
                table.add_row(str(point["step"]), *shown.values())

        yield watch


def _evaluated(point: Mapping[str, Any]) -> dict[str, str]:
    """What an evaluation measured, as texts."""
    found = {key.removeprefix("eval_"): value for key, value in point.items() if key.startswith("eval_")}
    kept = {key: value for key, value in found.items() if isinstance(value, float) and "per_second" not in key}
    return {key: f"{value:.4g}" for key, value in kept.items() if key not in ("runtime", *_HIDDEN)}
