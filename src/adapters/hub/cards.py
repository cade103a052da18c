"""Adapter cards: the YAML files of a hub, from which all else in it can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ..checkpoints.files import atomically
from ..configuration import AdapterConfig
from ..configuration.base import AdapterConfigError, presets
from .errors import CardError
from .identifiers import check_part

CUSTOM = "custom"
"""What a card says it uses if its configuration has no name; the whole of it is then in the card."""

try:
    from yaml import CSafeLoader as _Loader  # ten times as fast
except ImportError:
    from yaml import SafeLoader as _Loader

_MOST_DIFFERENCES = 6  # from which on a card is easier to read with the whole configuration

Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True, coerce_numbers_to_str=True)


class CardFile(_Strict):
    """One version of an adapter.

    Args:
        version: Its name, such as "1".
        url: Where the archive is: a path in the hub, or an address.
        sha1: Its SHA-1, which readers of old check.
        sha256: Its SHA-256.
        score: What it reached, in the metric of the subtask.
        description: What is to say of this version.
    """

    version: str = Field(min_length=1)
    url: str = Field(min_length=1)
    sha1: str = Field(pattern=r"^[0-9a-fA-F]{40}$")
    sha256: str = Field(pattern=r"^[0-9a-fA-F]{64}$")
    score: str | None = None
    description: str | None = None


class Dependency(_Strict):
    """Something that an adapter needs, such as a vocabulary."""

    key: str
    description: str | None = None


class AdapterCard(_Strict):
    """What is known of an adapter, and where its files are. The keys are those of AdapterHub's cards.

    Args:
        type: What it is for: text_task, text_lang, or another word.
        task: Its task, such as "sentiment".
        subtask: Its subtask, most often a data set, such as "sst-2".
        model_type: The type of its model, such as "bert".
        model_name: The name of its model.
        author: Who trained it.
        config: `using`, the name of a configuration, with the fields that differ from it; or `using: custom` and the
            whole configuration in `custom`.
        default_version: The version that is meant if none is asked for.
        files: Its versions.
        kind: What is in the archive, if it is no adapter: a fusion, a head or a setup.
        citation: How to cite it, in BibTeX.
        dependencies: What it needs.
        description: What is to say of it.
        email: The author's address.
        github: The author's name there.
        twitter: The author's name there.
        url: A page about it.
        model_class: The class of the model that it was trained with.
        prediction_head: Whether there is a head with it.
        hf_datasets_id: Its data set on the Hugging Face Hub.
        language: Its language.
        license: Its licence.
        metric: The metric of the scores.
    """

    type: str = "text_task"
    task: str
    subtask: str
    model_type: str
    model_name: str = Field(min_length=1)
    author: str = Field(min_length=1)
    config: dict[str, Any]
    default_version: str
    files: list[CardFile] = Field(min_length=1)
    kind: str | None = Field(default=None, pattern="^(fusion|head|setup)$")
    citation: str | None = None
    dependencies: list[Dependency] | None = None
    description: str | None = None
    email: str | None = None
    github: str | None = None
    twitter: str | None = None
    url: str | None = None
    model_class: str | None = None
    prediction_head: bool | None = None
    hf_datasets_id: str | None = None
    language: str | None = None
    license: str | None = None
    metric: str | None = None

    @field_validator("task", "subtask")
    @classmethod
    def _is_part_of_a_name(cls, name: str) -> str:
        return check_part("task or subtask", name)

    @field_validator("model_name")
    @classmethod
    def _is_a_model(cls, name: str) -> str:
        for part in name.split("/"):
            check_part("name of a model", part)
        return name

    @model_validator(mode="after")
    def _is_whole(self) -> AdapterCard:
        versions = [file.version for file in self.files]
        if len(set(versions)) < len(versions):
            raise ValueError(f"two files have the same version among {versions}")
        if self.default_version not in versions:
            raise ValueError(f"default_version is {self.default_version!r}, and the files have {versions}")
        if not isinstance(self.config.get("using"), str):
            raise ValueError("config needs 'using', the name of a configuration")
        if self.config["using"] == CUSTOM and not isinstance(self.config.get(CUSTOM), dict):
            raise ValueError("config is using 'custom', and has no 'custom' with the fields")
        return self


class ArchitectureCard(_Strict):
    """A configuration with a name.

    Args:
        name: Its name.
        config: Its fields.
        description: What is to say of it.
    """

    name: str
    config: dict[str, Any]
    description: str | None = None

    @field_validator("name")
    @classmethod
    def _is_part_of_a_name(cls, name: str) -> str:
        return check_part("name of a configuration", name)


def read_card(path: Path, kind: type[Model]) -> Model:
    """A card.

    Raises:
        CardError: it cannot be read, or says something else than it should; the message says all that is wrong.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise CardError(f"{path} cannot be read as YAML ({str(error).splitlines()[0]}).") from None
    return checked(data, kind, str(path))


def checked(data: Any, kind: type[Model], name: str) -> Model:
    """A card from its keys.

    Raises:
        CardError: they say something else than they should; the message says all that is wrong.
    """
    if not isinstance(data, Mapping):
        raise CardError(f"{name} holds no keys, but {type(data).__name__}.")
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'the card'}: {e['msg'].lower()}" for e in error.errors()]
        raise CardError(f"{name}: {'; '.join(wrong)}.") from None


def write_card(path: Path, card: BaseModel) -> None:
    """Write a card atomically."""
    data = card.model_dump(exclude_none=True)
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def named_config(config: Mapping[str, Any], architectures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A configuration as cards have it: the name of the nearest one, and the fields that differ.

    >>> named_config(AdapterConfig.load("seq_bn", reduction_factor=2).to_dict(), {})
    {'using': 'seq_bn', 'reduction_factor': 2}

    Args:
        config: The configuration.
        architectures: The named configurations of the hub, which come before those of the library.
    """
    known = {**architectures, **{name: preset.to_dict() for name, preset in presets().items()}}
    found = []
    for name, fields in known.items():
        if fields.keys() == config.keys() and fields.get("architecture") == config.get("architecture"):
            differing = {key: value for key, value in config.items() if fields[key] != value}
            found.append({"using": name, **differing})
    best = min(found, key=len, default={})
    is_short = 0 < len(best) <= _MOST_DIFFERENCES and "configs" not in best  # the parts of a union have no names
    return best if is_short else {"using": CUSTOM, CUSTOM: dict(config)}


def full_config(card: AdapterCard, architectures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The configuration that a card means.

    Raises:
        CardError: it uses a configuration that there is not.
    """
    using, fields = card.config["using"], {k: v for k, v in card.config.items() if k not in ("using", CUSTOM)}
    if using == CUSTOM:
        return {**card.config[CUSTOM], **fields}
    if using in architectures:
        return {**architectures[using], **fields}
    try:
        return AdapterConfig.parsed(using, **fields).to_dict()
    except (AdapterConfigError, TypeError) as error:
        raise CardError(f"config.using is {using!r}: {error}") from None
