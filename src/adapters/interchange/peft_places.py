"""Where the tensors of a file of PEFT belong in a model: paths of the class that was saved, and paths here.

PEFT names modules as the model that was saved does. Here every path starts at the base model, which may be all of that
model, or a part of it; and transformers has renamed some paths since.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from ..anatomy.matrices import matrix_at
from ..checkpoints.files import AdapterFileError
from ..checkpoints.keys import matched
from ..configuration import LoRAConfig
from ..methods.copies import own_modules
from ..methods.targets import targets_of
from ..registry import AdapterRegistry
from . import peft_options
from .peft_layout import PeftFile

# Seconds for comparing the paths of all modules with expressions from a file; a thousandth of that is usual.
_PATIENCE = 10.0

Parts = Mapping[str, Tensor]
"""The tensors at one module, by name."""


class Places:
    """A file, and the modules of a model that its tensors are for.

    Args:
        file: The file.
        registry: The adapters of the model.
        model_type: Its type, for renamed paths.

    Attributes:
        own: The modules of the base model, by their paths.
        modules: The tensors of the adapter, by the paths of these modules.
        whole: Parameters of the base model that were trained, by name.
        head: Parameters outside the base model, by their names in the model that was saved.
        unknown: The tensors of the adapter at modules that the base model does not have, by their names in the file.
        start: What paths in the file begin with, before those in the base model; None if no module is known.
        is_renamed: Whether paths have other names in the file, so that its options do not fit them.
    """

    def __init__(self, file: PeftFile, registry: AdapterRegistry, model_type: str) -> None:
        self.file, self.registry, self.options = file, registry, file.options
        self.own = dict(own_modules(registry.base))
        self._end = time.monotonic() + _PATIENCE
        self.modules: dict[str, dict[str, Tensor]] = {}
        self.whole: dict[str, Tensor] = {}
        self.head: dict[str, Tensor] = {}
        self.unknown: dict[str, Tensor] = {}
        self.start: str | None = None
        self.is_renamed = False
        keys = {f"{path}.{part}": (path, part) for path, parts in file.modules.items() for part in parts}
        keys |= {name: (name, "") for name in file.whole}
        parameters = {f"{path}.{n}" for path, m in self.own.items() for n, p in m._parameters.items() if p is not None}
        parts = {part for _, part in keys.values() if part}
        wanted = parameters | {f"{path}.{part}" for path in self.own for part in parts}
        for key, (name, part) in matched(keys, wanted, model_type).items():
            self._put(key, name, part, key in parameters)
        for name in [name for name in self.head if self.start is not None and name.startswith(self.start)]:
            self.unknown[name] = self.head.pop(name)
        self._put_tokens_in()

    def _put(self, key: str, name: str, part: str, is_parameter: bool) -> None:
        """Put a tensor where it belongs.

        Args:
            key: Its name here.
            name: The name of its module in the file, or if it is a parameter of the model, its own.
            part: Which of the adapter's tensors at the module it is, or "".
            is_parameter: Whether there is such a parameter here.
        """
        path = key.removesuffix(f".{part}") if part else key.rpartition(".")[0]
        former = name if part else name.rpartition(".")[0]
        if path in self.own and former.endswith(path):
            self.start = former.removesuffix(path)
        self.is_renamed |= path in self.own and not former.endswith(path)
        if part and path in self.own:
            self.modules.setdefault(path, {})[part] = self.file.modules[name][part]
        elif part:
            self.unknown[f"{name}.{part}"] = self.file.modules[name][part]
        elif is_parameter:
            self.whole[key] = self.file.whole[name]
        else:
            self.head[name] = self.file.whole[name]

    def _put_tokens_in(self) -> None:
        """Embeddings of which single tokens were trained become modules that were trained whole."""
        for path in [path for path, parts in self.modules.items() if "tokens" in parts]:
            rows = self.modules[path].pop("tokens")
            given = self.options["trainable_token_indices"]
            if isinstance(given, Mapping):
                given = next(numbers for name, numbers in given.items() if ends_with_any(self.former(path), [name]))
            weight = self.own[path]._parameters["weight"]
            assert weight is not None
            whole = weight.detach().clone()
            whole[torch.tensor(given)] = rows.to(whole)
            self.whole[f"{path}.weight"] = whole
            if not self.modules[path]:
                del self.modules[path]

    def former(self, path: str) -> str:
        """The path of a module in the model that was saved."""
        return f"{self.start or ''}{path}"

    def selects(self, path: str) -> bool:
        """Whether the options choose a module.

        Raises:
            AdapterFileError: their expressions take too long.
        """
        if time.monotonic() > self._end:
            raise AdapterFileError(f"target_modules={self.options.get('target_modules')!r} takes too long.")
        return peft_options.selects(self.options, self.former(path), self.own[path])

    def targets(self) -> list[str]:
        """The matrices that the options choose; the modules in the file, where these do not say.

        Raises:
            AdapterFileError: they choose none.
        """
        if self.options.get("target_modules") is None or self.is_renamed:
            return sorted(self.modules)
        base = self.registry.base
        chosen = [
            path
            for path in self.own
            if self.selects(path) and (path in self.modules or matrix_at(base, path) is not None)
        ]
        if not chosen:
            raise AdapterFileError(
                f"target_modules={self.options['target_modules']!r} chooses no matrix of this "
                f"{self.registry.anatomy.model_class}; the file is for {', '.join(sorted(self.file.modules)[:4])} …"
            )
        return chosen

    def chosen(self, config: LoRAConfig, paths: Sequence[str]) -> LoRAConfig:
        """A configuration for these matrices: in the words of the file, if they choose the same here."""
        named = self.options.get("target_modules")
        if isinstance(named, list):
            hits = [name for name in named if any(ends_with_any(path, [name]) for path in paths)]
            layers = {layer.number: f"{layer.path}." for layer in self.registry.anatomy.layers}
            without = [n for n, start in layers.items() if not any(path.startswith(start) for path in paths)]
            candidate = cast(LoRAConfig, config.replace(target_modules=hits or None, leave_out=without))
            if hits and self._names(candidate) == {*paths}:
                return candidate
        return cast(LoRAConfig, config.replace(target_modules="|".join(map(re.escape, paths))))

    def _names(self, config: LoRAConfig) -> set[str]:
        """The matrices that a configuration chooses."""
        plain = LoRAConfig(target_modules=config.target_modules, leave_out=config.leave_out)
        try:
            return {target.matrix.name for target in targets_of(plain, self.registry.anatomy, self.registry.base)}
        except ValueError:
            return set()

    def number_at(self, path: str, name: str, patterns: str) -> float:
        """A number of the options for a module, with its pattern."""
        value = float(self.options.get(name, 8))
        return float(peft_options.value_at(self.former(path), value, self.options.get(patterns)))

    def rank_at(self, path: str) -> int:
        """The rank r of LoRA at a module."""
        return int(self.number_at(path, "r", "rank_pattern"))

    def scaling_at(self, path: str) -> float:
        """The factor s of LoRA at a module."""
        rank, alpha = self.rank_at(path), self.number_at(path, "lora_alpha", "alpha_pattern")
        return float(alpha / (rank**0.5 if self.options.get("use_rslora") else rank))

    def shared(self, name: str) -> Tensor:
        """A tensor that belongs to no module.

        Raises:
            AdapterFileError: the file has none.
        """
        if name not in self.file.shared:
            raise AdapterFileError(f"there are no {name} tensors in the file.")
        return self.file.shared[name]

    def is_asked_for(self, path: str) -> bool:
        """Whether a module is in one that `modules_to_save` names, by the ends of paths as PEFT reads them."""
        named = self.options.get("modules_to_save") or []
        former = self.former(path)
        return any(former.endswith(name) or f".{name}." in f".{former}." for name in named)


def ends_with_any(path: str, names: Sequence[str]) -> bool:
    """Whether a path has one of these ends."""
    return any(path == name or path.endswith(f".{name}") for name in names)
