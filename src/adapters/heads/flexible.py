"""Models with any number of prediction heads: the part that all `XxxAdapterModel` classes share.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from ..averaging import named_weights, normalized
from ..checkpoints.files import HEAD_CONFIG, AdapterFileError, read_json
from ..checkpoints.setups import HeadSetup, head_names
from ..model import add_saved_adapters, setup_registry
from ..registry import AdapterDict, unknown_name
from . import HEADS, LanguageModelHead, PredictionHead
from .adding import AddsHeads
from .custom import CUSTOM_HEADS
from .model_heads import averaged_head, build_head, holds_flexible_head, load_head, save_head
from .rows import Heads, heads_of
from .running import RunsHeads


class ModelWithFlexibleHeadsAdaptersMixin(AddsHeads, RunsHeads):
    """A base model with adapters and heads. The classes themselves are made by `adapters.auto`.

    Args:
        config: The configuration of the base model.
    """

    base_class: ClassVar[type[PreTrainedModel]]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        setattr(self, cast(str, self.base_model_prefix), self.base_class(config))
        self.heads = AdapterDict()
        self.before_output_embeddings = nn.Identity()  # here invertible adapters are inverted for language models
        self._active_head: Heads = None
        setup_registry(self)
        self._adapter_registry.labels_are_repeated = False  # heads do that
        self._adapter_registry.output_embeddings = self.before_output_embeddings
        # Heads of AdapterHub's models invert in all architectures, also in those whose static classes do not.
        self._adapter_registry.anatomy = dataclasses.replace(self._adapter_registry.anatomy, inverts_at_head=True)
        add_saved_adapters(self, config)
        saved_heads = getattr(config, "prediction_heads", None) or {}
        for name, head in saved_heads.items():
            self.add_prediction_head_from_config(name, head)
        if saved_heads:
            del config.prediction_heads
        cast(Any, self).post_init()

    # -- heads ------------------------------------------------------------------------------------------------------

    def add_prediction_head_from_config(
        self, head_name: str, config: Mapping[str, Any], overwrite_ok: bool = False, set_active: bool = True
    ) -> None:
        """Add a head from what `head_config.json` holds of one.

        >>> model.add_prediction_head_from_config("topics", {"head_type": "classification", "num_labels": 3})

        Args:
            head_name: Its name.
            config: Its type, and the arguments of that class.
            overwrite_ok: Whether a head of the same name may be replaced.
            set_active: Whether to make it the active one.

        Raises:
            ValueError: there is no such type, it does not fit the model, or the name is taken.
        """
        self._check_free(head_name, overwrite_ok)
        self._attach_head(head_name, build_head(self, head_name, config), set_active)

    def add_prediction_head(
        self, head: PredictionHead | nn.Module, overwrite_ok: bool = False, set_active: bool = True
    ) -> None:
        """Add a head.

        >>> model.add_prediction_head(ClassificationHead(model, "topics", num_labels=3))

        Args:
            head: The head. Its name is that of the adapter it belongs to.
            overwrite_ok: Whether a head of the same name may be replaced.
            set_active: Whether to make it the active one.

        Raises:
            ValueError: the name is taken.
            TypeError: it is another module; see `register_custom_head`.
        """
        if not isinstance(head, PredictionHead):
            raise TypeError(
                f"A head is a PredictionHead, not {type(head).__name__}. Give the class of a plain module a name with "
                "model.register_custom_head(...), and add it with model.add_custom_head(...)."
            )
        self._check_free(head.name, overwrite_ok)
        self._attach_head(head.name, head, set_active)

    def _check_free(self, name: str, overwrite_ok: bool) -> None:
        if name in self.heads and not overwrite_ok:
            raise ValueError(f"There is a head named {name!r} already. Choose another name, or pass overwrite_ok=True.")

    def _attach_head(self, name: str, head: PredictionHead, set_active: bool, is_tied: bool = True) -> None:
        base = self._adapter_registry.base
        like = next((p for p in base.parameters() if p.is_floating_point()), None)
        if like is not None:
            head.to(device=like.device, dtype=like.dtype)
        head.train(self.training)
        self.heads.attach(name, head)
        if isinstance(head, LanguageModelHead):
            own, weight = head.get_output_embeddings(), cast(Any, self).get_input_embeddings().weight
            fits = own.weight.shape == weight.shape and bool(self.config.get_text_config().tie_word_embeddings)
            # A file may come from a model with other embeddings: its output layer is kept then.
            if fits and (is_tied or torch.equal(own.weight, weight)):
                own.weight = weight
        self._note_tied()
        if set_active:
            self._active_head = name

    # -- output layers that are tied to the embeddings; transformers asks for these names -----------------------------

    @property
    def _tied_weights_keys(self) -> dict[str, str]:
        """The parameters of heads that are tied, by their names, and what they are tied to."""
        if "heads" not in self._modules or not len(self.heads):
            return {}
        embeddings = cast(Any, self).get_input_embeddings()
        path = next((name for name, module in self.named_modules() if module is embeddings), None)
        return {
            f"{key}.{len(head) - 1}.weight": f"{path}.weight"
            for key, head in self.named_modules()
            if path is not None
            and isinstance(head, LanguageModelHead)
            and head.get_output_embeddings().weight is embeddings.weight
        }

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """See transformers: the names of tied parameters."""
        own = {} if all_submodels else self._tied_weights_keys
        return {**cast(Any, super()).get_expanded_tied_weights_keys(all_submodels), **own}

    def _note_tied(self) -> None:
        noted = self.__dict__.get("all_tied_weights_keys")
        if noted is not None:
            for name in [name for name in noted if name.startswith("heads.")]:
                del noted[name]
            noted.update(self._tied_weights_keys)

    def get_output_embeddings(self) -> nn.Module | None:
        """The layer of the active head that gives a logit for each token of the vocabulary, if it is such a head."""
        name = self.__dict__.get("_active_head")
        return self._head(name).get_output_embeddings() if isinstance(name, str) else None

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace that layer.

        Raises:
            ValueError: the active head has none.
        """
        if self.get_output_embeddings() is None:
            raise ValueError("The active head has no output embeddings; add one with model.add_causal_lm_head(...) …")
        head = self._head(cast(str, self._active_head))
        head[-1] = new_embeddings
        head.config["vocab_size"] = cast(Any, new_embeddings).weight.shape[0]
        self._note_tied()

    # -- which are active ---------------------------------------------------------------------------------------------

    @property
    def active_head(self) -> Heads:
        """The head that the forward pass ends in, or several; None for the outputs of the base model.

        >>> model.active_head = "topics"
        >>> model.active_head = ["topics", "sentiment"]  # for the channels of a Parallel
        >>> model.active_head = BatchSplit("topics", "sentiment", batch_sizes=[2, 6])

        `set_active_adapters` sets it too, if there are heads of the names of the adapters.
        """
        return self._active_head

    @active_head.setter
    def active_head(self, head: Heads) -> None:
        for name in head_names(head):
            if name not in self.heads:
                raise ValueError(unknown_name(name, self.heads, "head"))
        self._active_head = head

    def freeze_embeddings(self, freeze: bool = True) -> None:
        """Freeze, or unfreeze, the input embeddings."""
        cast(Any, self).get_input_embeddings().requires_grad_(not freeze)

    def delete_head(self, head_name: str) -> None:
        """Remove a head.

        Raises:
            ValueError: there is no such head.
        """
        if head_name not in self.heads:
            raise ValueError(unknown_name(head_name, self.heads, "head"))
        self.heads.remove(head_name)
        self._note_tied()
        if head_name in head_names(self._active_head):
            self._active_head = None

    def average_head(
        self,
        head_name: str,
        head_list: Sequence[str] | Mapping[str, float],
        weights: Sequence[float] | None = None,
        normalize_weights: bool = True,
        overwrite_ok: bool = False,
        set_active: bool = False,
    ) -> None:
        """Add a new head whose parameters are the weighted sum of those of others, θ = Σ wᵢ θᵢ.

        >>> model.average_head("both", {"first": 0.7, "second": 0.3})

        Args:
            head_name: The name of the new head. Its labels and its dropout are those of the first one.
            head_list: The heads, or their weights by name.
            weights: A weight for each, by default equal ones.
            normalize_weights: Whether the weights are divided by their sum.
            overwrite_ok: Whether a head of the same name may be replaced.
            set_active: Whether to make it the active one.

        Raises:
            ValueError: there is no such head, they are not of one configuration, or the weights do not fit. The model
                is then as it was.
        """
        names, found = named_weights(head_list, weights, "head")
        found = normalized(found) if normalize_weights else found
        if head_name in self.heads and not overwrite_ok:
            raise ValueError(
                f"There is a head named {head_name!r} already. Choose another name, or pass overwrite_ok=True."
            )
        for name in names:
            if name not in self.heads:
                raise ValueError(unknown_name(name, self.heads, "head"))
        heads = [self._head(name) for name in names]
        head = averaged_head(self, names, heads, found, head_name)
        self._attach_head(head_name, head, set_active, is_tied=False)

    def get_labels_dict(self, head_name: str | None = None) -> dict[int, str] | None:
        """The labels of a head (by default the active one) by their numbers."""
        name = self._one_head(head_name)
        if name is None:
            return None
        label2id = self._head(name).config.get("label2id") or {}
        return {number: label for label, number in label2id.items()}

    def get_labels(self, head_name: str | None = None) -> list[str] | None:
        """The labels of a head (by default the active one), in the order of their numbers."""
        labels = self.get_labels_dict(head_name)
        return None if labels is None else [labels[i] for i in sorted(labels)]

    def get_prediction_heads_config(self) -> dict[str, dict[str, Any]]:
        """The configuration of every head by its name."""
        return {name: dict(self._head(name).config) for name in self.heads}

    @classmethod
    def head_types(cls) -> list[str]:
        """The types of heads that can be added."""
        return [*HEADS, *CUSTOM_HEADS]

    def save_head(self, save_directory: str | Path, head_name: str | None = None, use_safetensors: bool = True) -> None:
        """Write a head (by default the active one) to a folder, in the layout of AdapterHub."""
        name = self._one_head(head_name)
        if name is None or name not in self.heads:
            raise ValueError(unknown_name(str(name), self.heads, "head"))
        save_head(self._head(name), name, self._head(name).config, Path(save_directory), self._facts(), use_safetensors)

    def save_all_heads(self, save_directory: str | Path, use_safetensors: bool = True) -> None:
        """Write every head to a folder of its name within a folder."""
        for name in self.heads:
            self.save_head(Path(save_directory) / name, name, use_safetensors)

    def load_head(
        self,
        save_directory: str | Path,
        load_as: str | None = None,
        id2label: Mapping[int, str] | None = None,
        use_safetensors: bool = False,
    ) -> str:
        """Add a head from a folder. A head of the same name is replaced.

        Returns:
            The name of the head.

        Raises:
            AdapterFileError: a file is missing, cut off, or does not fit. The model is then as it was.
        """
        name, head = load_head(self, Path(save_directory), load_as, id2label, use_safetensors)
        self._attach_head(name, head, set_active=False, is_tied=False)
        return name

    # -- with adapters ----------------------------------------------------------------------------------------------

    def set_active_adapters(self, adapter_setup: Any, skip_layers: Sequence[int] | None = None) -> None:
        """As for every model with adapters; the heads of the last adapters' names become active, if there are any."""
        super().set_active_adapters(adapter_setup, skip_layers)
        heads = heads_of(self.active_adapters)
        if any(name in self.heads for name in head_names(heads)):
            self._active_head = heads

    def _save_head_of(self, adapter_name: str, folder: Path, use_safetensors: bool) -> None:
        if adapter_name in self.heads:
            self.save_head(folder, adapter_name, use_safetensors)

    def _read_head(
        self, folder: Path, name: str | None, id2label: Mapping[int, str] | None, safetensors_only: bool
    ) -> Callable[[], None] | None:
        if not holds_flexible_head(folder):
            return None
        own_name, head = load_head(self, folder, name, id2label, safetensors_only)
        return lambda: self._attach_head(own_name, head, set_active=False, is_tied=False)

    def _save_heads(self, heads: HeadSetup, folder: Path, use_safetensors: bool, is_nested: bool) -> HeadSetup:
        named = self._active_head if heads is True else heads or None
        names = head_names(named)
        for name in names:
            if name not in self.heads:
                raise ValueError(unknown_name(name, self.heads, "head"))
        for name in names:
            self.save_head(folder / name if is_nested else folder, name, use_safetensors)
        return named

    def _read_heads(
        self, folder: Path, heads: HeadSetup, read: Sequence[str], safetensors_only: bool
    ) -> tuple[HeadSetup, list[Callable[[], None] | None]]:
        if heads is True:  # so 1.3 wrote the active head: into the folder itself
            name = str(read_json(folder / HEAD_CONFIG).get("name"))
            return name, [self._read_head(folder, name, None, safetensors_only)]
        found = {name: folder / name for name in head_names(heads)}
        missing = [name for name, inner in found.items() if not holds_flexible_head(inner)]
        if missing:
            raise AdapterFileError(f"{folder} has no head {missing[0]!r}, which its setup names.")
        others = [name for name in found if name not in read]
        return heads or None, [self._read_head(found[name], name, None, safetensors_only) for name in others]

    def _activate_heads(self, heads: HeadSetup) -> None:
        if heads:
            self.active_head = cast(Heads, heads)

    def _config_entries(self) -> dict[str, Any]:
        return {**super()._config_entries(), "prediction_heads": self.get_prediction_heads_config()}
