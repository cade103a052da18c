"""The card of what a run has trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..hub.model_cards import CardText, Described, model_card
from ..hub.packing import ADAPTER, HEAD, SETUP
from .config import RunConfig
from .tasks import TASKS


def card(config: RunConfig, name: str, model: Any, head_type: str, metrics: Mapping[str, float]) -> str:
    """The text of the `README.md` beside an adapter: what it is, how it was trained, how good it is, how it is used.

    Args:
        config: The run.
        name: The name of the adapter.
        model: The model.
        head_type: The type of its head.
        metrics: What was measured on the development file, in per cent.
    """
    section, training = config.adapter, config.training
    known = TASKS.get(config.task.name or "")
    kind = SETUP if section.under or section.fuse else HEAD if section.config is None else ADAPTER
    what = Described(
        name=name,
        kind=kind,
        model_name=config.model,
        model_type=model.config.model_type,
        heads=(head_type,),
        config=None if kind is not ADAPTER else model.adapters_config.get(name).to_dict(),
        dataset=None if known is None else known.dataset[0],
    )
    how = (
        f"Trained for {training.epochs:g} epochs in batches of {training.batch_size} with AdamW, at a learning rate of "
        f"{training.learning_rate:g} ({training.scheduler}, {100 * training.warmup_ratio:g} % warm-up), seed "
        f"{config.seed}. `run.yaml` has all of it; `adapters train run.yaml` trains it again."
    )
    return model_card(what, CardText(architecture_training=how, results=dict(metrics), summary=_summary(config)))


def _summary(config: RunConfig) -> str:
    return (
        f"{str(config.task.kind).replace('_', ' ').capitalize()}{f' ({config.task.name})' if config.task.name else ''}."
    )
