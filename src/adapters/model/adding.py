"""Adapters and fusions that come and go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import averaging, fusions, peft_library, sharing
from ..composition import Fuse
from ..configuration import FusionConfig
from ..fusions import FusionLike
from ..hub.architectures import loaded
from ..registry import Adapter, check_free
from .activating import ActivatesAdapters
from .base import check_name
from .spellings import also_as_of_transformers, without_adapter_type

if TYPE_CHECKING:
    from peft import PeftConfig


class AddsAdapters(ActivatesAdapters):
    """Methods that add adapters and fusions to a model, or remove them."""

    support_lora_delta_w_svd = True
    """Whether LoRA can be averaged with "lora_delta_w_svd": 1.3 could not do so in all models."""

    @also_as_of_transformers
    @without_adapter_type
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
                `name@hub` is one that a hub keeps, see docs/hub.md.
            overwrite_ok: Whether an adapter of the same name may be replaced.
            set_active: Whether to activate it.
            layers: The layers to place it in, counted over all towers; by default all that the configuration names.

        Raises:
            ValueError: the name is taken or no name, or the configuration cannot be met by this model. The model is
                then as it was.
            ImportError: the configuration is one of `peft`, which is not installed.
        """
        check_name(adapter_name)
        registry = self._adapter_registry
        if peft_library.is_config(config):
            self._add_of_peft(adapter_name, config, overwrite_ok, set_active, layers)
            return
        check_free(adapter_name, registry.adapters, overwrite_ok)
        adapter = registry.build(adapter_name, loaded(config if config is not None else "seq_bn"), layers)
        self._attach(adapter, set_active)

    def _add_of_peft(self, name: str, config: Any, overwrite_ok: bool, set_active: bool, layers: object) -> None:
        """Add an adapter with a configuration of `peft`."""
        registry = self._adapter_registry
        if layers is not None:
            raise ValueError("layers= is for adapters of this library; the configuration of peft says them itself.")
        check_free(name, registry.peft.trained, overwrite_ok)
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
        check_name(adapter_name)
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
        check_name(fusion.name)
        check_free(fusion.name, registry.fusions, overwrite_ok, "a fusion")
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
