"""AdapterDrop (Rücklé et al. 2021, arXiv:2010.11918): training without the adapters of the first layers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..composition import AdapterCompositionBlock
from ..model import ModelAdaptersMixin


class AdapterDropTrainerCallback(TrainerCallback):
    """Leaves out the adapters of the first n layers in the training steps of a `Trainer`.

    Robust training draws n anew for each step, so that the adapter can be used with any number of layers dropped later;
    specialised training has one n, and is best for that one. Below the first layer with an adapter nothing is trained,
    so no activations are kept and no gradients computed there.

    >>> model.train_adapter("task")
    >>> robust = AdapterDropTrainerCallback()
    >>> specialised = AdapterDropTrainerCallback(5, evaluation=5)
    >>> Trainer(model, arguments, train_dataset=data, callbacks=[robust]).train()
    >>> model.set_active_adapters("task", skip_layers=range(5))

    It acts on the setup that is active when training begins. Layers that this skipped already stay skipped. Between the
    steps (where the trainer evaluates and saves) and after training all others are there again. What is drawn depends
    on the trainer's seed and the number of the step alone: it is the same in all processes, and after a resumption.
    With `DistributedDataParallel` the parameters of dropped adapters have no gradients, so the arguments of the trainer
    need `ddp_find_unused_parameters=True`.

    Args:
        drop: The number n of layers: one number, or those to draw from, such as `range(1, 6)`. By default any from none
            to all but one. The first layers are those of the encoder where there is a decoder too.
        evaluation: n where the trainer evaluates.

    Raises:
        ValueError: a number is no number of layers, or the model has no active adapters, when training begins.
    """

    def __init__(self, drop: int | Sequence[int] | None = None, evaluation: int = 0) -> None:
        numbers = [drop] if isinstance(drop, int) else drop
        if numbers is not None and (not len(numbers) or min(numbers) < 0):
            raise ValueError(f"drop={drop!r}: give a number of layers from 0 on, or several to draw from.")
        if evaluation < 0:
            raise ValueError(f"evaluation={evaluation!r} is no number of layers.")
        self._drop = None if numbers is None else tuple(numbers)
        self._evaluation = evaluation
        self._setup: AdapterCompositionBlock | None = None
        self._skipped: tuple[int, ...] = ()
        self._numbers: tuple[int, ...] = ()
        self._left_out: tuple[int, ...] | None = None  # what a training that was interrupted may have left behind

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note what is active, and look whether it can be done."""
        model = kwargs["model"]
        if not isinstance(model, ModelAdaptersMixin) or model.active_adapters is None:
            raise ValueError(
                "AdapterDropTrainerCallback leaves out adapters that are active, and there are none: call "
                "model.train_adapter(...) before trainer.train()."
            )
        registry = model._adapter_registry
        count = len(registry.anatomy.layers)
        numbers = self._drop if self._drop is not None else tuple(range(count))
        too_many = [n for n in (*numbers, self._evaluation) if n > count]
        if too_many:
            raise ValueError(f"Adapters of {too_many[0]} layers cannot be dropped: this model has {count} layers.")
        is_ours = registry.skip_layers == self._left_out and model.active_adapters == self._setup
        if not is_ours:  # auto_find_batch_size begins anew in the midst of a step
            self._setup, self._skipped = model.active_adapters, registry.skip_layers
        self._numbers = numbers
        self._activate(model, self._evaluation)  # where training begins with an evaluation

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop the adapters of n layers, for all that makes up this step."""
        drawn = random.Random(f"{args.seed} {state.global_step}").choice(self._numbers)
        self._activate(kwargs["model"], drawn)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Make the model what it is where the trainer evaluates, which comes next if at all."""
        self._activate(kwargs["model"], self._evaluation)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make active what was active at the beginning."""
        self._activate(kwargs["model"], 0)
        self._left_out = None

    def _activate(self, model: Any, dropped: int) -> None:
        skipped = self._left_out = tuple(sorted({*self._skipped, *range(dropped)}))
        cast(ModelAdaptersMixin, model)._adapter_registry.activate(self._setup, skipped)
