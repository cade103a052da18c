"""The tasks of GLUE and SuperGLUE: their columns, labels and metrics, so that a name says all of it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import get_args

from .config import KindName, TaskSection
from .errors import RunError


@dataclass(frozen=True)
class NamedTask:
    """A task that is known by name.

    Args:
        kind: Its kind.
        text: The columns of its texts.
        labels: The names of its labels, in the order of their numbers; none for scores.
        metrics: What GLUE measures; the score is their mean.
        dataset: Path and configuration on the Hugging Face Hub.
        submits_names: Whether a submission has the names of labels, and not their numbers.
        max_length: Tokens at which texts are cut off by default; more than usual where they are passages.
    """

    kind: KindName
    text: tuple[str, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    dataset: tuple[str, str]
    submits_names: bool = False
    max_length: int | None = None


_PAIR = ("sentence1", "sentence2")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")


def _glue(
    config: str,
    text: tuple[str, ...],
    labels: tuple[str, ...] | None,
    metrics: tuple[str, ...] = ("accuracy",),
    submits_names: bool = False,
) -> NamedTask:
    kind: KindName = "classification" if labels else "regression"
    return NamedTask(kind, text, labels, metrics, ("nyu-mll/glue", config), submits_names)


def _superglue(
    config: str, text: tuple[str, ...], metrics: tuple[str, ...] = ("accuracy",), max_length: int | None = None
) -> NamedTask:
    dataset = ("aps/super_glue", config)
    return NamedTask("classification", text, ("False", "True"), metrics, dataset, max_length=max_length)


GLUE: dict[str, NamedTask] = {
    "cola": _glue("cola", ("sentence",), ("unacceptable", "acceptable"), ("mcc",)),
    "sst2": _glue("sst2", ("sentence",), ("negative", "positive")),
    "mrpc": _glue("mrpc", _PAIR, ("not_equivalent", "equivalent"), ("accuracy", "f1")),
    "stsb": _glue("stsb", _PAIR, None, ("pearson", "spearman")),
    "qqp": _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("accuracy", "f1")),
    "mnli": _glue("mnli", ("premise", "hypothesis"), _NLI, submits_names=True),
    "qnli": _glue("qnli", ("question", "sentence"), _ENTAILMENT, submits_names=True),
    "rte": _glue("rte", _PAIR, _ENTAILMENT, submits_names=True),
    "wnli": _glue("wnli", _PAIR, ("not_entailment", "entailment")),
}

SUPERGLUE: dict[str, NamedTask] = {
    "boolq": _superglue("boolq", ("question", "passage"), max_length=384),
    "cb": NamedTask(
        "classification",
        ("premise", "hypothesis"),
        ("entailment", "contradiction", "neutral"),
        ("accuracy", "macro_f1"),
        ("aps/super_glue", "cb"),
    ),
    "copa": NamedTask(
        "multiple_choice", ("premise", "choice1", "choice2"), None, ("accuracy",), ("aps/super_glue", "copa")
    ),
    # `originals.py` makes the columns of these.
    "wic": _superglue("wic", ("first", "sentence2")),
    "wsc": _superglue("wsc", ("marked", "noun")),
    "multirc": _superglue("multirc", ("paragraph", "question_answer"), ("f1", "exact_match"), 384),
    "record": _superglue("record", ("passage", "statement"), ("f1", "exact_match"), 384),
}

TASKS = {**GLUE, **SUPERGLUE}


def completed(task: TaskSection, columns: Collection[str]) -> TaskSection:
    """A task with the columns, labels and kind that its name says, where it does not say others itself.

    Args:
        task: The task.
        columns: The columns of its training file. Many copies of GLUE call the texts sentence1 and sentence2 in all
            tasks, or sentence.

    Raises:
        RunError: there is no task of this name, or neither a name nor a kind.
    """
    if task.name is None or (task.name not in TASKS and task.kind is not None):
        if task.kind is None:
            raise RunError(
                f"Say what is to be learned: task.name is one of {', '.join(TASKS)}, or task.kind one of "
                f"{', '.join(get_args(KindName))}."
            )
        return task
    if task.name not in TASKS:
        raise RunError(f"There is no task {task.name!r}; there are {', '.join(TASKS)}. For others give task.kind too.")
    known = TASKS[task.name]
    texts = (known.text, *(_PAIRS if len(known.text) == 2 else (("sentence",),)))
    text = next((own for own in texts if set(own) <= set(columns)), known.text)
    label = next((own for own in _LABELS if own in columns), _LABELS[0])
    return task.model_copy(
        update={
            "kind": task.kind or known.kind,
            "text": task.text or list(text),
            "label": task.label or label,
            "labels": task.labels or (list(known.labels) if known.labels else None),
            "max_length": task.max_length or known.max_length,
        }
    )


# Columns of the files that GLUE itself hands out.
_PAIRS = (_PAIR, ("premise", "hypothesis"), ("#1 String", "#2 String"))
_LABELS = ("label", "score", "gold_label", "is_duplicate", "Quality")
