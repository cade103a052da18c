"""Full-weight training of any modules of the model, which belong to the adapter and act while it is active.

Every module in the named ones that has parameters gets a copy of them, in files named
`<module>.modules_to_save.<adapter>.<parameter>`. The modules around them run as ever, and so do other adapters in them.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ..anatomy.matrices import ends_with, require_hits
from ..anatomy.parts import Anatomy
from ..configuration import ModulesToSaveConfig
from .base import AdapterModule, Method, Placement
from .copies import copies_of, owners, placed


class ModulesToSaveMethod(Method):
    """A copy of everything in the named modules. Modules that are named twice, or within others, are copied once."""

    def place(self, config: ModulesToSaveConfig, anatomy: Anatomy, base: nn.Module) -> list[Placement]:
        """See `Method.place`."""
        return placed(copies_of(_chosen(config, base), base), "modules_to_save", anatomy)


def _chosen(config: ModulesToSaveConfig, base: nn.Module) -> dict[str, nn.Module]:
    """The modules to copy, by their paths."""
    modules = dict(_own_modules(base, ""))
    try:
        require_hits("modules_to_save", config.modules, list(modules))
    except ValueError as error:
        raise ValueError(
            f"{error} Heads outside the base model ({type(base).__name__}) are trained and saved with adapters anyway."
        ) from None
    found: dict[int, tuple[str, nn.Module]] = {}  # by `id`: a module may have several paths
    for pattern in config.modules:
        inner = [o for path, m in modules.items() if ends_with(path, pattern) for o in owners(m, path)]
        if not inner:
            raise ValueError(f"modules_to_save names {pattern!r}, which has no parameters to train.")
        for path, module in inner:
            found.setdefault(id(module), (path, module))
    tied = {id(p) for _, module in found.values() for p in module._parameters.values() if p is not None}
    for path, module in owners(base, ""):
        if any(id(p) in tied for p in module._parameters.values()):
            found.setdefault(id(module), (path, module))
    return dict(found.values())


def _own_modules(module: nn.Module, path: str) -> Iterable[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if not isinstance(child, AdapterModule):
            inner = f"{path}.{name}" if path else name
            yield inner, child
            yield from _own_modules(child, inner)
