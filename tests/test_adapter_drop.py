"""AdapterDrop in training: which adapters a step has, what is computed below them, and what is active afterwards."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

import adapters
import models
from adapters.training import AdapterDropTrainerCallback

LAYERS = 4


def classifier() -> Any:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**{**models.BERT, "num_hidden_layers": LAYERS}))
    adapters.init(model)
    model.add_adapter("a", "seq_bn[reduction_factor=4]")
    models.randomise(model, "a")
    model.train_adapter("a")
    return model


class Seen(TrainerCallback):
    """How many of the first layers are skipped where steps are made, and where the trainer evaluates and saves."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.between: list[int] = []

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(skipped(kwargs["model"]))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        self.steps.append(skipped(model))
        for i, layer in enumerate(model.bert.encoder.layer):
            has_gradient = layer.output.adapters["a"].adapter_up.weight.grad is not None
            assert has_gradient == (i >= self.steps[-1])

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.between.append(skipped(kwargs["model"]))

    on_save = on_evaluate


def skipped(model: Any) -> int:
    layers = model._adapter_registry.skip_layers
    assert layers == tuple(range(len(layers)))
    return len(layers)


def trained(folder: Path, callback: AdapterDropTrainerCallback, seed: int = 1) -> tuple[Any, Seen]:
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")
    model, seen = classifier(), Seen()
    arguments = TrainingArguments(
        str(folder),
        max_steps=6,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        seed=seed,
        disable_tqdm=True,
    )
    ids = torch.randint(5, 100, (8, 6), generator=torch.Generator().manual_seed(0))
    data: Any = [{"input_ids": row, "labels": i % 2} for i, row in enumerate(ids)]
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=[callback, seen])
    trainer.train()
    assert model.active_adapters == adapters.Stack("a") and skipped(model) == 0
    return model, seen


def test_robust_training(tmp_path: Path) -> None:
    _, seen = trained(tmp_path, AdapterDropTrainerCallback())
    assert len(seen.steps) == 12 and seen.steps[::2] == seen.steps[1::2]  # one n for all that a step accumulates
    assert len(set(seen.steps)) > 2 and max(seen.steps) < LAYERS
    assert seen.between == [0, 0, 0]
    assert trained(tmp_path, AdapterDropTrainerCallback())[1].steps == seen.steps
    assert trained(tmp_path, AdapterDropTrainerCallback(), seed=2)[1].steps != seen.steps
    assert set(trained(tmp_path, AdapterDropTrainerCallback(range(1, 3)))[1].steps) == {1, 2}


def test_specialised_training(tmp_path: Path) -> None:
    before = [p.clone() for p in models.parameters(classifier(), "a")]
    model, seen = trained(tmp_path, AdapterDropTrainerCallback(3, evaluation=2))
    assert set(seen.steps) == {3} and seen.between == [2, 2, 2]
    changed = [not torch.equal(p, q) for p, q in zip(models.parameters(model, "a"), before, strict=True)]
    assert changed == [False] * (3 * len(changed) // 4) + [True] * (len(changed) // 4)


class Entering:
    """What enters the layers of a model."""

    def __init__(self, model: Any) -> None:
        self.needs_gradient: list[bool] = []
        for layer in model.bert.encoder.layer:
            layer.register_forward_pre_hook(self)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.needs_gradient.append(inputs[0].requires_grad)


def test_nothing_is_computed_backward_below_the_first_adapter() -> None:
    model = classifier()
    entering = Entering(model)
    kept = []
    for dropped in range(LAYERS):
        model.set_active_adapters("a", skip_layers=range(dropped))
        entering.needs_gradient.clear()
        saved: dict[int, int] = {}

        def note(x: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            model(torch.randint(5, 100, (2, 6)), labels=torch.tensor([0, 1])).loss.backward()
        assert entering.needs_gradient == [layer > dropped for layer in range(LAYERS)]
        kept.append(sum(saved.values()))
    # So nothing is kept for it either: as much for one layer as for another.
    steps = [one - other for one, other in itertools.pairwise(kept)]
    assert min(steps) > 0.9 * max(steps) > 0


class Arguments:
    seed = 0


class State:
    global_step = 0


def test_the_callback_by_hand() -> None:
    """As the trainer calls it, also on a setup with layers that are skipped from the beginning."""
    model, callback = classifier(), AdapterDropTrainerCallback([2, 3], evaluation=1)
    model.set_active_adapters("a", skip_layers=[3])
    given: Any = (Arguments(), State(), None)
    callback.on_train_begin(*given, model=model)
    seen = set()
    for step in range(20):
        State.global_step = step
        callback.on_step_begin(*given, model=model)
        seen.add(model._adapter_registry.skip_layers)
        callback.on_step_end(*given, model=model)
        assert model._adapter_registry.skip_layers == (0, 3)
    assert seen == {(0, 1, 3), (0, 1, 2, 3)}
    callback.on_train_end(*given, model=model)
    assert model._adapter_registry.skip_layers == (3,) and model.active_adapters == adapters.Stack("a")


@pytest.mark.parametrize("skipped_before", [(), (3,)], ids=str)
def test_training_begins_anew(skipped_before: tuple[int, ...]) -> None:
    """In the midst of a step, as `auto_find_batch_size` lets it: what that left out is there again in the end."""
    model, callback = classifier(), AdapterDropTrainerCallback(2)
    model.set_active_adapters("a", skip_layers=skipped_before)
    given: Any = (Arguments(), State(), None)
    for _ in range(2):
        callback.on_train_begin(*given, model=model)
        assert model._adapter_registry.skip_layers == skipped_before
        callback.on_step_begin(*given, model=model)
        assert model._adapter_registry.skip_layers == (0, 1, *skipped_before)
    callback.on_train_end(*given, model=model)
    assert model._adapter_registry.skip_layers == skipped_before
    model.set_active_adapters("a", skip_layers=[0, 1])  # by the user, this time
    callback.on_train_begin(*given, model=model)
    assert model._adapter_registry.skip_layers == (0, 1)


def test_what_cannot_be_is_said() -> None:
    for arguments in ((-1,), ([],), (range(-1, 2),), (0, -1)):
        with pytest.raises(ValueError, match="number of layers"):
            AdapterDropTrainerCallback(*arguments)
    model, given = classifier(), (Arguments(), State(), None)
    for callback in (AdapterDropTrainerCallback(5), AdapterDropTrainerCallback(0, evaluation=5)):
        with pytest.raises(ValueError, match="5 layers cannot be dropped: this model has 4"):
            callback.on_train_begin(*given, model=model)  # type: ignore[arg-type]
    model.set_active_adapters(None)
    for other in (model, nn.Linear(1, 1)):
        with pytest.raises(ValueError, match="there are none"):
            AdapterDropTrainerCallback().on_train_begin(*given, model=other)  # type: ignore[arg-type]
