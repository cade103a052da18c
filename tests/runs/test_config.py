"""One file holds a run; every key can be changed, and what is wrong is said at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapters import AdapterConfig
from adapters.runs import RunConfig, RunError
from adapters.runs.config import NULL, TaskSection, noted, task_noted
from adapters.runs.models import with_places
from adapters.runs.tasks import GLUE, TASKS, completed


def test_files_and_changes(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: m\noutput: o\ntask: {name: mrpc}\ntraining: {epochs: 2}\n")
    config = RunConfig.read(file, {"training.epochs": 5, "adapter.config": "lora[r=4]", "seed": None})
    assert (config.training.epochs, config.adapter.config, config.seed) == (5, "lora[r=4]", 42)
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml())
    assert RunConfig.read(again) == config
    assert "training" in json.dumps(RunConfig.model_json_schema())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("model: m\n", "output is missing"),
        ("model: m\noutput: o\nepochs: 3\n", "epochs is not known"),
        ("model: m\noutput: o\ntraining: {epochs: many}\n", "training.epochs is 'many'"),
        ("model: m\noutput: o\ntraining: {batch_size: 0}\n", "greater than or equal to 1"),
        ("model: m\noutput: o\ntask: {kind: parsing}\n", "task.kind is 'parsing'.*dependency_parsing"),
        ("- 1\n", "holds no configuration, but list"),
        ("a: [", "is no YAML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(RunError, match=problem):
        RunConfig.read(tmp_path / "run.yaml")


def test_names_of_tasks_say_the_rest() -> None:
    task = completed(TaskSection(name="qqp"), ["question1", "question2", "label"])
    assert (task.kind, task.text, task.label) == ("classification", ["question1", "question2"], "label")
    assert completed(TaskSection(name="cb"), ["sentence1", "sentence2"]).text == ["sentence1", "sentence2"]
    assert completed(TaskSection(name="sst2", text=["t"], labels=["no", "yes"]), []).text == ["t"]
    assert completed(TaskSection(name="own", kind="tagging"), []).kind == "tagging"
    assert set(GLUE) < set(TASKS)
    for section, problem in (
        (TaskSection(name="snli"), "no task 'snli'"),
        (TaskSection(), "Say what is to be learned"),
    ):
        with pytest.raises(RunError, match=problem):
            completed(section, [])


@pytest.mark.parametrize(
    ("adapter", "problem"),
    [
        ("{fuse: [a], config: lora}", "excludes config"),
        ("{fuse: [a], drop_layers: 1}", "needs an adapter"),
        ("{under: [a], train_model: true}", "train_model trains all"),
        ("{fuse: [a], train_model: true}", "train_model trains all"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, adapter: str, problem: str) -> None:
    (tmp_path / "run.yaml").write_text(f"model: m\noutput: o\nadapter: {adapter}\n")
    with pytest.raises(RunError, match=problem):
        RunConfig.read(tmp_path / "run.yaml")


def test_the_learning_rate_follows_what_is_trained(tmp_path: Path) -> None:
    known = {"model": "m", "output": "o"}
    rates = [
        RunConfig.read(None, known | changes).training.learning_rate
        for changes in ({"adapter.train_model": True}, {}, {"adapter.fuse": ["a"]}, {"adapter.config": NULL})
    ]
    assert rates == [5e-5, 5e-4, 5e-5, 1e-3]
    fused = RunConfig.read(None, known | {"adapter.fuse": ["a"]})
    (tmp_path / "run.yaml").write_text(fused.to_yaml())
    assert RunConfig.read(tmp_path / "run.yaml") == fused and fused.adapter.config is None


def test_the_schema_takes_what_is_taken() -> None:
    fields = RunConfig.model_json_schema()["$defs"]["TaskSection"]["properties"]
    texts = {"items": {"type": "string"}, "type": "array"}
    assert {"type": "string"} in fields["text"]["anyOf"] and texts in fields["text"]["anyOf"]
    labels = next(way for way in fields["labels"]["anyOf"] if way["type"] == "array")
    assert {"type": "integer"} in labels["items"]["anyOf"]


def test_what_an_adapter_tells_of_its_task(tmp_path: Path) -> None:
    task = TaskSection(name="mrpc", kind="classification", text=["a", "b"], data_dir=tmp_path, max_length=64)
    note = noted(task)
    assert set(note) == {"name", "kind", "text", "max_length", "max_new_tokens"} and note["text"] == ["a", "b"]
    changed = task_noted({**note, "later": 1}, "classification", {"text": ["c"], "max_length": None}, tmp_path)
    assert (changed.name, changed.text, changed.max_length) == ("mrpc", ["c"], 64)
    for unknown in (None, "text classification", note):  # of another origin, or with another head since
        assert task_noted(unknown, "tagging", {}, tmp_path) == TaskSection(kind="tagging")
    with pytest.raises(RunError, match="text is 7"):
        task_noted({**note, "text": 7}, "classification", {}, tmp_path)


def test_an_adapter_whose_configuration_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "adapter.json"
    config = RunConfig.read(changes={"model": "bert", "output": str(tmp_path / "out"), "adapter.config": str(file)})
    with pytest.raises(RunError, match=r"adapter\.config: .*adapter\.json cannot be read"):
        with_places(config)
    file.write_text('{"architecture": "lora", "r": 2}')
    written = with_places(config)  # what is written beside the adapter holds it, so that the file may change
    assert written.adapter.config == AdapterConfig.load("lora[r=2]").to_dict()
