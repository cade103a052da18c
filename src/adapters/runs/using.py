"""Trained adapters in use: measured on files, and asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import models
from .errors import RunError
from .folder import RunFolder
from .kinds import Kind
from .kinds.words import WordKind
from .measuring import measured_loss, outputs_of
from .rows import Row, Rows, read
from .splits import rows_of

Watch = Callable[[int], None]
"""Called with the number of rows that are done."""


@dataclass(frozen=True)
class Trained:
    """The model of a finished run.

    >>> Trained.load("output").predict(rows)

    Args:
        model: The model with what was trained, in evaluation mode.
        kind: The kind of its task.
    """

    model: Any
    kind: Kind

    @classmethod
    def load(cls, path: str | Path) -> Trained:
        """Load what a run has trained.

        Raises:
            RunError: there is no finished run.
        """
        folder = RunFolder(Path(path))
        config = folder.config()
        return cls(models.load(config, models.adapter_name(config), folder.path), models.load_kind(config))

    def rows(self, file: Path | None, split: str) -> Rows:
        """The rows of a file, or of a split of the run.

        Raises:
            RunError: there is neither.
        """
        return read(file) if file is not None else rows_of(self.kind.task, split)

    def rows_of_texts(self, texts: Sequence[str]) -> Rows:
        """One row of texts, one for each column; of one column, a row for each text.

        Raises:
            RunError: there are more columns, or fewer, than texts.
        """
        columns = self.kind.text_columns(Rows(Path("--text"), [], []))
        if len(columns) > 1 and len(texts) % len(columns):
            raise RunError(f"A row has {len(columns)} texts ({', '.join(columns)}); given were {len(texts)}.")
        values: list[Any] = [text.split() for text in texts] if isinstance(self.kind, WordKind) else list(texts)
        parts = [values[start : start + len(columns)] for start in range(0, len(values), len(columns))]
        rows: list[Row] = [dict(zip(columns, part, strict=True)) for part in parts]
        return Rows(Path("--text"), rows, range(1, len(rows) + 1))

    def evaluate(self, rows: Rows, batch_size: int = 64, watch: Watch = lambda rows: None) -> dict[str, float]:
        """How good the answers for labelled rows are.

        Raises:
            RunError: a row has no label, or one that was not learned.
        """
        given = self.kind.prepared(rows, is_labelled=True)
        outputs, loss = outputs_of(self.model, self.kind, given, batch_size, watch)
        measured = self.kind.measured(outputs, given) if self.kind.needs_outputs else {}
        found = {"rows": float(len(rows))} | ({} if loss is None else {"loss": loss, **measured_loss(self.kind, loss)})
        return {key: round(value, 4) for key, value in (found | measured).items()}

    def predict(self, rows: Rows, batch_size: int = 64, watch: Watch = lambda rows: None) -> list[Row]:
        """The answers for rows, in columns.

        Raises:
            RunError: a column is missing.
        """
        given = self.kind.prepared(rows, is_labelled=False)
        outputs, _ = outputs_of(self.model, self.kind, given, batch_size, watch)
        return [self.kind.shown(answer) for answer in self.kind.answers(outputs, given)]
