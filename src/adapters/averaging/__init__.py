"""New adapters made of others: averages, task arithmetic, TIES, DARE, arcs, exact concatenation."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ..methods.experts import ExpertsAdapter, FusedLoRA
from ..methods.ia3 import IA3, InputScaling
from ..methods.targets import AdaptedMatrix
from ..registry import Adapter, AdapterRegistry, check_free
from .changes import combine_changes, combine_unscaled
from .slots import are_changes
from .strategies import OF_RELEASE_1, Options, WeightedSum, strategy_of
from .values import combine_values, differences

_logger = logging.getLogger(__name__)

Weighted = Sequence[str] | Mapping[str, float]
"""Names of adapters or heads, or their weights by name."""


@dataclass(frozen=True)
class CombinationReport:
    """What came of a combination.

    Args:
        adapter_name: The new adapter.
        combine_strategy: The strategy.
        weights: The weights that were used, by the names of the adapters.
        errors: For each matrix of a new LoRA by its path, ‖ΔW − s B A‖ / ‖ΔW‖ for the ΔW that was meant: 0 where the
            result is exact, more where it has a lower rank. Empty for what is combined parameter by parameter.
    """

    adapter_name: str
    combine_strategy: str
    weights: tuple[tuple[str, float], ...]
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def largest_error(self) -> float:
        """The largest of the errors, 0 if there are none."""
        return max(self.errors.values(), default=0.0)


def combine(
    model: Any,
    adapter_name: str,
    adapter_list: Weighted,
    weights: Sequence[float] | None = None,
    combine_strategy: str = "linear",
    normalize_weights: bool = True,
    overwrite_ok: bool = False,
    svd_rank: int | None = None,
    density: float | None = None,
    seed: int | None = None,
) -> CombinationReport:
    """What `model.average_adapter` does, with a report of what came of it. The arguments are explained there.

    >>> report = combine(model, "both", ["a", "b"], combine_strategy="lora_svd", svd_rank=8)
    >>> report.largest_error
    0.31
    """
    registry = cast(AdapterRegistry, model._adapter_registry)
    names, given = named_weights(adapter_list, weights, "adapter", combine_strategy == "task_arithmetic")
    if combine_strategy not in ("task_arithmetic", "slerp") and normalize_weights:
        given = normalized(given)
    check_free(adapter_name, registry.adapters, overwrite_ok)
    adapters = [registry[name] for name in names]
    for name in dict.fromkeys([*names, adapter_name]):
        if name in registry.merged:
            raise ValueError(
                f"Adapter {name!r} is merged into the weights, so it cannot be combined or replaced; call "
                f"model.reset_adapter({name!r}) first."
            )
    options = Options(combine_strategy, svd_rank, density, seed)
    adapter, errors = _combined(registry, adapter_name, adapters, given, options)
    if adapter_name in registry.adapters:
        registry.delete(adapter_name)
    registry.attach(adapter)
    report = CombinationReport(adapter_name, combine_strategy, tuple(zip(names, given, strict=True)), errors)
    _log(report)
    return report


def named_weights(
    given: Weighted, weights: Sequence[float] | None, what: str, are_summed: bool = False
) -> tuple[list[str], list[float]]:
    """Names, and a weight for each.

    Args:
        given: The names, or the weights by name.
        weights: The weights; None for equal ones.
        what: What has these names, for messages.
        are_summed: Whether equal weights are ones; else they are 1 / n.

    Raises:
        ValueError: there are none, or the weights are not as many, or not finite.
    """
    if isinstance(given, str):
        raise ValueError(f"A list of {what}s is needed, not the string {given!r}: write [{given!r}, …].")
    if isinstance(given, Mapping) and weights is not None:
        raise ValueError("Weights were given twice: in the dictionary, and by weights=.")
    names = list(given)
    if not names:
        raise ValueError(f"No {what}s were given; at least one is needed.")
    if isinstance(given, Mapping):
        weights = [given[name] for name in names]
    found = [1.0 if are_summed else 1 / len(names)] * len(names) if weights is None else list(map(float, weights))
    if len(found) != len(names):
        raise ValueError(f"There are {len(names)} {what}s ({', '.join(names)}) and {len(found)} weights {found}.")
    if not all(map(math.isfinite, found)):
        raise ValueError(f"Weights are numbers, and these are not all finite: {found}.")
    return names, found


def normalized(weights: Sequence[float]) -> list[float]:
    """The weights with a sum of one.

    Raises:
        ValueError: their sum is zero.
    """
    total = math.fsum(weights)
    if abs(total) <= 1e-12 * max(map(abs, weights)):
        raise ValueError(
            f"The sum of the weights {list(weights)} is 0, so they cannot be normalized; pass normalize_weights=False."
        )
    return [weight / total for weight in weights]


def _combined(
    registry: AdapterRegistry, name: str, adapters: Sequence[Adapter], weights: Sequence[float], options: Options
) -> tuple[Adapter, Mapping[str, float]]:
    """The new adapter, not yet added, and the errors of its matrices."""
    strategy = strategy_of(options, tuple(weights))
    kind = options.combine_strategy
    if kind not in OF_RELEASE_1 and are_changes(adapters):
        return combine_changes(registry, name, adapters, strategy, options)
    for other in adapters[1:]:
        if found := differences(adapters[0], other):
            raise ValueError(
                f"Adapters {adapters[0].name!r} and {other.name!r} cannot be combined by {kind!r}: "
                f"{'; '.join(found[:5])}. For LoRA and its relatives there are strategies that do not mind: "
                "lora_concat, lora_svd, task_arithmetic, ties, dare_linear, dare_ties and slerp."
            )
    if kind == "lora_delta_w_svd":
        assert options.svd_rank is not None
        return combine_unscaled(registry, name, adapters, weights, options.svd_rank)
    if kind not in OF_RELEASE_1:
        _check_values(adapters[0], options)
    _warn_of_fixed(adapters, kind)
    of_a = None
    if kind == "lora_linear_only_negate_b":
        _check_is_lora(adapters[0])
        of_a = WeightedSum(tuple(map(abs, weights)))
    return combine_values(registry, name, adapters, strategy, of_a, kind in OF_RELEASE_1), {}


def _check_values(adapter: Adapter, options: Options) -> None:
    """Raise for what a strategy has no meaning for, parameter by parameter."""
    kind = options.combine_strategy
    changes = [
        module
        for module in adapter.modules()
        if (isinstance(module, AdaptedMatrix) and not isinstance(module, (IA3, InputScaling)))
        or (isinstance(module, ExpertsAdapter) and any(isinstance(inner, FusedLoRA) for inner in module.children()))
    ]
    if changes:
        raise ValueError(
            f"combine_strategy={kind!r} is defined on changes of weights, and adapter {adapter.name!r} has other "
            "modules beside these: such adapters can be combined by 'linear' only."
        )
    if kind.startswith("lora_") or options.svd_rank is not None:
        what = f"svd_rank={options.svd_rank}" if options.svd_rank is not None else f"combine_strategy={kind!r}"
        raise ValueError(f"{what} is for changes of weights such as LoRA; {adapter.name!r} is {adapter.config!r}.")


def _check_is_lora(adapter: Adapter) -> None:
    names = {name.rpartition(".")[2] for module in adapter.modules() for name, _ in module.named_parameters()}
    if not names <= {"lora_A", "lora_B"}:
        others = ", ".join(sorted(names - {"lora_A", "lora_B"}))
        raise ValueError(
            f"combine_strategy='lora_linear_only_negate_b' is for plain LoRA, of A and B alone; adapter "
            f"{adapter.name!r} also has {others}. Use 'linear'."
        )


def _warn_of_fixed(adapters: Sequence[Adapter], kind: str) -> None:
    """Say that frozen random matrices are averaged, as by 1.3, if these are not the same."""
    for place, *others in zip(*(adapter.placements for adapter in adapters), strict=True):
        for name in place.module.fixed:
            values: list[Tensor] = [p.module.state_dict()[name] for p in (place, *others)]
            if not all(torch.equal(values[0], value) for value in values[1:]):
                _logger.warning(
                    "%s averages %s too, which is frozen and differs between %s: what the adapters do is hardly kept. "
                    "Add them with the same init_weights_seed, or use 'lora_concat' or 'lora_svd'.",
                    *(kind, name, " and ".join(repr(adapter.name) for adapter in adapters)),
                )
                return


def _log(report: CombinationReport) -> None:
    sources = ", ".join(f"{weight:.4g} · {name}" for name, weight in report.weights)
    text = f"Adapter {report.adapter_name!r} is {report.combine_strategy} of {sources}."
    if report.errors:
        errors = report.errors
        worst = max(errors, key=lambda path: errors[path])
        mean = math.fsum(errors.values()) / len(errors)
        text += f" Relative error of ΔW: {mean:.3g} in the mean, {errors[worst]:.3g} at most ({worst})."
    _logger.info(text)
