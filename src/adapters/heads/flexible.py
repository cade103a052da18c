"""Models with any number of prediction heads: the part that all `XxxAdapterModel` classes share.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import nn
from torch._dynamo.eval_frame import skip_code
from transformers import PreTrainedModel

from ..averaging import named_weights, normalized
from ..checkpoints.files import HEAD_CONFIG, AdapterFileError, read_json
from ..checkpoints.setups import HeadSetup, head_names
from ..context import AdapterSetup, OpenSetups
from ..model import ModelAdaptersMixin, add_saved_adapters, setup_registry
from ..registry import AdapterDict, unknown_name
from ..runtime.hooks import Routing
from . import HEADS, LABELS, label_map
from .calls import arguments_of, predictions
from .model_heads import averaged_head, build_head, holds_flexible_head, load_head, save_head
from .rows import Heads, assigned, heads_of, names_in_use
from .sentences import sentences, shifted_right, start_token


class ModelWithFlexibleHeadsAdaptersMixin(ModelAdaptersMixin):
    """A base model with adapters and heads. The classes themselves are made by `adapters.auto`.

    Args:
        config: The configuration of the base model.
    """

    base_class: ClassVar[type[PreTrainedModel]]
    is_causal_model: ClassVar[bool]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        setattr(self, cast(str, self.base_model_prefix), self.base_class(config))
        self.heads = AdapterDict()
        self._active_head: Heads = None
        setup_registry(self)
        self._adapter_registry.labels_are_repeated = False  # heads do that
        add_saved_adapters(self, config)
        saved_heads = getattr(config, "prediction_heads", None) or {}
        for name, head in saved_heads.items():
            self._add_head(name, head, overwrite_ok=False, set_active=True)
        if saved_heads:
            del config.prediction_heads
        cast(Any, self).post_init()

    # -- heads ------------------------------------------------------------------------------------------------------

    def add_classification_head(
        self,
        head_name: str,
        num_labels: int = 2,
        layers: int = 2,
        activation_function: str | None = "tanh",
        overwrite_ok: bool = False,
        multilabel: bool = False,
        id2label: Mapping[int, str] | None = None,
        use_pooler: bool = False,
    ) -> None:
        """Add a head that classifies rows, and make it the active one.

        Args:
            head_name: Its name: that of the adapter it belongs to.
            num_labels: Number of labels C; 1 for a score.
            layers: Number of linear layers.
            activation_function: Activation between them.
            overwrite_ok: Whether a head of the same name may be replaced.
            multilabel: Whether a row can have several labels.
            id2label: Names of the labels.
            use_pooler: Whether to read the base model's pooler.

        Raises:
            ValueError: the name is taken, or the labels are not numbered from 0.
        """
        config = {
            "head_type": "multilabel_classification" if multilabel else "classification",
            "num_labels": num_labels,
            "layers": layers,
            "activation_function": activation_function,
            "label2id": label_map(num_labels, id2label),
            "use_pooler": use_pooler,
            "bias": True,
            "dropout_prob": None,
        }
        self._add_head(head_name, config, overwrite_ok, set_active=True)

    def _add_head(self, name: str, config: Mapping[str, Any], overwrite_ok: bool, set_active: bool) -> None:
        if name in self.heads and not overwrite_ok:
            raise ValueError(f"There is a head named {name!r} already. Choose another name, or pass overwrite_ok=True.")
        self._attach_head(name, build_head(self, name, config), set_active)

    def _attach_head(self, name: str, head: nn.Module, set_active: bool) -> None:
        base = self._adapter_registry.base
        like = next((p for p in base.parameters() if p.is_floating_point()), None)
        if like is not None:
            head.to(device=like.device, dtype=like.dtype)
        head.train(self.training)
        self.heads.attach(name, head)
        if set_active:
            self._active_head = name

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

    def delete_head(self, head_name: str) -> None:
        """Remove a head.

        Raises:
            ValueError: there is no such head.
        """
        if head_name not in self.heads:
            raise ValueError(unknown_name(head_name, self.heads, "head"))
        self.heads.remove(head_name)
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
        self._attach_head(head_name, head, set_active)

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
        return list(HEADS)

    def save_head(self, save_directory: str | Path, head_name: str | None = None, use_safetensors: bool = True) -> None:
        """Write a head (by default the active one) to a folder, in the layout of AdapterHub."""
        name = self._one_head(head_name)
        if name is None or name not in self.heads:
            raise ValueError(unknown_name(str(name), self.heads, "head"))
        save_head(self._head(name), name, self._head(name).config, Path(save_directory), self._facts(), use_safetensors)

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
        self._attach_head(name, head, set_active=False)
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
        return lambda: self._attach_head(own_name, head, set_active=False)

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

    # -- the forward pass -------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model; see `ModelAdaptersMixin.__call__`, and `forward`."""
        if OpenSetups.count and kwargs.get("head") is None and kwargs.get("adapter_names") is None:
            context = AdapterSetup.get_context()
            if context is not None and context.head_setup is not None:
                kwargs["head"] = context.head_setup
            elif context is not None and context.adapter_setup is not None:
                kwargs["head"] = self._own_heads(context.adapter_setup, None)
        return super().__call__(*args, **kwargs)

    def forward(self, *args: Any, head: Heads = None, **kwargs: Any) -> Any:
        """The base model, then the heads.

        >>> model(**batch, labels=labels).loss
        >>> model(**batch, head="topics").logits

        Args:
            *args: What the base model takes.
            head: A head, or several, instead of the active ones; an empty list for the outputs of the base model.
            **kwargs: What the base model takes, and labels: `labels`, `start_positions` … (see the heads). If there are
                several heads, a tensor of labels is for all of them (each takes those of its rows), a list has one
                for each head, and a dictionary has them by the names of heads.

        Raises:
            ValueError: there is no such head, or labels do not fit.
        """
        labels = self._taken_labels(kwargs)
        lanes = self._routing_in_use().lanes
        tasks = call.task_ids if lanes is not None and (call := lanes.ongoing.get()) is not None else None
        heads = self._heads_in_use(tasks) if head is None else head
        if heads is None or (not isinstance(heads, str) and not len(heads)):
            if labels:
                raise ValueError(f"{', '.join(labels)} given, but no head is active. {self._which_heads()}")
            return self._scaled(self._adapter_registry.base(*args, **kwargs))
        for name in names_in_use(heads, tasks):
            if name is None or name not in self.heads:
                raise ValueError(f"There is no head {name!r}, of the heads in use: {heads!r}. {self._which_heads()}")
        return_dict = kwargs.pop("return_dict", None) is not False
        if self.config.is_encoder_decoder and len(args) < 3 and kwargs.get("decoder_input_ids") is None:
            input_ids = args[0] if args else kwargs["input_ids"]
            kwargs["decoder_input_ids"] = shifted_right(input_ids, start_token(self.config))
        outputs = self._adapter_registry.base(*args, **kwargs, return_dict=True)
        given = inspect.signature(self._adapter_registry.base.forward).bind_partial(*args, **kwargs).arguments
        channels = lanes.plan.channels if lanes is not None else 1
        rows = outputs[0].shape[0]
        return predictions(
            self.heads,  # type: ignore[arg-type]
            assigned(heads, rows, channels, tasks),
            isinstance(heads, str),
            outputs,
            sentences(self.config, self.is_causal_model, outputs[0], given),
            given.get("attention_mask"),
            labels,
            rows // channels,
            return_dict,
        )

    def _taken_labels(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Take what is meant for heads out of the arguments of a call."""
        names = LABELS.union(*(arguments_of(self.heads[name]) for name in self.heads))
        found = {name: kwargs.pop(name) for name in names & kwargs.keys()}
        return {name: value for name, value in found.items() if value is not None}

    def _routing_in_use(self) -> Routing:
        table = self._adapter_registry.table
        if torch.compiler.is_dynamo_compiling():
            return table.traced or table.active
        return table.routing

    def _heads_in_use(self, tasks: Any) -> Heads:
        """The active heads, or those of the rows' own adapters."""
        routing = self._routing_in_use()
        if routing is self._adapter_registry.table.active or routing.lanes is None:
            return self._active_head
        return self._own_heads(routing.lanes.plan.setup, tasks)

    def _own_heads(self, setup: Any, tasks: Any) -> Heads:
        """The heads that belong to a setup, or an empty list if there is none of them."""
        heads = heads_of(setup)
        return heads if any(name in self.heads for name in names_in_use(heads, tasks) if name is not None) else []

    def _which_heads(self) -> str:
        found = ", ".join(map(repr, self.heads)) or "none"
        return (
            f"There are heads: {found}. Add one (model.add_classification_head(...) …), choose with model.active_head = "
            "… or head=… in the call, or take the outputs of the base model with model.active_head = None."
        )

    def _scaled(self, outputs: Any) -> Any:
        """T5's tied embeddings expect smaller hidden states; AdapterHub's models without a head give them so."""
        config = self.config
        if config.model_type != "t5":
            return outputs
        if not getattr(config, "scale_decoder_outputs", config.tie_word_embeddings):  # newer releases tie always
            return outputs
        hidden = outputs[0] * config.d_model**-0.5
        if isinstance(outputs, tuple):
            return (hidden, *outputs[1:])
        outputs["last_hidden_state"] = hidden
        return outputs

    def _head(self, name: str) -> Any:
        return self.heads[name]

    def _one_head(self, head_name: str | None) -> str | None:
        """The name of a head: the given one, else the active one."""
        name = head_name or self._active_head
        if name is not None and not isinstance(name, str):
            raise ValueError(f"Several heads are active ({name!r}); name one of them.")
        return name


# As for adapters: `torch.compile` begins behind what looks up context variables.
skip_code(ModelWithFlexibleHeadsAdaptersMixin.__call__.__code__)
