"""All tasks of GLUE, one after the other: a table of results, and the files of a submission."""

from __future__ import annotations

import json
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
from .rows import Row, Rows, split_file
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
# A submission has it, and the table of the paper has not.
BESIDE = (Column("WNLI", "wnli", "accuracy", "WNLI"),)

# Names of the folders that copies of GLUE have.
_FOLDERS = {"sst2": ("SST-2", "sst-2", "SST2"), "stsb": ("STS-B", "sts-b", "STSB"), "cola": ("CoLA",)}
# The diagnostic rows, which the adapter for MNLI answers.
_DIAGNOSTIC = (
    *(f"{folder}/{name}" for folder in ("ax", "AX", "diagnostic") for name in ("test.jsonl", "test.tsv", "test.csv")),
    *("diagnostic/diagnostic.tsv", "AX/AX.tsv", "AX/diagnostic.tsv", "MNLI/diagnostic.tsv", "mnli/diagnostic.tsv"),
)
# The columns with the numbers of rows.
_NUMBERS = ("index", "idx", "id")
_SCORES = "glue.json"


@dataclass(frozen=True)
class GlueResult:
    """What came out.

    Args:
        scores: The score of each column in per cent; None where the task has no data.
        missing: The tasks without data.
        files: The files of a submission.
        beside: Scores of tasks that are no column of the table: WNLI.
    """

    scores: dict[str, float | None]
    missing: list[str]
    files: list[Path]
    beside: dict[str, float]

    @property
    def total(self) -> float | None:
        """The mean of all columns that there are."""
        found = [score for score in self.scores.values() if score is not None]
        return statistics.fmean(found) if found else None


def run_glue(
    settings: Mapping[str, Any],
    data_dir: Path | None,
    output: Path,
    tasks: Sequence[str] | None = None,
    watch: Callable[[str], Watch] = lambda task: lambda point: None,
) -> GlueResult:
    """Train and measure each task that has data; what is finished in the output is not done again.

    Args:
        settings: Values of a `RunConfig` by the dotted names of its fields, the same for all tasks.
        data_dir: A folder with a folder for each task; with None they are fetched from the Hugging Face Hub.
        output: The folder to write to: a folder for each task, and `submission`.
        tasks: The tasks; by default all that have data.
        watch: Gives what is called with what is measured, for each task.

    Raises:
        RunError: there is no such task, or no data at all.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise RunError(f"There is no folder {data_dir}.")
    wanted = list(tasks or dict.fromkeys(column.task for column in (*COLUMNS, *BESIDE)))
    for task in wanted:
        if task not in GLUE:
            raise RunError(f"There is no task {task!r} in GLUE; there are {', '.join(GLUE)}.")
    folders = {task: None if data_dir is None else _folder(data_dir, task) for task in wanted}
    missing = [task for task, folder in folders.items() if folder is None and data_dir is not None]
    if len(missing) == len(wanted):
        raise RunError(f"{data_dir} holds no data of {', '.join(wanted)}: there should be a folder for each.")
    found: dict[str, float | None] = {}
    files: list[Path] = []
    for task, folder in folders.items():
        if task not in missing:
            scores, own = _done(settings, task, folder, output, watch(task))
            found |= scores
            files += own
    return GlueResult(
        {column.title: found.get(column.title) for column in COLUMNS if column.task in wanted},
        missing,
        files,
        {column.title: score for column in BESIDE if (score := found.get(column.title)) is not None},
    )


def _folder(data_dir: Path, task: str) -> Path | None:
    for name in (task, task.upper(), *_FOLDERS.get(task, ())):
        if (data_dir / name).is_dir() and split_file(data_dir / name, "train") is not None:
            return data_dir / name
    return None


def _done(
    settings: Mapping[str, Any], task: str, data: Path | None, output: Path, watch: Watch
) -> tuple[dict[str, float | None], list[Path]]:
    """The scores of a task, and its files: those of a former call, if that came to the end of it."""
    own = {"task.name": task, "task.data_dir": None if data is None else str(data), "output": str(output / task)}
    for name in own.keys() & settings.keys():
        raise RunError(f"{name} is {settings[name]!r}; each task of GLUE has its own.")
    config = RunConfig.read(None, {**settings, **own})
    train(config, watch, resume=RunFolder(output / task).path.exists())
    path = output / task / _SCORES
    if path.is_file():
        former = json.loads(path.read_text(encoding="utf-8"))
        files = [output / name for name in former["files"]]
        if all(file.is_file() for file in files):
            return former["scores"], files
    trained = Trained.load(output / task)
    scores: dict[str, float | None] = {}
    files = []
    for column in (column for column in (*COLUMNS, *BESIDE) if column.task == task):
        scores[column.title] = _measured(trained, column)
        if _has(data, column.test):
            files.append(_submitted(trained, column.file, rows_of(trained.kind.task, column.test), output))
    around = () if data is None else (data.parent / name for name in _DIAGNOSTIC)
    diagnostic = next((path for path in around if path.is_file()), None)
    if task == "mnli" and diagnostic is not None:
        files.append(_submitted(trained, "AX", trained.rows(diagnostic, "test"), output))
    text = json.dumps({"scores": scores, "files": [str(file.relative_to(output)) for file in files]}, indent=2)
    atomically(path, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))
    return scores, files


def _has(data: Path | None, split: str) -> bool:
    """Whether there is a split: the Hugging Face Hub has them all."""
    return data is None or split_file(data, split) is not None


def _measured(trained: Trained, column: Column) -> float | None:
    if not _has(trained.kind.task.data_dir, column.split):
        return None
    rows = rows_of(trained.kind.task, column.split).first(trained.kind.task.validation_rows)
    return trained.evaluate(rows)[column.metric]


def _submitted(trained: Trained, name: str, rows: Rows, output: Path) -> Path:
    """Write the file of a submission: numbers of rows, and answers as GLUE wants them."""
    known = GLUE[str(trained.kind.task.name)]
    lines = ["index\tprediction"]
    for number, (row, answer) in enumerate(zip(rows.rows, trained.predict(rows), strict=True)):
        if known.labels is None:
            value = f"{min(max(answer['score'], 0.0), 5.0):.3f}"
        elif known.submits_names:
            value = answer["label"]
        else:
            value = str(known.labels.index(answer["label"]))
        lines.append(f"{_number(row, number)}\t{value}")
    path = output / "submission" / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    atomically(path, lambda temporary: temporary.write_text("\n".join(lines) + "\n", encoding="utf-8"))
    return path


def _number(row: Row, number: int) -> int:
    """The number that a row has in the files of GLUE, which may be in another order."""
    return next((int(row[name]) for name in _NUMBERS if str(row.get(name, "")).isdigit()), number)
