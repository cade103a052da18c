"""All tasks of GLUE, one after the other: a table of results, and the files of a submission."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.files import atomically
from .config import RunConfig
from .errors import RunError
from .fitting import Watch, train
from .folder import RunFolder
from .rows import split_file
from .splits import rows_of
from .tasks import GLUE
from .using import Trained


@dataclass(frozen=True)
class Column:
    """A column of the table of results.

    Args:
        title: What it is called.
        task: The task.
        metric: The metric that it shows.
        file: The file of a submission.
        split: The rows that are measured.
        test: The rows that a submission answers.
    """

    title: str
    task: str
    metric: str
    file: str
    split: str = "validation"
    test: str = "test"


COLUMNS = (
    Column("CoLA", "cola", "mcc", "CoLA"),
    Column("SST-2", "sst2", "accuracy", "SST-2"),
    Column("MRPC", "mrpc", "f1", "MRPC"),
    Column("STS-B", "stsb", "spearman", "STS-B"),
    Column("QQP", "qqp", "f1", "QQP"),
    Column("MNLI(m)", "mnli", "accuracy", "MNLI-m"),
    Column("MNLI(mm)", "mnli", "accuracy", "MNLI-mm", "validation_mismatched", "test_mismatched"),
    Column("QNLI", "qnli", "accuracy", "QNLI"),
    Column("RTE", "rte", "accuracy", "RTE"),
)

# Names of the folders that copies of GLUE have.
_FOLDERS = {"sst2": ("SST-2", "sst-2", "SST2"), "stsb": ("STS-B", "sts-b", "STSB"), "cola": ("CoLA",)}


@dataclass(frozen=True)
class GlueResult:
    """What came out.

    Args:
        scores: The score of each column in per cent; None where the task has no data.
        missing: The tasks without data.
        files: The files of a submission.
    """

    scores: dict[str, float | None]
    missing: list[str]
    files: list[Path]

    @property
    def total(self) -> float | None:
        """The mean of all columns that there are."""
        found = [score for score in self.scores.values() if score is not None]
        return statistics.fmean(found) if found else None


def run_glue(
    settings: Mapping[str, Any],
    data_dir: Path,
    output: Path,
    tasks: Sequence[str] | None = None,
    watch: Callable[[str], Watch] = lambda task: lambda point: None,
) -> GlueResult:
    """Train and measure each task that has data; tasks that are finished in the output are not trained again.

    Args:
        settings: Values of a `RunConfig` by the dotted names of its fields, the same for all tasks.
        data_dir: A folder with a folder for each task.
        output: The folder to write to: a folder for each task, and `submission`.
        tasks: The tasks; by default all of them.
        watch: Gives what is called with what is measured, for each task.

    Raises:
        RunError: there is no such task, or no data at all.
    """
    wanted = list(tasks or dict.fromkeys(column.task for column in COLUMNS))
    for task in wanted:
        if task not in GLUE:
            raise RunError(f"There is no task {task!r} in GLUE; there are {', '.join(GLUE)}.")
    folders = {task: _folder(data_dir, task) for task in wanted}
    missing = [task for task, folder in folders.items() if folder is None]
    if len(missing) == len(wanted):
        raise RunError(f"{data_dir} holds no data of {', '.join(wanted)}: there should be a folder for each.")
    scores: dict[str, float | None] = {column.title: None for column in COLUMNS if column.task in wanted}
    files = []
    for task, folder in folders.items():
        if folder is not None:
            _train(settings, task, folder, output / task, watch(task))
            trained = Trained.load(output / task)
            for column in COLUMNS:
                if column.task == task:
                    scores[column.title] = _measured(trained, column)
                    files += _submitted(trained, column, output / "submission")
    return GlueResult(scores, missing, files)


def _folder(data_dir: Path, task: str) -> Path | None:
    for name in (task, task.upper(), *_FOLDERS.get(task, ())):
        if (data_dir / name).is_dir() and split_file(data_dir / name, "train") is not None:
            return data_dir / name
    return None


def _train(settings: Mapping[str, Any], task: str, data: Path, output: Path, watch: Watch) -> None:
    own = {"task.name": task, "task.data_dir": str(data), "output": str(output)}
    config = RunConfig.read(None, {**settings, **own})
    train(config, watch, resume=RunFolder(output).path.exists())


def _measured(trained: Trained, column: Column) -> float | None:
    if split_file(Path(str(trained.kind.task.data_dir)), column.split) is None:
        return None
    return trained.evaluate(rows_of(trained.kind.task, column.split))[column.metric]


def _submitted(trained: Trained, column: Column, folder: Path) -> list[Path]:
    """The file of a submission, if there is a test file: numbers of rows, and answers as GLUE wants them."""
    task = trained.kind.task
    if split_file(Path(str(task.data_dir)), column.test) is None:
        return []
    answers = trained.predict(rows_of(task, column.test))
    known = GLUE[column.task]
    numbers = {label: str(number) for number, label in enumerate(known.labels or ())}
    lines = ["index\tprediction"]
    for row, answer in enumerate(answers):
        if known.labels is None:
            value = f"{min(max(answer['score'], 0.0), 5.0):.3f}"
        else:
            value = answer["label"] if known.submits_names else numbers[answer["label"]]
        lines.append(f"{row}\t{value}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{column.file}.tsv"
    atomically(path, lambda temporary: temporary.write_text("\n".join(lines) + "\n", encoding="utf-8"))
    return [path]
