"""The data of a run: its files, read, and what a model is given of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import TaskSection
from .errors import RunError
from .kinds import KINDS, NAMED, Kind
from .kinds.classification import Classification, Regression
from .kinds.images import images_in
from .originals import read_named, viewed
from .rows import Rows, split_file, split_folder
from .tasks import TASKS, completed


@dataclass(frozen=True)
class Data:
    """The rows that an adapter is trained with.

    Args:
        task: The task, with its kind, its columns and its labels.
        train: The rows to learn from.
        validation: The rows that states are measured on.
    """

    task: TaskSection
    train: Rows
    validation: Rows


def load(task: TaskSection) -> Data:
    """Read the files to train with.

    Raises:
        RunError: a file is missing, or something in it is wrong.
    """
    train, validation = rows_of(task, "train"), rows_of(task, "validation")
    task = completed(task, train.rows[0])
    kind = kind_of(task)
    paths = ("data_dir", "train", "validation", "test")
    found: dict[str, Any] = {name: path.resolve() for name in paths if (path := getattr(task, name)) is not None}
    labels = kind.found_labels(task, train)
    if task.labels and not labels:
        raise RunError(f"task.labels names {', '.join(task.labels)}; there are no labels in {task.kind}.")
    found |= {
        "text": task.text or list(kind.columns),
        "label": task.label or kind.label_column or None,
        "labels": labels or None,
        "max_length": task.max_length or kind.longest,
    }
    task = task.model_copy(update=found)
    return Data(task, train.first(task.train_rows), validation.first(task.validation_rows))


def check_has_labels(data: Data) -> None:
    """See whether there is something to learn.

    Raises:
        RunError: all rows have the same label.
    """
    kind = kind_of(data.task)
    if not issubclass(kind, Classification) or issubclass(kind, Regression):
        return
    name = str(data.task.label)
    found = {str(value) for value in data.train.labels(name)}
    if len(found) < 2:
        raise RunError(
            f"{data.train.path}: all {len(data.train)} rows that are used have the {name} {found.pop()!r}, so that "
            "there is nothing to tell apart."
        )


def kind_of(task: TaskSection) -> type[Kind]:
    """The class of a task's kind."""
    return NAMED.get(task.name or "", KINDS[str(task.kind)]) if task.kind == "classification" else KINDS[str(task.kind)]


def rows_of(task: TaskSection, split: str) -> Rows:
    """The rows of a split.

    Raises:
        RunError: there is no file for it, or it cannot be read.
    """
    found = _rows(task, split)
    if found is None:
        where = f"{task.data_dir} has none" if task.data_dir is not None else f"give task.{split} or task.data_dir"
        raise RunError(f"There is no {split} file: {where}.")
    return found


def _rows(task: TaskSection, split: str) -> Rows | None:
    path: Path | None = {"train": task.train, "validation": task.validation, "test": task.test}.get(split)
    if path is None and task.data_dir is not None:
        is_image = task.kind == "image_classification"
        path = (split_folder(task.data_dir, split) if is_image else None) or split_file(task.data_dir, split)
    if path is None:
        return _from_hub(task, split)
    return rows_in(path, task)


def rows_in(path: Path, task: TaskSection) -> Rows:
    """The rows of a file; of images, also those of a folder.

    Raises:
        RunError: it cannot be read.
    """
    is_folder = task.kind == "image_classification" and path.is_dir()
    return images_in(path) if is_folder else read_named(path, task.name)


def _from_hub(task: TaskSection, split: str) -> Rows | None:
    """A split of a named task from the Hugging Face Hub, if no files are named at all."""
    if task.name not in TASKS or any((task.data_dir, task.train, task.validation, task.test)):
        return None
    known = TASKS[str(task.name)]
    try:
        from datasets import load_dataset
    except ImportError:
        raise RunError(
            f"Task {task.name!r} has no files: give --data-dir (task.data_dir), or install `datasets` to fetch it from "
            "the Hugging Face Hub."
        ) from None
    name = {"validation": "validation_matched", "test": "test_matched"}.get(split, split)
    try:
        found: Any = load_dataset(*known.dataset, split=name if task.name == "mnli" else split)
    except Exception as error:  # whatever a library meets on the way to a network
        raise RunError(
            f"Task {task.name!r} cannot be fetched from the Hugging Face Hub ({type(error).__name__}); give "
            "--data-dir (task.data_dir) with its files."
        ) from None
    rows = [{key: value for key, value in row.items() if key != "label" or value != -1} for row in found]
    return viewed(Rows(Path(f"{known.dataset[0]}/{known.dataset[1]}"), rows, range(1, len(rows) + 1)), task.name)
