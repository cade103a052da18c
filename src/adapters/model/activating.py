"""Which adapters a model goes through, and which are trained or merged."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from .. import fusions, peft_library
from ..composition import AdapterCompositionBlock, Parallel, SetupLike, Stack, parse_composition
from ..methods.prefix_tuning import eject
from ..vocabulary import token_embeddings
from .base import HoldsAdapters
from .spellings import without_adapter_type


class ActivatesAdapters(HoldsAdapters):
    """Methods that choose among the adapters of a model."""

    @property
    def active_adapters(self) -> AdapterCompositionBlock | None:
        """The active setup. Setting it is `set_active_adapters`."""
        if self._adapter_registry.peft.trained:
            names = peft_library.active(self)
            return Stack(*names) if names else None
        return self._adapter_registry.active

    @active_adapters.setter
    def active_adapters(self, adapter_setup: SetupLike) -> None:
        self.set_active_adapters(adapter_setup)

    def set_active_adapters(self, adapter_setup: SetupLike, skip_layers: Sequence[int] | None = None) -> None:
        """Choose what the forward pass goes through; nothing is frozen or unfrozen by it.

        >>> model.set_active_adapters(Stack("language", "task"))

        Args:
            adapter_setup: A name, a `Stack`, a list of names (a `Stack`), or None for the bare model.
            skip_layers: Layers to leave as they are, counted over all towers.

        Raises:
            UnknownAdapterError: a name is not that of an adapter. The active setup is then as it was.
        """
        setup = parse_composition(adapter_setup)
        of_peft = self._adapter_registry.peft.trained
        if of_peft and (setup is None or setup.flatten() & of_peft.keys()):
            name = None if setup is None else peft_library.single_name(setup, list(of_peft), skip_layers)
            peft_library.activate(self, name)
            return
        self._adapter_registry.activate(setup, skip_layers or ())

    @without_adapter_type
    def train_adapter(self, adapter_setup: SetupLike, train_embeddings: bool = False) -> None:
        """Freeze the base model and all other adapters, unfreeze these, activate them, and switch to training mode.

        Heads are not touched: they are trained too unless you freeze them.

        Args:
            adapter_setup: As for `set_active_adapters`.
            train_embeddings: Whether the active input embeddings are trained too.

        Raises:
            UnknownAdapterError: a name is not that of an adapter. The model is then as it was.
            ValueError: the model has no embeddings of tokens that could be trained.
        """
        setup = parse_composition(adapter_setup)
        if setup is None:
            raise ValueError("train_adapter needs the name of an adapter or a setup of adapters, not None.")
        registry = self._adapter_registry
        of_peft = registry.peft.trained
        if setup.flatten() & of_peft.keys():
            peft_library.single_name(setup, list(of_peft), None)
        else:
            registry.check(setup)
        embeddings = token_embeddings(self, registry) if train_embeddings else None
        self.train()
        self.freeze_model(True)
        for name in setup.flatten():
            if name in of_peft:
                peft_library.train(self, registry, name)
            else:
                registry.set_trainable(name, True)
        if embeddings is not None:
            embeddings.requires_grad_(True)
        self.set_active_adapters(setup)

    def train_adapter_fusion(self, adapter_setup: SetupLike, unfreeze_adapters: bool = False) -> None:
        """Freeze all but the fusions in a setup, activate it, and switch to training mode.

        >>> model.train_adapter_fusion(Fuse("a", "b", "c"))

        Add `model.get_fusion_regularization_loss()` to the loss, if it is not None. Heads are not touched.

        Args:
            adapter_setup: A setup with at least one `Fuse`.
            unfreeze_adapters: Whether the adapters in it are trained too.

        Raises:
            UnknownAdapterError: there is no such adapter or fusion. The model is then as it was.
            ValueError: nothing is fused in this setup.
        """
        setup = parse_composition(adapter_setup)
        registry = self._adapter_registry
        found = fusions.fusions_in(registry, setup) if setup is not None else []
        if setup is None or not found:
            raise ValueError(f"train_adapter_fusion needs a setup with a Fuse, such as Fuse('a', 'b'), not {setup!r}.")
        registry.check(setup)
        self.train()
        self.freeze_model(True)
        for fusion in found:
            fusions.set_trainable(fusion, True)
        for name in setup.flatten() if unfreeze_adapters else ():
            registry.set_trainable(name, True)
        self.set_active_adapters(setup)

    def get_fusion_regularization_loss(self) -> torch.Tensor | None:
        """What keeps the value matrices of fusions near the identity: 0.01 · Σ (V − I)²; None if there are none.

        >>> loss = model(**batch).loss + model.get_fusion_regularization_loss()
        """
        return fusions.regularization_loss(self._adapter_registry)

    def freeze_model(self, freeze: bool = True) -> None:
        """Freeze, or unfreeze, the base model with all adapters and embeddings in it. Heads are not touched."""
        self._adapter_registry.base.requires_grad_(not freeze)
        self._adapter_embeddings.requires_grad_(not freeze)

    def has_adapters(self) -> bool:
        """Whether any adapter has been added."""
        return bool(self._adapter_registry.adapters or self._adapter_registry.peft.trained)

    @property
    def has_parallel_adapters(self) -> bool:
        """Whether the active setup repeats the batch for adapters in parallel."""
        active = self._adapter_registry.active
        return active is not None and any(isinstance(block, Parallel) for block in active.blocks())

    def merge_adapter(self, name: str) -> None:
        """Put what an adapter changes into the weights of the model: it then acts without any cost.

        >>> model.merge_adapter("task")
        >>> model.reset_adapter()

        Several adapters can be merged, one on top of the other. A merged adapter acts in every setup and thread, until
        it is reset; setups that name it do not apply it a second time. The originals of the weights that it changes are
        kept, so merging takes their memory once more. Half types are computed in float32. `save_pretrained` writes the
        merged weights, and leaves merged adapters out; `save_adapter` writes them as ever. What happens to the weights
        in between (training of the base model, `load_state_dict`) is undone by `reset_adapter` too.

        Args:
            name: An adapter that is a change of weights: LoRA, IA³, DoRA, VeRA …

        Raises:
            UnknownAdapterError: there is no such adapter.
            ValueError: it is no change of weights, or the weights are quantised or tied to other modules. The model is
                then as it was.
        """
        self._adapter_registry.merge(name, self)

    def reset_adapter(self, name: str | None = None) -> None:
        """Take merged adapters out of the weights again: these are then what they were, bit by bit.

        Args:
            name: One adapter, of several that are merged; by default all.

        Raises:
            UnknownAdapterError: there is no such adapter.
            ValueError: it is not merged.
        """
        self._adapter_registry.reset(name)

    def eject_prefix_tuning(self, name: str) -> None:
        """Turn the prefixes of an adapter into what their network computes, with equal outputs: they are flat then.

        >>> model.eject_prefix_tuning("task")

        Fewer parameters are kept and saved, and its configuration says so. An optimizer still holds the former ones.

        Args:
            name: An adapter with prefix tuning, alone or in a union.

        Raises:
            UnknownAdapterError: there is no such adapter.
            ValueError: it has no prefix that is not flat.
        """
        adapter = self._adapter_registry[name]
        config = eject(adapter.config, adapter.modules())
        self._adapter_registry.adapters[name] = dataclasses.replace(adapter, config=config)
