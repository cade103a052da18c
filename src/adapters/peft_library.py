"""Adapters of the `peft` library in a model of ours: `add_adapter` takes its configurations, and it does the rest.

PEFT puts its own modules in the place of the model's, so a model has either adapters of this library or of that one.
What is replaced is noted, and comes back with the last of them. All goes through the methods that transformers gives
to every model, which stand behind ours.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.peft import PeftAdapterMixin

from .checkpoints.files import AdapterFileError
from .checkpoints.transactions import write_folder
from .composition import AdapterCompositionBlock, Stack
from .interchange import peft_layout
from .registry import AdapterRegistry, PeftAdapters

# These change the weights of the model itself, so that nothing would bring the originals back.
_CHANGING_INITS = ("pissa", "olora", "loftq", "corda", "lora_ga")


def is_config(value: object) -> bool:
    """Whether something is a configuration of `peft`, told without importing it."""
    return any(c.__module__.partition(".")[0] == "peft" for c in type(value).__mro__)


def is_installed() -> bool:
    """Whether `peft` can be imported."""
    return find_spec("peft") is not None


def takes(registry: AdapterRegistry, kind: str) -> bool:
    """Whether files of PEFT are for that library, and not for methods of this one.

    Args:
        registry: The adapters of the model: beside those of `peft` there are none of ours.
        kind: What the files say they are.
    """
    return bool(registry.peft.trained) or (kind not in peft_layout.KEYS and is_installed())


def check_bare(model: nn.Module) -> None:
    """Raise if a model has adapters of `peft` that were not added by this library."""
    names = list(getattr(model, "peft_config", None) or ())
    if names:
        raise ValueError(
            f"This {type(model).__name__} has adapters of the peft library ({', '.join(map(str, names))}), which have "
            "replaced modules of it. Call adapters.init on the bare model first, and then add or load them by "
            "model.add_adapter(name, config) and model.load_adapter(folder)."
        )


def add(model: nn.Module, registry: AdapterRegistry, name: str, config: Any) -> None:
    """Add an adapter with a configuration of `peft`. It is active afterwards, and the rest of the model frozen.

    Raises:
        ImportError: `peft` is not installed.
        ValueError: the model has adapters of this library, or `peft` cannot add this one. The model is then as it was.
    """
    own = _checked(model, registry)
    _check_leaves_base(config)
    with _noted(model, registry, name):
        own.add_adapter(config, name)


def load(
    model: nn.Module,
    registry: AdapterRegistry,
    folder: str | Path,
    adapter_name: str | None = None,
    load_config: Any = None,
    adapter_kwargs: dict[str, Any] | None = None,
) -> Any:
    """Add an adapter from a folder of `peft`. It is active afterwards, and the rest of the model frozen.

    Args:
        model: The model.
        registry: Its registry.
        folder: The folder.
        adapter_name: Its name.
        load_config: What transformers' `from_pretrained` gives.
        adapter_kwargs: What transformers' `from_pretrained` gives.

    Returns:
        What transformers reports of the loading.

    Raises:
        AdapterFileError: the files do not fit; the message says what of them. The model is then as it was.
    """
    own = _checked(model, registry)
    name = adapter_name or "default"
    before = {id(t) for t in model.state_dict(keep_vars=True).values()}
    with _noted(model, registry, name):
        try:
            info = own.load_adapter(
                str(folder),
                adapter_name=name,
                is_trainable=True,
                load_config=load_config,
                adapter_kwargs=adapter_kwargs,
            )
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise AdapterFileError(
                f"{folder} cannot be loaded. It is a PEFT adapter, and peft says: {error}"
            ) from error
        own.set_adapter(name)
        # transformers tells what is new from what is not by pieces of names, and an adapter may be called "layer".
        new = {key for key, t in model.state_dict(keep_vars=True).items() if id(t) not in before}
        wrong = {
            "missing": sorted(new & info.missing_keys),
            "unexpected": sorted(info.unexpected_keys),
            "of another shape": sorted(str(key) for key in info.mismatched_keys),
        }
        if any(wrong.values()):
            found = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in wrong.items() if keys)
            raise AdapterFileError(f"{folder} does not fit this model, which is left as it was: {found}.")
    return info


def save(model: nn.Module, folder: Path, name: str) -> None:
    """Write an adapter as `peft` itself does, to be read by it and by `load_adapter`."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=name)
    tensors = {f"base_model.model.{key}": tensor.detach().contiguous() for key, tensor in state.items()}

    def write(made: Path) -> None:
        save_file(tensors, made / peft_layout.WEIGHTS[0], metadata={"format": "pt"})
        cast(Any, model).peft_config[name].save_pretrained(str(made))

    write_folder(folder, write)


def delete(model: nn.Module, registry: AdapterRegistry, name: str) -> None:
    """Remove an adapter; with the last one all modules of the model come back."""
    found = registry.peft
    found.trained.pop(name, None)
    state = vars(model)
    configs = state.get("peft_config", {})
    if not configs.keys() - {name}:
        for parent, child, module in reversed(found.replaced):
            parent._modules[child] = module
        found.replaced.clear()
        for attribute in ("peft_config", "_hf_peft_config_loaded"):
            state.pop(attribute, None)
    elif name in configs:
        from peft.functional import delete_adapter

        was_active = name in active(model)
        with _quiet():
            delete_adapter(model, name, prefix=f"{configs[name].peft_type.value.lower()}_")
        del configs[name]
        if was_active:
            activate(model, None)


def active(model: nn.Module) -> list[str]:
    """The names of the active adapters of `peft`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = (module for module in model.modules() if isinstance(module, BaseTunerLayer))
    return list(dict.fromkeys(n for layer in layers if not layer.disable_adapters for n in layer.active_adapters))


def activate(model: nn.Module, name: str | None) -> None:
    """Make one adapter the active one, or none; nothing is frozen or unfrozen."""
    from peft.functional import set_adapter
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    with _flags_kept(model):
        # transformers' own enable_adapters forgets modules that are trained whole.
        for module in model.modules():
            if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
                module.enable_adapters(enabled=name is not None)
        if name is not None:
            set_adapter(model, name)


def single_name(setup: AdapterCompositionBlock, names: Sequence[str], skip_layers: object) -> str:
    """The one adapter of `peft` that a setup consists of.

    Raises:
        ValueError: it has other parts, or options.
    """
    inner: Any = setup
    while isinstance(inner, Stack) and len(inner.children) == 1:
        inner = inner.children[0]
    if not isinstance(inner, str) or skip_layers:
        raise ValueError(
            f"{', '.join(sorted(setup.flatten() & {*names}))} belongs to the peft library, and can only be active "
            f"alone and in all its layers; given: {setup!r}, skip_layers={skip_layers or None!r}. Several adapters of "
            "peft are activated by model.set_adapter([...])."
        )
    return inner


def _check_leaves_base(config: Any) -> None:
    """Raise for options by which `peft` changes the model's own weights: nothing would undo that."""
    options = config.to_dict()
    init = str(options.get("init_lora_weights", "")).lower()
    if init.startswith(_CHANGING_INITS):
        raise ValueError(
            f"init_lora_weights={init!r} lets peft change the weights of the model itself, which nothing would undo; "
            "use another value, or LoRAConfig(init_weights='pissa') or 'olora' of this library."
        )
    if options.get("bias", "none") != "none":
        raise ValueError(
            f"bias={options['bias']!r} lets peft train the biases of the model itself, so that they would stay changed "
            "without the adapter; use bias='none', or BitFitConfig of this library."
        )


def _own(model: nn.Module) -> Any:
    """The model with the methods that transformers gives it, in front of which ours stand."""
    return _Transformers(model)


class _Transformers:
    """The methods of transformers' mixin for a model.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return cast("Callable[..., Any]", getattr(PeftAdapterMixin, name).__get__(self.model))


def _checked(model: nn.Module, registry: AdapterRegistry) -> Any:
    """The methods of transformers, if an adapter of `peft` can be added now."""
    if not is_installed():
        raise ImportError("This is for the peft library, which is not installed: pip install adapters[peft]")
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"{type(model).__name__} is no model of transformers; adapters of peft are added to it by "
            "peft.get_peft_model."
        )
    if registry.adapters:
        raise ValueError(
            f"This model has adapters of this library ({', '.join(registry.adapters)}), and those of peft replace "
            "modules that they are attached to. Delete them first, or use a second copy of the model."
        )
    return _own(model)


@contextlib.contextmanager
def _noted(model: nn.Module, registry: AdapterRegistry, name: str) -> Iterator[None]:
    """Note what an added adapter trains and replaces; an error takes it off again."""
    found = registry.peft
    before = {(parent, child): module for parent in model.modules() for child, module in parent._modules.items()}
    is_training = {module: module.training for module in model.modules()}
    with _flags_kept(model), _quiet():
        try:
            yield
        except BaseException:
            _note_replaced(found, before)
            delete(model, registry, name)
            raise
        finally:
            for module in model.modules():
                module.training = is_training.get(module, model.training)
        _note_replaced(found, before)
        found.trained[name] = [p for p in model.parameters() if p.requires_grad]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what `peft` says of a second adapter, and of the one that is active when another is deleted."""
    with warnings.catch_warnings():
        for message in ("Already found a `peft_config`", "Adapter .* was active which is now deleted"):
            warnings.filterwarnings("ignore", message)
        yield


def _note_replaced(found: PeftAdapters, before: dict[tuple[nn.Module, str], nn.Module | None]) -> None:
    for (parent, child), module in before.items():
        if module is not None and parent._modules.get(child) is not module:
            found.replaced.append((parent, child, module))


@contextlib.contextmanager
def _flags_kept(model: nn.Module) -> Iterator[None]:
    """Let parameters that are there be frozen or not as they were."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    finally:
        for parameter, flag in before.items():
            parameter.requires_grad_(flag)


def train(model: nn.Module, registry: AdapterRegistry, name: str) -> None:
    """Unfreeze an adapter and what its configuration trains besides, and activate it."""
    for _, _, module in registry.peft.replaced:  # those of the head, which others do not freeze
        module.requires_grad_(False)
    for parameter in registry.peft.trained[name]:
        parameter.requires_grad_(True)
    activate(model, name)
