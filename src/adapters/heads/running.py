"""The forward pass of models with flexible heads: the base model, then heads on their rows; and texts from heads.

Shapes: B rows of the batch, N channels of `Parallel`, R = N·B rows that the base model gives.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch._dynamo.eval_frame import skip_code
from transformers import GenerationMixin
from transformers.utils.generic import ModelOutput

from ..calling import taken_from, use
from ..checkpoints.setups import head_names
from ..context import AdapterSetup, OpenSetups
from ..model import ModelAdaptersMixin
from ..registry import AdapterDict
from ..runtime.calls import Generation
from ..runtime.hooks import Routing
from . import LABELS, LanguageModelHead, TaskHead
from .calls import labels_by_name, predictions
from .rows import Heads, assigned, heads_of, names_in_use
from .sentences import flattened, hidden_scale, inputs_for, sentences, texts_per_row


class RunsHeads(ModelAdaptersMixin, GenerationMixin):
    """What models with flexible heads do when they are called."""

    is_causal_model: ClassVar[bool]
    heads: AdapterDict
    _active_head: Heads

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model; see `ModelAdaptersMixin.__call__`, and `forward`."""
        if OpenSetups.count and kwargs.get("head") is None and kwargs.get("adapter_names") is None:
            context = AdapterSetup.get_context()
            if context is not None and context.head_setup is not None:
                kwargs["head"] = context.head_setup
            elif context is not None and context.adapter_setup is not None:
                kwargs["head"] = self._own_heads(context.adapter_setup, None)
        return super().__call__(*args, **kwargs)

    def forward(self, *args: Any, head: Heads = None, output_all_logits: bool = False, **kwargs: Any) -> Any:
        """The base model, then the heads.

        >>> model(**batch, labels=labels).loss
        >>> model(**batch, head="topics").logits

        Args:
            *args: What the base model takes.
            head: A head, or several, instead of the active ones; an empty list for the outputs of the base model.
            output_all_logits: Whether every head of the model predicts, for every row. Labels that are one tensor are
                those of the heads that are in use without this.
            **kwargs: What the base model takes, and labels: `labels`, `start_positions` … (see the heads). If there are
                several heads, a tensor of labels is for all of them (each takes those of its rows), a list has one
                for each head, and a dictionary has them by the names of heads.

        Raises:
            ValueError: there is no such head, or labels do not fit.
        """
        items, labels = kwargs.pop("num_items_in_batch", None), self._taken_labels(kwargs)
        lanes = self._routing_in_use().lanes
        tasks = call.task_ids if lanes is not None and (call := lanes.ongoing.get()) is not None else None
        heads = self._heads_in_use(tasks) if head is None else head
        if output_all_logits:
            labels, heads = labels_by_name(labels, names_in_use(heads, tasks)), list(self.heads)
        if heads is None or (not isinstance(heads, str) and not len(heads)):
            if labels:
                raise ValueError(f"{', '.join(labels)} given, but no head is active. {self._which_heads()}")
            return self._scaled(self._adapter_registry.base(*args, **kwargs))
        for name in names_in_use(heads, tasks):
            if name is None or name not in self.heads:
                raise ValueError(f"There is no head {name!r}, of the heads in use: {heads!r}. {self._which_heads()}")
        return_dict = kwargs.pop("return_dict", None) is not False
        texts = texts_per_row(args, kwargs)
        args, kwargs = flattened(args, kwargs)
        if self.config.is_encoder_decoder and len(args) < 3 and kwargs.get("decoder_input_ids") is None:
            wanted = labels.get("labels")
            is_generated = any(self._head(str(name)).generates for name in names_in_use(heads, tasks))
            if is_generated and isinstance(wanted, torch.Tensor):
                kwargs["decoder_input_ids"] = inputs_for(wanted, self._adapter_registry.base)
            elif kwargs.get("decoder_inputs_embeds") is None:
                input_ids = args[0] if args else kwargs["input_ids"]
                kwargs["decoder_input_ids"] = inputs_for(input_ids, self._adapter_registry.base)
        outputs = self._adapter_registry.base(*args, **kwargs, return_dict=True)
        given = inspect.signature(self._adapter_registry.base.forward).bind_partial(*args, **kwargs).arguments
        channels = lanes.plan.channels if lanes is not None else 1
        rows = outputs[0].shape[0]
        chosen = assigned(heads, rows, 1 if output_all_logits else channels, tasks)
        sentence = None
        if not all(isinstance(self._head(str(head.name)), LanguageModelHead) for head in chosen):
            sentence = sentences(self.config, self.is_causal_model, outputs, given)
        return predictions(
            cast(Any, self.heads),
            chosen,
            isinstance(heads, str),
            self._scaled(outputs),
            sentence,
            given.get("attention_mask"),
            labels,
            rows // channels,
            return_dict,
            items,
            texts,
            given,
        )

    def forward_head(
        self,
        all_outputs: ModelOutput,
        head_name: Heads = None,
        cls_output: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_dict: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **labels: Any,
    ) -> Any:
        """What heads make of outputs of the base model.

        >>> outputs = model.bert(**batch)
        >>> model.forward_head(outputs, "topics", return_dict=True).logits

        Args:
            all_outputs: The outputs; the first one are the last hidden states. Shape: (B, T, D).
            head_name: A head, or several; by default the active ones.
            cls_output: One vector per row; by default that of the first token, or of the last one in a causal model.
                Shape: (B, D).
            attention_mask: Which tokens are no padding. Shape: (B, T).
            return_dict: Whether to give outputs with names, or tuples.
            num_items_in_batch: The number of labels in all batches of a training step, if these are several.
            **labels: Labels, as in `forward`.

        Raises:
            ValueError: there is no such head, or labels do not fit.
        """
        heads = head_name or self._active_head
        names = head_names(heads)
        if not names or any(name not in self.heads for name in names):
            raise ValueError(f"There is no head {heads!r}. {self._which_heads()}")
        rows = all_outputs[0].shape[0]
        if cls_output is None and not all(isinstance(self._head(name), LanguageModelHead) for name in names):
            given = {} if attention_mask is None else {"attention_mask": attention_mask}
            cls_output = sentences(self.config, self.is_causal_model, all_outputs, given)
        chosen = assigned(heads, rows, 1, None)
        is_single = isinstance(heads, str)
        return predictions(
            cast(Any, self.heads),
            chosen,
            is_single,
            all_outputs,
            cls_output,
            attention_mask,
            {name: value for name, value in labels.items() if value is not None},
            rows,
            return_dict,
            num_items_in_batch,
        )

    @classmethod
    def can_generate(cls) -> bool:
        """Whether heads can be added that generate texts."""
        return str(cast(Any, cls).main_input_name) != "pixel_values"

    @functools.wraps(GenerationMixin.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        heads = kwargs.get("head") or self._active_head
        own = [name for name in head_names(heads) if name in self.heads]  # those of an AdapterSetup are checked later
        for name in own:
            if isinstance(self._head(name), TaskHead) and not self._head(name).generates:
                raise ValueError(
                    f"Head {name!r} ({self._head(name).config['head_type']}) does not generate texts. "
                    + self._which_heads()
                )
        if not heads and not OpenSetups.count and kwargs.get("adapter_names") is None:
            raise ValueError(f"Texts come from a head, and no head is active. {self._which_heads()}")
        called = use(self._adapter_registry, taken_from(kwargs))
        args, kwargs, is_repeated = called.repeated(args, kwargs)
        generate = functools.partial(GenerationMixin.generate, cast(Any, self))
        with called.borrowed(), Generation():
            return called.called(generate, args, kwargs, is_repeated, with_beams=True)

    def _taken_labels(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Take what is meant for heads out of the arguments of a call."""
        names = LABELS
        base = self._adapter_registry.base
        if "return_loss" in kwargs and "return_loss" in inspect.signature(base.forward).parameters:
            names = LABELS - {"return_loss"}  # it is the base model that compares images with texts
        if any(
            not isinstance(self._head(name), TaskHead) for name in self.heads
        ):  # those of users take all that is left
            known = {*inspect.signature(base.forward).parameters, *_OF_EVERY_MODEL}
            names = names | (kwargs.keys() - known)
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
        names = ", ".join(map(repr, self.heads)) or "none"
        return (
            f"There are heads: {names}. Add one (model.add_classification_head(...) …), choose one "
            "(model.active_head = … or head=… in the call), or take the outputs of the base model with "
            "model.active_head = None."
        )

    def _scaled(self, outputs: Any) -> Any:
        scale = hidden_scale(self.config)
        if scale == 1.0:
            return outputs
        hidden = outputs[0] * scale
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


_OF_EVERY_MODEL = ("output_attentions", "output_hidden_states", "return_dict", "use_cache", "cache_position")

# As for adapters: `torch.compile` begins behind what looks up context variables.
skip_code(RunsHeads.__call__.__code__)
