"""The tasks of SuperGLUE in its own files and in those of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from adapters.runs import RunError
from adapters.runs.config import TaskSection
from adapters.runs.kinds import NAMED
from adapters.runs.models import load_processor
from adapters.runs.originals import read_named
from adapters.runs.splits import kind_of
from adapters.runs.tasks import completed

PASSAGE = "the actor was in Oslo\n@highlight\nthe film was good"
SENTENCE = "Rome was good so it was fine"
ANSWERS = [("a film", 1), ("a book", 0), ("Oslo", 0)]
# Rows of SuperGLUE's files, the same ones as the Hugging Face Hub has them, and what a model reads of them.
ROWS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], list[tuple[str, str, int]]]] = {
    "boolq": (
        [{"question": "is it good", "passage": "it is", "idx": 0, "label": True}],
        [{"question": "is it good", "passage": "it is", "idx": 0, "label": 1}],
        [("is it good", "it is", 1)],
    ),
    "cb": (
        [{"premise": "a", "hypothesis": "b", "label": "neutral"}],
        [{"sentence1": "a", "sentence2": "b", "label": 2}],
        [("a", "b", 2)],
    ),
    "rte": (
        [{"premise": "a", "hypothesis": "b", "label": "not_entailment"}],
        [{"sentence1": "a", "sentence2": "b", "label": 1}],
        [("a", "b", 1)],
    ),
    "wic": (
        [{"word": "bad", "sentence1": "so bad", "sentence2": "bad actor", "label": False, "version": 1.1}],
        [{"word": "bad", "sentence1": "so bad", "sentence2": "bad actor", "label": 0}],
        [("bad: so bad", "bad actor", 0)],
    ),
    "wsc": (
        [
            {
                "text": SENTENCE,
                "target": {"span1_index": 0, "span1_text": "Rome", "span2_index": 4, "span2_text": "it"},
                "label": True,
            }
        ],
        [
            {
                "text": SENTENCE,
                "span1_text": "Rome",
                "span2_index": 4,
                "span2_text": "it",
                "label": 1,
            }
        ],
        [("Rome was good so * it * was fine", "Rome", 1)],
    ),
    "multirc": (
        [
            {
                "idx": 0,
                "passage": {
                    "text": "<b>Sent 1: </b>it was",
                    "questions": [
                        {"idx": 0, "question": "who", "answers": [{"text": t, "label": n} for t, n in ANSWERS]}
                    ],
                },
            }
        ],
        [
            {
                "paragraph": "<b>Sent 1: </b>it was",
                "question": "who",
                "answer": text,
                "idx": {"paragraph": 0, "question": 0, "answer": number},
                "label": label,
            }
            for number, (text, label) in enumerate(ANSWERS)
        ],
        [(" Sent 1:  it was", f"who {text}", label) for text, label in ANSWERS],
    ),
    "record": (
        [
            {
                "passage": {
                    "text": PASSAGE,
                    "entities": [{"start": 17, "end": 20}, {"start": 4, "end": 8}, {"start": 17, "end": 20}],
                },
                "qas": [{"idx": 0, "query": "it was @placeholder", "answers": [{"text": "Oslo"}]}],
            }
        ],
        [
            {
                "passage": PASSAGE,
                "query": "it was @placeholder",
                "entities": ["Oslo", "actor"],
                "answers": ["Oslo"],
                "idx": {"passage": 0, "query": 0},
            }
        ],
        [
            (PASSAGE.replace("\n@highlight\n", ". "), f"it was {name}", label)
            for name, label in (("Oslo", 1), ("actor", 0))
        ],
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


def read(name: str, rows: list[dict[str, Any]], path: Path, folder: str) -> tuple[Any, Any]:
    """The kind of a task, and its rows."""
    found = read_named(tiny.write(path / "train.jsonl", rows), name)
    task = completed(TaskSection(name=name, max_length=24), found.rows[0])
    kind = kind_of(task)
    return kind(task, load_processor(folder, kind), kind.found_labels(task, found)), found


@pytest.mark.parametrize("place", [0, 1], ids=["own", "hub"])
@pytest.mark.parametrize("name", ROWS)
def test_rows_are_read_as_they_are_meant(name: str, place: int, folder: str, tmp_path: Path) -> None:
    kind, rows = read(name, ROWS[name][place], tmp_path, folder)
    columns = [rows.texts(column) for column in kind.text_columns]
    labels = [feature["labels"] for feature in kind.prepared(rows, is_labelled=True).features]
    assert [*zip(*columns, labels, strict=True)] == ROWS[name][2]


def test_questions_count_whole(folder: str, tmp_path: Path) -> None:
    assert NAMED.keys() == {"multirc", "record"}
    row = ROWS["multirc"][0][0]
    kind, rows = read("multirc", [row, {**row, "idx": 1}], tmp_path, folder)
    given = kind.prepared(rows, is_labelled=True)
    right, wrong = [[0.0, 9.0], [9.0, 0.0], [9.0, 0.0]], [[0.0, 9.0], [0.0, 9.0], [9.0, 0.0]]
    measured = kind.measured(np.array([*right, *wrong]), given)
    assert measured == pytest.approx({"f1": 80.0, "exact_match": 50.0, "accuracy": 100 * 5 / 6})
    unlabelled = {**ROWS["record"][1][0], "answers": []}
    kind, rows = read("record", [ROWS["record"][1][0], unlabelled], tmp_path, folder)
    given = kind.prepared(rows.first(2), is_labelled=True)
    assert kind.measured(np.array([[0.0, 1.0], [0.0, 2.0]]), given) == {"f1": 0.0, "exact_match": 0.0}
    assert kind.measured(np.array([[0.0, 3.0], [0.0, 2.0]]), given) == {"f1": 100.0, "exact_match": 100.0}
    with pytest.raises(RunError, match="has no column 'label'"):
        kind.prepared(rows, is_labelled=True)
    assert len(kind.prepared(rows, is_labelled=False).features) == 4


def test_other_columns_are_named(tmp_path: Path) -> None:
    path = tiny.write(tmp_path / "train.jsonl", [{"text": "a"}])
    with pytest.raises(RunError, match=r"line 1 is no row of wsc: .*span2_index"):
        read_named(path, "wsc")
