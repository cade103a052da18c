"""Dependency parsing with biaffine attention (Dozat and Manning 2017, arXiv:1611.01734; Glavaš and Vulić 2021).

Shapes: B rows, T tokens, W words (here T: the rest is padding), D hidden size, C relations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from .base import HeadInputs, TaskHead, dropout_of, hidden_size, label_map, output_like
from .losses import IGNORED, Items, classes, cross_entropy


@dataclass
class DependencyParsingOutput(ModelOutput):
    """What a parser gives.

    Args:
        loss: The sum of the cross-entropies of arcs and of relations. Shape: ().
        rel_preds: For each word, and each head it may have, a score for each relation. Shape: (B, W, W + 1, C).
        arc_preds: For each word a score for each word as its head; the first one is the root. Shape: (B, W, W + 1).
        hidden_states: As the base model gives them.
        attentions: As the base model gives them.
    """

    loss: Tensor | None = None
    rel_preds: Tensor | None = None
    arc_preds: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class Biaffine(nn.Module):
    """Scores of pairs, s = [x; 1]ᵀ U y for each output. Starts with zeros.

    Args:
        in1_features: Size of x, here D.
        in2_features: Size of y, here D.
        out_features: Number of scores C.
        bias_x: Whether x gets a one.
        bias_y: Whether y gets a one.
    """

    def __init__(
        self, in1_features: int, in2_features: int, out_features: int, bias_x: bool = True, bias_y: bool = True
    ) -> None:
        super().__init__()
        self.bias_x, self.bias_y = bias_x, bias_y
        self.weight = nn.Parameter(torch.zeros(out_features, in1_features + bias_x, in2_features + bias_y))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Shapes: (B, V, D), (B, W, D) to (B, V, W, C)."""
        x = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1) if self.bias_x else x
        y = torch.cat([y, torch.ones_like(y[..., :1])], dim=-1) if self.bias_y else y
        return torch.einsum("bvi,cij,bwj->bvwc", x, self.weight, y)


class BiaffineParsingHead(TaskHead):
    """Finds the head of each word, and the relation to it.

    >>> model.add_dependency_parsing_head("english", num_labels=50)
    >>> model(**batch, word_starts=starts, labels_arcs=heads, labels_rels=relations)

    `word_starts` (B, T) says where words are, filled up with zeros. The words are the stretches from its second
    position on: [1, 3, 4, 8, 0, 0] has the words [3, 4) and [4, 8), so that the first one covers what precedes the
    words (as [CLS] with [0, 1, …]), and the last position ends the last word. The vector of a word is the mean of its
    tokens; that of the root is the first token's. `labels_arcs` (B, T) has the number of each word's head, 0 for the
    root, and `labels_rels` (B, T) the relation; what is filled up with -100 is no word. Without any -100, arcs equal to
    the model's `pad_token_id` are no words, as in AdapterHub's `adapters` 1.3.

    Args:
        model: The model that it is for.
        head_name: Its name.
        num_labels: Number of relations C.
        id2label: Names of the relations.
    """

    further_inputs = ("word_starts",)

    def __init__(
        self, model: nn.Module, head_name: str, num_labels: int = 2, id2label: Mapping[int, str] | None = None
    ) -> None:
        super().__init__(head_name)
        self.config = {
            "head_type": "dependency_parsing",
            "num_labels": num_labels,
            "label2id": label_map(num_labels, id2label),
        }
        self.build(model)

    def build(self, model: nn.Module) -> None:
        """Make the layers that `config` describes."""
        size = hidden_size(model)
        self.biaffine_arcs = Biaffine(size, size, 1, bias_y=False)
        self.biaffine_rels = Biaffine(size, size, self.config["num_labels"])
        self.dropout = nn.Dropout(dropout_of(model, None))
        self.pad_token_id = getattr(model.config, "pad_token_id", None)
        self.train(model.training)

    def get_label_names(self) -> list[str]:
        """The names of the arguments that hold labels."""
        return ["labels_arcs", "labels_rels"]

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """Scores of arcs and relations, and the loss.

        Raises:
            ValueError: word_starts or one kind of labels is missing, or of another shape than (B, T).
        """
        shape = tuple(inputs.hidden.shape[:2])
        wrong = {name: tuple(x.shape) for name, x in labels.items() if tuple(x.shape) != shape}
        if "word_starts" not in labels or ("labels_arcs" in labels) != ("labels_rels" in labels) or wrong:
            raise ValueError(
                f"Head {self.name!r} (dependency_parsing) needs word_starts, and for a loss both labels_arcs and "
                f"labels_rels, all of shape {shape}; given: "
                + (", ".join(f"{name} {tuple(x.shape)}" for name, x in labels.items()) or "nothing")
                + "."
            )
        hidden = self.dropout(inputs.hidden)
        words = vectors_of_words(hidden, labels["word_starts"])
        with_root = torch.cat([hidden[:, :1], words], dim=1)
        arcs = self.biaffine_arcs(words, with_root).squeeze(-1)
        relations = self.biaffine_rels(words, with_root)
        loss = None
        if len(labels) == 3:
            arc, relation = (classes(self, labels[name], shape, arcs) for name in self.get_label_names())
            loss = self._loss(arcs, relations, arc, relation, inputs.items)
        return output_like(DependencyParsingOutput, inputs, loss=loss, rel_preds=relations, arc_preds=arcs)

    def _loss(self, arcs: Tensor, relations: Tensor, labels_arcs: Tensor, labels_rels: Tensor, items: Items) -> Tensor:
        is_word = labels_arcs >= 0
        if self.pad_token_id is not None:
            is_word &= (labels_arcs != self.pad_token_id) | (labels_arcs < 0).any()
        wanted = labels_arcs.masked_fill(~is_word, IGNORED)
        heads = labels_arcs.clamp_min(0)[:, :, None, None].expand(-1, -1, 1, relations.shape[-1])
        of_heads = relations.gather(2, heads).squeeze(2)
        relation = labels_rels.masked_fill(~is_word, IGNORED)
        return cross_entropy(arcs.flatten(0, 1), wanted.flatten(), items) + cross_entropy(
            of_heads.flatten(0, 1), relation.flatten(), items
        )


def vectors_of_words(hidden: Tensor, starts: Tensor) -> Tensor:
    """The mean over the tokens of each word; zeros behind the last one. Shapes: (B, T, D), (B, T) to (B, T, D)."""
    count = hidden.shape[1]
    ends = torch.cat([starts[:, 2:], starts.new_zeros(len(starts), 2)], dim=1)[..., None]
    begins = torch.cat([starts[:, 1:], starts.new_zeros(len(starts), 1)], dim=1)[..., None]
    positions = torch.arange(count, device=hidden.device)
    inside = (positions >= begins) & (positions < ends)  # (B, T of words, T)
    shares = inside.to(hidden.dtype) / inside.sum(dim=-1, keepdim=True).clamp_min(1).to(hidden.dtype)
    return shares @ hidden
