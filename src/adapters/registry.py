"""The one object behind a model's adapters: their configurations, their modules, and the routing in use."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .anatomy.parts import Anatomy, AttentionCore, Experts, InputEmbeddings, LayerOutput, Point, WholeModule
from .composition import AdapterCompositionBlock, Fuse, MultiTask, Setup, Stack, validate_composition
from .configuration import AdapterConfig, AdapterMethod, GateFusionConfig
from .merging import MergedAdapters
from .methods import AdapterModule, Placement, placements_of
from .methods.base import ModuleMap, PositionsMap, SublayerMap
from .methods.fusion import Fusion, FusionModule, fusion_container
from .methods.low_rank import LowRank
from .runtime.calls import Calls
from .runtime.choice import simplified
from .runtime.flows import Flow, Rows, flow_of, modules_of, routed
from .runtime.hooks import HookPoint, HookTable, Routing, Step
from .runtime.invertible import invertible_steps
from .runtime.lanes import Lanes, RowPlan
from .runtime.modules import tied_steps, with_folded_biases
from .runtime.repeating import has_tokens_first, row_steps
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

    def get(self, name: str) -> nn.Module | None:
        """What has a name, or None."""
        return self._modules.get(name.replace(".", self._DOT))

    def keys(self) -> list[str]:
        """The names."""
        return list(self)

    def values(self) -> list[nn.Module]:
        """The modules."""
        return [self[name] for name in self]

    def items(self) -> list[tuple[str, nn.Module]]:
        """Names with modules."""
        return [(name, self[name]) for name in self]

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
        self.fusions: dict[str, Fusion] = {}
        self.labels_are_repeated = self.model is not base
        """Whether the model's own `forward` takes labels of rows, and not one of ours."""
        self.active: AdapterCompositionBlock | None = None
        self.skip_layers: tuple[int, ...] = ()
        self.table = HookTable()
        self.merged = MergedAdapters(base)
        self.peft = PeftAdapters()
        self.lasting: list[tuple[nn.Module, str, Tensor]] = []
        """Buffers that no file has, by module and name, while the model is loaded: transformers drops their numbers."""
        self.hooks_seen = AdapterModule.hooks_registered
        """How many hooks on modules of adapters there were when setups were compiled."""
        self._compiled: dict[tuple[str, tuple[int, ...]], Routing] = {}
        self._of_rows: _RowRouting | None = None

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
        self._check_method(name, config)
        if layers is not None:
            config = _only_layers(config, layers, self.anatomy)
        adapter = Adapter(name, config, tuple(placements_of(config, self.anatomy, self.base)))
        # What cannot be activated is refused before anything is added.
        for _ in self._steps_of(Lanes(RowPlan(name)), {name: adapter}, ()):
            pass
        for module in () if is_filled else adapter.modules():
            module.start(self.base)
        return adapter

    def _check_method(self, name: str, config: AdapterConfig) -> None:
        """Refuse what the interface of the model does not name."""
        allowed = self.anatomy.methods
        if allowed is None:
            return
        for method in AdapterMethod.get_from_config(config):
            if method not in allowed:
                raise ValueError(
                    f"{name!r} uses {method}; the interface of this model allows {', '.join(allowed)}. Add "
                    f"{method!r} to its adapter_methods, or choose another configuration."
                )

    def attach(self, adapter: Adapter) -> None:
        """Add a built adapter, with the device and type of numbers of the modules that it is attached to.

        Raises:
            ValueError: the model has a module where an adapter would be.
        """
        self._attach(adapter)
        self.adapters[adapter.name] = adapter

    def put_back(self, owner: Adapter | Fusion) -> None:
        """Add what was removed, as it is."""
        self._attach(owner, is_fitted=True)
        if isinstance(owner, Adapter):
            self.adapters[owner.name] = owner
        else:
            self.fusions[owner.name] = owner

    def _attach(self, owner: Adapter | Fusion, is_fitted: bool = False) -> None:
        done: list[Placement] = []
        try:
            for placement in owner.placements:
                host = self.base.get_submodule(placement.host)
                if not is_fitted:
                    device, dtype = _device_and_dtype(host, self.base)
                    placement.module.to(device=device, dtype=placement.module.dtype or dtype)
                    placement.module.train(host.training)
                _container(host, placement.container).attach(owner.name, placement.module)
                done.append(placement)
        except BaseException:
            self._remove(done, owner.name)
            raise

    def _remove(self, placements: Iterable[Placement], name: str) -> None:
        for placement in placements:
            _remove(self.base.get_submodule(placement.host), placement.container, name)

    def delete(self, name: str) -> None:
        """Remove an adapter from the model; if it is active, nothing is active afterwards."""
        adapter = self[name]
        self._check_not_merged([name], "deleted")
        if self.active is not None and name in self.active.flatten():
            self.activate(None)
        self._remove(adapter.placements, name)
        del self.adapters[name]
        self._forget()

    def attach_fusion(self, fusion: Fusion) -> None:
        """Add a fusion that was made, as `attach` does with an adapter. One of the same name is replaced."""
        if fusion.name in self.fusions:
            self.delete_fusion(fusion.name)
        self._attach(fusion)
        self.fusions[fusion.name] = fusion

    def delete_fusion(self, name: str) -> None:
        """Remove a fusion from the model; if it is active, nothing is active afterwards."""
        used = self.active.blocks() if self.active is not None else ()
        if any(isinstance(block, Fuse) and block.name == name for block in used):
            self.activate(None)
        self._remove(self.fusions.pop(name).placements, name)
        self._forget()

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
        self.compile_anew()

    def reset(self, name: str | None = None) -> None:
        """Take an adapter, or all, out of the weights again.

        Raises:
            ValueError: it is not merged.
        """
        if name is not None and self[name].name not in self.merged:
            raise ValueError(f"Adapter {name!r} is not merged, so it cannot be reset. Merged: {list(self.merged)}.")
        self.merged.reset(name)
        self.compile_anew()

    def compile_anew(self) -> None:
        """Forget what was compiled, and what was made of weights for it: modules, or their places, have changed."""
        self._forget()
        self.activate(self.active, self.skip_layers)
        self.hooks_seen = AdapterModule.hooks_registered

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
        """The routing of a setup. The same setup gives the same routing until adapters change.

        Raises:
            UnknownAdapterError: the setup names an adapter that is not there.
            ValueError: a layer to skip is not there, or the setup has no meaning with these adapters.
        """
        if skip_layers:  # looked at only then: a setup of an `AdapterSetup` is compiled at every call of the model
            self._check_layers(skip_layers)
        if setup is None:
            return Routing()
        key = (repr(setup), tuple(skip_layers))
        if key not in self._compiled:
            if len(self._compiled) >= 64:  # setups come and go in a server
                self._compiled.clear()
            self._compiled[key] = self._routing(setup, skip_layers)
        return self._compiled[key]

    def of_rows(self, names: Sequence[Setup]) -> tuple[Routing, list[int]]:
        """The routing for a batch whose rows go through adapters of their own, and for each row which one.

        It is that of the last call if the adapters were among those of that one; so calls that go through the same
        ones in other orders are cheap.

        Args:
            names: For each row an adapter, a block, or None for the bare model.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        rows = self._of_rows
        if rows is None or rows.skip_layers != self.skip_layers or not rows.numbers.keys() >= set(names):
            known = [name for name in (rows.numbers if rows is not None else ()) if name not in names]
            children = list(dict.fromkeys(names))
            children += known[: max(0, 64 - len(children))]
            setup = MultiTask(*children)
            routing = self._routing(setup, self.skip_layers)
            rows = self._of_rows = _RowRouting(
                routing, dict(zip(children, range(len(children)), strict=True)), self.skip_layers
            )
            self.table.keep(routing)
        return rows.routing, [rows.numbers[name] for name in names]

    def _forget(self) -> None:
        """Forget what was compiled: adapters have changed."""
        self._compiled.clear()
        self._of_rows = None
        self.table.keep(None)

    def _routing(self, setup: AdapterCompositionBlock, skip_layers: Sequence[int]) -> Routing:
        validate_composition(setup)
        adapters = {name: self._without_merged(self[name], skip_layers) for name in sorted(setup.flatten())}
        merged = sorted(setup.flatten() & set(self.merged))
        mixing = next((block for block in setup.blocks() if not isinstance(block, Stack)), None)
        if merged and mixing is not None:
            raise ValueError(
                f"Adapter {merged[0]!r} is merged into the weights, so that it acts on all rows and tokens, and cannot "
                f"be part of {mixing!r}; call model.reset_adapter({merged[0]!r}) first."
            )
        lanes = Lanes(RowPlan(setup), has_tokens_first(self.base))
        steps = joined(list(self._steps_of(lanes, adapters, skip_layers)))
        return Routing(with_folded_biases(steps), lanes)

    def _without_merged(self, adapter: Adapter, skip_layers: Sequence[int]) -> Adapter:
        """The adapter as a setup sees it: without modules if what they do is in the weights already."""
        if adapter.name not in self.merged:
            return adapter
        if skip_layers:
            raise ValueError(_merged_skips(adapter.name, skip_layers))
        return Adapter(adapter.name, adapter.config, ())

    def check(self, setup: AdapterCompositionBlock) -> None:
        """Raise for names that are not there, for setups without meaning, and for what cannot be trained."""
        validate_composition(setup)
        for name in setup.flatten():
            self[name]
        self._check_not_merged(setup.flatten(), "trained")
        self.compile(setup)

    def _check_layers(self, skip_layers: Sequence[int]) -> None:
        missing = set(skip_layers) - {layer.index for layer in self.anatomy.layers}
        if missing:
            raise ValueError(
                f"skip_layers={list(skip_layers)}: there is no layer {', '.join(map(str, sorted(missing)))} in this "
                f"{self.anatomy.model_class}, which has layers 0 to {len(self.anatomy.layers) - 1}."
            )

    def _steps_of(
        self, lanes: Lanes, adapters: Mapping[str, Adapter], skip_layers: Sequence[int]
    ) -> Iterator[tuple[HookPoint, Step]]:
        """The steps of adapters, for the lanes of a setup of them."""
        calls = Calls(self.base, self.model, self.anatomy)
        differing: list[int] = []
        is_early = False
        found: list[tuple[HookPoint, Step]] = []
        places = self._places(adapters, skip_layers)
        for place in sorted(places.values(), key=lambda place: rank(place.point)):
            flow = self._flow(lanes, place)
            if not flow:
                continue
            found += steps_at(self.base, place.point, simplified(flow), calls)
            if any(isinstance(part, Rows) for part in flow):
                differing.append(place.layer)
                is_early |= place.layer < 0 or isinstance(place.point, (LayerOutput, InputEmbeddings))
        invertible = self._invertible_flow(lanes, adapters)
        found += invertible_steps(self.base, self.anatomy, invertible, self.output_embeddings, calls)
        is_early |= any(isinstance(part, Rows) for part in invertible)
        # The number of rows is what all other steps go by, so it is seen first.
        model = self.model if self.labels_are_repeated else self.base
        yield from row_steps(self.base, model, self.anatomy, lanes, differing, is_early or bool(calls))
        yield from found
        yield from calls.steps()
        tied = list(tied_steps(self.base, [p for a in adapters.values() for p in a.placements], self.output_embeddings))
        if tied and len(adapters) > 1:
            raise ValueError(
                "The embeddings that an adapter has in the place of the model's (modules_to_save) are tied to the "
                f"output layer, and can only be used by that adapter alone; given: {', '.join(adapters)}."
            )
        yield from tied

    def _places(self, adapters: Mapping[str, Adapter], skip_layers: Sequence[int]) -> dict[object, _Place]:
        """The points at which any of the adapters has modules."""
        places: dict[object, _Place] = {}
        for name, adapter in adapters.items():
            for placement in adapter.placements:
                if placement.point is not None and placement.layer not in skip_layers:
                    # What stands for a module must be seen with all else that does, in whatever container.
                    is_whole = isinstance(placement.point, WholeModule)
                    key = placement.point if is_whole else (placement.host, placement.container)
                    own = _Place(placement.point, placement.host, placement.container, placement.layer)
                    place = places.setdefault(key, own)
                    place.modules.setdefault(name, []).append(placement.module)
        return places

    def _flow(self, lanes: Lanes, place: _Place) -> Flow:
        """What the lanes do at a place."""
        fusion = functools.partial(self._fusion_at, place)
        flows = [flow_of(lane, place.modules, fusion) for lane in lanes.plan.lanes]
        return routed(flows, lanes, may_divide)

    def _fusion_at(self, place: _Place, block: Fuse) -> FusionModule:
        """What was trained to mix the children of a block at a place.

        Raises:
            ValueError: there is no such fusion, or it cannot be there.
        """
        what = _UNFUSABLE.get(type(place.point))
        if what is not None:
            raise ValueError(f"{type(block).__name__} is not defined for {what}: given {block!r}.")
        if block.name not in self.fusions:
            raise UnknownAdapterError(
                f"There is no fusion named {block.name!r} for {block!r}: call model.add_adapter_fusion({block!r}) "
                f"first, or load one. There are: {', '.join(map(repr, self.fusions)) or 'none'}."
            )
        fusion = self.fusions[block.name]
        children = [child.last() if isinstance(child, AdapterCompositionBlock) else child for child in block]
        if isinstance(fusion.config, GateFusionConfig) and tuple(children) != fusion.adapter_names:
            raise ValueError(
                f"{block!r}: the gates of {block.name!r} are those of {list(fusion.adapter_names)}, in this order."
            )
        for placement in fusion.placements:
            if (placement.host, placement.container) == (place.host, fusion_container(place.container)):
                assert isinstance(placement.module, FusionModule)
                return placement.module
        raise ValueError(
            f"The fusion {block.name!r} has no module at {place.host or 'the model'}, where adapters of {block!r} have "
            "one: these were replaced since. Delete the fusion (delete_adapter_fusion) and add it again."
        )

    def _no_fusion(self, block: Fuse) -> FusionModule:
        raise AssertionError("invertible adapters are not fused")  # `first_of_stacks` has left none

    def _invertible_flow(self, lanes: Lanes, adapters: Mapping[str, Adapter]) -> Flow:
        """What the lanes do to embeddings by invertible adapters; of those in a stack the first one counts."""
        modules = {
            name: [p.module for p in adapter.placements if p.location == "invertible"]
            for name, adapter in adapters.items()
        }
        if not any(modules.values()):
            return ()
        flows = [flow_of(first_of_stacks(lane), modules, self._no_fusion) for lane in lanes.plan.lanes]
        return routed(flows, lanes, may_divide)

    def detach(self) -> None:
        """Remove all adapters and hooks, and bring the original weights back."""
        self.activate(None)
        self.merged.reset()
        for name in list(self.fusions):
            self.delete_fusion(name)
        for name in list(self.adapters):
            self.delete(name)


@dataclass(frozen=True)
class _RowRouting:
    """The routing of the last call whose rows went through adapters of their own, and their numbers in it."""

    routing: Routing
    numbers: Mapping[Setup, int]
    skip_layers: tuple[int, ...]


@dataclass
class _Place:
    """A point of the model, with the modules that adapters have there."""

    point: Point
    host: str
    container: str
    layer: int
    modules: dict[str, list[nn.Module]] = field(default_factory=dict)


_UNFUSABLE: dict[type, str] = {
    AttentionCore: "prefix tuning, which adds nothing of its own to the tokens",
    InputEmbeddings: "prompt tuning, which adds nothing of its own to the tokens",
    WholeModule: "bitfit, ln_tuning and modules_to_save",
    Experts: "LoRA of fused experts",
}


def first_of_stacks(setup: Setup) -> Setup:
    """The setup with the first child of each stack in its place, and of what is fused."""
    if not isinstance(setup, AdapterCompositionBlock):
        return setup
    if isinstance(setup, (Stack, Fuse)):
        return first_of_stacks(setup[0])
    return setup.with_children([first_of_stacks(child) for child in setup])


def may_divide(flows: Sequence[Flow]) -> bool:
    """Whether the first parts of all flows can act before the second ones: not if these go on from the first ones."""
    chains = (LowRank, PositionsMap, ModuleMap)
    if any(isinstance(part, chains) for flow in flows if len(flow) > 1 for part in flow):
        return False
    maps = [m for flow in flows for m in modules_of(flow) if isinstance(m, SublayerMap)]
    return not any(m.is_parallel or m.replaces_norm for m in maps)


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


def check_free(name: str, known: Container[str], overwrite_ok: bool, what: str = "an adapter") -> None:
    """See whether a name may be given.

    Raises:
        ValueError: it is taken, and what has it may not be replaced.
    """
    if name in known and not overwrite_ok:
        raise ValueError(f"There is {what} named {name!r} already. Choose another name, or pass overwrite_ok=True.")


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
        setattr(host, last, AdapterDict().train(host.training))
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
