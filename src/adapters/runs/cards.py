"""The card of what a run has trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..hub.model_cards import Described, card_text, model_card
from ..hub.packing import ADAPTER, HEAD, SETUP
from .config import RunConfig
from .tasks import TASKS


def card(config: RunConfig, name: str, model: Any, head_type: str, metrics: Mapping[str, float], folder: Path) -> str:
    """The text of the `README.md` beside an adapter: what it is, how it was trained, how good it is, how it is used.

    Args:
        config: The run.
        name: The name of the adapter.
        model: The model.
        head_type: The type of its head.
        metrics: What was measured on the development file, in per cent.
        folder: Where the adapter is.
    """
    section = config.adapter
    kind = SETUP if section.under or section.fuse else HEAD if section.config is None else ADAPTER
    what = Described(
        name=name,
        kind=kind,
        model_name=config.model,
        model_type=model.config.model_type,
        heads=(head_type,),
        config=None if kind is not ADAPTER else model.adapters_config.get(name).to_dict(),
        dataset=dataset_of(config),
        place=folder.resolve().as_posix(),
    )
    return model_card(what, card_text(said_of(config, metrics)))


def said_of(config: RunConfig, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of a run.

    Args:
        config: The run.
        metrics: What was measured on the development file; sizes and times are left out.
    """
    training = config.training
    long = f"{training.max_steps} steps" if training.max_steps else f"{training.epochs:g} epochs"
    how = (
        f"Trained for {long} in batches of {training.batch_size * training.gradient_accumulation} with AdamW, at a "
        f"learning rate of {training.learning_rate:g} ({training.scheduler}, {100 * training.warmup_ratio:g} % "
        f"warm-up), seed {config.seed}. `run.yaml` has all of it; `adapters train run.yaml` trains it again."
    )
    task = str(config.task.kind).replace("_", " ").capitalize()
    return {
        "architecture_training": how,
        "results": {key: value for key, value in metrics.items() if key not in _OF_THE_TRAINING},
        "summary": f"{task}{f' ({config.task.name})' if config.task.name else ''}.",
    }


def dataset_of(config: RunConfig) -> str | None:
    """The data set on the Hugging Face Hub that a run has learned from, if it is known."""
    known = TASKS.get(config.task.name or "")
    return None if known is None else known.dataset[0]


_OF_THE_TRAINING = ("trained_parameters", "trained_share", "bytes", "seconds", "steps")
