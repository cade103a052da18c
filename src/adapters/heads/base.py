"""Prediction heads: small modules on the hidden states of a base model, bound to adapters by their name.

Shapes: B rows, T tokens, D hidden size, C labels.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from ..methods.layers import Activation


@dataclass(frozen=True)
class HeadInputs:
    """What a base model gives to a head.

    Args:
        hidden: Last hidden states. Shape: (B, T, D).
        sentence: One vector per row: of the first token, or of the last one in a causal model. Shape: (B, D).
        pooled: What the base model's own pooler makes of it, if it has one. Shape: (B, D).
        outputs: All outputs of the base model.
        attention_mask: Which tokens are no padding, if the model was given that. Shape: (B, T).
        items: The number of labels in all batches of a training step, if these are several; see `losses.py`.
        texts: How many texts N there are for each row of inputs of shape (B, N, T), which gives B·N rows here.
        call: What the base model was called with, for heads that say `reads_call`.
    """

    hidden: Tensor
    sentence: Tensor
    pooled: Tensor | None
    outputs: ModelOutput
    attention_mask: Tensor | None = None
    items: Tensor | int | None = None
    texts: int | None = None
    call: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int | None:
        """How many of the last tokens are those of the inputs; None if all are. Prompts have put others in front."""
        mask = self.attention_mask
        if mask is None or mask.ndim != 2 or "encoder_last_hidden_state" in self.outputs:
            return None
        return int(mask.shape[1])


class PredictionHead(nn.Sequential):
    """A head: layers, made from `config`, and what they predict.

    A head of your own extends this class, or is a plain `nn.Module`; see `model.register_custom_head`. It sets its
    `config`, calls `build`, and overrides `forward`, in which `super().forward(x)` are the layers. It takes:

        outputs: The outputs of the base model; the first one are the last hidden states (B, T, D).
        cls_output: One vector per row (B, D).
        attention_mask: Which tokens are no padding (B, T).
        return_dict: Whether to give a `ModelOutput`, or a tuple.
        **kwargs: `labels`, and what else the model was called with that the base model does not know.

    Args:
        name: The name of the head: that of the adapter it belongs to.
    """

    further_inputs: tuple[str, ...] = ()
    """Names of arguments of the model's call, besides labels, that the head asks for."""

    rows_of_label: int | None = 1
    """How many rows of the base model belong to one label; None for N of inputs of shape (B, N, T)."""

    reads_call = False
    """Whether `forward` takes `call`: what the base model was called with, by the names of its arguments."""

    generates = False
    """Whether texts are generated with it."""

    accepts_loss_kwargs = False
    """Whether `forward` takes `num_items_in_batch`, by which the Trainer of transformers wants the loss divided."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.config: dict[str, Any] = {}
        """What `head_config.json` holds of the head."""

    def build(self, model: nn.Module) -> None:
        """Make the layers that `config` describes: `layers` linear ones, the last for `num_labels` labels, or 1.

        `activation_function` is between them; `bias` and `dropout_prob` can be left out.

        Args:
            model: The model that the head is for.
        """
        config, size = self.config, hidden_size(model)
        for step in linear_layers(
            size,
            1 if "num_choices" in config else config.get("num_labels", 1),
            config["layers"],
            config.get("activation_function"),
            config.get("bias", True),
            dropout_of(model, config.get("dropout_prob")),
        ):
            self.append(step)
        initialise(self, model)
        self.train(model.training)

    def get_output_embeddings(self) -> nn.Module | None:
        """The layer that gives a logit for each token of the vocabulary, if there is one."""
        return None

    def get_label_names(self) -> list[str]:
        """The names of the arguments that hold labels."""
        return ["labels"]


class TaskHead(PredictionHead):
    """A head of this library: it predicts from `HeadInputs`."""

    accepts_loss_kwargs = True

    def forward(  # type: ignore[override]
        self,
        outputs: ModelOutput,
        cls_output: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_dict: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        texts_per_row: int | None = None,
        call: Mapping[str, Any] | None = None,
        **labels: Any,
    ) -> Any:
        """The prediction.

        Args:
            outputs: The outputs of the base model; the first one are the last hidden states. Shape: (B, T, D).
            cls_output: One vector per row; by default that of the first token. Shape: (B, D).
            attention_mask: Which tokens are no padding. Shape: (B, T).
            return_dict: Whether to give a `ModelOutput`, or a tuple.
            num_items_in_batch: The number of labels in all batches of a training step, if these are several.
            texts_per_row: How many texts N there are for each row of inputs of shape (B, N, T).
            call: What the base model was called with.
            **labels: What `get_label_names` names, and `further_inputs`.
        """
        hidden = outputs[0]
        sentence = hidden[:, 0] if cls_output is None else cls_output
        pooled = outputs.get("pooler_output") if isinstance(outputs, Mapping) else None
        inputs = HeadInputs(hidden, sentence, pooled, outputs, attention_mask)
        inputs = replace(inputs, items=num_items_in_batch, texts=texts_per_row, call=call or {})
        result = self.predict(inputs, labels)
        return result if return_dict else result.to_tuple()

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """The prediction, with the loss if there are labels."""
        raise NotImplementedError(f"{type(self).__name__} has no predict.")

    def apply_layers(self, x: Tensor) -> Tensor:
        """All layers, one after the other. Shape: (..., D) to (..., C)."""
        for layer in self:
            x = layer(x)
        return x


def vector_of_row(head: PredictionHead, inputs: HeadInputs) -> Tensor:
    """The vector that a head reads of each row: the base model's pooled one, or that of one token. Shape: (B, D).

    Raises:
        ValueError: the head asks for a pooler that the base model does not have.
    """
    if not head.config.get("use_pooler"):
        return inputs.sentence
    if inputs.pooled is None:
        raise ValueError(f"Head {head.name!r} has use_pooler=True, but the base model has no pooler.")
    return inputs.pooled


def linear_layers(
    size: int, outputs: int, count: int, activation: str | None, bias: bool, dropout: float
) -> list[nn.Module]:
    """Linear layers with dropout before each and an activation between them.

    Raises:
        ValueError: there would be no layer, or no output.
    """
    if count < 1 or outputs < 1:
        raise ValueError(f"A head needs at least one layer and one output; given were {count} and {outputs}.")
    steps: list[nn.Module] = []
    for _ in range(count - 1):
        steps += [nn.Dropout(dropout), nn.Linear(size, size)]
        steps += [Activation(activation)] if activation else []
    return [*steps, nn.Dropout(dropout), nn.Linear(size, outputs, bias=bias)]


def initialise(head: nn.Module, model: nn.Module) -> None:
    """Draw the weights of a head as those of BERT-like models: N(0, σ), σ as the model's configuration says."""
    deviation = getattr(getattr(model, "config", None), "initializer_range", None) or 0.02
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=deviation)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def hidden_size(model: nn.Module) -> int:
    """Size D of the last hidden states of a model, or of its text tower."""
    return int(cast(Any, model).config.get_text_config().hidden_size)


def dropout_of(model: nn.Module, probability: float | None) -> float:
    """Dropout of a head: as it says, else as the model's configuration does."""
    if probability is not None:
        return probability
    config = cast(Any, model).config
    return float(getattr(config, "hidden_dropout_prob", getattr(config, "dropout", 0.0)) or 0.0)


def label_map(num_labels: int, id2label: Mapping[int, str] | None) -> dict[str, int]:
    """`label2id` as head configurations hold it.

    Raises:
        ValueError: the labels are not numbered from 0 to C - 1.
    """
    if id2label is None:
        return {f"LABEL_{i}": i for i in range(num_labels)}
    if sorted(map(int, id2label)) != list(range(num_labels)):
        raise ValueError(
            f"id2label numbers {sorted(id2label)}; for num_labels={num_labels} give 0 to {num_labels - 1}."
        )
    return {str(label): int(i) for i, label in id2label.items()}


def output_like(result_class: type[ModelOutput], inputs: HeadInputs, **found: Any) -> ModelOutput:
    """An output of a class, with what the base model gave besides the last hidden states."""
    names = inspect.signature(result_class).parameters
    return result_class(**{**{name: inputs.outputs.get(name) for name in names}, **found})


def is_pair(inputs: HeadInputs) -> bool:
    """Whether the base model is an encoder with a decoder."""
    return "encoder_last_hidden_state" in inputs.outputs
