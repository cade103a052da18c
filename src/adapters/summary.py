"""The table of a model's adapters."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .configuration import GateFusionConfig
from .methods.fusion import Fusion
from .registry import AdapterRegistry

Row = dict[str, Any]


def summary_rows(registry: AdapterRegistry, active: Collection[str]) -> list[Row]:
    """One row per adapter, one per fusion, and one for the base model without adapters.

    The keys are `name`, `architecture`, `#param`, `%param` (of the base model), `active` and `train`; and `merged`, of
    an adapter that is.

    Args:
        registry: The adapters.
        active: The names of those that are active, also of fusions.
    """
    adapters = [(n, a.config.architecture or "bottleneck", list(a.parameters())) for n, a in registry.adapters.items()]
    adapters += [(name, "peft", parameters) for name, parameters in registry.peft.trained.items()]
    adapters += [(name, _architecture(f), list(f.parameters())) for name, f in registry.fusions.items()]
    of_adapters = {id(p) for _, _, parameters in adapters for p in parameters}
    own = [p for p in registry.base.parameters() if id(p) not in of_adapters]
    total = sum(p.numel() for p in own)
    rows: list[Row] = []
    for name, architecture, parameters in adapters:
        size = sum(p.numel() for p in parameters)
        rows.append(
            {
                "name": name,
                "architecture": architecture,
                "#param": size,
                "%param": 100 * size / max(total, 1),
                "active": name in active,
                "train": any(p.requires_grad for p in parameters),
                **({"merged": True} if name in registry.merged else {}),
            }
        )
    trained = any(p.requires_grad for p in own)
    return [*rows, {"name": "Full model", "#param": total, "%param": 100.0, "train": trained}]


def _architecture(fusion: Fusion) -> str:
    return "gate" if isinstance(fusion.config, GateFusionConfig) else "fusion"


def summary_table(rows: list[Row]) -> str:
    """The rows as a table of 80 columns."""
    line = "{:<24} {:<16} {:>12} {:>11} {:>7} {:>6}".format
    table = ["=" * 80, line("Name", "Architecture", "#Param", "%Param", "Active", "Train"), "-" * 80]
    for row in rows:
        if row is rows[-1]:
            table.append("-" * 80)
        active = "merged" if row.get("merged") else str(int(row["active"])) if "active" in row else ""
        table.append(
            line(
                row["name"],
                row.get("architecture", ""),
                f"{row['#param']:,}",
                f"{row['%param']:.3f}",
                active,
                str(int(row["train"])),
            )
        )
    return "\n".join([*table, "=" * 80])
