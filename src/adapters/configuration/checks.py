"""What the values of configurations may be, and the message for those that have no meaning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers.activations import ACT2FN

from .base import AdapterConfig, AdapterConfigError, Fields

ACTIVATIONS = (*ACT2FN, "leakyrelu")


def is_number(value: Any) -> bool:
    """Whether it is an integer or a float."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_positive(value: Any) -> bool:
    """Whether it is a number above zero."""
    return is_number(value) and value > 0


def is_index(value: Any) -> bool:
    """Whether it is an integer from zero on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_count(value: Any) -> bool:
    """Whether it is an integer from one on."""
    return is_index(value) and value > 0


def is_probability(value: Any) -> bool:
    """Whether it is a number from zero on and below one."""
    return is_number(value) and 0 <= value < 1


def is_activation(value: Any) -> bool:
    """Whether transformers knows it as an activation."""
    return isinstance(value, str) and value.lower() in ACTIVATIONS


def are_indices(values: Any) -> bool:
    """Whether all are integers from zero on."""
    return isinstance(values, (list, tuple)) and all(map(is_index, values))


def is_dtype(value: Any) -> bool:
    """Whether it names a floating type of torch, or is None."""
    return value is None or value in ("float16", "bfloat16", "float32", "float64", "half", "float", "double")


def choices(values: Iterable[str]) -> str:
    """In words: one of these."""
    return "one of " + ", ".join(values)


def require(holds: bool, config: Fields, name: str, meaning: str) -> None:
    """Raise `AdapterConfigError` for a field whose value does not have the meaning that it should have."""
    if not holds:
        raise AdapterConfigError(f"{type(config).__name__}: {name} is {config[name]!r}; it should be {meaning}.")


def require_booleans(config: Fields, names: Iterable[str]) -> None:
    """Raise `AdapterConfigError` for the first of these fields that is neither True nor False."""
    for name in names:
        require(isinstance(config[name], bool), config, name, "True or False")


def require_common(config: AdapterConfig) -> None:
    """Check the fields that several methods have, as far as this one has them."""
    if "leave_out" in config:
        require(are_indices(config["leave_out"]), config, "leave_out", "a list of layer numbers")
    if "dropout" in config:
        require(is_probability(config["dropout"]), config, "dropout", "a probability in [0, 1)")
    if "dtype" in config:
        require(is_dtype(config["dtype"]), config, "dtype", "None, float32, bfloat16, float16 or float64")
    seed = config["init_weights_seed"]
    require(seed is None or is_index(seed), config, "init_weights_seed", "a whole number or None")
