"""What `adapters evaluate` and `predict` use: a run or an adapter, rows of a file or of the standard input."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .output import without_loading

if TYPE_CHECKING:
    from ..runs.rows import Rows
    from ..runs.using import Trained


@dataclass(frozen=True)
class Loading:
    """How a run or an adapter is loaded.

    Args:
        model: The model of the adapter; or of the run, if that has moved.
        columns: The columns that are read, for an adapter.
        hub: The hub of the adapter.
        max_length: Tokens at which texts are cut off, for an adapter.
    """

    model: str | None
    columns: str | None
    hub: str | None
    max_length: int | None


def trained_in(run: str, how: Loading, quiet: bool) -> Trained:
    """Load the output of a run, or an adapter.

    Args:
        run: The output of a run, or the folder or name of an adapter.
        how: What was said besides.
        quiet: Whether bars are left out.

    Raises:
        RunError: there is neither.
    """
    from ..runs import RunError

    is_run = (Path(run) / "run.yaml").is_file()
    if not is_run and how.model is None:
        there = "" if Path(run).exists() else ", nor is there such a folder"
        raise RunError(f"{run} holds no run (no run.yaml){there}. To use an adapter, say --model too.")
    if is_run and (how.columns, how.hub, how.max_length) != (None, None, None):
        raise RunError(f"{run} holds a run, which knows it all: --columns, --max-length and --hub are for adapters.")
    from ..runs.using import Trained

    without_loading(quiet)
    if is_run or how.model is None:
        return Trained.load(run, how.model)
    names = None if how.columns is None else [column.strip() for column in how.columns.split(",")]
    return Trained.of_adapter(run, how.model, names, how.hub, how.max_length)


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
