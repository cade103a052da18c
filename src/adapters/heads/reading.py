"""Static heads read as heads of this library: which layers, what lies between them, which vector of a row they take.

Most static heads are linear layers with an activation between them. Whether a class's head is that, is seen in a run of
it (`tracing`): each layer's input is what a flexible head would give it, or the head is of another kind.

Shapes: B rows, T tokens, D hidden size, C labels, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.utils.generic import ModelOutput

from ..methods.layers import Activation
from .base import dropout_of
from .language_modeling import norm_epsilon
from .sentences import hidden_scale, sentences
from .static import Skeleton, StaticHeadError
from .tracing import Step, Trace

_OF_TOKENS = ("tagging", "question_answering")
LANGUAGE = ("masked_lm", "causal_lm", "seq2seq_lm")
_NAMES_OF_ACTIVATION = ("hidden_act", "hidden_activation", "activation", "activation_function")
_ACTIVATIONS = ("tanh", "gelu", "relu", "swish", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "leakyrelu")


@dataclass(frozen=True)
class Reading:
    """A static head as a flexible one.

    Args:
        config: The configuration of the flexible head, without labels.
        names: For each tensor of the flexible head the names that it can have in the static class.
        scale: What the first layer's weights are multiplied by.
    """

    config: Mapping[str, Any]
    names: Mapping[str, tuple[str, ...]]
    scale: float = 1.0


def reading_of(model: Any, skeleton: Skeleton, trace: Trace, task: str) -> Reading:
    """A static head as a flexible one.

    Args:
        model: The model with flexible heads.
        skeleton: The static class without its base model.
        trace: A run of it.
        task: The type of the head.

    Raises:
        StaticHeadError: it is of another kind than the flexible heads; the message says in what.
    """
    if not trace.steps or any(not isinstance(step.module, (nn.Linear, nn.LayerNorm)) for step in trace.steps):
        raise StaticHeadError("it has other layers than linear ones and norms")
    if len({step.name for step in trace.steps}) < len(trace.steps):
        raise StaticHeadError("it uses a layer twice")
    if task in LANGUAGE:
        return _language_model(model, skeleton, trace, task)
    return _classifier(model, skeleton, trace, task)


def _classifier(model: Any, skeleton: Skeleton, trace: Trace, task: str) -> Reading:
    """Linear layers on a vector of each row, or on each token."""
    if any(isinstance(step.module, nn.LayerNorm) for step in trace.steps):
        raise StaticHeadError("it has a norm between its layers")
    steps, hidden = trace.steps, cast(Tensor, trace.outputs["last_hidden_state"])
    size = hidden.shape[-1]
    is_causal, config = model.is_causal_model, model.config
    sentence = sentences(config, is_causal, trace.outputs, trace.given)
    sources = {"tokens": hidden, "pooled": trace.outputs.get("pooler_output"), "sentence": sentence}
    if task in _OF_TOKENS:
        sources = {"tokens": hidden}
    source, factor = _source(steps[0].x, sources)
    for step in steps[:-1]:
        _check_inner(step, size)
    activation = _activation(steps, config)
    last = steps[-1].y
    if source == "tokens" and task not in _OF_TOKENS:  # scores of all tokens, one is chosen
        last = sentences(config, is_causal, type(trace.outputs)(last_hidden_state=last), trace.given)
    bias = _compare_results(task, trace.result, last, trace)
    found: dict[str, Any] = {"head_type": task, "layers": len(steps), "activation_function": activation}
    if task not in _OF_TOKENS:
        found["use_pooler"] = source == "pooled"
    has_bias = cast(nn.Linear, steps[-1].module).bias is not None or bias is not None
    if task in ("classification", "image_classification"):
        found["bias"] = has_bias
    elif not has_bias:
        raise StaticHeadError("its last layer has no bias")
    (dropout,) = trace.dropouts if len(trace.dropouts) == 1 else (0.0,) if not trace.dropouts else (None,)
    found["dropout_prob"] = None if dropout in (None, dropout_of(model, None)) else dropout
    names = _names(steps, 1, 3 if activation else 2, bias, skeleton)
    return _complete(Reading(found, names, factor / (hidden_scale(config) if task in _OF_TOKENS else 1.0)), trace)


def _language_model(model: Any, skeleton: Skeleton, trace: Trace, task: str) -> Reading:
    """[linear, activation, norm]* linear, on each token."""
    linear = [step for step in trace.steps if isinstance(step.module, nn.Linear)]
    norms = [step for step in trace.steps if isinstance(step.module, nn.LayerNorm)]
    hidden = cast(Tensor, trace.outputs["last_hidden_state"])
    _, factor = _source(trace.steps[0].x, {"tokens": hidden})
    factor /= hidden_scale(model.config)
    has_norm = bool(norms)
    order = [
        *(kind for _ in linear[:-1] for kind in ([nn.Linear, nn.LayerNorm] if has_norm else [nn.Linear])),
        nn.Linear,
    ]
    if [type(step.module) for step in trace.steps] != order:
        raise StaticHeadError("its layers are in another order than linear, activation, norm")
    if has_norm and any(cast(nn.LayerNorm, step.module).eps != norm_epsilon(model) for step in norms):
        raise StaticHeadError("its norm has another epsilon than the model's")
    inner = linear[0].y.shape[-1] if len(linear) > 1 else None
    for step in linear[:-1]:
        _check_inner(step, cast(int, inner), first=hidden.shape[-1])
    activation = _activation(trace.steps, model.config)
    scale, cap, bias = _after(trace.result["logits"], linear[-1].y, trace)
    if not math.isclose(factor, 1.0, rel_tol=1e-4):
        if len(linear) > 1 or bias is not None or cast(nn.Linear, linear[-1].module).bias is not None:
            raise StaticHeadError("it scales the hidden states")
        scale, factor = scale * factor, 1.0
    found: dict[str, Any] = {
        "head_type": task,
        "layers": len(linear),
        "activation_function": activation,
        "layer_norm": has_norm,
        "bias": cast(nn.Linear, linear[-1].module).bias is not None or bias is not None,
        "shift_labels": task == "causal_lm",
    }
    if inner is not None and task != "seq2seq_lm":
        found["embedding_size"] = inner
    found |= {"logit_scale": scale} if not math.isclose(scale, 1.0, rel_tol=1e-4) else {}
    found |= {"logit_softcap": cap} if cap is not None else {}
    width = 1 + bool(activation) + has_norm
    names = _names(linear, 0, width, bias, skeleton)
    for number, step in enumerate(norms):
        index = number * width + 1 + bool(activation)
        names |= {f"{index}.{key}": (f"{step.name}.{key}",) for key in ("weight", "bias")}
    return _complete(Reading(found, names), trace)


def _source(x: Tensor, sources: Mapping[str, Tensor | None]) -> tuple[str, float]:
    """Which of some tensors the first layer was given, and what that was multiplied by."""
    for name, tensor in sources.items():
        if tensor is not None and tensor.shape == x.shape:
            factor = _factor(x, tensor)
            if factor is not None:
                return name, factor
    raise StaticHeadError("it reads another vector than that of each token, the pooled one, or that of one token")


def _factor(x: Tensor, y: Tensor) -> float | None:
    """s where x = s y, if there is such a number."""
    factor = _rounded(float((x * y).sum() / (y * y).sum()))
    return factor if factor and _equal(x, factor * y) else None


def _rounded(x: float) -> float:
    """The number that a configuration may hold, of one that was measured."""
    short = float(f"{x:.4g}")
    return short if math.isclose(short, x, rel_tol=1e-5) else x


def _equal(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and torch.allclose(x, y, rtol=1e-4, atol=1e-5)


def _activation(steps: Sequence[Step], config: Any) -> str | None:
    """The activation that follows each linear layer but the last one, by name."""
    linear = [i for i, step in enumerate(steps) if isinstance(step.module, nn.Linear)][:-1]
    if not linear:
        return None
    own = [
        getattr(config, name, None) for name in ("hidden_act", "hidden_activation", "activation", "activation_function")
    ]
    names = dict.fromkeys([*_ACTIVATIONS, *(str(name) for name in own if name in ACT2FN)])
    for name in (None, *names):
        function = Activation(name) if name else nn.Identity()
        if all(_equal(function(steps[i].y), steps[i + 1].x) for i in linear):
            return name
    raise StaticHeadError("what lies between its layers is no activation that is known")


def _check_inner(step: Step, size: int, first: int | None = None) -> None:
    module = cast(nn.Linear, step.module)
    if module.bias is None or step.y.shape[-1] != size or step.x.shape[-1] not in (size, first):
        raise StaticHeadError("its inner layers have no bias, or change the size of vectors")


def _compare_results(task: str, result: ModelOutput, last: Tensor, trace: Trace) -> str | None:
    """Compare what a static head gives with what its last layer gives; a bias that is added is named."""
    if task == "question_answering":
        if result.get("start_logits") is None:
            raise StaticHeadError("it gives other results than start_logits and end_logits")
        logits = torch.stack([result["start_logits"], result["end_logits"]], dim=-1)
    else:
        logits = result["logits"]
    if task == "multiple_choice":
        last = last.view_as(logits) if last.numel() == logits.numel() else last
    scale, cap, bias = _after(logits, last, trace)
    if cap is not None or not math.isclose(scale, 1.0, rel_tol=1e-4):
        raise StaticHeadError("it changes the results of its last layer")
    return bias


def _after(logits: Tensor, last: Tensor, trace: Trace) -> tuple[float, float | None, str | None]:
    """What becomes of the last layer's result: its factor, the bound of a tanh, the name of a bias that is added."""
    if logits.shape != last.shape:
        raise StaticHeadError(f"its results have the shape {tuple(logits.shape)}, its last layer's {tuple(last.shape)}")
    factor = _factor(logits, last)
    if factor is not None:
        return factor, None, None
    for name, tensor in trace.tensors.items():
        is_bias = tensor.shape[-1:] == logits.shape[-1:] and tensor.numel() == logits.shape[-1]
        if is_bias and _equal(logits, last + tensor.flatten()):
            return 1.0, None, name
    bound = _softcap(logits, last)
    if bound is not None:
        return 1.0, bound, None
    raise StaticHeadError("it changes the results of its last layer")


def _softcap(logits: Tensor, last: Tensor) -> float | None:
    """c where logits = c tanh(last / c). The larger c, the larger are the logits: bisection finds it."""
    at = int(last.abs().argmax())
    wanted, x = float(logits.flatten()[at]) / float(last.flatten()[at]), float(last.flatten()[at].abs())
    if not 0 < wanted < 1:
        return None
    low, high = 1e-3, 1e6
    for _ in range(200):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if middle * math.tanh(x / middle) / x > wanted else (middle, high)
    bound = _rounded(low)
    return bound if _equal(logits, bound * torch.tanh(last / bound)) else None


def _names(
    steps: Sequence[Step], first: int, width: int, bias: str | None, skeleton: Skeleton
) -> dict[str, tuple[str, ...]]:
    """The names of the tensors of linear layers, for each one in the flexible head.

    Args:
        steps: The layers.
        first: The number of the first one in the flexible head.
        width: How many modules there are from one to the next.
        bias: The name of a bias that is added to what the last one gives.
        skeleton: The static class, which knows which names are names of the same tensor.
    """
    names: dict[str, tuple[str, ...]] = {}
    for number, step in enumerate(steps):
        index = first + number * width
        names[f"{index}.weight"] = _same(f"{step.name}.weight", skeleton)
        if cast(nn.Linear, step.module).bias is not None:
            names[f"{index}.bias"] = _same(f"{step.name}.bias", skeleton)
    if bias is not None:
        names[f"{first + (len(steps) - 1) * width}.bias"] = _same(bias, skeleton)
    return names


def _same(name: str, skeleton: Skeleton) -> tuple[str, ...]:
    """All names of a tensor of a static head, this one first."""
    other = [b if a == name else a for a, b in skeleton.ties.items() if name in (a, b)]
    return (name, *other)


def _complete(reading: Reading, trace: Trace) -> Reading:
    """Check that nothing of a static head is left out."""
    known = {name for names in reading.names.values() for name in names}
    left = sorted(name for name, tensor in trace.tensors.items() if name not in known and tensor.is_floating_point())
    if left:
        raise StaticHeadError(f"it has further parameters: {', '.join(left)}")
    return reading
