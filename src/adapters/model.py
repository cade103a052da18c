"""What users call on a model: thin methods over the registry of its adapters.

A model gets this one class in front of its own. No module inside it is replaced or re-classed, and `detach` gives the
model back as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import nn
from torch._dynamo.eval_frame import skip_code
from transformers import GenerationMixin, PreTrainedModel, initialization

from . import averaging, embeddings, fusions, peft_library, sharing
from .anatomy import AdapterModelInterface, anatomy, anatomy_from_interface
from .anatomy.interface import submodule
from .anatomy.parts import Sublayer
from .calling import OPTIONS, BegunCall, Use, taken_from, use
from .checkpoints import fusions as fusion_files
from .checkpoints import native, setups
from .checkpoints.files import INTERFACE_CONFIG, read_json, write_json
from .composition import AdapterCompositionBlock, Fuse, SetupLike, Stack, parse_composition
from .configuration import AdapterConfig, FusionConfig, ModelAdaptersConfig, get_adapter_config_hash
from .context import OpenSetups
from .embeddings import DEFAULT, LoadedEmbeddings
from .fusions import FusionLike
from .heads.model_heads import read_static_head, save_static_head
from .methods.kept import Kept
from .methods.prefix_tuning import eject
from .registry import Adapter, AdapterRegistry
from .runtime.calls import Generation
from .runtime.hooks import ReplayedCheckpoint
from .summary import Row, summary_rows, summary_table
from .vocabulary import token_embeddings

if TYPE_CHECKING:
    from peft import PeftConfig

from . import __version__ as VERSION

Method = TypeVar("Method", bound=Callable[..., Any])


class AdapterType(str, Enum):
    """What an adapter is for. Early releases asked for it; nothing depends on it."""

    text_task = "text_task"
    text_lang = "text_lang"

    @classmethod
    def has(cls, value: str) -> bool:
        """Whether there is such a type."""
        return value in cls.__members__


def _without_adapter_type(method: Method) -> Method:
    """Let a method also be called with an `AdapterType` after the name, as early releases were."""

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if len(args) > 1 and isinstance(args[1], AdapterType):
            args = (args[0], *args[2:])
        return method(self, *args, **kwargs)

    return cast(Method, called)


def _also_as_of_transformers(method: Method) -> Method:
    """Let `add_adapter` also be called as transformers' own: with a configuration of peft, then the name.

    It then also does what that does: the adapter is active, and all else is frozen.
    """

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = args[0] if args else kwargs.get("adapter_config")
        if not peft_library.is_config(config):
            return method(self, *args, **kwargs)
        name = (args[1] if len(args) > 1 else kwargs.get("adapter_name")) or "default"
        method(self, name, config)
        self.requires_grad_(False)
        peft_library.train(self, self._adapter_registry, name)
        return None

    return cast(Method, called)


def _also_by_transformers(method: Method) -> Method:
    """Let `load_adapter` also be called by transformers' `from_pretrained`, for a folder of peft."""

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "load_config" not in kwargs:
            return method(self, *args, **kwargs)
        return peft_library.load(self, self._adapter_registry, *args, **kwargs)

    return cast(Method, called)


class ModelAdaptersMixin(nn.Module):
    """The methods that a model gets from `adapters.init`, or by being an `AutoAdapterModel`."""

    config: Any
    _adapter_registry: AdapterRegistry
    _adapter_interface: AdapterModelInterface | None
    _adapter_embeddings: LoadedEmbeddings

    # -- adding and removing ------------------------------------------------------------------------------------

    @_also_as_of_transformers
    @_without_adapter_type
    def add_adapter(
        self,
        adapter_name: str,
        config: str | Mapping[str, Any] | PeftConfig | None = None,
        overwrite_ok: bool = False,
        set_active: bool = False,
        *,
        layers: Sequence[int] | None = None,
    ) -> None:
        """Add a new adapter.

        >>> model.add_adapter("sentiment", config="seq_bn[reduction_factor=8]", layers=[4, 5])
        >>> model.add_adapter("hadamard", peft.LoHaConfig(target_modules=["q_proj"]))

        A configuration of the `peft` library is handed over to it, through transformers. Such an adapter can be
        activated alone, trained, saved (in the files of PEFT), loaded and deleted; a model has either adapters of this
        library or of that one.

        Args:
            adapter_name: A name without path separators.
            config: The name of a preset, a dictionary or a configuration, also one of `peft`; by default `seq_bn`.
            overwrite_ok: Whether an adapter of the same name may be replaced.
            set_active: Whether to activate it.
            layers: The layers to place it in, counted over all towers; by default all that the configuration names.

        Raises:
            ValueError: the name is taken or no name, or the configuration cannot be met by this model. The model is
                then as it was.
            ImportError: the configuration is one of `peft`, which is not installed.
        """
        _check_name(adapter_name)
        registry = self._adapter_registry
        if peft_library.is_config(config):
            self._add_of_peft(adapter_name, config, overwrite_ok, set_active, layers)
            return
        if adapter_name in registry.adapters and not overwrite_ok:
            raise ValueError(
                f"There is an adapter named {adapter_name!r} already. Choose another name, or pass overwrite_ok=True."
            )
        adapter = registry.build(adapter_name, AdapterConfig.load(config if config is not None else "seq_bn"), layers)
        self._attach(adapter, set_active)

    def _add_of_peft(self, name: str, config: Any, overwrite_ok: bool, set_active: bool, layers: object) -> None:
        """Add an adapter with a configuration of `peft`."""
        registry = self._adapter_registry
        if layers is not None:
            raise ValueError("layers= is for adapters of this library; the configuration of peft says them itself.")
        if name in registry.peft.trained and not overwrite_ok:
            raise ValueError(
                f"There is an adapter named {name!r} already. Choose another name, or pass overwrite_ok=True."
            )
        with self._added_by_peft(name, set_active):
            peft_library.add(self, registry, name, config)

    @contextlib.contextmanager
    def _added_by_peft(self, name: str, set_active: bool) -> Iterator[None]:
        """Around the addition of an adapter of `peft`, which activates it: what was active stays so."""
        registry = self._adapter_registry
        former = next(iter(peft_library.active(self)), None) if registry.peft.trained else None
        if name in registry.peft.trained:
            peft_library.delete(self, registry, name)
        yield
        if set_active:
            self.set_active_adapters(name)
        else:
            peft_library.activate(self, former if former != name else None)

    def _attach(self, adapter: Adapter, set_active: bool) -> None:
        registry = self._adapter_registry
        if adapter.name in registry.adapters:
            registry.delete(adapter.name)
        registry.attach(adapter)
        if set_active:
            self.set_active_adapters(adapter.name)

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter, and its memory. If it is active, nothing is active afterwards.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        if adapter_name in self._adapter_registry.peft.trained:
            peft_library.delete(self, self._adapter_registry, adapter_name)
            return
        self._adapter_registry.delete(adapter_name)

    def average_adapter(
        self,
        adapter_name: str,
        adapter_list: Sequence[str] | Mapping[str, float],
        weights: Sequence[float] | None = None,
        combine_strategy: str = "linear",
        normalize_weights: bool = True,
        overwrite_ok: bool = False,
        set_active: bool = False,
        svd_rank: int | None = None,
        *,
        density: float | None = None,
        seed: int | None = None,
    ) -> None:
        """Add a new adapter that is a combination of others.

        >>> model.average_adapter("both", ["a", "b"], weights=[0.7, 0.3])
        >>> model.average_adapter("less", {"a": 1, "b": -0.5}, combine_strategy="task_arithmetic")
        >>> model.average_adapter("all", ["a", "b", "c"], combine_strategy="ties", density=0.2, svd_rank=16)

        Parameter by parameter, for adapters of one configuration, as AdapterHub's `adapters` 1.3 does it:

        - `linear`: θ = Σ wᵢ θᵢ. For LoRA that has cross terms: Σ wᵢ Bᵢ · Σ wᵢ Aᵢ is not Σ wᵢ Bᵢ Aᵢ.
        - `lora_linear_only_negate_b`: the same for LoRA, with |wᵢ| for each A, so that a negative weight negates once.
        - `lora_delta_w_svd`: Σ wᵢ Bᵢ Aᵢ at rank `svd_rank`, with the same alpha. Where that is another rank, the
          scaling alpha / r is another too; `lora_svd` keeps the effect.

        On what adapters do to weights, ΔW with all scalings, for LoRA and its relatives. These may have different
        ranks, matrices and configurations, and the result is a plain LoRA:

        - `lora_concat`: ΔW = Σ wᵢ ΔWᵢ, exactly: ranks add up.
        - `lora_svd`: the same at rank `svd_rank`, as near as that rank allows.
        - `task_arithmetic`: the same with the weights as they are (by default ones), exact if there is no `svd_rank`.
        - `ties` (Yadav et al. 2023, arXiv:2306.01708), `dare_linear` and `dare_ties` (Yu et al. 2024,
          arXiv:2311.03099): with `density`, at rank `svd_rank` (by default the largest rank of the adapters).
        - `slerp`: the arc between two ΔW, at w₂ / (w₁ + w₂) of its angle; exact if there is no `svd_rank`.

        For all other methods the last three lines work parameter by parameter too, for adapters of one configuration.
        Their vectors are the parameters themselves, as where training began is not known; for IA³ the differences from
        one, for copies of modules those from the model. How far a result of lower rank is from what was meant is
        logged (`adapters.averaging`, level INFO), and in the report of `adapters.averaging.combine`.

        Args:
            adapter_name: The name of the new adapter. Its dropout is that of the first one.
            adapter_list: The adapters, or their weights by name.
            weights: A weight for each, by default equal ones; negative ones too.
            combine_strategy: One of the names above.
            normalize_weights: Whether the weights are divided by their sum (not for `task_arithmetic`).
            overwrite_ok: Whether an adapter of the same name may be replaced.
            set_active: Whether to activate the new one.
            svd_rank: Its rank, for those strategies that approximate.
            density: The share of numbers that `ties` and `dare_…` keep.
            seed: Seed of what `dare_…` draws; by default the global generator draws.

        Raises:
            UnknownAdapterError: there is no such adapter.
            ValueError: the adapters cannot be combined so, or the arguments do not fit. The model is then as it was.
        """
        _check_name(adapter_name)
        averaging.combine(
            self,
            adapter_name,
            adapter_list,
            weights,
            combine_strategy,
            normalize_weights,
            overwrite_ok,
            svd_rank,
            density,
            seed,
        )
        if set_active:
            self.set_active_adapters(adapter_name)

    def add_adapter_fusion(
        self,
        adapter_names: FusionLike,
        config: str | Mapping[str, Any] | FusionConfig | None = None,
        name: str | None = None,
        overwrite_ok: bool = False,
        set_active: bool = False,
    ) -> None:
        """Add a learned mixture of adapters: AdapterFusion, or a gate.

        >>> model.add_adapter_fusion(["a", "b", "c"])
        >>> model.add_adapter_fusion(Gate("a", "b"))
        >>> model.train_adapter_fusion(Fuse("a", "b", "c"))

        It gets a module at each point where one of its adapters adds something. A stack among them is named by its last
        adapter, as in `Fuse(Stack("a", "b"), "c")`, which uses the fusion "b,c".

        Args:
            adapter_names: A `Fuse` or `Gate` block, a list of adapters, or their names with commas between them.
            config: `"dynamic"` (the default), `"static"`, `"gate"` (the default for a `Gate`), with fields to change in
                brackets; a dictionary; or a configuration.
            name: Its name; by default that of the block, which is the names of the adapters with commas between them.
            overwrite_ok: Whether a fusion of the same name may be replaced.
            set_active: Whether to activate it.

        Raises:
            UnknownAdapterError: an adapter is not there.
            ValueError: the name is taken, or an adapter adds nothing that could be mixed (prefixes, prompts …). The
                model is then as it was.
        """
        registry = self._adapter_registry
        fusion = fusions.build(registry, adapter_names, config, name)
        _check_name(fusion.name)
        if fusion.name in registry.fusions and not overwrite_ok:
            raise ValueError(
                f"There is a fusion named {fusion.name!r} already. Choose another name, or pass overwrite_ok=True."
            )
        registry.attach_fusion(fusion)
        if set_active:
            block = adapter_names if isinstance(adapter_names, Fuse) and name is None else fusions.fuse_block(fusion)
            self.set_active_adapters(block)

    def prune_adapter_fusion(self, adapter_names: FusionLike, keep: Sequence[str]) -> None:
        """Add a fusion of some of the adapters of another, with its weights: it costs less (AdapterDrop, section 5).

        >>> model.prune_adapter_fusion(Fuse("a", "b", "c"), keep=["a", "c"])
        >>> model.set_active_adapters(Fuse("a", "c"))

        Which adapters matter is seen in the attentions of the fusion (`output_adapter_fusion_attentions`).

        Args:
            adapter_names: The fusion, which stays.
            keep: The adapters to keep.

        Raises:
            UnknownAdapterError: there is no such fusion.
            ValueError: an adapter to keep is not part of it, or there is a fusion of these already.
        """
        registry = self._adapter_registry
        made = fusions.pruned(registry, fusions.fusion_of(registry, adapter_names), keep)
        if made.name in registry.fusions:
            raise ValueError(f"There is a fusion named {made.name!r} already.")
        registry.attach_fusion(made)

    def delete_adapter_fusion(self, adapter_names: FusionLike) -> None:
        """Remove a fusion, but not its adapters. If it is active, nothing is active afterwards.

        Raises:
            UnknownAdapterError: there is no such fusion.
        """
        registry = self._adapter_registry
        registry.delete_fusion(fusions.fusion_of(registry, adapter_names).name)

    # -- activating and training ------------------------------------------------------------------------------------

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

    @_without_adapter_type
    def train_adapter(self, adapter_setup: SetupLike, train_embeddings: bool = False) -> None:
        """Freeze the base model and all other adapters, unfreeze these, activate them, and switch to training mode.

        Heads are not touched: they are trained too unless you freeze them.

        Args:
            adapter_setup: As for `set_active_adapters`.
            train_embeddings: Whether the active input embeddings are trained too.

        Raises:
            UnknownAdapterError: a name is not that of an adapter. The model is then as it was.
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
        self.train()
        self.freeze_model(True)
        for name in setup.flatten():
            if name in of_peft:
                peft_library.train(self, registry, name)
            else:
                registry.set_trainable(name, True)
        if train_embeddings:
            token_embeddings(self, registry).requires_grad_(True)
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

    # -- merging ----------------------------------------------------------------------------------------------------

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

    def share_parameters(
        self, adapter_names: sharing.Tasks, name: str | None = None, reference_adapter_name: str | None = None
    ) -> None:
        """Let MTL-LoRA adapters of several tasks have the same A and Bᵢ: they are trained by all of them.

        >>> for task in ("a", "b", "c"):
        ...     model.add_adapter(task, MTLLoRAConfig(r=8, n_up_projection=3))
        >>> model.share_parameters(MultiTask("a", "b", "c"))
        >>> model.train_adapter(MultiTask("a", "b", "c"))
        >>> model(**batch, task_ids=["a", "c", "c", "b"])

        Λ and the weights of the Bᵢ stay each adapter's own. Those of an adapter that shared with others before are
        taken from these. `save_adapter` writes each adapter with all that it uses; whoever loads them shares them
        again. `save_pretrained` notes what is shared.

        Args:
            adapter_names: The adapters: a `MultiTask` block, a list of names, or names with commas between them.
            name: What they are called together; by default their names with commas between them.
            reference_adapter_name: Whose parameters all get; by default those of the first one.

        Raises:
            UnknownAdapterError: there is no such adapter.
            ValueError: an adapter is no MTL-LoRA, or their parameters have different shapes. The model is then as it
                was.
        """
        sharing.share(self._adapter_registry, adapter_names, name, reference_adapter_name)

    def unshare_parameters(self, adapter_names: sharing.Tasks, name: str | None = None) -> None:
        """Give each of these adapters a copy of its own of what it shares; others go on sharing.

        Args:
            adapter_names: As for `share_parameters`.
            name: What they were called together; by default whatever it was.

        Raises:
            UnknownAdapterError: there is no such adapter.
            ValueError: an adapter does not share, or not under this name. The model is then as it was.
        """
        sharing.unshare(self._adapter_registry, adapter_names, name)

    # -- embeddings -------------------------------------------------------------------------------------------------

    @property
    def active_embeddings(self) -> str:
        """The name of the embeddings that are in use; the model's own are "default"."""
        return self._adapter_embeddings.active

    @property
    def loaded_embeddings(self) -> dict[str, nn.Embedding]:
        """All embeddings by their names."""
        return self._adapter_embeddings.as_modules(self)

    def add_embeddings(
        self,
        name: str,
        tokenizer: Any,
        reference_embedding: str | None = None,
        reference_tokenizer: Any = None,
        embedding_dim: int | None = None,
    ) -> None:
        """Add new embeddings for a tokenizer, and make them the active ones.

        >>> model.add_embeddings("fo", faroese_tokenizer, reference_embedding="default", reference_tokenizer=tokenizer)
        >>> model.train_adapter("language", train_embeddings=True)

        There are as many as the tokenizer has tokens. All that the model holds per token changes with them: tied
        embeddings of encoder and decoder, and the output layer of a language model with its bias, tied or not. Ids of
        special tokens that the model's configuration names (`pad_token_id` …) are left as they are.

        Args:
            name: Their name.
            tokenizer: The tokenizer.
            reference_embedding: Embeddings that give what tokens of both tokenizers start with; the others are drawn as
                the model draws its own.
            reference_tokenizer: The tokenizer of those.
            embedding_dim: Their size; it has to be that of the model's.

        Raises:
            ValueError: the name is taken, or the model has no embeddings that could be exchanged. The model is then as
                it was.
        """
        store = self._adapter_embeddings
        store.check_new(name)
        current = store.get(self, store.active)
        if embedding_dim not in (None, current.size):
            raise ValueError(f"embedding_dim={embedding_dim}: the embeddings of this model have size {current.size}.")
        if (reference_embedding is None) != (reference_tokenizer is None):
            raise ValueError("reference_embedding and reference_tokenizer belong together: give both, or none.")
        reference = None
        if reference_embedding is not None:
            reference = (store.get(self, reference_embedding), reference_tokenizer)
        store.add(self, name, embeddings.for_tokenizer(self, current, tokenizer, reference))

    def set_active_embeddings(self, name: str) -> None:
        """Use other embeddings, for all calls of the model in all threads; the model's own are "default".

        Raises:
            ValueError: there are none of this name, or an adapter acts on the embeddings. The model is then as it was.
        """
        self._adapter_embeddings.activate(self, name)

    def delete_embeddings(self, name: str) -> None:
        """Remove embeddings; if they are active, the model's own are afterwards.

        Raises:
            ValueError: there are none of this name, or they are the model's own.
        """
        self._adapter_embeddings.delete(self, name)

    def save_embeddings(self, path: str | Path, name: str, tokenizer: Any = None) -> None:
        """Write embeddings to a folder, as safetensors.

        Args:
            path: The folder; made if it is not there.
            name: The embeddings.
            tokenizer: Their tokenizer, to be written beside them.

        Raises:
            ValueError: there are none of this name.
        """
        embeddings.save(self._adapter_embeddings.get(self, name), _folder(path), tokenizer)

    def load_embeddings(self, path: str | Path, name: str) -> Any:
        """Add embeddings from a folder, also of AdapterHub's `adapters` 1.3, and make them the active ones.

        Args:
            path: The folder.
            name: The name to give.

        Returns:
            The tokenizer that was saved with them, or None.

        Raises:
            ValueError: the name is taken, or a file is missing, cut off or does not fit. The model is then as it was.
        """
        store = self._adapter_embeddings
        store.check_new(name)
        loaded, tokenizer = embeddings.load(self, store.get(self, store.active), Path(path).expanduser())
        store.add(self, name, loaded)
        return tokenizer

    # -- looking ----------------------------------------------------------------------------------------------------

    @property
    def adapters_config(self) -> ModelAdaptersConfig:
        """The configurations of the adapters and fusions, by name; those of `peft` are in `model.peft_config`."""
        found = ModelAdaptersConfig()
        for name, adapter in self._adapter_registry.adapters.items():
            found.add(name, adapter.config)
        for fusion in self._adapter_registry.fusions.values():
            found.add_fusion(fusion.adapter_names, fusion.config, fusion.name)
        return found

    @property
    def adapter_interface(self) -> AdapterModelInterface | None:
        """The interface that was given to `adapters.init`, or None."""
        return self._adapter_interface

    def get_adapter(self, name: str) -> dict[int, dict[str, nn.Module]]:
        """The modules of an adapter by layer and location; layer -1 holds what belongs to no layer.

        >>> model.get_adapter("task")[0]["output_adapter"]

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        found: dict[int, dict[str, nn.Module]] = {}
        for p in sorted(self._adapter_registry[name].placements, key=lambda p: p.layer):
            places = found.setdefault(p.layer, {})
            is_cross = isinstance(p.point, Sublayer) and p.point.kind == "cross_attention"
            location = "cross_adapter" if is_cross else p.location
            same = sum(name == location or name.startswith(f"{location}_") for name in places)
            places[f"{location}_{same + 1}" if same else location] = p.module
        return found

    def adapter_summary(self, as_dict: bool = False) -> str | list[Row]:
        """All adapters with their size, whether they are active, and whether they are trained.

        >>> print(model.adapter_summary())

        Args:
            as_dict: Whether to give one dictionary per row instead of a table.
        """
        active = self.active_adapters
        blocks = list(active.blocks()) if active is not None else []
        names = {name for block in blocks for name in block.flatten()}
        names |= {block.name for block in blocks if isinstance(block, Fuse)}
        rows = summary_rows(self._adapter_registry, names)
        return rows if as_dict else summary_table(rows)

    def adapter_to(self, name: str, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        """Move an adapter to a device, or to another type of numbers.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        for module in self._adapter_registry[name].modules():
            module.to(device=device, dtype=dtype)
        self._adapter_registry.compile_anew()

    def adapter_fusion_to(
        self, adapter_names: FusionLike, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Move a fusion to a device, or to another type of numbers.

        Raises:
            UnknownAdapterError: there is no such fusion.
        """
        for module in fusions.fusion_of(self._adapter_registry, adapter_names).modules():
            module.to(device=device, dtype=dtype)

    def supports_adapter(self, type_or_config: str | AdapterConfig) -> bool:
        """Whether an adapter with this configuration could be added."""
        try:
            self._adapter_registry.build("probe", AdapterConfig.load(type_or_config))
        except (ValueError, NotImplementedError):
            return False
        return True

    # -- saving and loading -----------------------------------------------------------------------------------------

    def save_adapter(
        self,
        save_directory: str | Path,
        adapter_name: str,
        with_head: bool = True,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write an adapter, and the head of its name, to a folder, in the layout of AdapterHub.

        Args:
            save_directory: The folder; made if it is not there.
            adapter_name: The adapter.
            with_head: Whether its head is written too.
            meta_dict: Further entries of `adapter_config.json`.
            custom_weights_loaders: Not supported; heads and adapters are all there is to save.
            use_safetensors: Whether to write safetensors, or PyTorch's format for older readers.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        _refuse_loaders(custom_weights_loaders)
        folder = _folder(save_directory)
        if adapter_name in self._adapter_registry.peft.trained:
            self._save_of_peft(adapter_name, folder, with_head, meta_dict, use_safetensors)
            return
        adapter = self._adapter_registry[adapter_name]
        native.save(
            adapter, folder, self._adapter_registry.base_path, {**self._facts(), **(meta_dict or {})}, use_safetensors
        )
        if with_head:
            self._save_head_of(adapter_name, folder, use_safetensors)

    def _save_of_peft(
        self, name: str, folder: Path, with_head: bool, meta_dict: Mapping[str, Any] | None, use_safetensors: bool
    ) -> None:
        """Write an adapter of `peft`."""
        if meta_dict or not use_safetensors:
            raise ValueError("An adapter of peft is written as peft does it: without meta_dict, as safetensors.")
        peft_library.save(self, folder, name)
        inside = set(self._adapter_registry.base.modules())
        # What peft has replaced of the head, it saves with the adapter.
        if with_head and all(parent in inside for parent, _, _ in self._adapter_registry.peft.replaced):
            self._save_head_of(name, folder, use_safetensors)

    def save_all_adapters(
        self,
        save_directory: str | Path,
        with_head: bool = True,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write every adapter to a folder of its name within a folder. The arguments are those of `save_adapter`."""
        for name in self._adapter_registry.peft.trained:
            self.save_adapter(Path(save_directory) / name, name, with_head, meta_dict, custom_weights_loaders)
        for name, adapter in self._adapter_registry.adapters.items():
            facts = {"config_id": get_adapter_config_hash(adapter.config), **(meta_dict or {})}
            self.save_adapter(
                Path(save_directory) / name, name, with_head, facts, custom_weights_loaders, use_safetensors
            )

    @_also_by_transformers
    @_without_adapter_type
    def load_adapter(
        self,
        adapter_name_or_path: str | Path,
        config: str | Mapping[str, Any] | None = None,
        version: str | None = None,
        model_name: str | None = None,
        load_as: str | None = None,
        with_head: bool = True,
        custom_weights_loaders: Sequence[Any] | None = None,
        leave_out: list[int] | None = None,
        id2label: Mapping[int, str] | None = None,
        set_active: bool = False,
        use_safetensors: bool = False,
    ) -> str:
        """Add an adapter from a folder, with its head if there is one. An adapter of the same name is replaced.

        >>> name = model.load_adapter("my_adapters/sentiment", set_active=True)

        Args:
            adapter_name_or_path: The folder. One of the `peft` library is handed over to it, if it is installed; its
                files hold no name, so that the adapter is called "default" without `load_as`.
            config: A configuration to use instead of the one in the folder.
            version: Not supported yet: only folders are read.
            model_name: Taken for compatibility: the model is this one.
            load_as: Another name for it.
            with_head: Whether to add its head too.
            custom_weights_loaders: Not supported.
            leave_out: Layers to load nothing for.
            id2label: Other labels for the head.
            set_active: Whether to activate it.
            use_safetensors: Refuse files in PyTorch's format; by default safetensors are read where they are.

        Returns:
            The name of the adapter.

        Raises:
            AdapterFileError: a file is missing, cut off or does not fit; the message says all that is wrong. The model
                is then as it was.
        """
        _refuse_loaders(custom_weights_loaders)
        if version is not None:
            raise NotImplementedError("version= belongs to adapters on a hub; only folders can be loaded yet.")
        folder = Path(adapter_name_or_path).expanduser()
        if load_as is not None:
            _check_name(load_as)
        override = AdapterConfig.load(config) if config is not None else None
        registry = self._adapter_registry
        if peft_library.is_folder(folder) and peft_library.is_installed():
            name = load_as or "default"
            attach_head = self._read_head(folder, name, id2label, use_safetensors) if with_head else None
            self._load_of_peft(folder, name, config, leave_out)
            if attach_head is not None:
                attach_head()
            if set_active:
                self.set_active_adapters(name)
            return name
        adapter = native.load(
            registry, folder, self._model_type(), load_as, override, leave_out, safetensors_only=use_safetensors
        )
        _check_name(adapter.name)
        attach_head = self._read_head(folder, adapter.name, id2label, use_safetensors) if with_head else None
        self._attach(adapter, set_active=False)
        if attach_head is not None:
            attach_head()
        if set_active:
            self.set_active_adapters(adapter.name)
        return adapter.name

    def _load_of_peft(self, folder: Path, name: str, config: object, leave_out: object) -> None:
        """Add an adapter from a folder of `peft`."""
        if config is not None or leave_out:
            raise ValueError(f"{folder} holds an adapter of peft; it is loaded as it is, without config or leave_out.")
        with self._added_by_peft(name, set_active=False):
            peft_library.load(self, self._adapter_registry, folder, name)

    def save_adapter_fusion(
        self,
        save_directory: str | Path,
        adapter_names: FusionLike,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        with_head: bool | str = False,
        use_safetensors: bool = True,
    ) -> None:
        """Write a fusion to a folder, in the layout of AdapterHub. Its adapters are not written.

        Args:
            save_directory: The folder; made if it is not there.
            adapter_names: The fusion: its block, its adapters or its name.
            meta_dict: Further entries of `adapter_fusion_config.json`.
            custom_weights_loaders: Not supported.
            with_head: A head to write too: its name, or True for that of the fusion's name.
            use_safetensors: Whether to write safetensors, or PyTorch's format for older readers.

        Raises:
            UnknownAdapterError: there is no such fusion.
            ValueError: there is no such head.
        """
        _refuse_loaders(custom_weights_loaders)
        registry = self._adapter_registry
        fusion = fusions.fusion_of(registry, adapter_names)
        folder = _folder(save_directory)
        if with_head:
            self._save_heads(with_head if isinstance(with_head, str) else fusion.name, folder, use_safetensors, False)
        facts = {**self._facts(), **(meta_dict or {})}
        fusion_files.save(fusion, folder, registry.base_path, facts, use_safetensors)

    def save_all_adapter_fusions(
        self,
        save_directory: str | Path,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write every fusion to a folder of its name within a folder. See `save_adapter_fusion`."""
        for name in self._adapter_registry.fusions:
            folder = Path(save_directory) / name
            self.save_adapter_fusion(folder, name, meta_dict, custom_weights_loaders, use_safetensors=use_safetensors)

    def load_adapter_fusion(
        self,
        adapter_fusion_name_or_path: str | Path,
        load_as: str | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        set_active: bool = False,
        with_head: bool = True,
        use_safetensors: bool = False,
    ) -> str:
        """Add a fusion from a folder. Its adapters have to be there. A fusion of the same name is replaced.

        Args:
            adapter_fusion_name_or_path: The folder.
            load_as: Another name for it.
            custom_weights_loaders: Not supported.
            set_active: Whether to activate it.
            with_head: Whether to add the head in the folder too, if there is one.
            use_safetensors: Refuse files in PyTorch's format; by default safetensors are read where they are.

        Returns:
            The name of the fusion.

        Raises:
            UnknownAdapterError: an adapter of the fusion is not there.
            AdapterFileError: a file is missing, cut off or does not fit; the message says all that is wrong. The model
                is then as it was.
        """
        _refuse_loaders(custom_weights_loaders)
        folder, registry = Path(adapter_fusion_name_or_path).expanduser(), self._adapter_registry
        if load_as is not None:
            _check_name(load_as)
        fusion = fusion_files.load(registry, folder, self._model_type(), load_as, use_safetensors)
        _check_name(fusion.name)
        attach_head = self._read_head(folder, None, None, use_safetensors) if with_head else None
        registry.attach_fusion(fusion)
        if attach_head is not None:
            attach_head()
        if set_active:
            self.set_active_adapters(fusions.fuse_block(fusion))
        return fusion.name

    def save_adapter_setup(
        self,
        save_directory: str | Path,
        adapter_setup: SetupLike,
        head_setup: setups.HeadSetup = None,
        meta_dict: Mapping[str, Any] | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        use_safetensors: bool = True,
    ) -> None:
        """Write a setup with its adapters, fusions and heads to a folder, in the layout of AdapterHub.

        >>> model.save_adapter_setup("folder", Stack("language", Fuse("a", "b")))
        >>> setup, heads = other_model.load_adapter_setup("folder", set_active=True)

        Args:
            save_directory: The folder; made if it is not there. It gets a folder for each adapter (with the head of its
                name), for each fusion, and for each further head.
            adapter_setup: The setup.
            head_setup: The heads that belong to it: a name, names, or a block of them; True for the active one.
            meta_dict: Further entries of the configuration files.
            custom_weights_loaders: Not supported.
            use_safetensors: Whether to write safetensors, or PyTorch's format for older readers.

        Raises:
            UnknownAdapterError: there is no such adapter or fusion.
            ValueError: there is no such head, or no setup was given.
        """
        _refuse_loaders(custom_weights_loaders)
        setup, folder = parse_composition(adapter_setup), _folder(save_directory)
        if setup is None or not setup.flatten():
            raise ValueError("save_adapter_setup needs the name of an adapter or a setup of adapters.")
        found = fusions.fusions_in(self._adapter_registry, setup)
        names = sorted(setup.flatten())
        for name in names:
            self._adapter_registry[name]
        folder.mkdir(parents=True, exist_ok=True)
        heads = self._save_heads(head_setup, folder, use_safetensors, True)
        for name in names:
            self.save_adapter(folder / name, name, meta_dict=meta_dict, use_safetensors=use_safetensors)
        for fusion in found:
            self.save_adapter_fusion(folder / fusion.name, fusion.name, meta_dict, use_safetensors=use_safetensors)
        setups.write(folder, setup, heads, f"adapters.{VERSION}")

    def load_adapter_setup(
        self,
        adapter_setup_name_or_path: str | Path,
        version: str | None = None,
        custom_weights_loaders: Sequence[Any] | None = None,
        set_active: bool = False,
        use_safetensors: bool = False,
    ) -> tuple[AdapterCompositionBlock, setups.HeadSetup]:
        """Add the adapters, fusions and heads of a setup from a folder; those of the same names are replaced.

        Args:
            adapter_setup_name_or_path: The folder.
            version: Not supported yet: only folders are read.
            custom_weights_loaders: Not supported.
            set_active: Whether to activate the setup, and its heads.
            use_safetensors: Refuse files in PyTorch's format; by default safetensors are read where they are.

        Returns:
            The setup, and the heads that belong to it: a name, names, a block of them, or None.

        Raises:
            AdapterFileError: a file is missing, cut off or does not fit; the message says all that is wrong. The model
                is then as it was.
        """
        _refuse_loaders(custom_weights_loaders)
        if version is not None:
            raise NotImplementedError("version= belongs to setups on a hub; only folders can be loaded yet.")
        registry, kind = self._adapter_registry, self._model_type()
        folder = Path(adapter_setup_name_or_path).expanduser()
        setup, heads = setups.read(folder)
        names = sorted(setup.flatten())
        for name in names:
            _check_name(name)
        safe = use_safetensors
        adapters = {name: native.load(registry, folder / name, kind, name, safetensors_only=safe) for name in names}
        known = {**registry.adapters, **adapters}
        blocks = {block.name: block for block in setup.blocks() if isinstance(block, Fuse)}
        for name in blocks:
            _check_name(name)
        found = [fusion_files.load(registry, folder / name, kind, name, safe, known) for name in blocks]
        attach_heads = [self._read_head(folder / name, name, None, safe) for name in names]
        heads, attach_others = self._read_heads(folder, heads, names, safe)
        for adapter in adapters.values():
            self._attach(adapter, set_active=False)
        for fusion in found:
            registry.attach_fusion(fusion)
        for attach_head in (*attach_heads, *attach_others):
            if attach_head is not None:
                attach_head()
        if set_active:
            self.set_active_adapters(setup)
            self._activate_heads(heads)
        return setup, heads

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write the whole model with its adapters, to be read by `AutoAdapterModel` or `adapters.load_model`.

        Merged adapters are part of the weights that are written, and no adapters any more. Of a model with an adapter
        of `peft` only this is written, as transformers does it.

        Args:
            save_directory: The folder.
            **kwargs: What transformers' `save_pretrained` takes.
        """
        if self._adapter_registry.peft.trained:
            active = peft_library.active(self)
            if len(active) != 1:
                raise ValueError(
                    f"A model with adapters of peft writes its active one, as transformers does; active is {active}. "
                    "Activate one, or use save_adapter; the model itself can be written when they are deleted."
                )
            if kwargs.get("is_main_process", True):
                peft_library.save(self, Path(save_directory), active[0])
            return
        config = cast(Any, self).config
        entries = self._config_entries()
        left_out = self._names_in_state_of(self._adapter_registry.merged) | fusions.names_of_incomplete(
            self, self._adapter_registry
        )
        if left_out or sharing.groups(self._adapter_registry):
            state = kwargs.get("state_dict") or self.state_dict()
            state = {key: tensor for key, tensor in state.items() if key not in left_out}
            kwargs["state_dict"] = sharing.separated(self._adapter_registry, state)
        try:
            for key, value in entries.items():
                setattr(config, key, value)
            cast(Any, super()).save_pretrained(save_directory, **kwargs)
        finally:
            for key in entries:
                delattr(config, key)
        if self._adapter_interface is not None:
            facts = {"interface": self._adapter_interface.to_dict(), "model_type": self._model_type()}
            write_json(Path(save_directory) / INTERFACE_CONFIG, {**facts, "version": f"adapters.{VERSION}"})

    def initialize_weights(self) -> None:
        """Called by transformers while a model is loaded, for what its files lack: memory that nothing was written to.

        Of adapters and fusions only one thing may be missing: how often the fusions of a temperature were trained.
        """
        cast(Any, super()).initialize_weights()
        if "_adapter_registry" not in self.__dict__:
            return
        sharing.tie(self._adapter_registry)
        for fusion in self._adapter_registry.fusions.values():
            for module in fusion.modules():
                for buffer in module.buffers():
                    initialization.zeros_(buffer)  # but for those that were read

    # -- what subclasses with heads extend --------------------------------------------------------------------------

    def _save_head_of(self, adapter_name: str, folder: Path, use_safetensors: bool) -> None:
        """Write the head that belongs to an adapter, if there is one."""
        config = getattr(self, "config", None)
        labels = {"label2id": config.label2id, "num_labels": config.num_labels} if config is not None else {}
        save_static_head(self, self._adapter_registry.base, folder, self._facts(), labels, use_safetensors)

    def _read_head(
        self, folder: Path, name: str | None, id2label: Mapping[int, str] | None, safetensors_only: bool
    ) -> Callable[[], None] | None:
        """Read the head in a folder, without changing the model; what is returned puts it into the model.

        It gets the name, or keeps its own.
        """
        tensors = read_static_head(self, self._adapter_registry.base, folder, safetensors_only)
        if not tensors:
            return None
        parameters = self.state_dict(keep_vars=True)

        def attach() -> None:
            with torch.no_grad():
                for key, tensor in tensors.items():
                    parameters[key].copy_(tensor)

        return attach

    def _save_heads(
        self, heads: setups.HeadSetup, folder: Path, use_safetensors: bool, is_nested: bool
    ) -> setups.HeadSetup:
        """Write heads to a folder, or each to one of its name in it; gives what names them."""
        if heads not in (None, False, True):
            raise ValueError(f"This {type(self).__name__} has no heads with names, and {heads!r} was given.")
        return None

    def _read_heads(
        self, folder: Path, heads: setups.HeadSetup, read: Sequence[str], safetensors_only: bool
    ) -> tuple[setups.HeadSetup, list[Callable[[], None] | None]]:
        """Read the heads of a setup, as `_read_head`, except for those that were read; gives what names them too."""
        return None, []

    def _activate_heads(self, heads: setups.HeadSetup) -> None:
        """Make heads the active ones."""

    def _config_entries(self) -> dict[str, Any]:
        """What `config.json` says of adapters."""
        kept = ModelAdaptersConfig()
        for name, adapter in self._adapter_registry.adapters.items():
            if name not in self._adapter_registry.merged:
                kept.add(name, adapter.config)
        for fusion in fusions.complete(self._adapter_registry):
            kept.add_fusion(fusion.adapter_names, fusion.config, fusion.name)
        shared = sharing.groups(self._adapter_registry)
        return {"adapters": kept.to_dict() | ({"shared_parameters": shared} if shared else {})}

    def _names_in_state_of(self, adapters: Iterable[str]) -> set[str]:
        """The names that the tensors of adapters have in `state_dict`."""
        own = {id(t) for name in adapters for m in self._adapter_registry[name].modules() for t in m.parameters()}
        own |= {id(t) for name in adapters for m in self._adapter_registry[name].modules() for t in m.buffers()}
        return {key for key, t in self.state_dict(keep_vars=True).items() if id(t) in own} if own else set()

    # -- the forward pass -------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model; see `forward` of its own class.

        >>> model(**batch, adapter_names=["a", None, "b", "a"])

        Besides the model's own arguments there are:

            adapter_names: For each row of the batch the adapter (or the block) that it goes through, or None.
            task_ids: For each row the number, or the name, of a child of the active `MultiTask`.
            output_adapter_fusion_attentions: Whether the output gets `adapter_fusion_attentions`: by fusion, layer and
                location arrays of shape (batch, tokens, adapters).
            output_adapter_gating_scores: Whether the output gets `adapter_gating_scores`, by adapter, layer, location.
        """
        if not OpenSetups.count and OPTIONS.isdisjoint(kwargs):
            return self._called(None, args, kwargs)
        begun = BegunCall(self._adapter_registry, kwargs)
        try:
            return begun.shown(self._called(begun.use, args, kwargs))
        finally:
            begun.end()

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Called by `to`, `half` and so on: what was made of the weights of several adapters is made anew."""
        Kept.epoch += 1
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Any:
        """See `nn.Module.train`."""
        Kept.epoch += 1
        return super().train(mode)

    def _called(self, called: Use | None, args: Any, kwargs: Any) -> Any:
        """The part of a call that is compiled."""
        if called is not None:
            return called.called(super().__call__, args, kwargs)
        # Both ways are the same: asked for is only that a graph made without any hook is not used with some.
        if self._adapter_registry.table.is_in_use:
            return super().__call__(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable[..., Any] | None = None, **kwargs: Any
    ) -> None:
        """Called by transformers to switch checkpointing on and off; see `ReplayedCheckpoint`."""
        function = gradient_checkpointing_func or torch.utils.checkpoint.checkpoint
        replayed = ReplayedCheckpoint(function, self._adapter_registry.table)
        cast(Any, super())._set_gradient_checkpointing(enable=enable, gradient_checkpointing_func=replayed, **kwargs)

    # -- details ----------------------------------------------------------------------------------------------------

    def _model_type(self) -> str:
        return str(getattr(getattr(self, "config", None), "model_type", ""))

    @property
    def model_name(self) -> str | None:
        """The name that the base model was loaded by."""
        return getattr(self, "name_or_path", None)

    def _facts(self) -> dict[str, Any]:
        """What every configuration file says of the model."""
        config = getattr(self, "config", None)
        return {
            "hidden_size": getattr(config, "hidden_size", None),
            "model_class": type(self).__name__,
            "model_name": self.model_name,
            "model_type": self._model_type(),
            "version": f"adapters.{VERSION}",
        }

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the model by its own class: the class with these methods is made when it is read."""
        return _restore, (_own_class(type(self)),), self.__dict__


# `torch.compile` begins behind this function: in it context variables and names of adapters are looked up, which cannot
# be compiled, or would make a new graph for each.
skip_code(ModelAdaptersMixin.__call__.__code__)


def adapted_class(own_class: type[nn.Module]) -> type[nn.Module]:
    """A model's class with the methods of adapters in front. It has the same name and module as the model's own.

    transformers keys what it records of a class by that name, so recording of outputs goes on working.
    """
    if issubclass(own_class, ModelAdaptersMixin):
        return own_class
    if own_class not in _ADAPTED_CLASSES:
        _ADAPTED_CLASSES[own_class] = _adapted_class(own_class)
    return _ADAPTED_CLASSES[own_class]


_ADAPTED_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


@functools.wraps(GenerationMixin.generate)
def _generate_in_setup(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Generation calls the encoder of a model by itself, so the setup must be in use around the whole of it."""
    own_class: Any = _own_class(type(self))
    called = use(self._adapter_registry, taken_from(kwargs))
    args, kwargs, is_repeated = called.repeated(args, kwargs)
    with called.borrowed(), Generation():
        return called.called(functools.partial(own_class.generate, self), args, kwargs, is_repeated, with_beams=True)


def _adapted_class(own_class: type[nn.Module]) -> type[nn.Module]:
    names = {key: getattr(own_class, key) for key in ("__module__", "__qualname__", "__doc__")}
    if issubclass(own_class, GenerationMixin):
        names["generate"] = _generate_in_setup
    return type(own_class.__name__, (ModelAdaptersMixin, own_class), names)


def _own_class(adapted: type[nn.Module]) -> type[nn.Module]:
    """The class without the methods of adapters, or the class itself if it was written with them."""
    if adapted.__bases__[0] is ModelAdaptersMixin and adapted.__name__ == adapted.__bases__[1].__name__:
        return cast("type[nn.Module]", adapted.__bases__[1])
    return adapted


def _restore(own_class: type[nn.Module]) -> nn.Module:
    adapted = adapted_class(own_class)
    return adapted.__new__(adapted)


def init(
    model: nn.Module,
    adapters_config: ModelAdaptersConfig | None = None,
    interface: AdapterModelInterface | None = None,
) -> None:
    """Give a model the methods of adapters. Its weights, modules and outputs stay as they are.

    >>> model = AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")
    >>> adapters.init(model)
    >>> model.add_adapter("task")

    Args:
        model: Any model of transformers, or any module that an interface describes.
        adapters_config: Adapters to add at once.
        interface: Where the parts of the model are; by default they are found.

    Raises:
        ValueError: the interface names what is not there, or comes too late for a model that has its adapters already.
    """
    if isinstance(model, ModelAdaptersMixin):
        if adapters_config is not None or interface is not None:
            raise ValueError(f"This {type(model).__name__} was initialised before; call adapters.detach(model) first.")
        return
    peft_library.check_bare(model)
    setup_registry(model, interface)
    own_class = type(model)
    model.__class__ = adapted_class(own_class)
    for module in model.modules():  # checkpointing that was switched on before
        function = module.__dict__.get("_gradient_checkpointing_func")
        if function is not None:
            module.__dict__["_gradient_checkpointing_func"] = ReplayedCheckpoint(
                function, cast(Any, model)._adapter_registry.table
            )
    if adapters_config is not None:
        _add_all(cast(Any, model), adapters_config)


def setup_registry(model: nn.Module, interface: AdapterModelInterface | None = None) -> None:
    """Find the parts of a model, and give it an empty registry."""
    base = cast(nn.Module, getattr(model, "base_model", model))
    if interface is not None and interface.base_model:
        base = submodule(model, interface.base_model, "base_model")
    parts = anatomy(base) if interface is None else anatomy_from_interface(base, interface)
    base_path = next(name for name, module in model.named_modules() if module is base)
    outside = model is not base and isinstance(model, PreTrainedModel)
    output_embeddings = cast(Any, model).get_output_embeddings() if outside else None
    model._adapter_registry = AdapterRegistry(base, parts, base_path, output_embeddings, model)  # type: ignore[assignment]
    model._adapter_interface = interface  # type: ignore[assignment]
    model._adapter_embeddings = LoadedEmbeddings(model._adapter_registry)  # type: ignore[assignment,arg-type]


def detach(model: nn.Module) -> None:
    """Take all adapters and their methods off a model: its class, attributes, hooks and `state_dict` are as before."""
    if not isinstance(model, ModelAdaptersMixin):
        return
    if _own_class(type(model)) is type(model):
        raise ValueError(
            f"{type(model).__name__} is a model with adapters and heads by itself; its base model is "
            f"model.{model._adapter_registry.base_path}, and delete_adapter removes adapters."
        )
    registry = model._adapter_registry
    registry.detach()
    for name in list(registry.peft.trained):
        peft_library.delete(model, registry, name)
    if model.active_embeddings != DEFAULT:  # models without tokens have no others
        model.set_active_embeddings(DEFAULT)
    for module in model.modules():
        function = module.__dict__.get("_gradient_checkpointing_func")
        if isinstance(function, ReplayedCheckpoint) and function.table is registry.table:
            module.__dict__["_gradient_checkpointing_func"] = function.checkpoint
    del model._adapter_registry, model._adapter_interface, model._adapter_embeddings
    cast(Any, model).__class__ = _own_class(type(model))


def load_model(
    model_name_or_path: str | Path,
    model_class: type[nn.Module],
    interface: AdapterModelInterface | None = None,
    *model_args: Any,
    **kwargs: Any,
) -> nn.Module:
    """Load a model of a static class with the adapters that `save_pretrained` wrote with it.

    >>> model = adapters.load_model("folder", BertForSequenceClassification)

    Args:
        model_name_or_path: What `from_pretrained` takes.
        model_class: The class of the model.
        interface: Where the parts of the model are; by default the one in the folder, or they are found.
        *model_args: Further arguments of `from_pretrained`.
        **kwargs: Further arguments of `from_pretrained`.
    """
    saved = Path(model_name_or_path) / INTERFACE_CONFIG
    if interface is None and saved.is_file():
        interface = AdapterModelInterface(**read_json(saved)["interface"])
    with _constructing(interface):
        loading = type(
            model_class.__name__,
            (_WithSavedAdapters, adapted_class(model_class)),
            {"__module__": model_class.__module__, "__qualname__": model_class.__qualname__},
        )
        model = cast(Any, loading).from_pretrained(model_name_or_path, *model_args, **kwargs)
    model.__class__ = adapted_class(model_class)
    return cast(nn.Module, model)


_INTERFACE: list[AdapterModelInterface | None] = []


@contextlib.contextmanager
def _constructing(interface: AdapterModelInterface | None) -> Any:
    _INTERFACE.append(interface)
    try:
        yield
    finally:
        _INTERFACE.pop()


class _WithSavedAdapters(nn.Module):
    """Adds the adapters that the configuration of a model names, while the model is constructed."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        setup_registry(self, _INTERFACE[-1])
        add_saved_adapters(self, config)


def add_saved_adapters(model: Any, config: Any) -> None:
    """Add the adapters that `save_pretrained` noted in a configuration, and take the note off."""
    entry = getattr(config, "adapters", None)
    if isinstance(entry, dict) and "config_map" in entry:
        _add_all(model, ModelAdaptersConfig(**entry))
        sharing.share_again(model._adapter_registry, entry.get("shared_parameters") or {})
        del config.adapters


def _add_all(model: Any, adapters_config: ModelAdaptersConfig) -> None:
    for name in adapters_config:
        model.add_adapter(name, adapters_config.get(name))
    for name in adapters_config.fusions:
        config, adapter_names = adapters_config.get_fusion(name)
        model.add_adapter_fusion(adapter_names, config, name)


def _check_name(name: Any) -> None:
    """Raise for what is no name. Files come from elsewhere, so the names in them are checked too."""
    if not isinstance(name, str):
        raise TypeError(f"The first argument is the name of the adapter, a string, not {type(name).__name__}.")
    if not name.strip() or "/" in name or "\\" in name or name in (".", "..") or "\0" in name:
        raise ValueError(f"{name!r} is no name for an adapter: it names a folder when saved, so no '/', '\\' or '..'.")


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; an adapter is saved to a folder.")
    return folder


def _refuse_loaders(loaders: Sequence[Any] | None) -> None:
    if loaders:
        raise NotImplementedError("custom_weights_loaders are not supported; save such weights beside the adapter.")
