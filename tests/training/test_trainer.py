"""`AdapterTrainer`: what its checkpoints hold, what it optimises, and what it refuses."""

from __future__ import annotations

import inspect
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from tiny_runs import STEPS, STOP, arguments, assert_equal, flexible, rows, static, trained, trainer
from transformers import Trainer, TrainerCallback
from transformers.training_args import ParallelMode

import adapters
import models
from adapters import AdapterTrainer, Fuse, Seq2SeqAdapterTrainer, Stack
from adapters.checkpoints.files import AdapterFileError
from adapters.trainer import AdapterTrainerCallback

pytest.importorskip("accelerate", reason="the Trainer needs it")


def files(folder: Path) -> set[str]:
    """The files in a folder, by their paths."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# -- checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoints_hold_no_base_model(tmp_path: Path) -> None:
    model = flexible(fuse=True)
    model.add_classification_head("other", num_labels=3)
    model.active_head = "a"
    made = trainer(AdapterTrainer, model, tmp_path)
    made.train()
    found = files(tmp_path / f"checkpoint-{STEPS}")
    adapter, head = {"adapter_config.json", "adapter.safetensors"}, {"head_config.json", "model_head.safetensors"}
    assert found == {
        *(f"{name}/{file}" for name in ("a", "b") for file in adapter | head),
        *(f"other/{file}" for file in head),
        *(f"a,b/{file}" for file in ("adapter_fusion_config.json", "model_adapter_fusion.safetensors")),
        *("trained_state.safetensors", "training_args.bin", "trainer_state.json"),
        *("optimizer.pt", "scheduler.pt", "rng_state.pth"),
    }
    other = flexible(seed=5)
    for name in ("a", "b"):
        other.load_adapter(tmp_path / f"checkpoint-{STEPS}" / name)
    other.load_adapter_fusion(tmp_path / f"checkpoint-{STEPS}" / "a,b", set_active=True)
    other.active_head = "a"
    batch = torch.stack([row["input_ids"] for row in rows()])
    assert torch.equal(other.eval()(batch).logits, model.eval()(batch).logits)


class BestInBetween(TrainerCallback):
    """Says that the first evaluation was the best."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        metrics["eval_loss"] = float(state.global_step)


class Copying(TrainerCallback):
    """Copies what is trained at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.copy = trained(model)


@pytest.mark.parametrize("kind", [AdapterTrainer, Trainer])
@pytest.mark.parametrize("make", [static, lambda: flexible(fuse=True)], ids=["static", "flexible, fusion"])
def test_the_best_is_loaded(make: Any, kind: Any, tmp_path: Path) -> None:
    options = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}
    made = trainer(kind, make(), tmp_path, **options)
    before, copying = dict(made.model.named_parameters()), Copying(STOP)
    made.add_callback(BestInBetween())
    made.add_callback(copying)
    made.train()
    assert made.state.best_model_checkpoint.endswith(f"checkpoint-{STOP}")
    assert_equal(trained(made.model), copying.copy)
    assert all(
        parameter is before[name] for name, parameter in made.model.named_parameters()
    )  # as optimizers know them


def test_new_models_get_what_a_checkpoint_has(tmp_path: Path) -> None:
    """Also frozen adapters, other heads, and those that the model does not have at all."""
    model = flexible()
    model.set_active_adapters(Stack("b", "a"))
    trainer(AdapterTrainer, model, tmp_path).train()
    other = flexible(seed=3)
    other.delete_adapter("b")
    other.delete_head("b")
    other.set_active_adapters("a")
    again = trainer(AdapterTrainer, other, tmp_path, max_steps=STEPS)
    with torch.no_grad():
        again._load_from_checkpoint(str(tmp_path / f"checkpoint-{STEPS}"))
    assert other.active_adapters == Stack("a") and other.active_head == "a"
    expected = dict(model.named_parameters())
    assert_equal({n: p for n, p in other.named_parameters()}, {n: expected[n] for n, _ in other.named_parameters()})
    assert sorted(other.adapters_config.adapters) == ["a", "b"] and sorted(other.heads) == ["a", "b"]


def test_checkpoints_of_another_training(tmp_path: Path) -> None:
    trainer(AdapterTrainer, static(), tmp_path).train()
    model = static(seed=1)
    model.add_adapter("c", config="lora[r=2]")
    model.train_adapter("c")
    before = trained(model)
    with pytest.raises(AdapterFileError, match=r"this model trains, and the checkpoint lacks: .*loras\.c"):
        trainer(AdapterTrainer, model, tmp_path).train(resume_from_checkpoint=True)
    assert_equal(trained(model), before)
    model = static("seq_bn[reduction_factor=8]")
    with pytest.raises(AdapterFileError, match=r"of other shapes: .*adapter_down"):
        trainer(AdapterTrainer, model, tmp_path).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="Can't find a valid checkpoint"):
        trainer(AdapterTrainer, static(), tmp_path).train(resume_from_checkpoint=str(tmp_path / "none"))


def test_checkpoints_of_1_3(tmp_path: Path) -> None:
    """These are folders of adapters, fusions and heads, and nothing else of the model."""
    model = flexible(fuse=True)
    made = trainer(AdapterTrainer, model, tmp_path)
    made.train()
    folder = tmp_path / f"checkpoint-{STOP}"
    source = flexible(seed=4, fuse=True)
    (folder / "trained_state.safetensors").unlink()
    source.save_all_adapters(folder, use_safetensors=False, for_release="1.3")
    source.save_all_adapter_fusions(folder, use_safetensors=False)
    source.save_all_heads(folder, use_safetensors=False)
    other = flexible(seed=1, fuse=True)
    again = trainer(AdapterTrainer, other, tmp_path)
    again._load_from_checkpoint(str(folder))
    assert_equal(trained(other), trained(source))
    assert other.active_adapters == Fuse("a", "b") and other.active_head == "a"
    again.train(resume_from_checkpoint=str(folder))
    assert again.state.global_step == STEPS


@pytest.mark.parametrize("what", ["embeddings", "part of the base model"])
def test_whatever_is_trained_is_resumed(what: str, tmp_path: Path) -> None:
    def make(seed: int) -> Any:
        model = static(seed=seed)
        if what == "embeddings":
            model.train_adapter("a", train_embeddings=True)
        else:
            model.bert.encoder.layer[1].requires_grad_(True)
        return model

    whole, parts = make(0), make(0)
    trainer(AdapterTrainer, whole, tmp_path / "whole").train()
    trainer(AdapterTrainer, parts, tmp_path, stop=STOP).train()
    again = make(1)
    trainer(AdapterTrainer, again, tmp_path).train(resume_from_checkpoint=True)
    assert_equal(trained(again), trained(whole))
    assert_equal(dict(again.named_parameters()), dict(whole.named_parameters()))


def test_whole_models_are_trained_if_asked_for(tmp_path: Path) -> None:
    model = static()
    model.freeze_model(False)
    with pytest.raises(ValueError, match="The base model is not frozen"):
        trainer(AdapterTrainer, model, tmp_path).train()
    made = AdapterTrainer(model, arguments(tmp_path), train_dataset=rows(), eval_dataset=rows(), train_model=True)
    made.train()
    assert "model.safetensors" in files(tmp_path / f"checkpoint-{STEPS}")
    again = AdapterTrainer(static(seed=1), arguments(tmp_path), eval_dataset=rows(), train_model=True)
    again.model.freeze_model(False)
    again._load_from_checkpoint(str(tmp_path / f"checkpoint-{STEPS}"))
    assert_equal(dict(again.model.named_parameters()), dict(model.named_parameters()))


def test_a_checkpoint_that_does_not_fit_adds_nothing(tmp_path: Path) -> None:
    """Though the model lacks some adapters and heads that could be read."""
    trainer(AdapterTrainer, flexible(fuse=True), tmp_path).train()
    model = flexible("lora[r=2]")
    model.delete_adapter("b")
    model.delete_head("b")
    heads, before = dict(model.heads.items()), dict(model.named_parameters())
    frozen = [name for name, p in before.items() if not p.requires_grad]
    made = trainer(AdapterTrainer, model, tmp_path)
    with pytest.raises(AdapterFileError):
        made.train(resume_from_checkpoint=True)
    assert list(model.adapters_config) == ["a"] and not model.adapters_config.fusions
    assert dict(model.heads.items()) == heads and model.active_adapters == Stack("a")
    assert dict(model.named_parameters()).keys() == before.keys()
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == frozen


class Hub:
    """What the Hugging Face Hub would be given: the files of each upload."""

    def __init__(self) -> None:
        self.uploads: list[set[str]] = []

    def create_repo(self, name: str, **options: Any) -> Any:
        return SimpleNamespace(repo_id=name)

    def upload_folder(self, folder_path: str, **options: Any) -> Any:
        found = files(Path(folder_path))
        self.uploads.append({name for name in found if not name.startswith("checkpoint-")})
        done: Future[None] = Future()
        done.set_result(None)
        return done


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint"])
def test_pushes_hold_adapters(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of the training and at its end; the second one goes on from what the first one left."""
    hub, module = Hub(), transformers.trainer
    monkeypatch.setattr(module, "hf_api", lambda: hub, raising=False)
    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(module, name, getattr(hub, name), raising=False)
    made = trainer(AdapterTrainer, flexible(fuse=True), tmp_path, push_to_hub=True, hub_strategy=strategy)
    made.train()
    made.push_to_hub()
    expected = {f"{name}/{file}" for name in "ab" for file in ("adapter.safetensors", "model_head.safetensors")}
    expected.add("a,b/model_adapter_fusion.safetensors")
    assert len(hub.uploads) == (3 if strategy == "every_save" else 5)
    assert all(found >= expected for found in hub.uploads)
    assert ModelCard.load(tmp_path / "README.md").data.library_name == "adapters"


# -- loss and optimizer -----------------------------------------------------------------------------------------------


def test_only_what_is_trained_is_optimised(tmp_path: Path) -> None:
    made = trainer(AdapterTrainer, static(), tmp_path, weight_decay=0.1)
    bare = {name: p.detach().clone() for name, p in made.model.named_parameters() if not p.requires_grad}
    made.train()
    optimised = {id(p) for group in made.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in made.model.parameters() if p.requires_grad}
    assert_equal({n: p for n, p in made.model.named_parameters() if not p.requires_grad}, bare)


def groups(made: Trainer) -> dict[str, float]:
    """The weight decay of every parameter that is optimised."""
    names = {id(parameter): name for name, parameter in made.model.named_parameters()}
    return {
        names[id(p)]: group["weight_decay"] for group in made.create_optimizer().param_groups for p in group["params"]
    }


def test_values_of_fusions_have_no_weight_decay(tmp_path: Path) -> None:
    found = groups(trainer(AdapterTrainer, flexible(fuse=True), tmp_path, weight_decay=0.1))
    fused = {name: decay for name, decay in found.items() if "adapter_fusion_layer" in name}
    assert {name for name, decay in fused.items() if decay == 0.0} == {
        name for name in fused if name.endswith(("value.weight", "bias"))
    }
    assert any(name.endswith("query.weight") for name, decay in fused.items() if decay == 0.1)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("sums", [False, True], ids=["means", "sums"])
def test_the_regularisation_of_fusions_is_in_the_loss(
    steps: int, sums: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a learning rate of one and no other gradient, a step takes the gradient of the regularisation off."""
    model = flexible(fuse=True, hidden_dropout_prob=0.0)
    values = {n: p for n, p in model.named_parameters() if n.endswith("value.weight") and p.requires_grad}
    with torch.no_grad():
        for value in values.values():
            value.add_(torch.ones_like(value))
    expected = {n: p - 0.02 * (p - torch.eye(len(p))) for n, p in trained(model).items() if n in values}
    monkeypatch.setattr(type(model), "accepts_loss_kwargs", sums)
    options = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    made = trainer(AdapterTrainer, model, tmp_path, max_steps=1, gradient_accumulation_steps=steps, **options)
    assert made.model_accepts_loss_kwargs == sums
    model.register_forward_hook(lambda module, inputs, found: found | {"loss": found["loss"] * 0.0})
    made.train()
    for name, value in values.items():
        torch.testing.assert_close(value.detach(), expected[name])
    reg = float(model.get_fusion_regularization_loss().detach())
    assert made.state.log_history[0]["loss"] > reg > 0


# -- evaluation -------------------------------------------------------------------------------------------------------


def test_evaluation_and_prediction(tmp_path: Path) -> None:
    model = flexible()
    given = AdapterTrainer(
        model,
        arguments(tmp_path, eval_strategy="no"),
        eval_dataset=rows(),
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    batch = torch.stack([row["input_ids"] for row in rows()])
    expected = model.eval()(batch).logits.detach()
    found = given.predict(rows())
    torch.testing.assert_close(torch.from_numpy(found.predictions), expected)
    labels = torch.stack([row["labels"] for row in rows()])
    assert given.evaluate()["eval_accuracy"] == float((expected.argmax(-1) == labels).float().mean())


def test_labels_of_flexible_heads_are_found(tmp_path: Path) -> None:
    model = flexible()
    model.add_qa_head("span")
    made = AdapterTrainer(model, arguments(tmp_path), eval_dataset=rows())
    assert made.label_names == ["start_positions", "end_positions"]
    assert AdapterTrainer(static(), arguments(tmp_path), eval_dataset=rows()).label_names == ["labels"]
    told = arguments(tmp_path, label_names=["mine"])
    assert AdapterTrainer(model, told, eval_dataset=rows()).label_names == ["mine"]


def test_generation_is_evaluated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(**models.BART))
    adapters.init(model)
    model.add_adapter("a", config="seq_bn[reduction_factor=4]")
    model.train_adapter("a")
    given = {"predict_with_generate": True, "generation_max_length": 5, "report_to": "none", "use_cpu": True}
    data = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in rows(4)]
    args = transformers.Seq2SeqTrainingArguments(str(tmp_path), max_steps=1, disable_tqdm=True, **given)
    made = Seq2SeqAdapterTrainer(model, args, train_dataset=data, eval_dataset=data)
    made.train()
    found = made.predict(data)
    batch = torch.stack([row["input_ids"] for row in data])
    expected = model.eval().generate(batch, max_length=5)
    assert torch.equal(torch.from_numpy(found.predictions)[:, : expected.shape[1]], expected)


# -- calls ------------------------------------------------------------------------------------------------------------


def test_the_signature_is_that_of_1_3() -> None:
    names = [
        *("model", "args", "data_collator", "train_dataset", "eval_dataset", "tokenizer", "processing_class"),
        *("model_init", "compute_metrics", "callbacks", "optimizers", "preprocess_logits_for_metrics", "adapter_names"),
    ]
    for kind in (AdapterTrainer, Seq2SeqAdapterTrainer):
        found = inspect.signature(kind).parameters
        positional = [n for n, p in found.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        assert positional == names
        assert {n: found[n].default for n in names} == {n: (None, None) if n == "optimizers" else None for n in names}
    assert issubclass(Seq2SeqAdapterTrainer, transformers.Seq2SeqTrainer)


def test_tokenizers_are_processors(tmp_path: Path) -> None:
    class Tokenizer:
        def save_pretrained(self, folder: Any) -> None:
            (Path(folder) / "tokenizer.json").write_text("{}")

    tokenizer = Tokenizer()
    made = AdapterTrainer(static(), arguments(tmp_path, eval_strategy="no"), tokenizer=tokenizer)
    assert made.processing_class is tokenizer
    made.save_model()
    assert {"tokenizer.json", "a/adapter_config.json", "a/model_head.safetensors"} <= files(tmp_path)
    with pytest.raises(ValueError, match="former name"):
        AdapterTrainer(static(), arguments(tmp_path), tokenizer=tokenizer, processing_class=tokenizer)


def test_a_setup_can_be_given(tmp_path: Path) -> None:
    model = flexible(fuse=True)
    model.train_adapter("b")
    made = AdapterTrainer(model, arguments(tmp_path, eval_strategy="no"), adapter_names=[["a", "b"]])
    assert made.train_adapter_fusion
    assert next(block.name for block in model.active_adapters.blocks() if isinstance(block, Fuse)) == "a,b"
    assert not AdapterTrainer(model, arguments(tmp_path, eval_strategy="no"), adapter_names="a").train_adapter_fusion


def test_models_are_made(tmp_path: Path) -> None:
    """Anew for each training, always with the setup that was asked for, and as trials want them."""
    trials: list[Any] = []

    def make(trial: Any) -> Any:
        trials.append(trial)
        return flexible()

    given = {"args": arguments(tmp_path, max_steps=1), "train_dataset": rows(), "eval_dataset": rows()}
    made = AdapterTrainer(model_init=make, adapter_names=["b", "a"], **given)
    for _ in range(2):
        before = made.model
        made.train()
        assert made.model is not before and made.model.active_adapters == Stack("b", "a")
    assert made.call_model_init("a trial").active_adapters == Stack("b", "a")
    assert trials == [None, None, None, "a trial"]
    with pytest.raises(ValueError, match=r"has no adapters: call adapters\.init"):
        AdapterTrainer(
            model_init=lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**models.BERT))
        )


def test_what_cannot_be_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no adapters: call adapters\.init"):
        AdapterTrainer(transformers.BertForSequenceClassification(transformers.BertConfig(**models.BERT)))
    model = static()
    model.freeze_model(False)
    model.set_active_adapters(None)
    with pytest.raises(ValueError, match="No adapters are active"):
        AdapterTrainer(model, arguments(tmp_path), eval_dataset=rows())
    model = static()
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="Nothing is trained"):
        trainer(AdapterTrainer, model, tmp_path).train()
    model = static()
    model.freeze_model(False)
    plain = trainer(Trainer, model, tmp_path)
    plain.add_callback(AdapterTrainerCallback(plain))
    with pytest.raises(ValueError, match="The base model is not frozen"):
        plain.train()


def test_a_model_that_is_not_divided_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate leaves out FSDP where there is no accelerator; with transformers 5.5 that is an error."""
    monkeypatch.setattr(transformers.TrainingArguments, "parallel_mode", ParallelMode.DISTRIBUTED)
    with pytest.raises((UserWarning, RuntimeError), match=r"accelerate divides no model here|no available devices"):
        AdapterTrainer(static(), arguments(tmp_path, fsdp=True), eval_dataset=rows())


def test_heads_alone_are_trained(tmp_path: Path) -> None:
    model = flexible()
    model.set_active_adapters(None)
    model.active_head = "a"
    before = {n: p.clone() for n, p in model.named_parameters()}
    trainer(AdapterTrainer, model, tmp_path).train()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(name.startswith("heads.a.") for name in moved)
