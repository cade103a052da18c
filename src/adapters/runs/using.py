"""Trained adapters in use: measured on files, and asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from ..checkpoints.files import ADAPTER_CONFIG, read_json
from ..hub.pulling import resolve_adapter_path
from . import models
from .config import KindName, task_noted
from .errors import RunError
from .folder import MODEL, RunFolder
from .kinds import KINDS, Kind
from .kinds.words import WordKind
from .measuring import measured_loss, outputs_of
from .rows import Row, Rows
from .splits import kind_of, rows_in, rows_of

Watch = Callable[[int], None]
"""Called with the number of rows that are done."""


@dataclass(frozen=True)
class Trained:
    """The model of a finished run.

    >>> Trained.load("output").predict(rows)

    Args:
        model: The model with what was trained, in evaluation mode.
        kind: The kind of its task.
        is_half: Whether products are computed in bfloat16, as they were in its training.
    """

    model: Any
    kind: Kind
    is_half: bool = False

    @classmethod
    def load(cls, path: str | Path, model: str | None = None) -> Trained:
        """Load what a run has trained.

        Args:
            path: The output of the run.
            model: The model, if it is not any more where it was.

        Raises:
            RunError: there is no finished run.
        """
        folder = RunFolder(Path(path))
        config = folder.config()
        if not folder.is_finished:
            raise RunError(f"{path} holds a run that is not finished: adapters train --resume --output {path}")
        if model is not None and config.adapter.train_model:
            raise RunError(f"{path} holds a whole model that was trained: no other can be used with it.")
        place = str(folder.path / MODEL) if config.adapter.train_model else models.place_of(model or config.model)
        config = config.model_copy(update={"model": place})
        loaded, kind = models.load(config, models.adapter_name(config), folder.path), models.load_kind(config)
        return cls(loaded, kind, config.training.precision == "bf16")

    @classmethod
    def of_adapter(
        cls,
        adapter: str,
        model: str,
        columns: Sequence[str] | None = None,
        hub: str | None = None,
        max_length: int | None = None,
    ) -> Trained:
        """Load an adapter with its head, of which there is no run: pulled from a hub, or trained elsewhere.

        Args:
            adapter: Its folder, or its name on a hub.
            model: The model that it is for.
            columns: The columns that are read; by default those it was trained with, or those of the kind of its task.
            hub: The hub.
            max_length: Tokens at which texts are cut off; by default as in its training, or as usual for the kind.

        Raises:
            RunError: neither it nor the model has a head whose answers can be read.
        """
        place = models.place_of(model)
        loaded = models.load_model(place)
        folder = resolve_adapter_path(adapter, loaded.model_name, hub=hub)
        name = loaded.load_adapter(folder, set_active=True)
        own = (KINDS[kind].own_head(loaded) for kind in ("causal_lm", "seq2seq_lm", "masked_lm"))
        head_name = name if name in loaded.heads else next(filter(None, own), None)
        if head_name is None:
            raise RunError(f"{adapter} has no head, so that it does not answer anything.")
        loaded.active_head = head_name
        head = loaded.heads[head_name].config
        count = int(head.get("num_labels") or 0)
        kind = _kind_of_head(head["head_type"], count)
        labels = loaded.get_labels(head_name) or [str(number) for number in range(count)]
        file = Path(folder) / ADAPTER_CONFIG
        given = {"text": columns and list(columns), "max_length": max_length}
        task = task_noted(read_json(file).get(models.TASK), kind, given, file)
        read_by = kind_of(task)
        return cls(models.in_use(loaded), read_by(task, models.load_processor(place, read_by), labels))

    def rows(self, file: Path | None, split: str) -> Rows:
        """The rows of a file, or of a split of the run.

        Raises:
            RunError: there is neither.
        """
        if file is None and not self.kind.task.name and not any((self.kind.task.data_dir, self.kind.task.train)):
            raise RunError("An adapter has no files of its own: give --file.")
        return rows_in(file, self.kind.task) if file is not None else rows_of(self.kind.task, split)

    def rows_of_texts(self, texts: Sequence[str]) -> Rows:
        """One row of texts, one for each column; of one column, a row for each text.

        Raises:
            RunError: there are more columns, or fewer, than texts.
        """
        columns = self.kind.text_columns
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
        given = self.kind.fixed(self.kind.prepared(rows, is_labelled=True))
        outputs, loss = outputs_of(self.model, self.kind, given, batch_size, watch, self.is_half)
        measured = self.kind.measured(outputs, given)
        found: dict[str, float] = {"rows": len(rows)} | (
            {} if loss is None else {"loss": loss, **measured_loss(self.kind, loss)}
        )
        return {key: round(value, 4) for key, value in (found | measured).items()}

    def predict(self, rows: Rows, batch_size: int = 64, watch: Watch = lambda rows: None) -> list[Row]:
        """The answers for rows, in columns.

        Raises:
            RunError: a column is missing.
        """
        given = self.kind.prepared(rows, is_labelled=False)
        outputs, _ = outputs_of(self.model, self.kind, given, batch_size, watch, self.is_half)
        return [self.kind.shown(answer) for answer in self.kind.answers(outputs, given)]


def _kind_of_head(head_type: str, labels: int) -> KindName:
    """The kind of task that a head is for.

    Raises:
        RunError: there is none.
    """
    if head_type == "classification" and labels == 1:
        return "regression"
    for name in get_args(KindName):
        if KINDS[name].head_type == head_type:
            return cast(KindName, name)
    raise RunError(f"The answers of a head of type {head_type!r} cannot be read here; load it with Python.")
