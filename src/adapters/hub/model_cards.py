"""The page of an adapter on the Hugging Face Hub: metadata that others can search, and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .errors import HubError
from .packing import Kind

LIBRARY = "adapters"
_TAG = "adapter-transformers"  # by which AdapterHub's site and all releases find adapters
_PIPELINES = {
    "classification": "text-classification",
    "multilabel_classification": "text-classification",
    "tagging": "token-classification",
    "question_answering": "question-answering",
    "causal_lm": "text-generation",
    "masked_lm": "fill-mask",
    "seq2seq_lm": "text-generation",
    "image_classification": "image-classification",
    "dependency_parsing": "token-classification",
}


@dataclass(frozen=True)
class CardText:
    """What its author has to say of an adapter, all of it optional.

    Args:
        tags: Tags.
        language: Languages, as codes.
        license: A licence, such as "apache-2.0".
        metrics: Names of metrics.
        architecture_training: How it is built and how it was trained.
        results: How well it does. With numbers by metric, such as `{"accuracy": 0.93}`, they are also metadata.
        citation: How to cite it.
        task: Its name on AdapterHub, `<task>/<subtask>`.
        summary: What it does, in a sentence.
    """

    tags: Sequence[str] = ()
    language: str | Sequence[str] | None = None
    license: str | None = None
    metrics: Sequence[str] = ()
    architecture_training: str | None = None
    results: str | Mapping[str, float] | None = None
    citation: str | None = None
    task: str | None = None
    summary: str | None = None


def card_text(given: Mapping[str, Any] | None) -> CardText:
    """What was given for a card.

    Raises:
        HubError: it has no such field.
    """
    known = {field.name for field in fields(CardText)}
    wrong = sorted(set(given or {}) - known)
    if wrong:
        raise HubError(f"A card has no {', '.join(wrong)}; adapter_card_kwargs takes {', '.join(sorted(known))}.")
    return CardText(**{key: value for key, value in (given or {}).items() if value is not None})


@dataclass(frozen=True)
class Described:
    """What is published.

    Args:
        name: The name that it is loaded by.
        kind: What it is.
        model_name: The name of its model.
        model_type: The type of that.
        heads: The types of its heads.
        config: Its configuration.
        dataset: Its data set on the Hugging Face Hub.
        hub: The hub where it is, if it is not the Hugging Face Hub.
        place: Its folder, if it is loaded from there and not by its name.
    """

    name: str
    kind: Kind
    model_name: str
    model_type: str
    heads: Sequence[str] = ()
    config: Mapping[str, Any] | None = None
    dataset: str | None = None
    hub: str | None = None
    place: str | None = None


def model_card(what: Described, text: CardText) -> str:
    """The text of a `README.md`, with its metadata in front."""
    from huggingface_hub import ModelCard

    content = f"---\n{_metadata(what, text)}\n---\n{_body(what, text)}"
    return str(ModelCard(content))


def usage(what: Described) -> str:
    """Python that loads what was published."""
    where = f", hub={what.hub!r}" if what.hub else ""
    active = "" if what.kind.name == "head" else ", set_active=True"
    call = f'model.{what.kind.load}("{what.place or what.name}"{where}{active})'
    if what.kind.name == "setup":
        call = f"setup, heads = {call}"
    return (
        "from adapters import AutoAdapterModel\n\n"
        f'model = AutoAdapterModel.from_pretrained("{what.model_name}")\n{call}'
    )


def _metadata(what: Described, text: CardText) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = [f"adapterhub:{text.task}"] if text.task else []
    pipeline = next((_PIPELINES[head] for head in what.heads if head in _PIPELINES), None)
    numbers = text.results if isinstance(text.results, Mapping) else {}
    dataset = what.dataset or text.task or "unknown"
    results = [
        EvalResult(
            task_type=pipeline or "other",
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in numbers.items()
    ]
    data = ModelCardData(
        base_model=None if Path(what.model_name).is_absolute() else what.model_name,
        datasets=[what.dataset] if what.dataset else None,
        eval_results=results or None,
        language=list(text.language) if isinstance(text.language, (list, tuple)) else text.language,  # type: ignore[arg-type]
        library_name=LIBRARY,
        license=text.license,
        metrics=list(dict.fromkeys([*text.metrics, *numbers])) or None,
        model_name=what.name if results else None,
        pipeline_tag=pipeline,
        tags=list(dict.fromkeys([_TAG, what.model_type, *task, *text.tags])),
    )
    return data.to_yaml()


def _body(what: Described, text: CardText) -> str:
    data = ""
    if what.dataset:
        data = f" It was trained on [{what.dataset}](https://huggingface.co/datasets/{what.dataset})."
    head = f" It comes with a head for {' and '.join(what.heads).replace('_', ' ')}." if what.heads else ""
    config = json.dumps(dict(what.config), indent=2, sort_keys=True, default=str) if what.config else None
    sections = {
        "Usage": f"```\npip install -U adapters\n```\n\n```python\n{usage(what)}\n```",
        "Architecture and training": text.architecture_training or "",
        "Configuration": f"```json\n{config}\n```" if config else "",
        "Evaluation results": _results(text.results),
        "Citation": text.citation or "",
    }
    begin = f"# {what.name}\n\n{text.summary + ' ' if text.summary else ''}"
    begin += f"An {what.kind.name} " if what.kind.name[0] in "aeiou" else f"A {what.kind.name} "
    begin += f"for `{what.model_name}`, for the library [adapters](https://github.com/Adapter-Hub/adapters)."
    return f"\n{begin}{data}{head}\n\n" + "\n\n".join(f"## {t}\n\n{s}" for t, s in sections.items() if s) + "\n"


def _results(results: str | Mapping[str, float] | None) -> str:
    if isinstance(results, Mapping):
        rows = [f"| {metric} | {value} |" for metric, value in results.items()]
        return "\n".join(["| metric | value |", "|---|---|", *rows])
    return results or ""
