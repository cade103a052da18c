"""Groups of parameters for optimizers."""

from __future__ import annotations

from typing import Any

from torch import nn

from .methods.fusion import AttentionFusion

# A and B of a product whose B starts at zero (or, of embeddings, A: there B is the larger one in effect too).
_PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"))


def lora_plus_groups(
    model: nn.Module, learning_rate: float, ratio: float = 16.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """The trained parameters of a model in groups, with the learning rates of LoRA+.

    By Hayou et al. 2024 (arXiv:2402.12354) the matrices B of LoRA learn faster than A; all else learns like A.

    >>> model.train_adapter("task")
    >>> optimizer = torch.optim.AdamW(lora_plus_groups(model, learning_rate=1e-4, ratio=16, weight_decay=0.01))

    Args:
        model: The model; what is frozen is left out.
        learning_rate: The learning rate of all but B.
        ratio: How many times faster B learns.
        weight_decay: Weight decay of matrices; vectors (biases, norms, magnitudes) have none, nor have the value
            matrices of fusions that are kept near the identity.

    Returns:
        Groups with `params`, `lr` and `weight_decay`.

    Raises:
        ValueError: no matrices B are trained, or a number makes no sense.
    """
    if learning_rate <= 0 or ratio <= 0 or weight_decay < 0:
        raise ValueError(
            f"learning_rate={learning_rate}, ratio={ratio} and weight_decay={weight_decay} must be above 0, and not "
            "below 0."
        )
    fast = {
        id(module._parameters[b])
        for module in model.modules()
        for a, b in _PAIRS
        if module._parameters.get(a) is not None and module._parameters.get(b) is not None
    }
    near_identity = {
        id(module.value.weight)
        for module in model.modules()
        if isinstance(module, AttentionFusion) and module.value is not None and module.config.regularization
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            rate = learning_rate * (ratio if id(parameter) in fast else 1.0)
            has_decay = parameter.ndim > 1 and id(parameter) not in near_identity
            groups.setdefault((rate, weight_decay if has_decay else 0.0), []).append(parameter)
    if not any(id(parameter) in fast for parameters in groups.values() for parameter in parameters):
        raise ValueError("No LoRA is trained, so that LoRA+ has nothing to do: call model.train_adapter(name) first.")
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]
