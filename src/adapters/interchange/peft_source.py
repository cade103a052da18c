"""What an adapter in the layout of PEFT is made of, and the options that make PEFT choose the same modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ..configuration import AdapterConfig, ConfigUnion
from ..methods.base import AdapterModule
from ..methods.copies import own_modules
from ..registry import Adapter, AdapterRegistry
from . import peft_options


@dataclass
class Source:
    """What an adapter in the layout of PEFT is made of.

    Args:
        registry: The adapters of the model.
        adapter: The adapter.
        base_path: Path of the base model in the model that PEFT is given; "" if they are one.
        task: What PEFT calls the task of the model; None if it has no head.
        model_name: The name that the base model was loaded by.
        head: Parameters of the model's own head, by their names in the model.
    """

    registry: AdapterRegistry
    adapter: Adapter
    base_path: str = ""
    task: str | None = None
    model_name: str | None = None
    head: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def prefix(self) -> str:
        """What paths in the model begin with, before those in the base model."""
        return f"{self.base_path}." if self.base_path else ""

    @property
    def configs(self) -> Sequence[AdapterConfig]:
        """Its configurations, one by one."""
        config = self.adapter.config
        return config.configs if isinstance(config, ConfigUnion) else (config,)

    def modules(self, *kinds: type[AdapterModule]) -> dict[str, Any]:
        """Its modules of some kinds, by the paths of the modules of the model that they are at."""
        return {p.host: p.module for p in self.adapter.placements if isinstance(p.module, kinds)}


def common(source: Source, peft_type: str) -> dict[str, Any]:
    """The options that adapters of all types have."""
    task = source.task
    if task is None and peft_type in ("PROMPT_TUNING", "PREFIX_TUNING"):
        task = "FEATURE_EXTRACTION"  # PEFT puts prompts into models of a task only
    mapping = {"base_model_class": type(source.registry.base).__name__, "parent_library": "transformers"}
    return {
        "peft_type": peft_type,
        "task_type": task,
        "auto_mapping": mapping if task is None else None,
        "base_model_name_or_path": source.model_name or None,
        "inference_mode": True,
        "modules_to_save": None,
        **({} if peft_type in ("PROMPT_TUNING", "PREFIX_TUNING", "LN_TUNING", "IA3") else {"bias": "none"}),
    }


def patterns(source: Source, name: str, pattern: str, values: Mapping[str, float]) -> dict[str, Any]:
    """The most common value, and the others by path."""
    found = list(values.values())
    common = max(dict.fromkeys(found), key=found.count)
    return {name: common, pattern: {source.prefix + p: value for p, value in values.items() if value != common}}


def targets(source: Source, paths: Sequence[str]) -> dict[str, Any]:
    """What makes PEFT choose these modules: the shortest ends of their paths, all layers or some."""
    leaves = _leaves(paths)
    if _choose(source, {"target_modules": leaves}, paths):
        return {"target_modules": leaves}
    layers = [la.index for la in source.registry.anatomy.layers if any(p.startswith(f"{la.path}.") for p in paths)]
    some = {"target_modules": leaves, "layers_to_transform": layers}
    if len(source.registry.anatomy.towers) == 1 and _choose(source, some, paths):
        return some
    return {"target_modules": ends(source, paths)}


def ends(source: Source, paths: Sequence[str]) -> list[str]:
    """Ends of paths that choose these modules and no others: the last parts, or the last two, or the whole paths."""
    for count in (1, 2):
        ends = list(dict.fromkeys(".".join(path.split(".")[-count:]) for path in paths))
        if _choose(source, {"target_modules": ends}, paths):
            return ends
    return [source.prefix + path for path in paths]


def _leaves(paths: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(path.rpartition(".")[2] for path in paths))


def _choose(source: Source, options: Mapping[str, Any], paths: Sequence[str]) -> bool:
    """Whether PEFT chooses just these modules by some options."""
    base = source.registry.base
    inside = {source.prefix + path: module for path, module in own_modules(base)}
    outside = {p: m for p, m in own_modules(source.registry.model, base) if m is not base}
    chosen = {p for p, m in {**outside, **inside}.items() if peft_options.selects(options, p, m)}
    return chosen == {source.prefix + path for path in paths}


def is_transposed(source: Source, paths: Mapping[str, object]) -> bool:
    """Whether all of these modules store their weights the other way round, as GPT-2 does."""
    return all(isinstance(source.registry.base.get_submodule(path), Conv1D) for path in paths)
