"""The `Trainer` of transformers for adapters: with checkpoints of what is trained, not of the base model."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import ModelCard
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import SCHEDULER_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import CONFIG_NAME as CONFIG_NAME
from transformers.utils import WEIGHTS_NAME as WEIGHTS_NAME

from .composition import AdapterCompositionBlock as AdapterCompositionBlock
from .composition import Fuse as Fuse
from .composition import MultiTask, SetupLike
from .heads.flexible import ModelWithFlexibleHeadsAdaptersMixin
from .model import ModelAdaptersMixin
from .model.resuming import trains_base
from .training import checkpoints, fusion, smoothing
from .training.aligned import aligned
from .training.collating import COLUMN
from .training.sharded import complete_state, gathered

logger = logging.getLogger(__name__)


class AdapterTrainer(Trainer):
    """Trains adapters, fusions and heads; the base model stays as it is, and out of the checkpoints.

    >>> model.add_adapter("task", config="seq_bn")
    >>> model.train_adapter("task")
    >>> trainer = AdapterTrainer(model, TrainingArguments("runs"), train_dataset=data)
    >>> trainer.train()
    >>> trainer.train(resume_from_checkpoint=True)

    All that it adds to the `Trainer` of transformers, which works too:

    - `save_model` writes what checkpoints hold: a folder for each adapter, fusion and head, which `load_adapter`,
      `load_adapter_fusion` and `load_head` read, and what it takes to resume. The losses and weights of a training that
      was interrupted are those of one that was not. Checkpoints of AdapterHub's `adapters` 1.3 are read too.
    - Where fusions are trained (`train_adapter_fusion`), their regularisation is added to the loss, and their value
      matrices have no weight decay.
    - It knows flexible heads: the names of their labels, which labels are shifted where they are smoothed, and where
      rows have heads of their own, it gives predictions in the order of the rows.
    - Under FSDP adapters are written as a whole.

    Args:
        model: A model with adapters: of `AutoAdapterModel`, or after `adapters.init`.
        args: The arguments.
        data_collator: Makes batches.
        train_dataset: What to train on.
        eval_dataset: What to evaluate on.
        tokenizer: As `processing_class`, by its former name.
        processing_class: A tokenizer or processor, saved with checkpoints.
        model_init: Makes the model, anew for each training.
        compute_metrics: Computes metrics of an evaluation.
        callbacks: Further callbacks.
        optimizers: An optimizer and a schedule instead of those that `args` describe.
        preprocess_logits_for_metrics: Changes logits before they are collected.
        adapter_names: A setup to activate first. Lists in a list are fusions, as in 1.3.
        compute_loss_func: Computes the loss from outputs and labels.
        optimizer_cls_and_kwargs: A class of optimizers and its arguments, instead of those in `args`.
        train_model: Whether the base model is trained too. Checkpoints then hold whole models.

    Raises:
        ValueError: the model has no adapters, or none is active while the base model is not frozen; or arguments
            exclude each other.
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        tokenizer: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., Any] | None = None,
        compute_metrics: Callable[[Any], dict[str, Any]] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        preprocess_logits_for_metrics: Callable[[Tensor, Tensor], Tensor] | None = None,
        adapter_names: SetupLike | Sequence[Sequence[str]] = None,
        *,
        compute_loss_func: Callable[..., Tensor] | None = None,
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        train_model: bool = False,
    ) -> None:
        if tokenizer is not None and processing_class is not None:
            raise ValueError("tokenizer= is the former name of processing_class=: give one of them.")
        if optimizer_cls_and_kwargs is not None and optimizers[0] is not None:
            raise ValueError("optimizers= and optimizer_cls_and_kwargs= exclude each other.")
        self.train_model, self._adapter_names = train_model, adapter_names
        if model is not None:
            self._make_ready(model)
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer if processing_class is None else processing_class,
            model_init=model_init,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        if optimizer_cls_and_kwargs is not None:
            self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs  # a Seq2SeqTrainer has no such argument
        if self.args.fsdp and not self.is_fsdp_enabled:
            warnings.warn(
                "fsdp is set, but accelerate divides no model here: it does so on accelerators only. Each process has "
                "the whole model (DDP), with the same results.",
                stacklevel=2,
            )
        own = self.adapter_model
        if own.active_adapters is None and not train_model and trains_base(own._adapter_registry):
            raise ValueError(
                "No adapters are active and the base model is not frozen, so this would train the whole model: call "
                "model.train_adapter(name) first. To train the whole model, use the Trainer of transformers."
            )
        if isinstance(own, ModelWithFlexibleHeadsAdaptersMixin) and self.args.label_names is None:
            self.label_names = own.get_label_names() or self.label_names
        self.add_callback(AdapterTrainerCallback(self))

    def call_model_init(self, trial: Any = None) -> Any:
        """As the `Trainer` does: at the beginning of each training, and once before."""
        model = super().call_model_init(trial)
        self._make_ready(model)
        return model

    def _make_ready(self, model: Any) -> None:
        """Activate in a model what was asked for."""
        if not isinstance(model, ModelAdaptersMixin):
            raise ValueError(
                f"This {type(model).__name__} has no adapters: call adapters.init(model), or load it with "
                "AutoAdapterModel."
            )
        if self._adapter_names is not None:
            model.set_active_adapters(cast(SetupLike, self._adapter_names))

    @property
    def adapter_model(self) -> ModelAdaptersMixin:
        """The model itself, without what training wraps around it."""
        return cast(ModelAdaptersMixin, self.accelerator.unwrap_model(self.model, keep_torch_compile=False))

    @property
    def train_adapter_fusion(self) -> bool:
        """Whether a fusion is active."""
        active = self.adapter_model.active_adapters
        return active is not None and any(isinstance(block, Fuse) for block in active.blocks())

    def create_accelerator_and_postprocess(self) -> None:
        """As the `Trainer` does. That of transformers 5.5 lets accelerate divide losses that it has divided itself."""
        super().create_accelerator_and_postprocess()
        if not self.is_deepspeed_enabled:
            self.accelerator.gradient_accumulation_steps = 1  # as from transformers 5.6 on

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that say which adapters rows go through, where others that no model takes are removed."""
        super()._set_signature_columns_if_needed()
        active, columns = self.adapter_model.active_adapters, cast("list[str]", self._signature_columns)
        has_tasks = active is not None and any(isinstance(block, MultiTask) for block in active.blocks())
        columns += [name for name in (COLUMN, *(["task_ids"] if has_tasks else [])) if name not in columns]

    # -- loss and optimizer -------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As the `Trainer` does, with the regularisation of fusions in training, and labels smoothed as heads need it.

        Raises:
            ValueError: labels are to be smoothed that are no classes.
        """
        smoother = self.label_smoother
        if smoother is not None and self.compute_loss_func is None:
            own = cast(nn.Module, self.adapter_model)
            self.label_smoother = cast(Any, smoothing.fitted(smoother, own))
            inputs = smoothing.prepared(inputs, own)
        try:
            found: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.label_smoother = smoother
        is_step = model.training and torch.is_grad_enabled()
        extra = cast(Any, self.adapter_model).base_model.get_fusion_regularization_loss() if is_step else None
        if extra is None or not extra.requires_grad:
            return found
        is_sum: bool | None = getattr(self, "loss_is_scaled_for_ga", None)  # of later releases
        if is_sum is None:
            counts = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            is_sum = counts or self.compute_loss_func is not None
        if is_sum:
            extra = extra / self.current_gradient_accumulation_steps  # the Trainer takes the sum over all batches
        return (found[0] + extra, found[1]) if return_outputs else found + extra

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the `Trainer` does; where rows have heads of their own, logits are in the order of the rows."""
        is_one = not prediction_loss_only and not kwargs and not self._generates()
        with aligned(cast(nn.Module, self.adapter_model)) if is_one else contextlib.nullcontext():
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys, **kwargs)

    def _generates(self) -> bool:
        """Whether texts are generated in evaluations."""
        return isinstance(self.args, Seq2SeqTrainingArguments) and self.args.predict_with_generate

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The names of what has weight decay: as the `Trainer` says, but no value matrices of fusions."""
        without = fusion.names_without_decay(model)
        return [name for name in super().get_decay_parameter_names(model) if name not in without]

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write adapters, fusions and heads to a folder, as in checkpoints; by default to that of the arguments."""
        if self.train_model or not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        with gathered(cast(nn.Module, self.model)):
            self._save(output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.train_model:
            # With a state the model is written as a whole, also where a part of it is frozen.
            whole = cast(nn.Module, self.adapter_model).state_dict() if state_dict is None else state_dict
            super()._save(output_dir, whole)
            return
        if not self.args.should_save:
            return
        folder = Path(output_dir or cast(str, self.args.output_dir))
        checkpoints.write(cast(nn.Module, self.adapter_model), folder)
        processor = self.processing_class or getattr(self.data_collator, "tokenizer", None)
        if processor is not None:
            cast(Any, processor).save_pretrained(folder)
        torch.save(self.args, os.path.join(folder, TRAINING_ARGS_NAME))

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """As the `Trainer` does; the card says which library reads the files."""
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero() and not self.train_model:
            path = Path(cast(str, self.args.output_dir)) / "README.md"
            card = ModelCard.load(path)
            card.data["library_name"] = "adapters"
            card.save(path)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As the `Trainer` does, which knows the files of whole models alone."""
        is_pushed = self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END
        if is_pushed and not self.train_model:
            checkpoints.copy(Path(checkpoint_folder), Path(cast(str, self.args.output_dir)))
        super()._push_from_checkpoint(checkpoint_folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        if not checkpoints.is_checkpoint(folder):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        self._read(folder)

    def _read(self, folder: Path) -> None:
        with gathered(cast(nn.Module, self.model), keep=True):
            checkpoints.read(cast(nn.Module, self.adapter_model), folder, is_complete=self.is_fsdp_enabled)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.train_model or not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        from accelerate.utils import save_fsdp_optimizer

        # The Trainer would write the whole model beside it.
        plugin = self.accelerator.state.fsdp_plugin
        complete_state(cast(torch.optim.Optimizer, self.optimizer))
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(cast(Any, self.lr_scheduler).state_dict(), os.path.join(output_dir, SCHEDULER_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except ValueError as error:
            raise ValueError(
                f"The optimizer in {checkpoint} is that of another training: {error}. A checkpoint of a fusion that "
                "adapters 1.3 has trained groups parameters in another way; remove its optimizer.pt and scheduler.pt "
                "to go on with its weights alone."
            ) from None

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        if best is None or not checkpoints.is_checkpoint(Path(best)):
            super()._load_best_model()
            return
        kind = "adapter fusion(s)" if self.train_adapter_fusion else "adapter(s)"
        logger.info("Loading best %s from %s (score: %s).", kind, best, self.state.best_metric)
        self._read(Path(best))


class Seq2SeqAdapterTrainer(AdapterTrainer, Seq2SeqTrainer):
    """An `AdapterTrainer` that can evaluate what a model generates.

    >>> arguments = Seq2SeqTrainingArguments("runs", predict_with_generate=True)
    >>> trainer = Seq2SeqAdapterTrainer(model, arguments, train_dataset=data, eval_dataset=data)
    """


class AdapterTrainerCallback(TrainerCallback):
    """Looks whether adapters are trained, and the base model is not, when training begins.

    Args:
        trainer: The trainer.

    Raises:
        ValueError: the base model is not frozen, or nothing is trained, when training begins.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__()
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """See the class."""
        model = self.trainer.accelerator.unwrap_model(kwargs["model"], keep_torch_compile=False)
        trains_all = isinstance(self.trainer, AdapterTrainer) and self.trainer.train_model
        if not trains_all and trains_base(model._adapter_registry):
            raise ValueError(
                "The base model is not frozen, so that it would be trained too: call model.train_adapter(name), or "
                "model.train_adapter_fusion(setup). If it is to be trained with the adapters, pass train_model=True "
                "to the AdapterTrainer."
            )
        if isinstance(self.trainer, AdapterTrainer) and self.trainer.is_fsdp_enabled and fusion.is_regularized(model):
            raise NotImplementedError(
                "The regularisation of fusions needs whole value matrices, which FSDP divides over processes: train "
                "with DDP, or add the fusion with config='dynamic[regularization=False]'."
            )
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise ValueError(
                "Nothing is trained: all parameters are frozen. Call model.train_adapter(name) before trainer.train()."
            )
