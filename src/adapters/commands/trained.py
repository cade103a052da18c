"""What `adapters evaluate` and `predict` use: a run or an adapter, rows of a file or of the standard input."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .output import without_loading

if TYPE_CHECKING:
    from ..runs.rows import Rows
    from ..runs.using import Trained


def trained_in(run: str, model: str | None, columns: str | None, hub: str | None, quiet: bool) -> Trained:
    """Load the output of a run, or an adapter.

    Args:
        run: The output of a run, or the folder or name of an adapter.
        model: The model of the adapter; or of the run, if that has moved.
        columns: The columns that are read, for an adapter.
        hub: The hub of the adapter.
        quiet: Whether bars are left out.

    Raises:
        RunError: there is neither.
    """
    from ..runs import RunError

    is_run = (Path(run) / "run.yaml").is_file()
    if not is_run and model is None:
        there = "" if Path(run).exists() else ", nor is there such a folder"
        raise RunError(f"{run} holds no run (no run.yaml){there}. To use an adapter, say --model too.")
    if is_run and (columns is not None or hub is not None):
        raise RunError(f"{run} holds a run, which knows its columns: --columns and --hub are for adapters.")
    from ..runs.using import Trained

    without_loading(quiet)
    if is_run or model is None:
        return Trained.load(run, model)
    names = None if columns is None else [column.strip() for column in columns.split(",")]
    return Trained.of_adapter(run, model, names, hub)


def rows_in(trained: Trained, file: Path | None, split: str) -> Rows:
    """The rows of a file, of the standard input (`-`), or of a split of the run.

    The standard input holds JSON lines, or a text in each line.
    """
    if file != Path("-"):
        return trained.rows(file, split)
    from ..runs.rows import parsed

    text = sys.stdin.read()
    if text.lstrip().startswith("{") or not text.strip():
        return parsed(io.StringIO(text), Path("<stdin>.jsonl"))
    return trained.rows_of_texts([line for line in text.splitlines() if line.strip()])
