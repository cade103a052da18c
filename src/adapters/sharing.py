"""What adapters of several tasks have in common: MTL-LoRA with the same A and Bᵢ for all of them (arXiv:2410.09437)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .composition import MultiTask
from .methods.mtl_lora import SHARED, MTLLoRA
from .registry import AdapterRegistry

Tasks = MultiTask | Sequence[str] | str
"""Adapters: a `MultiTask` block, their names, or these in one string with commas between them."""


def share(registry: AdapterRegistry, adapter_names: Tasks, name: str | None, reference: str | None) -> None:
    """Let adapters have the same parameters. See `ModelAdaptersMixin.share_parameters`."""
    names = _names(adapter_names)
    if len(names) < 2:
        raise ValueError(f"Parameters are shared by at least two adapters; given: {adapter_names!r}.")
    modules = {adapter: _modules(registry, adapter) for adapter in names}
    if reference is None:
        reference = names[0]
    if reference not in modules:
        raise ValueError(f"The reference adapter {reference!r} is not among those that share: {names}.")
    for adapter in names:
        _check_alike(reference, modules[reference], adapter, modules[adapter])
    group = name or ",".join(names)
    others = [other for other in groups(registry).get(group, ()) if other not in names]
    if others:
        raise ValueError(f"Adapters {others} share parameters under the name {group!r} already; give another name=.")
    is_left = any(reference in members and not {*members} <= {*names} for members in groups(registry).values())
    for place, source in modules[reference].items():
        parameters = {key: source.get_parameter(key) for key in SHARED}
        if is_left:  # others go on with those
            parameters = {key: _copy(parameter) for key, parameter in parameters.items()}
        is_trained = any(modules[adapter][place].lora_A.requires_grad for adapter in names)
        for adapter in names:
            modules[adapter][place].take(parameters, group)
        for parameter in parameters.values():
            parameter.requires_grad_(is_trained)


def unshare(registry: AdapterRegistry, adapter_names: Tasks, name: str | None) -> None:
    """Give adapters parameters of their own again. See `ModelAdaptersMixin.unshare_parameters`."""
    names = _names(adapter_names)
    if not names:
        raise ValueError("unshare_parameters needs the names of adapters; none were given.")
    modules = {adapter: _modules(registry, adapter) for adapter in names}
    for adapter, places in modules.items():
        group = next(iter(places.values())).group
        if group is None or name not in (None, group):
            what = f"has no parameters shared as {name!r}" if name is not None else "shares no parameters"
            raise ValueError(f"Adapter {adapter!r} {what}. There are: {groups(registry) or 'none'}.")
    for places in modules.values():
        for module in places.values():
            module.take({key: _copy(module.get_parameter(key)) for key in SHARED}, None)


def groups(registry: AdapterRegistry) -> dict[str, list[str]]:
    """The adapters that share parameters, by the name of their group."""
    found: dict[tuple[int, str], list[str]] = {}
    for name, adapter in registry.adapters.items():
        module = next((m for m in adapter.modules() if isinstance(m, MTLLoRA)), None)
        if module is not None and module.group is not None and name not in registry.merged:
            found.setdefault((id(module.lora_A), module.group), []).append(name)
    return {group: names for (_, group), names in found.items() if len(names) > 1}


def share_again(registry: AdapterRegistry, saved: Mapping[str, Sequence[str]]) -> None:
    """Let those share that did when a model was saved."""
    for group, names in saved.items():
        share(registry, list(names), group, None)


def tie(registry: AdapterRegistry) -> None:
    """Let those share that did before every parameter was exchanged: so transformers loads the files of a model."""
    first: dict[tuple[str, str], MTLLoRA] = {}
    for adapter in registry.adapters.values():
        for placement in adapter.placements:
            module = placement.module
            if isinstance(module, MTLLoRA) and module.group is not None:
                source = first.setdefault((placement.host, module.group), module)
                module.take({key: source.get_parameter(key) for key in SHARED}, module.group)


def shares_any(registry: AdapterRegistry) -> bool:
    """Whether some parameter of adapters has two names: of two adapters, or of the halves of an encoder-decoder."""
    placed = [[id(module) for module in adapter.modules()] for adapter in registry.adapters.values()]
    return bool(groups(registry)) or any(len(set(modules)) < len(modules) for modules in placed)


def separated(registry: AdapterRegistry, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a model in which shared parameters are copies, as files hold them: safetensors has no sharing.

    Args:
        registry: The adapters of the model.
        state: What `state_dict` gave.
    """
    shared = {parameter.data_ptr() for adapter in registry.adapters.values() for parameter in adapter.parameters()}
    seen: set[int] = set()
    found = {}
    for key, tensor in state.items():
        at = tensor.data_ptr()
        found[key] = tensor.clone() if at in shared and at in seen else tensor
        seen.add(at)
    return found


def _copy(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)


def _names(adapter_names: Tasks) -> list[str]:
    if isinstance(adapter_names, str):
        return adapter_names.split(",")
    names = dict.fromkeys(name for name in adapter_names if isinstance(name, str))
    if len(names) != len(adapter_names):
        raise ValueError(
            f"Parameters are shared by adapters, given by their names, each once; given: {adapter_names!r}."
        )
    return list(names)


def _modules(registry: AdapterRegistry, adapter: str) -> dict[tuple[str, str], MTLLoRA]:
    """The modules of an adapter that may share, by their places.

    Raises:
        UnknownAdapterError: there is no such adapter.
        ValueError: it has none, or it is merged.
    """
    found = {(p.host, p.container): p.module for p in registry[adapter].placements if isinstance(p.module, MTLLoRA)}
    if not found:
        raise ValueError(
            f"Adapter {adapter!r} is a {type(registry[adapter].config).__name__}, which has nothing to share with "
            "others; that is what MTLLoRAConfig is for."
        )
    if adapter in registry.merged:
        raise ValueError(
            f"Adapter {adapter!r} is merged into the weights; call model.reset_adapter({adapter!r}) first."
        )
    return found


def _check_alike(
    first: str, ones: Mapping[tuple[str, str], MTLLoRA], second: str, others: Mapping[tuple[str, str], MTLLoRA]
) -> None:
    """Raise if parameters of two adapters cannot be the same."""
    only = sorted(host for host, _ in ones.keys() ^ others.keys())
    if only:
        raise ValueError(f"Adapters {first!r} and {second!r} cannot share: only one of them adapts {only[0]}.")
    for place, one in ones.items():
        shapes = [[tuple(module.get_parameter(key).shape) for key in SHARED] for module in (one, others[place])]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"Adapters {first!r} and {second!r} cannot share: A and B at {place[0]} are {shapes[0]} and "
                f"{shapes[1]}. Give them the same r, n_up_projection and attn_matrices."
            )
