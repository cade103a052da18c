"""Vectors of texts, of which those with the same meaning are close: for search, clustering and comparison.

Shapes: B rows, N texts of each, T tokens, D hidden size, E size of embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from .base import HeadInputs, TaskHead, dropout_of, hidden_size, initialise, output_like
from .contrastive import among_groups, among_rows
from .losses import averaged, checked, classes, one_of
from .sentences import last_positions


@dataclass
class EmbeddingOutput(ModelOutput):
    """What an embedding head gives.

    Args:
        loss: The loss, if there is something to compare. Shape: ().
        embeddings: One vector for each text. Shape: (B, E), or (B, N, E) for inputs of shape (B, N, T).
        hidden_states: As the base model gives them.
        attentions: As the base model gives them.
    """

    loss: Tensor | None = None
    embeddings: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class EmbeddingHead(TaskHead):
    """One vector per text: of its tokens' hidden states, then perhaps a linear layer, then divided by its length.

    >>> model.add_embedding_head("search")
    >>> model(**texts).embeddings  # inputs (B, T), embeddings (B, E)
    >>> model(**pairs).loss  # inputs (B, 2, T): in each row two texts that belong together
    >>> model(**texts, labels=groups).loss  # inputs (B, T), labels (B,): texts of one group belong together

    What the loss "contrastive" makes of inputs:

    - (B, N, T), without labels: in each row a text, the one that belongs to it, and N - 2 that look like it and do not.
      Each text has to find its own among those of the whole batch (InfoNCE, van den Oord et al. 2018, arXiv:1807.03748;
      "multiple negatives ranking loss"). With labels (B,), rows of the same number are not held against one another.
    - (B, T), with labels (B,): texts of the same number belong together (Khosla et al. 2020, arXiv:2004.11362).

    What the loss "cosine" makes of (B, 2, T), with labels (B,) from -1 to 1: the squared error of the cosine of both.
    `return_loss=False` in the call spares the loss; `return_loss=True` says that there has to be one, as for CLIP.

    Args:
        model: The model that it is for. Of an encoder with a decoder, the encoder's hidden states are read.
        head_name: Its name.
        pooling: "mean" (of all tokens that are no padding), "cls" (the first token) or "last" (the last one).
        normalize: Whether vectors get length 1.
        embedding_size: E, made by a linear layer; None for vectors of the hidden size without such a layer.
        loss: "contrastive" or "cosine".
        temperature: What the cosines are divided by in the contrastive loss. 0.05 is a scale of 20.
        symmetric: Whether the second texts of pairs have to find the first ones too, as in CLIP.
        bias: Whether the linear layer has a bias.
        dropout_prob: Dropout before the linear layer; by default the model's.

    Raises:
        ValueError: an option is none of its choices, or the first token does not see the others.
    """

    rows_of_label = None
    further_inputs = ("return_loss",)

    def __init__(
        self,
        model: nn.Module,
        head_name: str,
        pooling: str = "mean",
        normalize: bool = True,
        embedding_size: int | None = None,
        loss: str = "contrastive",
        temperature: float = 0.05,
        symmetric: bool = False,
        bias: bool = True,
        dropout_prob: float | None = None,
    ) -> None:
        super().__init__(head_name)
        if temperature <= 0:
            raise ValueError(f"Head {head_name!r}: temperature={temperature}; it has to be above 0.")
        if embedding_size is not None and embedding_size < 1:
            raise ValueError(f"Head {head_name!r}: embedding_size={embedding_size}; it has to be above 0, or None.")
        if pooling == "cls" and getattr(model, "is_causal_model", False):
            raise ValueError(
                f"Head {head_name!r}: pooling='cls' reads the first token, which does not see the others in a "
                f"{type(model).__name__}; choose 'last' or 'mean'."
            )
        self.config = {
            "head_type": "embedding",
            "pooling": one_of(head_name, "pooling", pooling, ("mean", "cls", "last")),
            "normalize": normalize,
            "embedding_size": embedding_size,
            "loss": one_of(head_name, "loss", loss, ("contrastive", "cosine")),
            "temperature": temperature,
            "symmetric": symmetric,
            "bias": bias,
            "dropout_prob": dropout_prob,
            "label2id": None,
        }
        self.build(model)

    def build(self, model: nn.Module) -> None:
        """Make the layer that `config` describes, if there is one."""
        config = self.config
        if config["embedding_size"] is not None:
            self.append(nn.Dropout(dropout_of(model, config["dropout_prob"])))
            self.append(nn.Linear(hidden_size(model), config["embedding_size"], bias=config["bias"]))
        initialise(self, model)
        self.train(model.training)

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Any]) -> ModelOutput:
        """Embeddings (B, E) or (B, N, E), and the loss.

        Raises:
            ValueError: the labels do not fit the loss and the inputs.
        """
        embeddings = self.apply_layers(pooled(inputs, self.config["pooling"]))
        if self.config["normalize"]:
            embeddings = nn.functional.normalize(embeddings, dim=-1)
        if inputs.texts is not None:
            embeddings = embeddings.view(-1, inputs.texts, embeddings.shape[-1])
        loss_of = self._cosine_loss if self.config["loss"] == "cosine" else self._contrastive_loss
        loss = None if labels.get("return_loss") is False else loss_of(embeddings, labels, inputs)
        if loss is None and labels.get("return_loss"):
            raise ValueError(f"Head {self.name!r} (embedding) has nothing to compare. {_WHAT[self.config['loss']]}")
        return output_like(EmbeddingOutput, inputs, loss=loss, embeddings=embeddings)

    def _cosine_loss(self, embeddings: Tensor, labels: Mapping[str, Any], inputs: HeadInputs) -> Tensor | None:
        if "labels" not in labels:
            return None
        if inputs.texts != 2:
            raise ValueError(
                f"Head {self.name!r} (embedding) compares two texts of each row, and the inputs have "
                f"{inputs.texts or 'one'}. {_WHAT['cosine']}"
            )
        cosines = nn.functional.cosine_similarity(embeddings[:, 0], embeddings[:, 1], dim=-1)
        wanted = checked(self, labels["labels"], tuple(cosines.shape), cosines).view(-1).to(cosines.dtype)
        return averaged((cosines - wanted).square().sum(), len(wanted), inputs.items)

    def _contrastive_loss(self, embeddings: Tensor, labels: Mapping[str, Any], inputs: HeadInputs) -> Tensor | None:
        groups = labels.get("labels")
        if groups is not None and groups.is_floating_point():
            raise ValueError(
                f"Head {self.name!r} (embedding) with loss='contrastive' takes whole numbers that say which texts "
                "belong together. For labels that say how similar two texts are, add the head with loss='cosine'."
            )
        if groups is not None:
            groups = classes(self, groups, tuple(embeddings.shape[:1]), embeddings).view(-1)
        temperature, scaled = self.config["temperature"], embeddings.float()
        if inputs.texts is not None and inputs.texts > 1:
            return among_rows(scaled, groups, temperature, self.config["symmetric"], inputs.items)
        if groups is not None:
            return among_groups(scaled.view(len(groups), -1), groups, temperature, inputs.items)
        return None


_WHAT = {
    "cosine": "Give inputs of shape (rows, 2, tokens), and labels of shape (rows,) from -1 to 1.",
    "contrastive": "Give inputs of shape (rows, 2, tokens), the two texts of a row belonging together, or inputs of "
    "shape (rows, tokens) with labels of shape (rows,), the same number for texts that belong together.",
}


def pooled(inputs: HeadInputs, pooling: str) -> Tensor:
    """One vector per text. Prompts are tokens, too. Shape: (B, T, D) to (B, D).

    Args:
        inputs: What the base model gives.
        pooling: "mean", "cls" or "last".
    """
    encoded = inputs.outputs.get("encoder_last_hidden_state")
    hidden: Tensor = inputs.hidden if encoded is None else encoded
    if pooling == "cls":
        return hidden[:, 0]
    mask = inputs.attention_mask
    if mask is None or mask.ndim != 2:
        return hidden.mean(dim=1) if pooling == "mean" else hidden[:, -1]
    if pooling == "last":
        return last_positions(hidden, mask.bool())
    is_text = mask.bool()[..., None]
    return hidden.where(is_text, 0.0).sum(dim=1) / is_text.sum(dim=1).clamp_min(1)
