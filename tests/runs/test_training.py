"""A run from its files to an adapter that answers: interrupted, resumed, repeated, in every way it can be set up."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, BartConfig, BartModel, GPT2Config, GPT2Model

from adapters import AdapterTrainer, AutoAdapterModel
from adapters.runs import RunConfig, RunError
from adapters.runs.config import NULL
from adapters.runs.fitting import train
from adapters.runs.folder import RunFolder
from adapters.runs.using import Trained

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.model_folder(tmp_path_factory.mktemp("model"))


def config(model: str, folder: Path, **changes: Any) -> RunConfig:
    data = tiny.splits(folder / "sst2", tiny.sentences(48), tiny.sentences(12))
    found = {
        "model": model,
        "task.name": "sst2",
        "task.data_dir": str(data),
        "training.epochs": 2,
        "training.batch_size": 8,
        "training.learning_rate": 0.01,
        "output": str(folder / "output"),
    }
    own = {name.replace("__", "."): NULL if value is None else value for name, value in changes.items()}
    return RunConfig.read(None, found | own)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = sorted(path for path in folder.rglob("*.safetensors") if "checkpoints" not in path.parts)
    return {f"{path.name}/{key}": tensor for path in found for key, tensor in load_file(path).items()}


def assert_same(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first and first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


def test_what_a_run_leaves_behind(model: str, tmp_path: Path) -> None:
    seen: list[Any] = []
    own = config(model, tmp_path, training__epochs=8, adapter__config="double_seq_bn[reduction_factor=1]")
    outcome = train(own, seen.append)
    output = tmp_path / "output"
    assert outcome.metrics["accuracy"] == 100 and outcome.metrics["steps"] == 48 and outcome.path == output / "adapter"
    assert {path.name for path in output.iterdir()} == {
        *("run.yaml", "metrics.json", "history.jsonl", "curve.png", "adapter"),
    }
    assert json.loads((output / "metrics.json").read_text()) == outcome.metrics
    assert any("eval_accuracy" in point for point in seen) and seen[0]["steps"] == 48
    trained = Trained.load(output)
    assert trained.evaluate(trained.rows(None, "validation"))["accuracy"] == 100
    answers = trained.predict(trained.rows_of_texts(["it is good", "it is bad"]))
    assert [answer["label"] for answer in answers] == ["positive", "negative"]
    fresh = AutoAdapterModel.from_pretrained(model)
    assert fresh.load_adapter(output / "adapter") == "sst2" and fresh.get_labels("sst2") == ["negative", "positive"]
    assert "library_name: adapters" in (output / "adapter" / "README.md").read_text()


def test_its_file_gives_the_same_numbers_again(model: str, tmp_path: Path) -> None:
    first = train(config(model, tmp_path))
    again = RunConfig.read(tmp_path / "output" / "run.yaml", {"output": str(tmp_path / "again")})
    second = train(again)
    measured = ("loss", "accuracy", "steps", "trained_parameters")
    assert [first.metrics[name] for name in measured] == [second.metrics[name] for name in measured]
    assert_same(tmp_path / "output", tmp_path / "again")


def evaluations(output: Path) -> list[Any]:
    lines = [json.loads(line) for line in (output / "history.jsonl").read_text().splitlines()]
    return [(line["step"], line["eval_loss"], line["eval_accuracy"]) for line in lines if "eval_loss" in line]


class Interrupted(Exception):
    """What happens to a process at any time."""


def test_interrupted_runs_go_on(model: str, tmp_path: Path) -> None:
    train(config(model, tmp_path, output=str(tmp_path / "whole")))

    def interrupt(point: Any) -> None:
        if point["step"] >= 9:
            raise Interrupted

    own = config(model, tmp_path)
    with pytest.raises(Interrupted):
        train(own, interrupt)
    assert RunFolder(own.output).last_checkpoint() is not None and not RunFolder(own.output).is_finished
    with pytest.raises(RunError, match=r"is in use: it holds a run. .*--resume"):
        train(own)
    with pytest.raises(RunError, match=r"another run, whose training.epochs is 2.0, not 9.0"):
        train(config(model, tmp_path, training__epochs=9), resume=True)
    steps: list[int] = []
    train(own, lambda point: steps.append(point["step"]), resume=True)
    assert min(steps) > 6  # one epoch was kept
    assert_same(tmp_path / "whole", tmp_path / "output")
    assert evaluations(tmp_path / "whole") == evaluations(tmp_path / "output")
    assert not (tmp_path / "output" / "checkpoints").exists()
    before = (tmp_path / "output" / "metrics.json").read_text()
    train(own, resume=True)  # is finished: nothing is done
    assert (tmp_path / "output" / "metrics.json").read_text() == before
    train(config(model, tmp_path, training__epochs=1), overwrite=True)
    assert (tmp_path / "output" / "metrics.json").read_text() != before


@pytest.mark.parametrize(
    "changes",
    [
        {"adapter__config": "lora[r=2]", "adapter__name": "own.name"},
        {"adapter__config": {"architecture": "prefix_tuning", "prefix_length": 3, "bottleneck_size": 4}},
        {"adapter__config": None},
        {"adapter__config": None, "adapter__train_model": True},
        {"adapter__train_model": True},
        {"training__evaluate": 4, "training__early_stopping": 1, "training__gradient_accumulation": 2},
        {"training__gradient_checkpointing": True, "training__precision": "bf16", "adapter__drop_layers": 1},
        {"training__max_steps": 3, "training__keep": "last", "training__scheduler": "constant"},
        {"task__name": None, "task__kind": "masked_lm", "task__text": ["sentence"]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_every_way_to_train(changes: dict[str, Any], model: str, tmp_path: Path) -> None:
    own = config(model, tmp_path, **changes)
    outcome = train(own)
    trained = Trained.load(tmp_path / "output")
    measured = trained.evaluate(trained.rows(None, "validation"))
    assert measured["loss"] > 0 and outcome.metrics["trained_parameters"] > 0
    if own.task.name:
        assert measured["accuracy"] == pytest.approx(outcome.metrics["accuracy"], abs=1e-3)
        assert measured["loss"] == pytest.approx(outcome.metrics["loss"], abs=2e-4)


def test_states_that_were_cut_off_and_folders_that_were_renamed(model: str, tmp_path: Path) -> None:
    changes = {"training__epochs": 4, "training__learning_rate": 0.003}
    train(config(model, tmp_path, output=str(tmp_path / "whole"), **changes))

    def interrupt(point: Any) -> None:
        if point["step"] >= 14:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config(model, tmp_path, output=str(tmp_path / "before"), **changes), interrupt)
    (tmp_path / "before").rename(tmp_path / "output")
    checkpoints = RunFolder(tmp_path / "output").checkpoints
    shutil.copytree(checkpoints / "checkpoint-12", checkpoints / "checkpoint-18")
    (checkpoints / "checkpoint-18" / "trainer_state.json").write_text('{"best_')  # killed while it was written
    (checkpoints / "checkpoint-24").mkdir()
    steps: list[int] = []
    train(config(model, tmp_path, **changes), lambda point: steps.append(point["step"]), resume=True)
    assert min(steps) > 12 and not (tmp_path / "before").exists()
    assert_same(tmp_path / "whole", tmp_path / "output")


@pytest.mark.parametrize("moment", [3, 7])
def test_patience_is_remembered(moment: int, model: str, tmp_path: Path) -> None:
    changes = {"training__evaluate": 1, "training__early_stopping": 3, "training__learning_rate": 1e-9}
    whole = train(config(model, tmp_path, output=str(tmp_path / "whole"), **changes))
    assert whole.metrics["steps"] == 4  # nothing gets better

    def interrupt(point: Any) -> None:
        if point["step"] == moment or (moment == 7 and "train_runtime" in point):
            raise Interrupted

    own = config(model, tmp_path, **changes)
    with pytest.raises(Interrupted):
        train(own, interrupt)
    assert train(own, resume=True).metrics["steps"] == 4
    assert_same(tmp_path / "whole", tmp_path / "output")


def test_a_full_disk_costs_nothing(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config(model, tmp_path, output=str(tmp_path / "whole")))
    own, save = config(model, tmp_path), AdapterTrainer._save_optimizer_and_scheduler
    for first, problem in ((True, "begin anew"), (False, "--resume")):

        def fail(self: Any, folder: str, first: bool = first) -> None:
            if first or folder.endswith("12"):
                raise OSError(errno.ENOSPC, "No space left on device")
            save(self, folder)

        monkeypatch.setattr(AdapterTrainer, "_save_optimizer_and_scheduler", fail)
        with pytest.raises(RunError, match=f"is full. Make space, and .*{problem}"):
            train(own)
        assert own.output.exists() != first  # what cannot be gone on with is removed
    monkeypatch.undo()
    train(own, resume=True)
    assert_same(tmp_path / "whole", tmp_path / "output")


def test_one_process_at_a_time(model: str, tmp_path: Path) -> None:
    own = config(model, tmp_path)
    seen: list[str] = []

    def watch(point: Any) -> None:
        if not seen:
            with pytest.raises(RunError, match="another process is training in it") as found:
                train(own, resume=True)
            seen.append(str(found.value))

    train(own, watch)
    assert seen and RunFolder(own.output).is_finished


def test_a_loss_that_is_no_number_ends_a_run(model: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"The loss is nan at step .* training.learning_rate is 1e"):
        train(config(model, tmp_path, training__learning_rate=1e30, training__epochs=8))
    assert not (tmp_path / "output" / "metrics.json").exists()


def test_a_step_that_does_not_fit_into_memory_is_explained(model: str, tmp_path: Path) -> None:
    def watch(point: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RunError, match=r"batches of 8 .*training\.batch_size"):
        train(config(model, tmp_path), watch)


def test_only_a_run_is_overwritten(model: str, tmp_path: Path) -> None:
    own = config(model, tmp_path, training__max_steps=2)
    train(own)
    (own.output / "notes.txt").write_text("mine")
    train(own, overwrite=True)
    assert (own.output / "notes.txt").read_text() == "mine"
    before = (own.output / "metrics.json").read_text()
    with pytest.raises(RunError):
        train(config(model, tmp_path, adapter__config="seq_bm"), overwrite=True)
    assert (own.output / "metrics.json").read_text() == before  # seen before anything was removed


def test_the_head_alone(model: str, tmp_path: Path) -> None:
    outcome = train(config(model, tmp_path, adapter__config=None))
    assert {path.name for path in outcome.path.iterdir()} == {"README.md", "head_config.json", "model_head.safetensors"}


@pytest.mark.parametrize("config_of", ["lora[r=2]", None])
def test_the_card_tells_how_to_use_it(config_of: str | None, model: str, tmp_path: Path) -> None:
    outcome = train(config(model, tmp_path, adapter__config=config_of, training__max_steps=2))
    code = re.findall(r"```python\n(.*?)```", (outcome.path / "README.md").read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(code[0], found)
    assert list(found["model"].heads) == ["sst2"]


def test_stacked_and_fused(model: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(config(model, tmp_path, adapter__name=name, output=str(tmp_path / name), training__max_steps=2))
    paths = [str(tmp_path / name / "adapter") for name in ("one", "two")]
    before = weights(tmp_path / "one" / "adapter")
    for changes in ({"adapter__under": paths[:1]}, {"adapter__fuse": paths}):
        shutil.rmtree(tmp_path / "output", ignore_errors=True)
        train(config(model, tmp_path, **changes, training__max_steps=3))
        trained = Trained.load(tmp_path / "output")
        assert len(trained.model.active_adapters) == 2
        saved = load_file(tmp_path / "output" / "adapter" / "one" / "adapter.safetensors")
        assert all(
            torch.equal(saved[key.partition("/")[2]], before[key]) for key in before if key.startswith("adapter.")
        )
    with pytest.raises(RunError, match="exclude each other"):
        config(model, tmp_path, adapter__under=paths, adapter__fuse=paths)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"adapter__config": "seq_bm"}, "seq_bm"),
        ({"task__label": "lable"}, "has no column 'lable'"),
        ({"task__text": ["text"]}, "has no column 'text'; it has sentence, label"),
        ({"task__labels": ["yes", "no", "maybe"]}, ""),
        ({"task__train": "/nowhere.jsonl"}, "There is no file /nowhere.jsonl"),
        ({"task__data_dir": "/nowhere"}, "There is no folder /nowhere"),
        ({"training__metric": "f2"}, "f2"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_before_anything_is_written(
    changes: dict[str, Any], problem: str, model: str, tmp_path: Path
) -> None:
    if not problem:
        train(config(model, tmp_path, **changes))
        return
    with pytest.raises(RunError, match=problem):
        train(config(model, tmp_path, **changes))
    assert not (tmp_path / "output" / "metrics.json").exists()


def test_models_that_are_not_there(model: str, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="/nowhere/at/all"):
        train(config("/nowhere/at/all", tmp_path))


OTHERS: dict[str, Any] = {
    "gpt2": lambda size: GPT2Model(GPT2Config(vocab_size=size, n_positions=64, n_embd=32, n_layer=1, n_head=2)),
    "bart": lambda size: BartModel(
        BartConfig(
            vocab_size=size,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            max_position_embeddings=64,
            eos_token_id=3,
        )
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_decoders_classify(name: str, model: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    if name == "gpt2":  # has no token to fill up with
        tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(tmp_path / name)
    OTHERS[name](len(tokenizer)).save_pretrained(tmp_path / name)
    metrics = train(config(str(tmp_path / name), tmp_path, training__epochs=1)).metrics
    trained = Trained.load(tmp_path / "output")
    assert trained.evaluate(trained.rows(None, "validation"))["accuracy"] == metrics["accuracy"]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_models_in_half_types_are_trained_in_whole_ones(
    precision: str, dtype: torch.dtype, model: str, tmp_path: Path
) -> None:
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "half")
    AutoModel.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    train(config(str(tmp_path / "half"), tmp_path, training__max_steps=2, training__precision=precision))
    loaded = Trained.load(tmp_path / "output").model
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}


def test_a_whole_model_needs_no_other(model: str, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "base")
    changes = {"adapter__config": None, "adapter__train_model": True, "training__max_steps": 2}
    metrics = train(config(str(tmp_path / "base"), tmp_path, **changes)).metrics
    shutil.rmtree(tmp_path / "base")
    trained = Trained.load(tmp_path / "output")
    assert trained.evaluate(trained.rows(None, "validation"))["loss"] == metrics["loss"]


def test_the_file_of_a_run_says_what_was_read(model: str, tmp_path: Path) -> None:
    rows = [{"question": "who", "context": "the actor", "answers": {"text": ["actor"], "answer_start": [4]}}] * 4
    data = str(tiny.splits(tmp_path / "qa", rows))
    names = {"task__name": None, "task__kind": "question_answering", "task__data_dir": data}
    train(config(model, tmp_path, **names, training__max_steps=1))
    task = RunFolder(tmp_path / "output").config().task
    assert (task.text, task.label, task.max_length) == (["question", "context"], "answers", 384)
