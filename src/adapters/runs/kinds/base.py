"""What a kind of task is: which columns it reads, what a model is given, how good answers are, and what they say.

Shapes: N rows, B rows of a batch, T tokens, C labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import TaskSection
from ..errors import RunError
from ..rows import Row, Rows

IGNORED = -100

# What models call what answers are read from.
_OUTPUTS = ("logits", "start_logits", "end_logits", "rel_preds", "arc_preds")

Feature = dict[str, Any]
"""What a model is given of one row, or of a part of one: lists of numbers."""


@dataclass(frozen=True)
class Prepared:
    """Rows, and what a model is given of them.

    Args:
        rows: The rows.
        features: What a model is given, in their order; there may be several for a row.
        notes: What answers are read with, one for each feature.
    """

    rows: Rows
    features: Sequence[Feature]
    notes: Sequence[Any] = ()


@dataclass(frozen=True)
class Outputs:
    """What a model gives for a batch.

    Args:
        values: What answers are read from. Shape of each: (B, ...).
        loss: The mean loss, if there are labels.
    """

    values: tuple[Tensor, ...]
    loss: float | None


class Kind(ABC):
    """A kind of task.

    Args:
        task: The task, with its columns.
        processor: The tokenizer of the model, or what makes pixels of images.
        labels: The labels in the order of their numbers; none for kinds without.

    Raises:
        RunError: the task names more columns, or fewer, than the kind reads.
    """

    head_type: str
    """The type of the heads that it needs."""

    columns: tuple[str, ...] = ("text",)
    """The columns that are read if the task names none."""

    counts = range(1, 2)
    """How many columns are read."""

    label_column = "label"
    """The column that is learned if the task names none."""

    metrics: tuple[str, ...] = ("accuracy",)
    """What is measured; the first is what states are chosen by."""

    label_names: tuple[str, ...] = ("labels",)
    """The arguments of the model that hold labels."""

    keeps_head = False
    """Whether a head of this type that a model came with does the task, as those of language models do."""

    reads = 1
    """From how many outputs of the model answers are read."""

    longest = 128
    """Tokens at which texts are cut off if the task does not say it."""

    needs_outputs = True
    """Whether answers are measured while it is trained; otherwise the loss is."""

    generates = False
    """Whether answers are texts that the model writes, also while it is trained."""

    def __init__(self, task: TaskSection, processor: Any, labels: Sequence[str]) -> None:
        self.task = task
        self.processor = processor
        self.labels = list(labels)
        if len(self.text_columns) not in self.counts:
            first, last = self.counts[0], self.counts[-1]
            many = f"{first}" if first == last else f"{first} or 2" if last == 2 else f"{first} or more"
            raise RunError(
                f"task.text names {len(self.text_columns)} columns ({', '.join(self.text_columns)}); "
                f"{task.kind} reads {many}, such as {', '.join(self.columns)}."
            )

    @classmethod
    def found_labels(cls, task: TaskSection, rows: Rows) -> list[str]:
        """The labels of a task: those it names, else those of its training rows; none for kinds without."""
        return []

    @abstractmethod
    def prepared(self, rows: Rows, is_labelled: bool) -> Prepared:
        """What a model is given of rows.

        Raises:
            RunError: a column is missing, or something in it is wrong; the message names the file and the line.
        """

    @abstractmethod
    def add_head(self, model: Any, name: str) -> None:
        """Add a head for the task to a model."""

    @classmethod
    def own_head(cls, model: Any) -> str | None:
        """The head that a model came with, if it does the task as it is: no other is trained then."""
        if not cls.keeps_head:
            return None
        return next((name for name, head in model.heads.items() if head.config["head_type"] == cls.head_type), None)

    def fixed(self, given: Prepared) -> Prepared:
        """Rows for measuring: nothing of them is drawn anew each time."""
        return given

    def outputs(self, model: Any, batch: dict[str, Tensor]) -> Outputs:
        """What a model gives for a batch."""
        with torch.inference_mode():
            found = model(**batch, return_dict=True)
        values = tuple(found[name] for name in _OUTPUTS if found.get(name) is not None)
        values = self.kept(values, tuple(batch.get(name) for name in self.label_names))
        return Outputs(values, None if found.get("loss") is None else float(found["loss"]))

    def kept(self, values: Any, labels: Any) -> Any:
        """What is kept of the outputs for a batch: what answers are read from.

        Models with decoders give the states of their encoders too.

        Args:
            values: What the model gives: one array, or a tuple of several.
            labels: What the batch holds by `label_names`.
        """
        if not isinstance(values, tuple) or len(values) <= self.reads:
            return values
        return values[0] if self.reads == 1 else values[: self.reads]

    @abstractmethod
    def answers(self, outputs: Any, given: Prepared) -> list[Any]:
        """What the outputs of a model say, for each row.

        Args:
            outputs: Numbers for all features: an array, or a tuple of them. Shape of a first one: (N, ...).
            given: What the model was given.
        """

    @abstractmethod
    def measured(self, outputs: Any, given: Prepared) -> dict[str, float]:
        """How good answers are, in per cent."""

    @abstractmethod
    def shown(self, answer: Any) -> Row:
        """An answer in columns, as it is written to a file."""

    def collated(self, features: Sequence[Feature]) -> dict[str, Tensor]:
        """A batch. Tokens are filled up by the tokenizer, labels by -100. Shapes: (B, T), (B,)."""
        found = {key: [feature[key] for feature in features] for key in features[0]}
        own = {key: found.pop(key) for key in list(found) if key not in self._input_names}
        batch: dict[str, Tensor] = dict(self.processor.pad(found, return_tensors="pt"))
        return batch | {key: filled(values, self.fill_of(key)) for key, values in own.items()}

    def fill_of(self, key: str) -> int:
        """What a list of labels is filled up with."""
        return IGNORED

    @property
    def _input_names(self) -> set[str]:
        return set(self.processor.model_input_names)

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of what `measured` gives."""
        return self.metrics

    @property
    def max_length(self) -> int:
        """Tokens at which texts are cut off: no more than the model can read."""
        return min(self.task.max_length or self.longest, int(self.processor.model_max_length))

    @property
    def text_columns(self) -> list[str]:
        """The columns that are read."""
        return self.task.text or list(self.columns)

    @property
    def label(self) -> str:
        """The column that is learned."""
        return self.task.label or self.label_column

    def id2label(self) -> dict[int, str]:
        """The labels by number."""
        return dict(enumerate(self.labels))

    def tokenized(self, *texts: Sequence[Any], **options: Any) -> Mapping[str, list[Any]]:
        """Texts, or pairs of texts, as numbers of tokens."""
        found: Mapping[str, list[Any]] = self.processor(*texts, truncation=True, max_length=self.max_length, **options)
        return found


def by_row(columns: Mapping[str, Sequence[Any]]) -> list[Feature]:
    """Columns of numbers as features."""
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def filled(values: Sequence[Any], fill: int) -> Tensor:
    """Numbers, or lists of them, filled up to the longest. Shape: (B,) or (B, T)."""
    if not isinstance(values[0], list):
        return torch.tensor(values)
    longest = max(map(len, values))
    return torch.tensor([[*value, *[fill] * (longest - len(value))] for value in values])


def numbered(values: Sequence[Any], labels: Sequence[str], rows: Rows, column: str) -> list[int]:
    """Labels as numbers: files hold their names, or their numbers.

    Raises:
        RunError: a value is neither.
    """
    numbers = {label: number for number, label in enumerate(labels)}
    are_names = not all(label.isdigit() for label in labels)
    found = []
    for line, value in enumerate(values):
        number = numbers.get(str(value))
        if number is None and are_names and str(int(value) if isinstance(value, bool) else value).isdigit():
            number = int(value) if int(value) < len(labels) else None
        if number is None and str(value) == "-1":
            raise RunError(
                f"{rows.where(line)}: {column} is -1, which says that the label is hidden, as in test files of GLUE. "
                "Such rows can be answered (adapters predict), but not learned or measured."
            )
        if number is None:
            raise RunError(
                f"{rows.where(line)}: {column} is {value!r}, which is none of the labels {', '.join(labels[:12])}"
                + (" …." if len(labels) > 12 else ".")
                + " Those that the training file lacks can be named in task.labels."
            )
        found.append(number)
    return found


def names_in(values: Sequence[Any]) -> list[str]:
    """The labels in a column: 0 … n as these numbers, also where some do not occur, else all that occur, sorted."""
    found = {str(value) for value in values} - {"-1"}
    if not all(value.isdigit() for value in found):
        return sorted(found)
    count = max(map(int, found), default=0) + 1
    return [str(number) for number in range(count)] if count <= 2 * len(found) + 1 else sorted(found, key=int)


def probabilities(logits: Any) -> Any:
    """Softmax over the last dimension. Shape: kept."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)
