"""Language models: a logit for each token of the vocabulary.

Shapes: B rows, T tokens, P tokens that prompts put in front of them, D hidden size, E size of embeddings, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput, CausalLMOutputWithPast, MaskedLMOutput, Seq2SeqLMOutput
from transformers.utils.generic import ModelOutput

from ..methods.layers import Activation
from .base import HeadInputs, TaskHead, dropout_of, hidden_size, initialise, output_like
from .losses import classes, cross_entropy
from .tagging import of_inputs


class LanguageModelHead(TaskHead):
    """What the three kinds of language models share: layers with norms, the last one tied to the embeddings.

    Its last layer is the input embeddings' weight where the model's configuration says `tie_word_embeddings`.
    Invertible adapters are inverted before it.
    """

    generates = True

    def build(self, model: nn.Module) -> None:
        """Make the layers that `config` describes."""
        config, size = self.config, hidden_size(model)
        inner = config.get("embedding_size") or size
        if config["layers"] < 1:
            raise ValueError(f"Head {self.name!r} needs at least one layer; given was {config['layers']}.")
        for number in range(config["layers"] - 1):
            if config.get("dropout_prob"):
                self.append(nn.Dropout(dropout_of(model, config["dropout_prob"])))
            self.append(nn.Linear(size if number == 0 else inner, inner))
            if config["activation_function"]:
                self.append(Activation(config["activation_function"]))
            if config["layer_norm"]:
                self.append(nn.LayerNorm(inner, eps=norm_epsilon(model)))
        self.append(nn.Linear(size if config["layers"] == 1 else inner, config["vocab_size"], bias=config["bias"]))
        initialise(self, model)
        self.train(model.training)
        self._before_last: tuple[nn.Module, ...] = tuple(_before_output_embeddings(model))

    def get_output_embeddings(self) -> nn.Linear:
        """The layer that gives a logit for each token of the vocabulary."""
        return cast(nn.Linear, self[-1])

    def logits(self, hidden: Tensor) -> Tensor:
        """Shape: (B, T, D) to (B, T, V)."""
        for layer in list(self)[:-1]:
            hidden = layer(hidden)
        for module in self._before_last:
            hidden = module(hidden)
        result: Tensor = self[-1](hidden)
        if "logit_scale" in self.config:
            result = result * self.config["logit_scale"]
        if "logit_softcap" in self.config:
            result = (result / self.config["logit_softcap"]).tanh() * self.config["logit_softcap"]
        return result

    def _loss(self, logits: Tensor, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> Tensor | None:
        """The cross-entropy over tokens whose label is not -100."""
        if "labels" not in labels:
            return None
        own = of_inputs(logits, inputs)
        wanted = classes(self, labels["labels"], tuple(own.shape[:2]), logits).view(own.shape[:2])
        if self.config["shift_labels"]:
            own, wanted = own[:, :-1], wanted[:, 1:]
        return cross_entropy(own.flatten(0, 1).float(), wanted.flatten(), inputs.items)


class BertStyleMaskedLMHead(LanguageModelHead):
    """Finds the tokens that are masked; labels of all others are -100.

    >>> model.add_masked_lm_head("language")

    Args:
        model: The model that it is for.
        head_name: Its name.
        vocab_size: Number of tokens V; by default the model's.
        embedding_size: E; by default the model's.
        layers: Number of linear layers.
        activation_function: Activation between them.
        layer_norm: Whether there is a norm between them.
        bias: Whether the last layer has a bias.
        shift_labels: Whether each token predicts the next one.
        logit_scale: What logits are multiplied by, in models that do so.
        logit_softcap: c of c tanh(logits / c), which bounds logits in models that do so.
    """

    def __init__(
        self,
        model: nn.Module,
        head_name: str,
        vocab_size: int | None = None,
        embedding_size: int | None = None,
        layers: int = 2,
        activation_function: str | None = "gelu",
        layer_norm: bool = True,
        bias: bool = True,
        shift_labels: bool = False,
        logit_scale: float | None = None,
        logit_softcap: float | None = None,
    ) -> None:
        super().__init__(head_name)
        self.config = {
            "head_type": "masked_lm",
            "vocab_size": vocab_size or _vocabulary(model)[0],
            "embedding_size": embedding_size or _vocabulary(model)[1],
            "layers": layers,
            "activation_function": activation_function,
            "layer_norm": layer_norm,
            "bias": bias,
            "shift_labels": shift_labels,
            "label2id": None,
        }
        self.config |= _bounds(logit_scale, logit_softcap)
        self.build(model)

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """Logits (B, P + T, V), and the loss."""
        logits = self.logits(inputs.hidden)
        return output_like(MaskedLMOutput, inputs, loss=self._loss(logits, inputs, labels), logits=logits)


class CausalLMHead(LanguageModelHead):
    """Finds the next token. Its arguments are those of `BertStyleMaskedLMHead`.

    >>> model.add_causal_lm_head("language")
    >>> model.generate(**tokenizer("Once upon", return_tensors="pt"))

    Args:
        model: The model that it is for.
        head_name: Its name.
        vocab_size: Number of tokens V; by default the model's.
        embedding_size: E; by default the model's.
        layers: Number of linear layers.
        activation_function: Activation between them.
        layer_norm: Whether there is a norm between them.
        bias: Whether the last layer has a bias.
        shift_labels: Whether each token predicts the next one.
        dropout_prob: Dropout before each layer but the last one.
        logit_scale: What logits are multiplied by, in models that do so.
        logit_softcap: c of c tanh(logits / c), which bounds logits in models that do so.
    """

    def __init__(
        self,
        model: nn.Module,
        head_name: str,
        vocab_size: int | None = None,
        embedding_size: int | None = None,
        layers: int = 1,
        activation_function: str | None = None,
        layer_norm: bool = False,
        bias: bool = False,
        shift_labels: bool = True,
        dropout_prob: float | None = None,
        logit_scale: float | None = None,
        logit_softcap: float | None = None,
    ) -> None:
        super().__init__(head_name)
        self.config = {
            "head_type": "causal_lm",
            "vocab_size": vocab_size or _vocabulary(model)[0],
            "embedding_size": embedding_size or _vocabulary(model)[1],
            "layers": layers,
            "activation_function": activation_function,
            "layer_norm": layer_norm,
            "bias": bias,
            "shift_labels": shift_labels,
            "label2id": None,
            "dropout_prob": dropout_prob,
        }
        self.config |= _bounds(logit_scale, logit_softcap)
        self.build(model)

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """Logits (B, P + T, V), and the loss."""
        logits = self.logits(inputs.hidden)
        result_class = CausalLMOutputWithPast if "past_key_values" in inputs.outputs else CausalLMOutput
        return output_like(result_class, inputs, loss=self._loss(logits, inputs, labels), logits=logits)


class Seq2SeqLMHead(LanguageModelHead):
    """Finds the next token of a decoder. With labels alone, what the decoder reads is made of these.

    >>> model.add_seq2seq_lm_head("summary")
    >>> model.generate(**tokenizer("A long text", return_tensors="pt"))

    Args:
        model: The model that it is for.
        head_name: Its name.
        vocab_size: Number of tokens V; by default the model's.
        layers: Number of linear layers.
        activation_function: Activation between them.
        layer_norm: Whether there is a norm between them.
        bias: Whether the last layer has a bias.
        shift_labels: Whether each label is that of the token before.
        logit_scale: What logits are multiplied by, in models that do so.
        logit_softcap: c of c tanh(logits / c), which bounds logits in models that do so.
    """

    def __init__(
        self,
        model: nn.Module,
        head_name: str,
        vocab_size: int | None = None,
        layers: int = 1,
        activation_function: str | None = None,
        layer_norm: bool = False,
        bias: bool = False,
        shift_labels: bool = False,
        logit_scale: float | None = None,
        logit_softcap: float | None = None,
    ) -> None:
        super().__init__(head_name)
        self.config = {
            "head_type": "seq2seq_lm",
            "vocab_size": vocab_size or _vocabulary(model)[0],
            "layers": layers,
            "activation_function": activation_function,
            "layer_norm": layer_norm,
            "bias": bias,
            "shift_labels": shift_labels,
            "label2id": None,
        }
        self.config |= _bounds(logit_scale, logit_softcap)
        self.build(model)

    def predict(self, inputs: HeadInputs, labels: Mapping[str, Tensor]) -> ModelOutput:
        """Logits (B, T, V), and the loss."""
        logits = self.logits(inputs.hidden)
        return output_like(Seq2SeqLMOutput, inputs, loss=self._loss(logits, inputs, labels), logits=logits)


def _bounds(scale: float | None, softcap: float | None) -> dict[str, float]:
    """What a configuration says of logits, if there is anything to say: release 1.3 does not know it."""
    return {key: value for key, value in (("logit_scale", scale), ("logit_softcap", softcap)) if value is not None}


def ties_embeddings(config: Any) -> bool:
    """Whether a model's last layer is its input embeddings, as its configuration says."""
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", getattr(config, "tie_word_embeddings", False)))


def embeddings_of(model: nn.Module) -> nn.Module | None:
    """The input embeddings of a model, if it has some."""
    try:
        return cast("nn.Module | None", cast(Any, model).get_input_embeddings())
    except NotImplementedError:  # it reads characters, or images
        return None


def _vocabulary(model: nn.Module) -> tuple[int, int]:
    """Number of tokens V, and size E of their embeddings."""
    weight = cast(Any, model).get_input_embeddings().weight
    return int(cast(Any, model).config.get_text_config().vocab_size), int(weight.shape[1])


def norm_epsilon(model: nn.Module) -> float:
    """The epsilon of the norms in heads."""
    return float(getattr(cast(Any, model).config, "layer_norm_eps", None) or 1e-12)


def _before_output_embeddings(model: nn.Module) -> list[nn.Module]:
    """What the model does before output embeddings, if it is one with flexible heads."""
    found = getattr(model, "before_output_embeddings", None)
    return [found] if isinstance(found, nn.Module) else []
