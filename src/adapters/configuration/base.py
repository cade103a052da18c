"""The base of all configurations: an immutable dataclass that can be read like a dictionary."""

from __future__ import annotations

import ast
import copy
import dataclasses
import difflib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

_PRESET_STRING = re.compile(r"^(?P<name>[^\[\]|\s]+)\s*(?:\[(?P<fields>.*)\])?$")


class AdapterConfigError(ValueError):
    """A configuration that cannot be: an unknown preset or field, or a value that has no meaning."""


class UnknownFieldError(AdapterConfigError, TypeError):
    """A field that a configuration does not have: a `TypeError` too, as an unknown argument is anywhere in Python."""


class MissingLayerError(AdapterConfigError, KeyError):
    """A mapping by layers that does not say what is at one of them, as any mapping without a key."""

    def __str__(self) -> str:
        return ValueError.__str__(self)  # a KeyError shows its message in quotes


def new_field(absent: Any, default: Any = dataclasses.MISSING) -> Any:
    """A field that AdapterHub's `adapters` 1.3 does not know.

    Args:
        absent: The value that files without the field have; it is not written.
        default: The default of the class, if it is another.
    """
    value = absent if default is dataclasses.MISSING else default
    metadata = {"absent": absent}
    if isinstance(value, (list, dict)):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(value), metadata=metadata)
    return dataclasses.field(default=value, metadata=metadata)


@dataclasses.dataclass
class Fields(Mapping[str, Any]):
    """An immutable dataclass that can be read like a dictionary of its fields.

    It is not `frozen` in the words of Python, so that users' own configurations need not be either.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:  # `__init__` sets each once
            raise dataclasses.FrozenInstanceError(f"cannot assign to {name!r}: replace({name}=...) gives a changed one")
        if name not in self.__dataclass_fields__:
            near = difflib.get_close_matches(name, self.__dataclass_fields__, n=1, cutoff=0.8)
            if near:
                raise UnknownFieldError(f"{type(self).__name__} has no field {name!r}; did you mean {near[0]!r}?")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete {name!r}")

    def __getitem__(self, field: str) -> Any:
        if field in self.__dataclass_fields__:
            return getattr(self, field)
        raise KeyError(field)

    def __iter__(self) -> Iterator[str]:
        return iter(f.name for f in dataclasses.fields(self))

    def __len__(self) -> int:
        return len(dataclasses.fields(self))

    def to_dict(self) -> dict[str, Any]:
        """The fields, as configuration files hold them.

        Fields that AdapterHub's `adapters` 1.3 does not know are left out as long as they say nothing.
        """
        unknown = {f.name: f.metadata["absent"] for f in dataclasses.fields(self) if "absent" in f.metadata}
        return {
            name: copy.deepcopy(value) for name, value in self.items() if name not in unknown or value != unknown[name]
        }


@dataclasses.dataclass
class AdapterConfig(Fields):
    """What every configuration of an adapter can do. The methods' own classes are in this package.

    >>> config = AdapterConfig.load("seq_bn", reduction_factor=12)
    >>> config.reduction_factor, config["reduction_factor"]
    (12, 12)
    """

    architecture = cast("str | None", None)
    """The name of the method in saved files; None for bottleneck adapters, whose files have none."""

    _methods: ClassVar[dict[str | None, type[AdapterConfig]]] = {}
    _presets: ClassVar[dict[str, AdapterConfig]] = {}

    def without_layers(self, left_out: Sequence[int], layers: Sequence[int]) -> AdapterConfig:
        """The same configuration for fewer layers.

        Args:
            left_out: Numbers of the layers to leave out, besides those that it leaves out already.
            layers: Numbers of all layers of the model.

        Raises:
            AdapterConfigError: the method has no layers.
        """
        if "leave_out" not in self:
            raise AdapterConfigError(f"{type(self).__name__} cannot be limited to some layers.")
        return self.replace(leave_out=sorted({*self["leave_out"], *left_out}))

    def replace(self, **changes: Any) -> AdapterConfig:
        """The same configuration with some fields changed.

        Raises:
            AdapterConfigError: a field does not exist or a value has no meaning.
        """
        check_fields(type(self), changes)
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> AdapterConfig:
        """The configuration that `to_dict` gave.

        Called on a subclass it makes that class; on `AdapterConfig` the class is found by `architecture`.

        Raises:
            AdapterConfigError: the method or a field is not known, or a value has no meaning.
        """
        fields = dict(config)
        if cls is AdapterConfig:
            architecture = fields.get("architecture")
            if architecture not in cls._methods:
                raise AdapterConfigError(
                    f"There is no adaptation method {architecture!r}; "
                    f"there are {', '.join(str(m or 'bottleneck') for m in cls._methods)}."
                )
            return cls._methods[architecture].from_dict(fields)
        if "architecture" not in {f.name for f in dataclasses.fields(cls)}:
            fields.pop("architecture", None)
        check_all_fields(cls, fields, "seq_bn[reduction_factor=32]")
        return cls(**fields)

    @staticmethod
    def load(
        config: str | Mapping[str, Any] | AdapterConfig, download_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> AdapterConfig:
        """A configuration from whatever names one.

        >>> AdapterConfig.load("pfeiffer", reduction_factor=12).reduction_factor
        12
        >>> AdapterConfig.load("seq_bn[reduction_factor=32]").reduction_factor
        32

        Args:
            config: The name of a preset, with fields to change in brackets, several of them with `|` between them for a
                union; the path of a JSON file, such as an `adapter_config.json`; a dictionary; or a configuration.
            download_kwargs: Taken for compatibility; nothing is downloaded for a configuration.
            **kwargs: Fields to change.

        Raises:
            AdapterConfigError: the preset or a field is not known, a value has no meaning, or the file cannot be read.
        """
        return AdapterConfig.parsed(read_if_file(config, AdapterConfig._presets), **kwargs)

    @staticmethod
    def parsed(config: str | Mapping[str, Any] | AdapterConfig, **kwargs: Any) -> AdapterConfig:
        """As `load`, but of no file: for what files say themselves, which may come from anywhere."""
        if isinstance(config, str) and "|" in config:
            if kwargs:
                raise AdapterConfigError(f"Of a union, fields are changed in brackets, not by {', '.join(kwargs)}.")
            return AdapterConfig._methods["union"].from_dict({"configs": config.split("|")})
        if isinstance(config, str):
            name, fields = parse_preset(config)
            if name not in AdapterConfig._presets:
                raise AdapterConfigError(_unknown_preset(name))
            return AdapterConfig._presets[name].replace(**{**fields, **kwargs})
        if isinstance(config, AdapterConfig):
            return config.replace(**kwargs) if kwargs else config
        if isinstance(config, Mapping):
            return AdapterConfig.from_dict({**config, **kwargs})
        raise AdapterConfigError(
            f"A configuration is the name of a preset, a JSON file, a dictionary or an AdapterConfig, not {config!r}."
        )


def register_method(config_class: type[AdapterConfig], architecture: str | None) -> None:
    """Make `AdapterConfig.from_dict` find a method's class by its name in files."""
    AdapterConfig._methods[architecture] = config_class


def register_preset(name: str, config: AdapterConfig) -> None:
    """Make a configuration loadable by name."""
    AdapterConfig._presets[name] = config


def presets() -> dict[str, AdapterConfig]:
    """All configurations that have a name."""
    return dict(AdapterConfig._presets)


def is_config_file(text: str) -> bool:
    """Whether a text names a file with a configuration: one that is there, or one that should be, by its ending."""
    return text.lower().endswith(".json") or os.path.isfile(os.path.expanduser(text))  # also of texts that are no paths


def read_if_file(config: Any, presets: Mapping[str, Any]) -> Any:
    """What a JSON file says of a configuration: its fields, or what it has as "config", as files of adapters do.

    Args:
        config: The path of the file; all else is given as it is.
        presets: Names that are no files.

    Raises:
        AdapterConfigError: there is no such file, or no configuration in it.
    """
    if not isinstance(config, str) or config in presets or not is_config_file(config):
        return config
    path = Path(os.path.expanduser(config))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AdapterConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise AdapterConfigError(f"{path} is no JSON: {error}.") from None
    if not isinstance(found, dict):
        raise AdapterConfigError(f"{path} holds no configuration, which is an object of fields, but {found!r:.60}.")
    return found.get("config") or found


def resolve_adapter_config(
    config: str | Mapping[str, Any], local_map: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields of a configuration, from whatever names one.

    >>> resolve_adapter_config("seq_bn[reduction_factor=32]")["reduction_factor"]
    32

    Args:
        config: A dictionary, which is given as it is; or what else `AdapterConfig.load` takes.
        local_map: Configurations by names, which come before those that the library knows.

    Raises:
        AdapterConfigError: as `AdapterConfig.load`.
    """
    if isinstance(config, str) and local_map is not None and config in local_map:
        config = local_map[config]
    return dict(config) if isinstance(config, Mapping) else AdapterConfig.load(config).to_dict()


def check_fields(config_class: type[Fields], fields: Mapping[str, Any]) -> None:
    """Raise `UnknownFieldError` for the first name that is not a field of the class, with the nearest field."""
    names = [f.name for f in dataclasses.fields(config_class)]
    for name in fields:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its fields are {', '.join(names)}."
            raise UnknownFieldError(f"{config_class.__name__} has no field {name!r}; {hint}")


def check_all_fields(config_class: type[Fields], fields: Mapping[str, Any], example: str) -> None:
    """Raise `AdapterConfigError` for names that are not fields of the class, and for required fields that are missing.

    Args:
        config_class: The class.
        fields: The names, with their values.
        example: A preset with a field changed, for the message.
    """
    check_fields(config_class, fields)
    required = {f.name for f in dataclasses.fields(config_class) if _is_required(f)}
    if not required <= fields.keys():
        raise AdapterConfigError(
            f"{config_class.__name__} needs {', '.join(sorted(required - fields.keys()))}; "
            f"start from a preset to change only some fields, e.g. {example!r}."
        )


def parse_preset(text: str) -> tuple[str, dict[str, Any]]:
    """Take a preset string apart.

    >>> parse_preset("seq_bn[reduction_factor=32, non_linearity=gelu]")
    ('seq_bn', {'reduction_factor': 32, 'non_linearity': 'gelu'})

    Raises:
        AdapterConfigError: the brackets or the values cannot be read.
    """
    match = _PRESET_STRING.match(text.strip())
    try:
        if match is None:
            raise SyntaxError
        call = ast.parse(f"f({match['fields'] or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise SyntaxError
        fields = {str(k.arg): _read_value(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        raise AdapterConfigError(
            f"Cannot read {text!r}; write a preset like 'seq_bn' or 'seq_bn[reduction_factor=32, non_linearity=gelu]'."
        ) from None
    return match["name"], fields


def _read_value(node: ast.expr) -> Any:
    """A literal. Bare words are strings, so that shells need no quotes; `true`, `false`, `none` are what they say."""
    if isinstance(node, ast.Name):
        return {"true": True, "false": False, "none": None}.get(node.id.lower(), node.id)
    return ast.literal_eval(node)


def _unknown_preset(name: str) -> str:
    near = difflib.get_close_matches(name, AdapterConfig._presets, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {', '.join(presets())}."
    return f"There is no configuration {name!r}; {hint}"


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
