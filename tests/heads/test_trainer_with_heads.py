"""The `Trainer` of transformers with flexible heads: steps over several batches, losses of evaluations, predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging import version
from pairs import IDS, ROWS, SPANS, TEXT, TOKENS, pair
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from adapters import AdapterTrainer, BatchSplit, MultiTask, Parallel

pytest.importorskip("accelerate", reason="the Trainer needs it")

PAIRS = torch.stack([IDS, IDS.flip(0)], dim=1)
WORDS = torch.tensor([[0, 1, 2, 4, 5, 0]] * 4)
ARCS = torch.tensor([[0, 1, 1, -100, -100, -100]] * 4)


def model_with(*heads: tuple[str, str, dict[str, Any]]) -> Any:
    """A model with adapters and heads."""
    _, model = pair("bert", "BertModel", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    for head, method, options in heads:
        model.add_adapter(head, config="seq_bn[reduction_factor=4]")
        getattr(model, f"add_{method}_head")(head, **options)
    model.train_adapter(heads[0][0])
    return model


def rows(**columns: Any) -> list[dict[str, Any]]:
    """A data set of these columns."""
    return [{name: column[i] for name, column in columns.items()} for i in range(len(next(iter(columns.values()))))]


def trainer(
    model: Any, data: Any, folder: Path, size: int = 2, kind: type[Trainer] = Trainer, **arguments: Any
) -> Trainer:
    """A Trainer."""
    given = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=size, per_device_eval_batch_size=size, report_to="none",
        use_cpu=True, max_steps=1, learning_rate=0.1, optim="sgd", lr_scheduler_type="constant", disable_tqdm=True,
        max_grad_norm=0.0, save_strategy="no", **arguments,
    )  # fmt: skip
    return kind(model, given, train_dataset=data, eval_dataset=data)


# heads, labels
STEPS: list[tuple[tuple[str, str, dict[str, Any]], Tensor]] = [
    (("a", "classification", {"num_labels": 3}), ROWS),
    (("a", "classification", {"num_labels": 1}), ROWS.float()),
    (("a", "tagging", {"num_labels": 90}), TOKENS),
    (("a", "token_regression", {}), TOKENS.float()),
    (("a", "masked_lm", {}), TOKENS),
]


# With accumulated gradients, transformers 5.5 divides losses twice, whatever the model; the AdapterTrainer does not.
divides_twice = pytest.mark.xfail(
    version.parse(transformers.__version__) < version.parse("5.6"), reason="a bug of transformers 5.5", strict=True
)


@pytest.mark.parametrize("kind", [AdapterTrainer, pytest.param(Trainer, marks=divides_twice)])
@pytest.mark.parametrize("case", STEPS, ids=lambda case: f"{case[0][1]}{case[0][2]}")
def test_a_step_over_two_batches_is_one_over_a_large_one(case: Any, kind: type[Trainer], tmp_path: Path) -> None:
    head, labels = case
    data = rows(**TEXT, labels=labels)
    weights = []
    for size, count in ((4, 1), (2, 2), (1, 4)):
        model = model_with(head)
        trainer(model, data, tmp_path, size, kind, gradient_accumulation_steps=count).train()
        weights.append([p.detach() for p in model.parameters() if p.requires_grad])
    before = [p for p in model_with(head).parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, weights[0], strict=True))
    for found in weights[1:]:
        for a, b in zip(found, weights[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_language_models_count_as_transformers_does(tmp_path: Path) -> None:
    """The first label of a row is that of no token, so the Trainer must not count it."""
    losses = []
    for which in (0, 1):
        model = pair("llama", "LlamaForCausalLM")[which]
        if which == 1:
            model.add_prediction_head_from_config("task", {"head_type": "causal_lm"})
            model.heads["task"][-1].weight.data.copy_(pair("llama", "LlamaForCausalLM")[0].lm_head.weight)
        data = rows(**TEXT, labels=TOKENS)
        losses.append(trainer(model, data, tmp_path, gradient_accumulation_steps=2).train().training_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_modules_of_users_are_not_asked(tmp_path: Path) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 1)

        def forward(self, hidden: Tensor, labels: Tensor | None = None) -> Any:
            scores = self.layer(hidden[:, 0])[:, 0]
            return scores if labels is None else ((scores - labels).square().mean(), scores)

    model = model_with(("a", "classification", {}))
    model.register_custom_head("own_of_trainer", Own)
    model.add_custom_head("own_of_trainer", "own")
    data = rows(**TEXT, labels=ROWS.float())
    assert not model.accepts_loss_kwargs
    assert "eval_loss" in trainer(model, data, tmp_path).evaluate()
    with pytest.raises(ValueError, match="takes no num_items_in_batch"):
        model(**TEXT, labels=ROWS, num_items_in_batch=4)


# method, its options, labels and other columns, names of labels, shapes of predictions
EVALUATIONS: list[tuple[str, dict[str, Any], dict[str, Tensor], list[str], list[tuple[int, ...]]]] = [
    ("classification", {"num_labels": 3}, {"labels": ROWS}, ["labels"], [(4, 3)]),
    ("tagging", {"num_labels": 90}, {"labels": TOKENS}, ["labels"], [(4, 6, 90)]),
    ("qa", {}, SPANS, ["start_positions", "end_positions"], [(4, 6), (4, 6)]),
    ("dependency_parsing", {"num_labels": 3}, {"word_starts": WORDS, "labels_arcs": ARCS, "labels_rels": ARCS},
     ["labels_arcs", "labels_rels"], [(4, 6, 7, 3), (4, 6, 7)]),
    ("token_regression", {}, {"labels": TOKENS.float()}, ["labels"], [(4, 6, 1)]),
    ("embedding", {"loss": "cosine"}, {"input_ids": PAIRS, "attention_mask": torch.ones_like(PAIRS),
     "labels": ROWS.float()}, ["labels"], [(4, 2, 32)]),
    ("ranking", {}, {"input_ids": PAIRS, "attention_mask": torch.ones_like(PAIRS), "labels": ROWS[:, None] - 1 +
     torch.tensor([0, 2])}, ["labels"], [(4, 2)]),
]  # fmt: skip


@pytest.mark.parametrize("case", EVALUATIONS, ids=lambda case: case[0])
def test_evaluation(case: Any, tmp_path: Path) -> None:
    method, options, columns, names, shapes = case
    model = model_with(("a", method, options)).eval()
    assert model.get_label_names() == names
    given = {**TEXT, **columns}
    of_labels = None if names == ["labels"] else model.get_label_names()
    found = trainer(model, rows(**given), tmp_path, label_names=of_labels).predict(rows(**given))
    arrays = found.predictions if isinstance(found.predictions, tuple) else (found.predictions,)
    assert [array.shape for array in arrays] == shapes
    with torch.no_grad():
        halves = [model(**{k: v[part] for k, v in given.items()}) for part in (slice(0, 2), slice(2, 4))]
    assert found.metrics["test_loss"] == pytest.approx(float(sum(half.loss for half in halves)) / 2, rel=1e-4)
    for key, array in zip([key for key in halves[0] if key != "loss"], arrays, strict=True):
        torch.testing.assert_close(torch.from_numpy(array), torch.cat([half[key] for half in halves]))


def test_contrastive_loss_has_no_labels(tmp_path: Path) -> None:
    """As in the examples of transformers for CLIP: the batch says that there is a loss."""
    model = model_with(("a", "embedding", {}))
    data = rows(input_ids=PAIRS, attention_mask=torch.ones_like(PAIRS))
    made = trainer(model, data, tmp_path, label_names=[], remove_unused_columns=False)
    collate = made.data_collator
    made.data_collator = lambda examples: {**collate(examples), "return_loss": True}
    assert made.train().training_loss > 0
    found = made.predict(data)
    assert found.metrics["test_loss"] > 0 and found.predictions.shape == (4, 2, 32)


@pytest.mark.parametrize("setup", [Parallel("a", "b"), BatchSplit("a", "b", batch_sizes=1), MultiTask("a", "b")])
def test_several_heads(setup: Any, tmp_path: Path) -> None:
    model = model_with(("a", "classification", {"num_labels": 3}), ("b", "classification", {"num_labels": 4}))
    model.set_active_adapters(setup)
    data = rows(**TEXT, labels=ROWS, task_ids=torch.tensor([0, 1, 1, 0]))
    if not isinstance(setup, MultiTask):
        data = [{key: value for key, value in row.items() if key != "task_ids"} for row in data]
    made = trainer(model, data, tmp_path)
    assert made.train().training_loss > 0
    found = made.predict(data)
    assert found.metrics["test_loss"] > 0
    if not isinstance(setup, MultiTask):  # there, not every batch has every task
        assert [tuple(output["logits"].shape[1:]) for output in found.predictions] == [(3,), (4,)]
