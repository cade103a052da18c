"""What shells complete: names that are known without loading anything large."""

from __future__ import annotations

CONFIGURATIONS = (
    "seq_bn",
    "pfeiffer",
    "double_seq_bn",
    "houlsby",
    "seq_bn_inv",
    "pfeiffer+inv",
    "double_seq_bn_inv",
    "houlsby+inv",
    "par_bn",
    "parallel",
    "scaled_par_bn",
    "scaled_parallel",
    "adapter_plus",
    "compacter",
    "compacter++",
    "lora",
    "ia3",
    "vera",
    "dora",
    "dvora",
    "mtl_lora",
    "adalora",
    "prefix_tuning",
    "prefix_tuning_flat",
    "mam",
    "unipelt",
    "bitfit",
    "ln_tuning",
    "prompt_tuning",
    "loreft",
    "noreft",
    "direft",
)
"""The names of configurations, written down: to import them takes seconds, which nobody waits for at a key."""


def configurations(begun: str) -> list[str]:
    """The names of configurations that begin so."""
    return [name for name in CONFIGURATIONS if name.startswith(begun)]


def tasks(begun: str) -> list[str]:
    """The names of tasks."""
    from ..runs.tasks import TASKS

    return [name for name in TASKS if name.startswith(begun)]


def kinds(begun: str) -> list[str]:
    """The kinds of tasks."""
    from typing import get_args

    from ..runs.config import KindName

    return [name for name in get_args(KindName) if name.startswith(begun)]


def keys(begun: str) -> list[str]:
    """The keys of a configuration."""
    from ..runs.config import SECTIONS, RunConfig

    found = [key for key in RunConfig.model_fields if key not in SECTIONS]
    found += [f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields]
    return [f"{key}=" for key in found if key.startswith(begun)]
