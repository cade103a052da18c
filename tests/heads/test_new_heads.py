"""Heads that 1.3 does not have: scores of tokens, embeddings, rankings. Their losses are those of their formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pairs import IMAGES, ROWS, SCORES, TEXT, TOKENS, pair
from torch import Tensor, nn

from adapters import AutoAdapterModel, BatchSplit, Parallel
from adapters.heads import EmbeddingHead, EmbeddingOutput, RankingHead, TokenRegressionHead

PAIRS = {key: torch.stack([value, value.flip(0)], dim=1) for key, value in TEXT.items()}
TRIPLES = {key: torch.stack([value, value.flip(0), value.roll(1, 0)], dim=1) for key, value in TEXT.items()}


def model_with(method: str, name: str = "bert", static: str = "BertModel", **options: Any) -> Any:
    """A model with a head `task`."""
    _, model = pair(name, static)
    getattr(model, f"add_{method}_head")("task", **options)
    return model


# method, its options, inputs, labels
CASES: list[tuple[str, dict[str, Any], dict[str, Tensor], dict[str, Any]]] = [
    ("token_regression", {"layers": 2, "activation_function": "relu"}, TEXT, {"labels": TOKENS.float()}),
    ("token_regression", {"num_labels": 2, "loss": "l1", "id2label": {0: "x", 1: "y"}}, TEXT, {}),
    ("embedding", {}, PAIRS, {}),
    ("embedding", {"pooling": "cls", "embedding_size": 5, "symmetric": True, "temperature": 0.2}, TRIPLES, {}),
    ("embedding", {"pooling": "last", "normalize": False}, TEXT, {"labels": ROWS}),
    ("embedding", {"loss": "cosine"}, PAIRS, {"labels": SCORES}),
    ("ranking", {"layers": 1, "margin": 0.5}, PAIRS, {}),
    ("ranking", {"activation_function": "relu", "use_pooler": True}, TRIPLES, {"margin": SCORES}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}{case[1]}")
def test_files_give_the_head_back(case: Any, tmp_path: Path) -> None:
    method, options, given, labels = case
    model = model_with(method, **options)
    wanted = model(**given, **labels)
    model.save_head(tmp_path / "head", "task")
    model.save_pretrained(tmp_path / "model")
    assert model.load_head(tmp_path / "head", load_as="again") == "again"
    assert model.heads["again"].config == model.heads["task"].config
    kept = {**model.heads["task"].config, "id2label": model.get_labels_dict("task")}
    assert all(kept[option] == value for option, value in options.items())
    other = AutoAdapterModel.from_pretrained(tmp_path / "model").eval()
    for found in (model(**given, **labels, head="again"), other(**given, **labels)):
        assert list(found.keys()) == list(wanted.keys())
        assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert method in model.head_types()
    model.average_head("mean", ["task", "again"], set_active=True)
    torch.testing.assert_close(model(**given, **labels)["loss" if "loss" in wanted else 0], wanted[0])


def test_token_regression_is_the_mean_over_tokens_with_a_label() -> None:
    labels = TOKENS.float()  # -100 where there is padding
    labels[0, 0] = -100
    for loss, function in (("mse", nn.MSELoss()), ("l1", nn.L1Loss()), ("huber", nn.SmoothL1Loss())):
        model = model_with("token_regression", loss=loss)
        output = model(**TEXT, labels=labels)
        assert output.logits.shape == (4, 6, 1)
        torch.testing.assert_close(output.loss, function(output.logits[..., 0][labels != -100], labels[labels != -100]))
        padded = labels.where(TEXT["attention_mask"] == 1, 7.0)
        torch.testing.assert_close(model(**TEXT, labels=padded).loss, output.loss)  # padding has no label


def unit(x: Tensor) -> Tensor:
    """Vectors of length 1."""
    return x / x.norm(dim=-1, keepdim=True)


def test_pooling() -> None:
    model = model_with("embedding", normalize=False)
    model.add_embedding_head("first", pooling="cls")
    model.add_embedding_head("last", pooling="last", normalize=False)
    hidden, lengths = model(**TEXT, head=[]).last_hidden_state, TEXT["attention_mask"].sum(dim=1)
    means = torch.stack([row[:n].mean(dim=0) for row, n in zip(hidden, lengths, strict=True)])
    torch.testing.assert_close(model(**TEXT, head="task").embeddings, means)
    torch.testing.assert_close(model(**TEXT, head="first").embeddings, unit(hidden[:, 0]))
    torch.testing.assert_close(model(**TEXT, head="last").embeddings, hidden[torch.arange(4), lengths - 1])
    ids = TEXT["input_ids"]
    assert torch.equal(model(ids, head="task").embeddings, model(ids, head=[]).last_hidden_state.mean(dim=1))


def test_prompts() -> None:
    model = model_with("embedding", normalize=False)
    model.add_adapter("task", config="prompt_tuning")
    model.set_active_adapters("task")
    hidden = model(**TEXT, head=[]).last_hidden_state
    assert hidden.shape[1] == 16
    torch.testing.assert_close(model(**TEXT).embeddings[0], hidden[0].mean(dim=0))
    model.add_token_regression_head("scores")
    output = model(**TEXT, labels=TOKENS.float())
    chosen = TOKENS != -100
    wanted = nn.functional.mse_loss(output.logits[:, 10:, 0][chosen], TOKENS[chosen].float())
    torch.testing.assert_close(output.loss, wanted)  # prompts have no scores


def test_encoders_with_a_decoder_and_images() -> None:
    model = model_with("embedding", "bart", "BartModel", normalize=False)
    hidden = model(**TEXT, head=[], decoder_input_ids=TEXT["input_ids"]).encoder_last_hidden_state
    torch.testing.assert_close(model(**TEXT).embeddings[0], hidden[0].mean(dim=0))
    images = model_with("embedding", "vit", "ViTModel", pooling="cls")
    assert images(**IMAGES, labels=ROWS).embeddings.shape == (4, 32)


def test_contrastive_loss_of_pairs() -> None:
    """Each text finds its own among the second ones, and what looks like these, of all rows."""
    model = model_with("embedding", temperature=0.5)
    for given in (PAIRS, TRIPLES):
        output = model(**given)
        x = output.embeddings
        assert isinstance(output, EmbeddingOutput) and x.shape == (4, given["input_ids"].shape[1], 32)
        torch.testing.assert_close(x.norm(dim=-1), torch.ones(x.shape[:2]))
        others = torch.cat(list(x[:, 1:].unbind(dim=1)))
        scores = torch.stack([torch.stack([a @ b / 0.5 for b in others]) for a in x[:, 0]])
        wanted = torch.stack([-scores[i, i] + scores[i].logsumexp(dim=0) for i in range(4)]).mean()
        torch.testing.assert_close(output.loss, wanted)
    assert model(**PAIRS, return_loss=False).loss is None
    assert model(**TEXT).loss is None
    both = model_with("embedding", temperature=0.5, symmetric=True)
    swapped = {key: value.flip(1) for key, value in PAIRS.items()}
    torch.testing.assert_close(both(**PAIRS).loss, (model(**PAIRS).loss + model(**swapped).loss) / 2)


def test_rows_of_one_group_are_not_held_against_one_another() -> None:
    model = model_with("embedding")
    doubled = {key: value[[0, 1, 2, 0]] for key, value in PAIRS.items()}
    alone = model(**{key: value[:3] for key, value in PAIRS.items()}).embeddings
    scores = (alone[:, 0] @ alone[:, 1].T / 0.05).double()
    of_rows = -scores.log_softmax(dim=1).diagonal()
    wide = torch.cat([scores, scores[:, :1]], dim=1)  # rows 1 and 2 see the first pair twice
    seen_twice = -wide.log_softmax(dim=1)[[1, 2], [1, 2]]
    wanted = (2 * of_rows[0] + seen_twice.sum()) / 4
    found = model(**doubled, labels=torch.tensor([7, 1, 2, 7])).loss
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_contrastive_loss_of_groups() -> None:
    model = model_with("embedding", temperature=0.5)
    output = model(**TEXT, labels=torch.tensor([3, 3, 3, 0]))
    x = output.embeddings
    losses = []
    for i in range(3):
        log_sum = torch.stack([x[i] @ x[j] / 0.5 for j in range(4) if j != i]).logsumexp(dim=0)
        losses.append(torch.stack([log_sum - x[i] @ x[j] / 0.5 for j in range(3) if j != i]).mean())
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    alone = model(**TEXT, labels=torch.arange(4)).loss
    assert alone == 0 and alone.requires_grad  # nobody belongs to anybody


def test_cosine_loss() -> None:
    model = model_with("embedding", loss="cosine", normalize=False)
    output = model(**PAIRS, labels=SCORES)
    cosines = (unit(output.embeddings[:, 0]) * unit(output.embeddings[:, 1])).sum(dim=-1)
    torch.testing.assert_close(output.loss, (cosines - SCORES).square().mean())
    assert model(**PAIRS).loss is None


def test_ranking_loss() -> None:
    model = model_with("ranking")
    scores = model(**TEXT).logits
    assert scores.shape == (4, 1)
    pairs = model(**PAIRS)
    torch.testing.assert_close(pairs.logits, torch.cat([scores, scores.flip(0)], dim=1))
    gaps = pairs.logits[:, 0] - pairs.logits[:, 1]
    torch.testing.assert_close(pairs.loss, -nn.functional.logsigmoid(gaps).mean())
    margin = torch.tensor([0.0, 1.0, 2.0, 0.5])
    torch.testing.assert_close(model(**PAIRS, margin=margin).loss, -nn.functional.logsigmoid(gaps - margin).mean())
    model.add_ranking_head("far", margin=0.5)
    model.heads["far"].load_state_dict(model.heads["task"].state_dict())
    far = model(**PAIRS, head="far").loss
    torch.testing.assert_close(far, -nn.functional.logsigmoid(gaps - 0.5).mean())
    grades = torch.tensor([[2, 0, 1], [0, 0, 5], [1, 1, 1], [3, 1, -100]])  # -100: there is no such text
    triples = model(**TRIPLES, labels=grades, head="task")
    s = triples.logits
    better = [[(0, 2), (0, 1), (2, 1)], [(2, 0), (2, 1)], [], [(0, 1)]]
    rows = [[nn.functional.softplus(s[i, b] - s[i, a]) for a, b in pairs] for i, pairs in enumerate(better)]
    wanted = sum(n * sum(row) / max(1, len(row)) for n, row in zip((3, 3, 3, 2), rows, strict=True)) / 11
    torch.testing.assert_close(triples.loss, wanted)
    assert model(**TRIPLES, return_loss=False).loss is None


def test_with_other_heads_and_adapters() -> None:
    model = model_with("embedding")
    for name in ("a", "b"):
        model.add_adapter(name, config="seq_bn[reduction_factor=4,init_weights=bert]")
    model.add_embedding_head("a")
    model.add_ranking_head("b")
    model.set_active_adapters(Parallel("a", "b"))
    output = model(**PAIRS)
    alone = {name: model(**PAIRS, adapter_names=[name] * 8) for name in "ab"}
    torch.testing.assert_close(output["a"].embeddings, alone["a"].head_outputs[0].embeddings)
    torch.testing.assert_close(output["b"].logits, alone["b"].head_outputs[0].logits)
    torch.testing.assert_close(output.loss, output["a"].loss + output["b"].loss)
    model.set_active_adapters(BatchSplit("a", "b", batch_sizes=[2, 6]))
    split = model(**PAIRS)
    torch.testing.assert_close(split["b"].logits, output["b"].logits[1:])
    torch.testing.assert_close(split["a"].embeddings, output["a"].embeddings[:1])


def test_all_heads_at_once() -> None:
    """`output_all_logits`: what every head says, whichever are active; labels are those of the active ones."""
    model = model_with("token_regression")
    model.add_classification_head("topic", num_labels=3)
    model.add_embedding_head("vector")
    model.active_head = "topic"
    output = model(**TEXT, output_all_logits=True, labels=ROWS)
    assert output.head_names == ("task", "topic", "vector")
    for name in ("task", "topic"):
        assert torch.equal(output[name].logits, model(**TEXT, head=name).logits)
    assert torch.equal(output.loss, model(**TEXT, labels=ROWS).loss)
    model.active_head = None
    assert output["vector"].embeddings.equal(model(**TEXT, output_all_logits=True)["vector"].embeddings)
    for name in ("a", "b"):
        model.add_adapter(name)
    model.set_active_adapters(Parallel("a", "b"))
    assert model(**TEXT, output_all_logits=True)["topic"].logits.shape == (8, 3)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("embedding", {"pooling": "max"}, "pooling='max'; choose one of 'mean', 'cls', 'last'"),
        ("embedding", {"loss": "triplet"}, "loss='triplet'; choose one of 'contrastive', 'cosine'"),
        ("embedding", {"temperature": 0.0}, "temperature=0.0"),
        ("embedding", {"embedding_size": 0}, "embedding_size=0"),
        ("token_regression", {"loss": "rmse"}, "choose one of 'mse', 'l1', 'huber'"),
        ("token_regression", {"id2label": {1: "x"}}, "id2label"),
        ("ranking", {"layers": 0}, "at least one layer"),
    ],
)
def test_options_that_do_not_exist(method: str, options: dict[str, Any], message: str) -> None:
    _, model = pair("bert", "BertModel")
    with pytest.raises(ValueError, match=message):
        getattr(model, f"add_{method}_head")("task", **options)
    assert not len(model.heads)


@pytest.mark.parametrize(
    ("method", "options", "given", "labels", "message"),
    [
        ("token_regression", {}, TEXT, {"labels": SCORES}, r"shape \(4, 6\), not \(4,\)"),
        ("token_regression", {"num_labels": 2}, TEXT, {"labels": TOKENS}, r"shape \(4, 6, 2\), not \(4, 6\)"),
        ("embedding", {}, TEXT, {"labels": SCORES}, "loss='cosine'"),
        ("embedding", {}, TEXT, {"labels": ROWS[:3]}, "labels has 3 rows"),
        ("embedding", {}, TEXT, {"return_loss": True}, "nothing to compare.*shape .rows, 2, tokens"),
        ("embedding", {"loss": "cosine"}, TEXT, {"labels": SCORES}, "two texts of each row, and the inputs have one"),
        ("embedding", {"loss": "cosine"}, TRIPLES, {"labels": SCORES}, "the inputs have 3"),
        ("ranking", {}, TEXT, {"labels": SCORES}, "the better text first"),
        ("ranking", {}, TEXT, {"return_loss": True}, "the better text first"),
        ("ranking", {}, PAIRS, {"labels": SCORES}, r"shape \(4, 2\), not \(4,\)"),
        ("ranking", {}, PAIRS, {"margin": SCORES[:2]}, "margin has 2 rows"),
        ("classification", {}, TEXT, {"margin": SCORES}, "margin=…, which no head in use takes"),
    ],
)
def test_labels_that_do_not_fit(
    method: str, options: dict[str, Any], given: dict[str, Tensor], labels: dict[str, Any], message: str
) -> None:
    model = model_with(method, **options)
    with pytest.raises(ValueError, match=message):
        model(**given, **labels)


def test_the_first_token_of_a_causal_model() -> None:
    _, model = pair("llama", "LlamaModel")
    with pytest.raises(ValueError, match=r"pooling='cls' reads the first token.*'last' or 'mean'"):
        model.add_embedding_head("task", pooling="cls")
    for head in (EmbeddingHead(model, "e", pooling="last"), RankingHead(model, "r"), TokenRegressionHead(model, "t")):
        model.add_prediction_head(head)
    assert model(**PAIRS, head="e").embeddings.shape == (4, 2, 32) and model(**PAIRS, head="r").logits.shape == (4, 2)


def test_summary_says_which_head_runs_for_which_adapter() -> None:
    model = model_with("embedding")
    model.add_adapter("topics")
    model.add_classification_head("topics", num_labels=3)
    rows = {row["name"]: row for row in model.adapter_summary(as_dict=True)}
    assert rows["topics"]["head"] == "classification" and list(rows)[-1] == "Full model"
    lines = {line.split()[0]: line.split()[1:] for line in model.adapter_summary().splitlines()[7:] if line[0] != "="}
    assert lines["task"] == ["embedding", "0", "no", "adapter"]
    assert lines["topics"] == ["classification", "3", "1", "adapter", "topics"]
    model.delete_head("task")
    model.delete_head("topics")
    assert len(model.adapter_summary().splitlines()) == 7  # as in 1.3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["embedding", "ranking"])
def test_compiled(method: str) -> None:
    model = model_with(method)
    torch._dynamo.reset()
    found = torch.compile(model, fullgraph=True, backend="eager")(**PAIRS)
    assert torch.equal(found["loss"], model(**PAIRS)["loss"])
