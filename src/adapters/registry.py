"""The one object behind a model's adapters: their configurations, their modules, and the routing in use."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn

from .anatomy.parts import Anatomy, Point, WholeModule
from .composition import AdapterCompositionBlock, Stack
from .configuration import AdapterConfig
from .merging import MergedAdapters
from .methods import AdapterModule, Placement, placements_of
from .runtime.calls import Calls
from .runtime.hooks import HookPoint, HookTable, Routing, Step
from .runtime.invertible import invertible_steps
from .runtime.modules import tied_steps, with_folded_biases
from .runtime.steps import joined, rank, steps_at


class UnknownAdapterError(ValueError):
    """A name was used that no adapter has."""


class AdapterDict(nn.Module):
    """Adapters by name, as a place in the tree of modules.

    `nn.ModuleDict` refuses names such as `type`, `keys` and `a.b`; adapters may have any name that files can have. A
    dot would divide the paths by which transformers finds modules, so that another character stands for it there.
    """

    _DOT = "\u2024"  # one dot leader

    def __getitem__(self, name: str) -> nn.Module:
        module = self._modules[name.replace(".", self._DOT)]
        assert module is not None
        return module

    def __contains__(self, name: str) -> bool:
        return name.replace(".", self._DOT) in self._modules

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return (key.replace(self._DOT, ".") for key in self._modules)

    def attach(self, name: str, module: nn.Module) -> None:
        """Add a module under a name."""
        self._modules[name.replace(".", self._DOT)] = module

    def remove(self, name: str) -> None:
        """Remove what has a name."""
        del self._modules[name.replace(".", self._DOT)]


@dataclass(frozen=True)
class Adapter:
    """One adapter of a model.

    Args:
        name: Its name.
        config: Its configuration.
        placements: Its modules, and where they are.
    """

    name: str
    config: AdapterConfig
    placements: tuple[Placement, ...]

    def modules(self) -> Iterator[AdapterModule]:
        """Its modules."""
        return (placement.module for placement in self.placements)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its parameters, each once."""
        return (p for p in dict.fromkeys(p for module in self.modules() for p in module.parameters()))


@dataclass
class PeftAdapters:
    """The adapters of the `peft` library in one model (see `peft_library`), beside which it has none of ours.

    Args:
        trained: By name, the parameters that its training changes.
        replaced: Modules that are no longer in the tree: what holds them, under which name, and they themselves.
    """

    trained: dict[str, list[nn.Parameter]] = field(default_factory=dict)
    replaced: list[tuple[nn.Module, str, nn.Module]] = field(default_factory=list)


class AdapterRegistry:
    """All adapters of one model. It knows nothing of files and heads.

    Args:
        base: The base model.
        anatomy: Its anatomy.
        base_path: Where the base model is in the model, "" if they are one.
        output_embeddings: The last layer of a static language model, outside the base model.
        model: The model; by default the base model.
    """

    def __init__(
        self,
        base: nn.Module,
        anatomy: Anatomy,
        base_path: str = "",
        output_embeddings: nn.Module | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self.base = base
        self.model = model if model is not None else base
        self.anatomy = anatomy
        self.base_path = base_path
        self.output_embeddings = output_embeddings
        self.adapters: dict[str, Adapter] = {}
        self.active: AdapterCompositionBlock | None = None
        self.skip_layers: tuple[int, ...] = ()
        self.table = HookTable()
        self.merged = MergedAdapters(base)
        self.peft = PeftAdapters()
        self._compiled: dict[tuple[str, tuple[int, ...]], Routing] = {}

    def __getitem__(self, name: str) -> Adapter:
        if name in self.peft.trained:
            raise UnknownAdapterError(
                f"{name!r} is an adapter of the peft library, which this does not reach. Here it can be activated "
                "alone (set_active_adapters), trained, saved, loaded and deleted; for the rest use peft's functions."
            )
        if name not in self.adapters:
            raise UnknownAdapterError(unknown_name(name, self.adapters))
        return self.adapters[name]

    # -- adding and removing ------------------------------------------------------------------------------------

    def build(
        self, name: str, config: AdapterConfig, layers: Sequence[int] | None = None, is_filled: bool = False
    ) -> Adapter:
        """Make an adapter without adding it: nothing of the model changes.

        Args:
            name: Its name.
            config: Its configuration.
            layers: The layers to place it in; by default all that the configuration names.
            is_filled: Whether it is filled from a file afterwards, so that its initial weights do not matter.

        Raises:
            ValueError: the configuration cannot be met by this model.
        """
        if self.peft.trained:
            raise ValueError(
                f"This model has adapters of the peft library ({', '.join(self.peft.trained)}), which has replaced "
                "modules that others would be attached to. Delete them first, or use a second copy of the model."
            )
        if layers is not None:
            config = _only_layers(config, layers, self.anatomy)
        adapter = Adapter(name, config, tuple(placements_of(config, self.anatomy, self.base)))
        for _ in self._steps_of([adapter], ()):  # what cannot be activated is refused before anything is added
            pass
        for module in () if is_filled else adapter.modules():
            module.start(self.base)
        return adapter

    def attach(self, adapter: Adapter) -> None:
        """Add a built adapter, with the device and type of numbers of the modules that it is attached to."""
        for placement in adapter.placements:
            host = self.base.get_submodule(placement.host)
            device, dtype = _device_and_dtype(host, self.base)
            placement.module.to(device=device, dtype=placement.module.dtype or dtype)
            placement.module.train(host.training)
            _container(host, placement.container).attach(adapter.name, placement.module)
        self.adapters[adapter.name] = adapter

    def delete(self, name: str) -> None:
        """Remove an adapter from the model; if it is active, nothing is active afterwards."""
        adapter = self[name]
        self._check_not_merged([name], "deleted")
        if self.active is not None and name in self.active.flatten():
            self.activate(None)
        for placement in adapter.placements:
            _remove(self.base.get_submodule(placement.host), placement.container, name)
        del self.adapters[name]
        self._compiled.clear()

    def set_trainable(self, name: str, trainable: bool) -> None:
        """Freeze or unfreeze an adapter, except for what its configuration fixes."""
        for module in self[name].modules():
            for path, parameter in module.named_parameters():
                parameter.requires_grad_(trainable and path.rpartition(".")[2] not in module.fixed)

    # -- merging ------------------------------------------------------------------------------------------------

    def merge(self, name: str, model: nn.Module) -> None:
        """Put an adapter into the weights. See `MergedAdapters.merge`; setups leave it out from then on."""
        adapter = self[name]
        self._check_not_merged([name], "merged again")
        if self.skip_layers and self.active is not None and name in self.active.flatten():
            raise ValueError(_merged_skips(name, self.skip_layers))
        self.merged.merge(name, adapter.placements, model, self.output_embeddings)
        self._compile_anew()

    def reset(self, name: str | None = None) -> None:
        """Take an adapter, or all, out of the weights again.

        Raises:
            ValueError: it is not merged.
        """
        if name is not None and self[name].name not in self.merged:
            raise ValueError(f"Adapter {name!r} is not merged, so it cannot be reset. Merged: {list(self.merged)}.")
        self.merged.reset(name)
        self._compile_anew()

    def _compile_anew(self) -> None:
        self._compiled.clear()
        self.activate(self.active, self.skip_layers)

    def _check_not_merged(self, names: Iterable[str], what: str) -> None:
        merged = [name for name in names if name in self.merged]
        if merged:
            raise ValueError(
                f"Adapter {merged[0]!r} is merged into the weights, so it cannot be {what}; "
                f"call model.reset_adapter({merged[0]!r}) first."
            )

    # -- activating -------------------------------------------------------------------------------------------------

    def activate(self, setup: AdapterCompositionBlock | None, skip_layers: Sequence[int] = ()) -> None:
        """Make a setup the model's active one."""
        routing = self.compile(setup, skip_layers)
        self.table.activate(routing)
        self.active, self.skip_layers = setup, tuple(skip_layers)

    def compile(self, setup: AdapterCompositionBlock | None, skip_layers: Sequence[int] = ()) -> Routing:
        """The routing of a setup. The same setup gives the same routing until an adapter is deleted.

        Raises:
            UnknownAdapterError: the setup names an adapter that is not there.
            NotImplementedError: the setup has a block that is not supported yet.
            ValueError: a layer to skip is not there.
        """
        if skip_layers:  # looked at only then: a setup of an `AdapterSetup` is compiled at every call of the model
            self._check_layers(skip_layers)
        if setup is None:
            return Routing()
        key = (repr(setup), tuple(skip_layers))
        if key not in self._compiled:
            if len(self._compiled) >= 64:  # setups come and go in a server
                self._compiled.clear()
            adapters = [self._without_merged(self[name], skip_layers) for name in names_in_order(setup)]
            steps = joined(list(self._steps_of(adapters, skip_layers)))
            self._compiled[key] = Routing(with_folded_biases(steps))
        return self._compiled[key]

    def _without_merged(self, adapter: Adapter, skip_layers: Sequence[int]) -> Adapter:
        """The adapter as a setup sees it: without modules if what they do is in the weights already."""
        if adapter.name not in self.merged:
            return adapter
        if skip_layers:
            raise ValueError(_merged_skips(adapter.name, skip_layers))
        return Adapter(adapter.name, adapter.config, ())

    def check(self, setup: AdapterCompositionBlock) -> None:
        """Raise for names that are not there, for blocks that are not supported, and for what cannot be trained."""
        names_in_order(setup)
        for name in setup.flatten():
            self[name]
        self._check_not_merged(setup.flatten(), "trained")

    def _check_layers(self, skip_layers: Sequence[int]) -> None:
        missing = set(skip_layers) - {layer.index for layer in self.anatomy.layers}
        if missing:
            raise ValueError(
                f"skip_layers={list(skip_layers)}: there is no layer {', '.join(map(str, sorted(missing)))} in this "
                f"{self.anatomy.model_class}, which has layers 0 to {len(self.anatomy.layers) - 1}."
            )

    def _steps_of(self, adapters: Sequence[Adapter], skip_layers: Sequence[int]) -> Iterator[tuple[HookPoint, Step]]:
        """The steps of adapters that act one after the other. An invertible one acts only if it is the first's."""
        by_place: dict[tuple[str, str] | WholeModule, list[Placement]] = {}
        for adapter in adapters:
            for placement in adapter.placements:
                if placement.point is not None and placement.layer not in skip_layers:
                    # What stands for a module must be seen with all else that does, in whatever container.
                    point, place = placement.point, (placement.host, placement.container)
                    by_place.setdefault(point if isinstance(point, WholeModule) else place, []).append(placement)
        calls = Calls(self.base, self.model)
        points = [(cast(Point, found[0].point), [p.module for p in found]) for found in by_place.values()]
        for point, modules in sorted(points, key=lambda pair: rank(pair[0])):
            yield from steps_at(self.base, point, modules, calls)
        yield from calls.steps()
        yield from invertible_steps(self.base, self.anatomy, adapters[0].placements, self.output_embeddings)
        yield from tied_steps(self.base, [p for a in adapters for p in a.placements], self.output_embeddings)

    def detach(self) -> None:
        """Remove all adapters and hooks, and bring the original weights back."""
        self.activate(None)
        self.merged.reset()
        for name in list(self.adapters):
            self.delete(name)


def names_in_order(setup: AdapterCompositionBlock) -> list[str]:
    """The adapters of a stack, also of nested stacks, in the order in which they act.

    Raises:
        NotImplementedError: the setup has another block than `Stack`.
    """
    if not isinstance(setup, Stack):
        raise NotImplementedError(
            f"{type(setup).__name__} is not supported yet; what can be active is an adapter or a Stack of adapters. "
            f"Given: {setup!r}."
        )
    names: list[str] = []
    for child in setup:
        names += [child] if isinstance(child, str) else names_in_order(child)
    if not names:
        raise ValueError("The setup is empty; give None to deactivate all adapters.")
    return names


def _merged_skips(name: str, skip_layers: Sequence[int]) -> str:
    return (
        f"skip_layers={list(skip_layers)}: adapter {name!r} is merged into the weights of all its layers; call "
        f"model.reset_adapter({name!r}) first."
    )


def unknown_name(name: str, known: Iterable[str], what: str = "adapter") -> str:
    """The message for a name that is not there, with near matches."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        hint = f"Did you mean {' or '.join(map(repr, near))}?"
    else:
        hint = f"There are {', '.join(map(repr, names[:10]))}." if names else f"No {what} has been added yet."
    return f"There is no {what} named {name!r}. {hint}"


def _only_layers(config: AdapterConfig, layers: Sequence[int], anatomy: Anatomy) -> AdapterConfig:
    indices = {layer.number for layer in anatomy.layers}
    if not set(layers) <= indices:
        raise ValueError(
            f"layers={list(layers)}: this {anatomy.model_class} has layers 0 to {len(indices) - 1}; "
            f"there is no layer {', '.join(map(str, sorted(set(layers) - indices)))}."
        )
    return config.without_layers(sorted(indices - set(layers)), sorted(indices))


def _container(host: nn.Module, path: str) -> AdapterDict:
    """The dictionary of adapters of a host, made if it is not there."""
    *outer, last = path.split(".")
    for name in outer:
        if name not in host._modules:
            host.add_module(name, nn.Module().train(host.training))
        host = host.get_submodule(name)
    if last not in host._modules:
        host.add_module(last, AdapterDict().train(host.training))
    container = host.get_submodule(last)
    if not isinstance(container, AdapterDict):
        raise ValueError(f"{type(host).__name__} has a module named {last!r} already; this model cannot be adapted.")
    return container


def _remove(host: nn.Module, path: str, name: str) -> None:
    """Remove an adapter from its container, and the container with its last adapter."""
    container = host.get_submodule(path)
    assert isinstance(container, AdapterDict)
    container.remove(name)
    parts = path.split(".")
    while parts and not _holds_anything(host.get_submodule(".".join(parts))):
        parent = host.get_submodule(".".join(parts[:-1]))
        delattr(parent, parts.pop())


def _holds_anything(module: nn.Module) -> bool:
    return any(True for _ in module.children()) or any(True for _ in module.parameters())


def _device_and_dtype(host: nn.Module, base: nn.Module) -> tuple[torch.device | None, torch.dtype | None]:
    """Where the host's numbers are and of which type; quantised ones have the type of the other parameters."""
    own = next(host.parameters(), None)
    floating = next((p for m in (host, base) for p in m.parameters() if p.is_floating_point()), None)
    placed = own if own is not None else floating
    return placed.device if placed is not None else None, floating.dtype if floating is not None else None
