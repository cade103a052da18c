"""Losses: those of transformers' own classes for the same weights and labels, also where labels are missing, of other
types or in columns; and one step over several small batches is one over a large one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pairs import CASES, CHOICES, IDS, MASK, MULTIPLE, ROWS, SCORES, TEXT, TOKENS, fill, pair
from torch import Tensor

Labels = dict[str, Tensor]
MORE: list[Any] = [
    *(
        (name, cls, {"num_labels": 3}, "tagging", {"num_labels": 3}, ["classifier"], TEXT,
         {"labels": (TOKENS % 3).where(TOKENS >= 0, -100)})
        for name, cls in (("bert", "BertForTokenClassification"), ("deberta-v2", "DebertaV2ForTokenClassification"))
    ),
    ("llama", "LlamaForSequenceClassification", {"num_labels": 3, "pad_token_id": 0}, "classification",
     {"num_labels": 3, "layers": 1}, ["score"], {"input_ids": IDS * MASK, "attention_mask": MASK}, {"labels": ROWS}),
    ("llama", "LlamaForQuestionAnswering", {}, "qa", {}, ["qa_outputs"], TEXT,
     {"start_positions": torch.tensor([-1, 2, 3, 99]), "end_positions": torch.tensor([6, 7, 5, 5])}),
    ("llama", "LlamaForCausalLM", {}, "causal_lm", {}, ["lm_head"], TEXT, {"labels": TOKENS}),
]  # fmt: skip
every_case = pytest.mark.parametrize("case", [*CASES, *MORE], ids=lambda case: f"{case[1]}-{case[3]}")


def both(case: Any) -> tuple[Any, Any]:
    """A model of a static class, and one with a flexible head of the same weights."""
    name, static_class, config, method, options, layers, *_ = case
    static, model = pair(name, static_class, **config)
    if method == "causal_lm":  # what is added has a bias, which 1.3 gave it
        model.add_prediction_head_from_config("task", {"head_type": "causal_lm"})
    else:
        getattr(model, f"add_{method}_head")("task", **options)
    fill(model.heads["task"], *(static.get_submodule(layer) for layer in layers))
    if static_class == "BartForConditionalGeneration":
        static.final_logits_bias = torch.zeros_like(static.final_logits_bias)
    return static, model


def changed(labels: Labels, **changes: Any) -> Labels:
    """The labels, each changed."""
    return {key: changes["to"](value) for key, value in labels.items()}


@every_case
def test_like_transformers(case: Any) -> None:
    *_, given, labels = case
    static, model = both(case)
    is_whole = not any(value.is_floating_point() for value in labels.values())
    of_rows = all(value.ndim == 1 for value in labels.values()) and case[3] != "multiple_choice"
    variants = [labels]
    if is_whole:
        variants.append(changed(labels, to=lambda x: x.index_fill(0, torch.tensor([1]), -100)))  # no label for a row
    if of_rows:
        variants.append(changed(labels, to=lambda x: x[:, None]))
    for variant in variants:
        wanted, found = static(**given, **variant).loss, model(**given, **variant).loss
        torch.testing.assert_close(found, wanted)
    if is_whole:  # transformers takes int64 alone
        found = model(**given, **changed(labels, to=lambda x: x.int())).loss
        torch.testing.assert_close(found, static(**given, **labels).loss)


@every_case
def test_gradients_are_like_transformers(case: Any) -> None:
    *_, layers, given, labels = case
    static, model = both(case)
    static(**given, **labels).loss.backward()
    model(**given, **labels).loss.backward()
    wanted = dict(static.base_model.named_parameters())
    for key, parameter in model.base_model.named_parameters():
        if key in wanted and parameter.grad is not None and "embed" not in key and "shared" not in key:
            torch.testing.assert_close(parameter.grad, wanted[key].grad, rtol=1e-4, atol=1e-5)
    assert layers


def test_items_are_like_transformers() -> None:
    """Where transformers' classes divide by the number of items in all batches."""
    for case in [*CASES, *MORE]:
        if case[1] in ("ViTForImageClassification", "LlamaForCausalLM"):
            static, model = both(case)
            call = {**case[-2], **case[-1], "num_items_in_batch": torch.tensor(10)}
            torch.testing.assert_close(model(**call).loss, static(**call).loss)


PAIRS = {key: value.view(2, 2, 6).repeat(2, 1, 1) for key, value in TEXT.items()}
GRADES = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [0.5, 0.1]])

# method, its arguments, inputs, labels; the four rows of the last two are independent of one another
HEADS: list[tuple[str, dict[str, Any], Labels, Labels]] = [
    ("classification", {"num_labels": 3}, TEXT, {"labels": ROWS}),
    ("classification", {"num_labels": 1}, TEXT, {"labels": SCORES}),
    ("classification", {"num_labels": 3, "multilabel": True}, TEXT, {"labels": MULTIPLE}),
    ("tagging", {"num_labels": 90}, TEXT, {"labels": TOKENS}),
    ("multiple_choice", {}, {k: v.repeat(2, 1, 1) for k, v in CHOICES.items()}, {"labels": ROWS.clamp_max(1)}),
    ("masked_lm", {}, TEXT, {"labels": TOKENS}),
    ("token_regression", {"num_labels": 2}, TEXT, {"labels": torch.stack([TOKENS, TOKENS], dim=-1).float()}),
    ("token_regression", {"loss": "huber"}, TEXT, {"labels": TOKENS.float()}),
    ("embedding", {"loss": "cosine"}, PAIRS, {"labels": SCORES}),
    ("ranking", {"margin": 0.3}, PAIRS, {"labels": GRADES}),
]


@pytest.mark.parametrize("case", HEADS, ids=lambda case: f"{case[0]}{case[1] or ''}")
def test_several_small_batches_are_a_large_one(case: Any) -> None:
    """Of different sizes, and with different numbers of labels in each."""
    method, options, given, labels = case
    _, model = pair("bert", "BertModel")
    getattr(model, f"add_{method}_head")("task", **options)
    items = sum((value != -100).sum() for value in labels.values())
    whole = model(**given, **labels).loss
    for count in (items, int(items)):
        parts = [
            model(**{key: value[rows] for key, value in (*given.items(), *labels.items())}, num_items_in_batch=count)
            for rows in ([0], [1, 2, 3])
        ]
        torch.testing.assert_close(sum(part.loss for part in parts), whole)


@pytest.mark.parametrize(
    ("method", "options", "labels", "message"),
    [
        ("classification", {"num_labels": 3}, MULTIPLE.long(), "one of 3 labels.*multilabel=True"),
        ("classification", {"num_labels": 3}, SCORES, "whole numbers.*num_labels=1"),
        ("classification", {"num_labels": 3, "multilabel": True}, ROWS, r"shape \(4, 3\), not \(4,\)"),
        ("classification", {"num_labels": 1}, MULTIPLE, r"shape \(4,\), not \(4, 3\)"),
        ("tagging", {}, TOKENS.float(), "needs whole numbers"),
        ("tagging", {}, TOKENS[:, 1:], r"shape \(4, 6\), not \(4, 5\)"),
        ("masked_lm", {}, ROWS, r"shape \(4, 6\), not \(4,\)"),
    ],
)
def test_labels_that_do_not_fit(method: str, options: dict[str, Any], labels: Tensor, message: str) -> None:
    _, model = pair("bert", "BertModel")
    getattr(model, f"add_{method}_head")("task", **options)
    with pytest.raises(ValueError, match=message):
        model(**TEXT, labels=labels)


def test_half_precision() -> None:
    """The losses of tokens are computed in full precision, as transformers does."""
    case = next(case for case in CASES if case[1] == "LlamaForTokenClassification")
    static, model = (m.bfloat16() for m in both(case))
    wanted, found = static(**TEXT, **case[-1]).loss, model(**TEXT, **case[-1]).loss
    assert found.dtype == wanted.dtype == torch.float32
    torch.testing.assert_close(found, wanted)
