"""The training of a run, with the Trainer of transformers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PrinterCallback,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from ..trainer import AdapterTrainer, Seq2SeqAdapterTrainer
from ..training import AdapterDropTrainerCallback
from . import models
from .cards import card
from .config import RunConfig, TrainingSection
from .curve import draw
from .errors import RunError
from .folder import ADAPTER, CURVE, MODEL, RunFolder
from .kinds import Kind, Prepared
from .measuring import measured_loss
from .splits import check_has_labels, load

Watch = Callable[[Mapping[str, Any]], None]
"""Called with what was measured: step, steps, loss, or what an evaluation gave."""


@dataclass(frozen=True)
class Outcome:
    """What a run has come to.

    Args:
        metrics: The metrics on the development file, and sizes and seconds.
        path: The folder of what was trained.
        config: The run with all that was found out, such as its columns.
    """

    metrics: dict[str, Any]
    path: Path
    config: RunConfig


def train(
    config: RunConfig, watch: Watch = lambda point: None, resume: bool = False, overwrite: bool = False
) -> Outcome:
    """Train what a configuration says, and write it with all that belongs to it.

    >>> train(RunConfig.read("run.yaml")).metrics["accuracy"]

    Args:
        config: The run.
        watch: Called with what is measured on the way.
        resume: Whether to go on where an interrupted run of this configuration has stopped.
        overwrite: Whether a former run in the output may be removed.

    Raises:
        RunError: something in the configuration or the data is wrong. Nothing has been trained then.
    """
    data = load(config.task)
    config = models.with_places(config.model_copy(update={"task": data.task}))
    folder = RunFolder(config.output)
    folder.check(config, resume, overwrite)
    if resume and folder.is_finished:
        return _finished(folder)
    kind = models.load_kind(config)
    metric = _metric(config.training, kind)
    given = {
        "train": kind.prepared(data.train, is_labelled=True),
        "validation": kind.fixed(kind.prepared(data.validation, is_labelled=True)),
    }
    check_has_labels(data)
    set_seed(config.seed)
    name = models.adapter_name(config)
    model = models.load_model(config.model, models.dtype_of(config))
    models.prepare(model, config, kind, name)
    with folder.claimed(config, resume, overwrite):
        if folder.is_finished:  # by another process, in the meantime
            return _finished(folder)
        trainer = _trainer(model, config, kind, given, folder, name, watch)
        started = time.perf_counter()
        try:
            _fit(trainer, config.training, folder.last_checkpoint())
        except torch.OutOfMemoryError:
            raise RunError(
                f"There is not enough memory for batches of {config.training.batch_size} rows. Give a smaller "
                "training.batch_size with more training.gradient_accumulation, or training.gradient_checkpointing."
            ) from None
        seconds = time.perf_counter() - started
        history = list(trainer.state.log_history)  # what comes is measured once more, on the state that is kept
        final = _final(trainer, kind)
        path = models.save(model, config, kind, name, folder.path)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        metrics = {
            **final,
            "trained_parameters": trained,
            "trained_share": round(100 * trained / sum(p.numel() for p in model.base_model.parameters()), 4),
            "bytes": sum(p.stat().st_size for p in path.rglob("*") if p.is_file()),
            "seconds": round(seconds, 1),
            "steps": trainer.state.global_step,
        }
        if path.name == ADAPTER:
            folder.write_card(path, card(config, name, model, kind.head_type, final, path))
        folder.write_history(history)
        draw(folder.path / CURVE, history, metric, name)
        folder.finish(config, metrics)
    return Outcome(metrics, path, config)


def _finished(folder: RunFolder) -> Outcome:
    """What a run came to that is finished already."""
    folder.clear()
    path = folder.path / ADAPTER
    return Outcome(folder.metrics(), path if path.is_dir() else folder.path / MODEL, folder.config())


def _fit(trainer: AdapterTrainer, section: TrainingSection, last: Path | None) -> None:
    """Train, from the last checkpoint on if there is one."""
    if last is not None and section.early_stopping is not None:
        state = TrainerState.load_from_json(str(last / "trainer_state.json"))
        if _is_over(state, trainer.args, section.early_stopping):  # it was killed when it had just stopped
            trainer.state = state
            trainer._load_best_model()
            return
    trainer.train(resume_from_checkpoint=str(last) if last is not None else None)


def _metric(section: TrainingSection, kind: Kind) -> str:
    """The metric by which states are chosen.

    Raises:
        RunError: it is not measured.
    """
    if section.metric is not None and section.metric not in kind.measures:
        raise RunError(f"training.metric is {section.metric!r}; measured are {', '.join(kind.measures)}.")
    return section.metric or kind.measures[0]


def _trainer(
    model: Any,
    config: RunConfig,
    kind: Kind,
    given: Mapping[str, Prepared],
    folder: RunFolder,
    name: str,
    watch: Watch,
) -> AdapterTrainer:
    section = config.training
    measure: Any = (lambda found: kind.measured(found.predictions, given["validation"])) if kind.needs_outputs else None
    callbacks: list[TrainerCallback] = [_Watching(watch)]
    if section.early_stopping is not None:
        callbacks.append(_Patience(section.early_stopping))
    if config.adapter.drop_layers is not None:
        callbacks.append(AdapterDropTrainerCallback(range(config.adapter.drop_layers + 1)))
    try:
        trainer = (Seq2SeqAdapterTrainer if kind.generates else AdapterTrainer)(
            model=model,
            args=_arguments(config, kind, folder, len(given["train"].features)),
            data_collator=kind.collated,
            train_dataset=_Features(given["train"]),
            eval_dataset=_Features(given["validation"]),
            compute_metrics=measure,
            preprocess_logits_for_metrics=kind.kept,
            callbacks=callbacks,
            train_model=config.adapter.train_model,
        )
    except ImportError as error:
        raise RunError(f"Training needs `accelerate` (pip install adapters[train]): {error}") from None
    trainer.remove_callback(PrinterCallback)  # what is measured is shown by whoever watches
    return trainer


def _arguments(config: RunConfig, kind: Kind, folder: RunFolder, rows: int) -> TrainingArguments:
    section = config.training
    strategy = "epoch" if section.evaluate == "epoch" else "steps"
    every = section.evaluate if isinstance(section.evaluate, int) else 500
    metric = _metric(section, kind)
    steps = section.max_steps or round(
        section.epochs * -(-rows // (section.batch_size * section.gradient_accumulation))
    )
    checkpointing: Any = {"gradient_checkpointing": True} if section.gradient_checkpointing else {}
    made: Any = TrainingArguments
    if kind.generates:
        longest = config.task.max_new_tokens + 1  # one more, with which decoders begin
        made = partial(
            Seq2SeqTrainingArguments,
            predict_with_generate=True,
            generation_max_length=longest,
            generation_num_beams=1,
        )
    arguments: TrainingArguments = made(
        output_dir=str(folder.checkpoints),
        num_train_epochs=section.epochs,
        max_steps=section.max_steps or -1,
        per_device_train_batch_size=section.batch_size,
        per_device_eval_batch_size=section.eval_batch_size,
        gradient_accumulation_steps=section.gradient_accumulation,
        **checkpointing,
        learning_rate=section.learning_rate,
        weight_decay=section.weight_decay,
        warmup_steps=round(section.warmup_ratio * steps),
        lr_scheduler_type={"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}[
            section.scheduler
        ],
        max_grad_norm=section.max_grad_norm,
        bf16=section.precision == "bf16",
        use_cpu=not torch.accelerator.is_available(),
        eval_strategy=strategy,
        eval_steps=every,
        save_strategy=strategy,
        save_steps=every,
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=max(1, min(10, steps // 20)),
        logging_nan_inf_filter=False,  # such a loss is said, and ends the run
        load_best_model_at_end=section.keep == "best" or section.early_stopping is not None,
        metric_for_best_model=f"eval_{metric}" if kind.needs_outputs else "eval_loss",
        greater_is_better=kind.needs_outputs,
        seed=config.seed,
        data_seed=config.seed,
        label_names=list(kind.label_names),
        remove_unused_columns=False,
        dataloader_pin_memory=torch.accelerator.is_available(),
        prediction_loss_only=not kind.needs_outputs,
        report_to="none",
        disable_tqdm=True,
    )
    return arguments


def _final(trainer: AdapterTrainer, kind: Kind) -> dict[str, float]:
    """The metrics of the state that is kept."""
    found = trainer.evaluate()
    metrics = {key.removeprefix("eval_"): value for key, value in found.items()}
    named = {name: metrics[name] for name in kind.measures if name in metrics}
    measured = {"loss": metrics["loss"], **named} | measured_loss(kind, metrics["loss"])
    return {key: round(value, 4) for key, value in measured.items()}


class _Features(torch.utils.data.Dataset[Any]):
    """What a model is given, as a data set."""

    def __init__(self, given: Prepared) -> None:
        self._features = given.features

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, number: int) -> Any:
        return dict(self._features[number])


class _Watching(TrainerCallback):
    """Tells what the trainer measures, until the training is over.

    Raises:
        RunError: a loss is no number any more.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._evaluated = 0
        self._is_over = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step further."""
        self._watch({"step": state.global_step, "steps": state.max_steps})

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One batch further in an evaluation."""
        self._evaluated += 1
        batches = len(kwargs["eval_dataloader"])
        self._watch({"step": state.global_step, "steps": state.max_steps, "batch": self._evaluated, "batches": batches})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """A loss, or what an evaluation gave."""
        self._evaluated = 0
        for key in ("loss", "eval_loss"):
            if not math.isfinite((logs or {}).get(key, 0.0)):
                raise RunError(
                    f"The loss is {logs[key]} at step {state.global_step}: training.learning_rate is "
                    f"{args.learning_rate:g}; try a lower one, or more warm-up (training.warmup_ratio)."
                )
        if not self._is_over:
            self._watch({"step": state.global_step, "steps": state.max_steps, **(logs or {})})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What is measured now is no step of the training."""
        self._is_over = True


class _Patience(TrainerCallback):
    """Stops after so many evaluations without a better one.

    They are counted in the history, which checkpoints hold: transformers' own callback would begin to count anew in a
    run that is resumed.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look whether it was better."""
        if _is_over(state, args, self._patience):
            control.should_training_stop = True


def _is_over(state: TrainerState, args: TrainingArguments, patience: int) -> bool:
    """Whether the last evaluations were not better than one before."""
    metric = str(args.metric_for_best_model)
    values = [point[metric] for point in state.log_history if metric in point]
    best = (max if args.greater_is_better else min)(values, default=None)
    return best is not None and len(values) - 1 - values.index(best) >= patience
