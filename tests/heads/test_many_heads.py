"""Several active heads: each gives what it gives alone, for its own rows, and only it is trained by its loss."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

import models
from adapters import AdapterSetup, AutoAdapterModel, BatchSplit, MultiTask, Parallel, Stack
from adapters.heads import MultiHeadOutput

NAMES = ["bert", "llama", "bart", "t5"]
every_model = pytest.mark.parametrize("name", NAMES)


def flexible(name: str) -> Any:
    """A tiny model with adapters a, b and c, and heads of other sizes for a and b."""
    config = models.bare(name).config
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(AutoConfig.for_model(**config.to_dict())).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    for adapter in "abc":
        model.add_adapter(adapter, "seq_bn[reduction_factor=4]")
        models.randomise(model, adapter)
    model.add_classification_head("a", num_labels=3)
    model.add_classification_head("b", num_labels=2, layers=1)
    return model


def batch(name: str) -> dict[str, Tensor]:
    """Four rows."""
    given = {key: value for key, value in models.inputs(name).items() if not key.startswith("decoder")}
    given["input_ids"] = torch.cat([given["input_ids"], given["input_ids"].flip(0)])
    given["input_ids"][:, -1] = 2  # the end of text, of which some models take the vector of a row
    return {**given, "attention_mask": torch.ones_like(given["input_ids"])}


def alone(model: Any, adapter: str, given: dict[str, Tensor], **labels: Tensor) -> Any:
    with AdapterSetup(adapter):
        return model(**given, **labels)


LABELS = torch.tensor([0, 1, 1, 0])


def check(output: Any, model: Any, given: dict[str, Tensor], rows: dict[str, list[int]]) -> None:
    """Every head gives what it gives alone for its rows; the loss is the sum."""
    losses = []
    assert isinstance(output, MultiHeadOutput) and list(output.head_names) == list(rows) and len(output) == len(rows)
    for (name, own), found in zip(rows.items(), output, strict=True):
        wanted = alone(model, name, {k: v[own] for k, v in given.items()}, labels=LABELS[own])
        torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(output[name].loss, wanted.loss, rtol=1e-4, atol=1e-5)
        losses.append(wanted.loss)
    torch.testing.assert_close(output["loss"], sum(losses), rtol=1e-4, atol=1e-5)


@every_model
def test_each_head_reads_its_rows(name: str) -> None:
    model, given, everything = flexible(name), batch(name), [0, 1, 2, 3]
    model.set_active_adapters(Stack("c", Parallel("a", "b")))
    assert model.active_head == ["a", "b"]
    model.set_active_adapters(Parallel("a", "b"))
    for labels in (LABELS, [LABELS, LABELS], {"a": LABELS, "b": LABELS}):
        check(model(**given, labels=labels), model, given, {"a": everything, "b": everything})
    model.set_active_adapters(BatchSplit("b", "a", batch_sizes=[1, 3]))
    for labels in (LABELS, [LABELS[:1], LABELS[1:]]):
        check(model(**given, labels=labels), model, given, {"b": [0], "a": [1, 2, 3]})
    rows = {"b": [0, 3], "a": [1, 2]}
    check(model(**given, labels=LABELS, adapter_names=["b", "a", "a", "b"]), model, given, rows)
    with AdapterSetup(adapter_names=["b", "a", "a", "b"]):
        check(model(**given, labels=LABELS), model, given, rows)
    model.set_active_adapters(MultiTask("a", "b"))
    check(model(**given, labels=LABELS, task_ids=[1, 0, 0, 1]), model, given, rows)


def test_what_names_heads() -> None:
    model, given = flexible("bert"), batch("bert")
    assert model.active_head == "b"  # the one that was added last
    model.set_active_adapters(Parallel("a", "b"))
    one = model(**given, head="a", labels=LABELS)
    assert one.logits.shape == (8, 3)  # one head for all rows, and its labels for all copies
    assert model(**given, head=[]).last_hidden_state.shape[0] == 8
    with AdapterSetup("a", head_setup=["a", "b"]):
        assert [output.logits.shape for output in model(**given)] == [(4, 3), (4, 2)]
    with AdapterSetup(Parallel("b", "a")):
        assert model(**given).head_names == ("b", "a")
    with AdapterSetup("c"):  # no head of its own
        assert "last_hidden_state" in model(**given)
    model.active_head = BatchSplit("a", "b", batch_sizes=2)
    model.active_adapters = None
    assert [output.logits.shape for output in model(**given)] == [(2, 3), (2, 2)]
    model.delete_head("a")
    assert model.active_head is None


def test_output_is_a_sequence_and_a_model_output() -> None:
    model, given = flexible("bert"), batch("bert")
    model.add_classification_head("c", num_labels=3)
    output = model(**given, adapter_names=["c", "a", "a", "c"], labels=LABELS)
    assert isinstance(output, dict) and list(output.keys()) == ["head_outputs", "loss"]
    assert [o is p for o, p in zip(output, output.head_outputs, strict=True)] == [True, True]
    assert torch.equal(output.logits[[0, 3]], output["c"].logits)  # in the order of the batch
    assert pickle.loads(pickle.dumps(output)).head_names == ("c", "a")
    model.set_active_adapters(Parallel("a", "b"))
    with pytest.raises(ValueError, match=r"no common shape.*'a': .4, 3.*'b': .4, 2"):
        model(**given).logits  # noqa: B018
    loss, logits = model(**given, labels=LABELS, return_dict=False)[0]
    assert loss.ndim == 0 and logits.shape == (4, 3)


def test_training_reaches_the_right_heads_and_adapters() -> None:
    model, given = flexible("bert"), batch("bert")
    model.train_adapter(Parallel("a", "b"))
    output = model(**given, labels=[LABELS, LABELS])
    output[1].loss.backward()
    assert all(p.grad is None for p in [*models.parameters(model, "c"), *model.heads["a"].parameters()])
    assert all(not p.grad.any() for p in models.parameters(model, "a") if p.grad is not None)
    assert all(p.grad.any() for p in [*models.parameters(model, "b"), *model.heads["b"].parameters()])


@pytest.mark.parametrize(
    ("setup", "arguments", "message"),
    [
        (Parallel("a", "c"), {}, r"no head 'c'.*\['a', 'c'\].*There are heads: 'a', 'b'"),
        (BatchSplit("a", "c", batch_sizes=2), {}, "no head 'c'"),
        (Parallel("a", "b"), {"labels": [LABELS]}, "labels is a list of 1 for 2 heads"),
        (Parallel("a", "b"), {"labels": LABELS[:3]}, "labels has 3 rows; the batch has 4"),
        (Parallel("a", "b"), {"head": ["a", "b", "a"]}, "repeat the batch 2 times"),
        ("a", {"head": "z"}, "no head 'z'"),
        ("a", {"start_positions": LABELS}, "start_positions.*no head in use takes.*'a': labels"),
        ("a", {"labels": LABELS, "head": []}, "labels given, but no head is active"),
    ],
)
def test_errors(setup: Any, arguments: dict[str, Any], message: str) -> None:
    model, given = flexible("bert"), batch("bert")
    model.set_active_adapters(setup)
    with pytest.raises(ValueError, match=message):
        model(**given, **arguments)


@pytest.mark.parametrize("setup", ["a", Parallel("a", "b"), BatchSplit("a", "b", batch_sizes=2)])
def test_compiled(setup: Any) -> None:
    model, given = flexible("bert"), batch("bert")
    model.set_active_adapters(setup)
    torch._dynamo.reset()
    found = torch.compile(model, fullgraph=True, backend="eager")(**given, labels=LABELS)
    assert torch.equal(found["loss"], model(**given, labels=LABELS)["loss"])
