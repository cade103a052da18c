"""Each kind of task: rows become what a model takes, and answers are read as they are meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from adapters import AutoAdapterModel
from adapters.runs import RunConfig, RunError
from adapters.runs.config import TaskSection
from adapters.runs.fitting import train
from adapters.runs.kinds import KINDS, Prepared
from adapters.runs.kinds.tagging import span_f1, spans
from adapters.runs.measuring import outputs_of
from adapters.runs.models import load_processor
from adapters.runs.rows import read
from adapters.runs.splits import rows_in
from adapters.runs.using import Trained

QUESTION = {"question": "who was good", "context": "the film was good . the actor was bad"}
ROWS: dict[str, list[dict[str, Any]]] = {
    "classification": [{"text": "the film was good", "label": "yes"}, {"text": "it was bad", "label": "no"}],
    "regression": [
        {"text": "good", "label": 4.5},
        {"text": "the film was bad", "label": "0.5"},
        {"text": "a", "label": 2},
    ],
    "multiple_choice": [{"premise": "it was good", "choice1": "the film", "choice2": "a really bad book", "label": 1}]
    * 2,
    "tagging": [
        {"tokens": ["Oslo", "was", "very", "good"], "ner_tags": ["B-place", "O", "O", "O"]},
        {"tokens": ["Rome"], "ner_tags": ["B-place"]},
    ],
    "question_answering": [
        {**QUESTION, "answers": {"text": ["the actor"], "answer_start": [20]}},
        {**QUESTION, "answers": {"text": [], "answer_start": []}},
    ],
    "dependency_parsing": [
        {"tokens": ["it", "was", "good"], "head": [3, 3, 0], "deprel": ["nsubj", "cop", "root"]},
        {"tokens": ["good"], "head": [0], "deprel": ["root"]},
    ],
    "masked_lm": [{"text": "the film was good"}] * 4,
    "causal_lm": [{"text": "the film was good"}] * 4,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.model_folder(tmp_path_factory.mktemp("decoder"), is_decoder=True)


def kind_of(name: str, rows: list[dict[str, Any]], folder: str, path: Path, **options: Any) -> tuple[Any, Prepared]:
    task = TaskSection(kind=name, max_length=24, **options)
    read_rows = read(tiny.write(path / "rows.jsonl", rows))
    kind = KINDS[name](task, load_processor(folder, KINDS[name]), KINDS[name].found_labels(task, read_rows))
    return kind, kind.prepared(read_rows, is_labelled=True)


@pytest.mark.parametrize("name", ROWS)
def test_rows_are_learned_measured_and_answered(name: str, folder: str, decoder: str, tmp_path: Path) -> None:
    folder = decoder if name == "causal_lm" else folder
    kind, given = kind_of(name, ROWS[name], folder, tmp_path)
    model = AutoAdapterModel.from_pretrained(folder)
    kind.add_head(model, "task")
    assert next(iter(model.heads.values())).config["head_type"] == kind.head_type
    outputs, loss = outputs_of(model.eval(), kind, given, 2)
    assert loss is not None and np.isfinite(loss)
    for key in kind.label_names:
        assert key in kind.collated(given.features)
    if not kind.needs_outputs:
        return
    measured = kind.measured(outputs, given)
    assert kind.metrics[0] in measured and all(-100 <= value <= 100 for value in measured.values())
    unlabelled = kind.prepared(given.rows, is_labelled=False)
    answers = kind.answers(outputs_of(model, kind, unlabelled, 1)[0], unlabelled)
    assert len(answers) == len(ROWS[name]) and all(kind.shown(answer) for answer in answers)
    assert [*map(kind.shown, answers)] == [*map(kind.shown, kind.answers(outputs, given))]


@pytest.mark.parametrize("name", ROWS)
def test_what_training_measures_is_what_evaluation_measures(
    name: str, folder: str, decoder: str, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate")
    config = {
        "model": decoder if name == "causal_lm" else folder,
        "task.kind": name,
        "task.data_dir": str(tiny.splits(tmp_path / "data", ROWS[name] * 2)),
        "task.max_length": 24,
        "training.max_steps": 1,
        "task.max_new_tokens": 8,
        "training.eval_batch_size": 1,  # batches of several lengths
        "output": str(tmp_path / "out"),
    }
    metrics = train(RunConfig.read(None, config)).metrics
    trained = Trained.load(tmp_path / "out")
    measured = trained.evaluate(trained.rows(None, "validation"), 1)
    assert {key: metrics[key] for key in measured if key != "rows"} == pytest.approx(
        {key: value for key, value in measured.items() if key != "rows"}, abs=2e-4, nan_ok=True
    )
    if name != "masked_lm":
        assert len(trained.predict(trained.rows(None, "validation"), 3)) == len(ROWS[name]) * 2


def test_perfect_answers_are_perfect(folder: str, tmp_path: Path) -> None:
    kind, given = kind_of("classification", ROWS["classification"], folder, tmp_path)
    assert kind.labels == ["no", "yes"]
    assert kind.measured(np.array([[0.0, 9.0], [9.0, 0.0]]), given) == {"accuracy": 100.0}
    assert kind.shown(kind.answers(np.array([[0.0, 9.0]]), given)[0]) == {"label": "yes", "score": 0.9999}
    kind, given = kind_of("tagging", ROWS["tagging"], folder, tmp_path)
    perfect = np.full((2, 6, 2), -9.0)
    for row, feature in enumerate(given.features):
        for place, label in enumerate(feature["labels"]):
            perfect[row, place, max(label, 0)] = 9.0
    assert kind.measured(perfect, given) == {"f1": 100.0, "accuracy": 100.0}
    kind, given = kind_of("dependency_parsing", ROWS["dependency_parsing"], folder, tmp_path)
    arcs, relations = torch.full((2, 5, 6), -9.0), torch.full((2, 5, 6, 3), -9.0)
    arcs[1, 0, 5] = 99.0  # no word is there
    for row, tree in enumerate(ROWS["dependency_parsing"]):
        for word, (head, relation) in enumerate(zip(tree["head"], tree["deprel"], strict=True)):
            arcs[row, word, head] = relations[row, word, head, kind.labels.index(relation)] = 9.0
    batch = kind.collated(given.features)
    kept = kind.kept((relations, arcs), tuple(batch[name] for name in kind.label_names))
    assert kind.measured(kept, given) == {"uas": 100.0, "las": 100.0}


@pytest.mark.parametrize("length", [24, 12])  # the context in one piece, and in several
def test_answers_are_found_in_long_contexts(length: int, folder: str, tmp_path: Path) -> None:
    context = "it was a very very good film . " * 3 + "the actor was not bad"
    row = {
        "question": "who",
        "context": context,
        "answers": {"text": ["actor"], "answer_start": [context.index("actor")]},
    }
    kind = KINDS["question_answering"](
        TaskSection(kind="question_answering", max_length=length), load_processor(folder, KINDS["tagging"]), []
    )
    given = kind.prepared(read(tiny.write(tmp_path / "rows.jsonl", [row])), is_labelled=True)
    assert len(given.features) > 1
    longest = max(len(feature["input_ids"]) for feature in given.features)
    starts, ends = np.zeros((2, len(given.features), longest))
    for number, feature in enumerate(given.features):  # a part without the answer is very sure that it has none
        score = 1 if feature["start_positions"] > 0 else 9
        starts[number, feature["start_positions"]] = ends[number, feature["end_positions"]] = score
    assert kind.answers((starts, ends), given) == ["actor"]
    assert kind.measured((starts, ends), given) == {"f1": 100.0, "exact_match": 100.0}
    starts[:, 0] = 9
    assert kind.answers((starts, ends), given) == [""]


@pytest.mark.parametrize("length", [12, 24])
def test_long_questions_leave_space_for_contexts(length: int, folder: str, tmp_path: Path) -> None:
    row = {**ROWS["question_answering"][0], "question": "who was good " * 20}
    task = TaskSection(kind="question_answering", max_length=length)
    kind = KINDS["question_answering"](task, load_processor(folder, KINDS["tagging"]), [])
    given = kind.prepared(read(tiny.write(tmp_path / "rows.jsonl", [row])), is_labelled=True)
    assert any(feature["start_positions"] for feature in given.features)
    assert max(len(feature["input_ids"]) for feature in given.features) <= length


def test_original_files_of_squad(tmp_path: Path) -> None:
    context, answers = "the actor was good", [{"text": "the actor", "answer_start": 0}, {"text": "", "answer_start": 0}]
    questions = [{"id": "a", "question": "who", "answers": answers}, {"id": "b", "question": "where", "answers": []}]
    text = json.dumps(
        {"version": "2", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": questions}]}]}
    )
    (tmp_path / "train.json").write_text(text)
    (tmp_path / "broken.json").write_text(text.replace("qas", "questions"))
    rows = rows_in(tmp_path / "train.json", TaskSection(kind="question_answering"))
    assert [(row["id"], row["question"], row["context"]) for row in rows.rows] == [
        ("a", "who", context),
        ("b", "where", context),
    ]
    kind = KINDS["question_answering"](TaskSection(kind="question_answering"), None, [])
    assert kind._answers(rows, 0)[0] == ["the actor", ""] and kind._answers(rows, 1) == ([], [])  # type: ignore[attr-defined]
    with pytest.raises(RunError, match="line 1 is no row of SQuAD: KeyError 'qas'"):
        rows_in(tmp_path / "broken.json", TaskSection(kind="question_answering"))


def test_words_of_which_nothing_is_left_keep_their_labels(folder: str, tmp_path: Path) -> None:
    row = {"tokens": [" ", "Oslo", "\n", "was"], "ner_tags": ["O", "B-place", "O", "I-place"]}
    _, given = kind_of("tagging", [row], folder, tmp_path)
    assert given.notes == [[1, 2, 3, 4]] and given.features[0]["labels"][1:5] == [2, 0, 2, 1]


def test_scores_that_are_all_the_same_have_no_correlation(folder: str, tmp_path: Path) -> None:
    kind, given = kind_of("regression", ROWS["regression"], folder, tmp_path)
    assert kind.measured(np.ones((3, 1)), given) == {"pearson": 0.0, "spearman": 0.0}
    assert kind.measured(np.array([4.5, 0.5, 2.0]), given)["pearson"] == pytest.approx(100)
    with pytest.raises(RunError, match="line 1: label is 'nan'; it should be a number"):
        kind_of("regression", [{"text": "a", "label": "nan"}], folder, tmp_path)


def test_labels_are_names_or_numbers(folder: str, tmp_path: Path) -> None:
    def found(*labels: Any) -> list[str]:
        return KINDS["classification"].found_labels(
            TaskSection(kind="classification"),
            read(tiny.write(tmp_path / "rows.jsonl", [{"label": label} for label in labels])),
        )

    assert found(0, 2) == found("2", "0") == ["0", "1", "2"] and found(1, 2, 3) == ["0", "1", "2", "3"]
    assert found(True, False) == ["False", "True"] and found("b", "a") == ["a", "b"]
    assert found(1999, 2001) == ["1999", "2001"]
    kind, given = kind_of("classification", [{"text": "a", "label": year} for year in (9, 8)], folder, tmp_path)
    assert kind.labels == ["8", "9"] and [feature["labels"] for feature in given.features] == [1, 0]
    with pytest.raises(RunError, match="label is 1, which is none of the labels 8, 9"):
        kind_of("classification", [{"text": "a", "label": 1}], folder, tmp_path, labels=["8", "9"])


def test_hidden_labels_are_named(folder: str, tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": -1}]
    with pytest.raises(RunError, match=r"line 2: label is -1, which says that the label is hidden"):
        kind_of("classification", rows, folder, tmp_path)


def test_states_of_tags_without_spans_are_chosen_by_accuracy(folder: str, tmp_path: Path) -> None:
    rows = [{"tokens": ["it", "was"], "ner_tags": ["PRON", "AUX"]}]
    kind, given = kind_of("tagging", rows, folder, tmp_path)
    assert kind.measures == ("accuracy",) == tuple(kind.measured(np.zeros((1, 4, 2)), given))
    assert kind_of("tagging", ROWS["tagging"], folder, tmp_path)[0].measures == ("f1", "accuracy")


def test_spans() -> None:
    assert spans(["B-a", "I-a", "I-b", "O", "B-a", "B-a"]) == {(0, 2, "a"), (2, 3, "b"), (4, 5, "a"), (5, 6, "a")}
    assert span_f1([["B-a", "O"]], [["B-a", "B-a"]]) == pytest.approx(200 / 3)
    for first, within, last, single in ("BIES", "BILU"):
        labels = [f"{letter}-a" for letter in (first, within, last, within, single, first, last)]
        assert spans(labels) == {(0, 3, "a"), (3, 4, "a"), (4, 5, "a"), (5, 7, "a")}


@pytest.mark.parametrize(
    ("name", "row", "problem"),
    [
        (
            "classification",
            {"text": "good", "label": "maybe"},
            "line 3: label is 'maybe', which is none of the labels no, yes",
        ),
        ("classification", {"label": "yes"}, "line 3 has no column 'text'"),
        ("regression", {"text": "good", "label": "much"}, "line 4: label is 'much'; it should be a number"),
        ("tagging", {"tokens": ["Oslo", "was"], "ner_tags": ["O"]}, "line 3 has 2 words and 1 labels"),
        ("tagging", {"tokens": "Oslo", "ner_tags": ["O"]}, "line 3: tokens is 'Oslo'; it should be a list"),
        ("dependency_parsing", {"tokens": ["a"], "head": [4], "deprel": ["root"]}, "line 3: a head is none of 0 to 1"),
        ("question_answering", {**QUESTION, "answers": "good"}, "line 3: answers is 'good'; it should be"),
        (
            "question_answering",
            {**QUESTION, "answers": {"text": ["bad"], "answer_start": [0]}},
            "line 3: at character 0 of the context there is not 'bad'",
        ),
    ],
)
def test_wrong_rows_are_named(name: str, row: dict[str, Any], problem: str, folder: str, tmp_path: Path) -> None:
    given = {"labels": ["no", "yes"]} if name == "classification" else {}
    with pytest.raises(RunError, match=problem):
        kind_of(name, [*ROWS[name], row], folder, tmp_path, **given)
