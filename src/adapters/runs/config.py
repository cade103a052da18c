"""The configuration of a run: one YAML file, checked as a whole before anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from .errors import RunError

NULL = object()
"""The value of a change that empties a field."""

KindName = Literal[
    "classification",
    "regression",
    "multiple_choice",
    "tagging",
    "question_answering",
    "dependency_parsing",
    "masked_lm",
    "causal_lm",
    "seq2seq_lm",
    "image_classification",
]


class Section(BaseModel):
    """A part of the configuration. What is not known in it is an error."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_true(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("true and false are no value of it; texts such as 'yes' need quotation marks in YAML")
        return value


class TaskSection(Section):
    """What is learned, and from which files."""

    name: str | None = Field(None, description="A task of GLUE or SuperGLUE, whose columns are known: mrpc, cb …")
    kind: KindName | None = Field(None, description="The kind of task; that of `name` if it has one.")
    data_dir: Path | None = Field(
        None, description="A folder with train, validation (or dev) and test files: .jsonl, .json, .csv, .tsv, .conllu."
    )
    train: Path | None = Field(None, description="The training file, instead of one in data_dir.")
    validation: Path | None = Field(None, description="The development file, instead of one in data_dir.")
    test: Path | None = Field(None, description="The test file, instead of one in data_dir.")
    text: list[str] | None = Field(None, description="The columns that are read: texts, tokens, or a context.")
    label: str | None = Field(None, description="The column that is learned.")
    labels: list[str] | None = Field(None, description="All labels in order; by default those of the training file.")
    max_length: int | None = Field(
        None, ge=4, description="Tokens at which texts are cut off; by default 128, and 384 where texts are passages."
    )
    max_new_tokens: int = Field(64, ge=1, description="Tokens of texts that are written, and of those to be learned.")
    train_rows: int | None = Field(None, ge=1, description="Use the first rows of the training file only.")
    validation_rows: int | None = Field(None, ge=1, description="Use the first rows of the development file only.")

    @field_validator("text", mode="before", json_schema_input_type=str | list[str] | None)
    @classmethod
    def _one_column(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("labels", mode="before", json_schema_input_type=list[str | int] | None)
    @classmethod
    def _texts(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        if any(isinstance(label, bool) for label in value):
            raise ValueError("labels such as yes and no need quotation marks in YAML")
        return [str(label) if isinstance(label, int) else label for label in value]

    @field_validator("text", "labels")
    @classmethod
    def _no_name_twice(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and ("" in value or not value or len(set(value)) < len(value)):
            raise ValueError("give at least one name, each once, none empty")
        return value


# What is needed to read rows of a task; heads know the labels, and where files were is nobody's business.
_NOTED = {"name", "kind", "text", "label", "max_length", "max_new_tokens"}


def noted(task: TaskSection) -> dict[str, Any]:
    """What an adapter tells of its task to those who use it without its run."""
    return task.model_dump(include=_NOTED, exclude_none=True)


def task_noted(note: Any, kind: KindName, changes: Mapping[str, Any], path: Path) -> TaskSection:
    """The task that an adapter tells of, if it is of a kind; otherwise one of this kind of which no more is known.

    Args:
        note: What `noted` gave; what later versions may add to it is left out.
        kind: The kind.
        changes: Other values of fields; None leaves a field as it is.
        path: The file that the note is of.

    Raises:
        RunError: a value is wrong.
    """
    is_of_kind = isinstance(note, dict) and note.get("kind") == kind
    known = {key: value for key, value in note.items() if key in _NOTED} if is_of_kind else {"kind": kind}
    try:
        return TaskSection.model_validate(known | {k: value for k, value in changes.items() if value is not None})
    except ValidationError as error:
        raise RunError(_problems(error, path)) from None


class AdapterSection(Section):
    """What is trained."""

    name: str | None = Field(None, description="The name of the adapter; by default that of the task.")
    config: str | dict[str, Any] | None = Field(
        "seq_bn", description="A preset such as `lora[r=16]`, a JSON file, or a dictionary; null for the head alone."
    )
    under: list[str] = Field([], description="Adapters to load and to stack below it, such as one for a language.")
    fuse: list[str] = Field([], description="Adapters to load and to fuse (AdapterFusion), instead of a new one.")
    drop_layers: int | None = Field(
        None, ge=1, description="AdapterDrop: in each step leave out the adapters of up to so many first layers."
    )
    train_model: bool = Field(False, description="Train the whole model too; with `config: null`, full fine-tuning.")

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or ".." in value or set(value) & set("/\\")):
            raise ValueError("it names a folder, so it is not empty and has no '/', '\\' or '..'")
        return value

    @model_validator(mode="after")
    def _goes_together(self) -> AdapterSection:
        if self.fuse and self.under:
            raise ValueError("fuse and under exclude each other")
        if self.fuse and self.config is not None:
            if "config" in self.model_fields_set:
                raise ValueError("fuse trains no adapter of its own, so it excludes config")
            self.__dict__["config"] = None
        if self.train_model and (self.fuse or self.under):
            raise ValueError("train_model trains all there is; what fuse and under name stays as it is")
        if self.under and self.config is None:
            raise ValueError("under needs an adapter above it, and config is null")
        if self.drop_layers is not None and self.config is None:
            raise ValueError("drop_layers needs an adapter that is trained")
        return self


class TrainingSection(Section):
    """How it is trained."""

    epochs: float = Field(3.0, gt=0, description="Rounds over the training file.")
    max_steps: int | None = Field(None, ge=1, description="Stop after so many steps, whatever `epochs` says.")
    batch_size: int = Field(32, ge=1, description="Rows in a step.")
    gradient_accumulation: int = Field(1, ge=1, description="Batches of which one step is made.")
    eval_batch_size: int = Field(64, ge=1, description="Rows in a batch of an evaluation.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="The highest learning rate; by default 5e-4, 1e-3 for a head alone, 5e-5 for models and fusions.",
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay.")
    warmup_ratio: float = Field(0.06, ge=0, le=1, description="Share of the steps in which the learning rate rises.")
    scheduler: Literal["linear", "cosine", "constant"] = Field("linear", description="How it falls afterwards.")
    max_grad_norm: float = Field(1.0, ge=0, description="Norm at which gradients are clipped; 0 for none.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Numbers that products are computed with.")
    gradient_checkpointing: bool = Field(False, description="Compute layers twice instead of keeping their values.")
    evaluate: Literal["epoch"] | Annotated[int, Field(ge=1)] = Field(
        "epoch", description="When to evaluate: after epochs, or every n steps."
    )
    early_stopping: int | None = Field(None, ge=1, description="Stop after so many evaluations without a better one.")
    metric: str | None = Field(None, description="The metric by which the best state is chosen; by default the task's.")
    keep: Literal["best", "last"] = Field("best", description="Which state is kept in the end.")

    @model_validator(mode="after")
    def _goes_together(self) -> TrainingSection:
        if self.early_stopping is not None and self.keep == "last":
            raise ValueError("early_stopping keeps the best state, and keep is 'last'")
        return self


class RunConfig(Section):
    """A run.

    >>> config = RunConfig.read("run.yaml", {"training.epochs": 5})

    Args:
        model: A folder, or a name on the Hugging Face Hub.
        task: What is learned.
        adapter: What is trained.
        training: How.
        seed: Seed of everything random.
        output: The folder that everything is written to.
    """

    model: str = Field(description="The pretrained model: a folder, or a name on the Hugging Face Hub.")
    task: TaskSection = Field(default_factory=TaskSection)  # type: ignore[arg-type]
    adapter: AdapterSection = Field(default_factory=AdapterSection)  # type: ignore[arg-type]
    training: TrainingSection = Field(default_factory=TrainingSection)  # type: ignore[arg-type]
    seed: int = Field(42, ge=0, lt=2**32, description="Seed of everything random.")
    output: Path = Field(description="The folder that everything is written to.")

    @model_validator(mode="after")
    def _usual_rate(self) -> RunConfig:
        if self.training.learning_rate is None:
            is_careful = self.adapter.train_model or bool(self.adapter.fuse)
            self.training.learning_rate = 5e-5 if is_careful else 1e-3 if self.adapter.config is None else 5e-4
        return self

    @classmethod
    def read(cls, path: str | Path | None = None, changes: Mapping[str, Any] | None = None) -> RunConfig:
        """A configuration from a file, with changes.

        Args:
            path: A YAML file; by default only the changes are there.
            changes: Values by the dotted names of fields; None leaves a field as it is, `NULL` empties it.

        Raises:
            RunError: the file cannot be read, or something in it is not known or has a wrong value.
        """
        data = _yaml(Path(path)) if path is not None else {}
        for name, value in (changes or {}).items():
            if value is not None:
                _put(data, name.split("."), None if value is NULL else value)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise RunError(_problems(error, path)) from None

    def to_yaml(self) -> str:
        """The configuration as a file, with all fields, in the order of their descriptions."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Reads YAML; a key that is there twice, of which one would be lost, is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for number, key in enumerate(keys) if key in keys[:number]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice} is there twice", node.start_mark)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is no YAML: {yaml_problem(error)}.") from None
    if not isinstance(data, dict):
        what = "nothing" if data is None else f"no configuration, but {type(data).__name__}"
        raise RunError(f"{path} holds {what}; `adapters config-schema` says what a run is.")
    return data


def yaml_problem(error: Exception) -> str:
    """What is wrong with a text in YAML, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _put(data: dict[str, Any], names: Sequence[str], value: Any) -> None:
    for name in names[:-1]:
        inner = data.setdefault(name, {})
        if not isinstance(inner, dict):
            raise RunError(f"{name} is {inner!r} in the configuration; it should hold {'.'.join(names[1:])}.")
        data = inner
    data[names[-1]] = value


def _problems(error: ValidationError, path: str | Path | None) -> str:
    where = f" of {path}" if path is not None else ""
    found = []
    for problem in error.errors():
        loc = [part for part in problem["loc"] if isinstance(part, int) or str(part).isidentifier()]
        name = ".".join(str(part) for part in loc if part not in ("str", "int"))  # these say which type was tried
        if problem["type"] == "missing":
            found.append(f"{name} is missing")
        elif problem["type"] == "extra_forbidden":
            found.append(f"{name} is not known{_meant(name)}")
        elif problem["type"] == "model_type":
            found.append(f"{name} is {problem['input']!r}; it holds {', '.join(SECTIONS[name].model_fields)}")
        else:
            said = problem["msg"].removeprefix("Value error, ").rstrip(".")
            value = "" if isinstance(problem["input"], dict) and len(loc) < 2 else f" is {problem['input']!r}"
            found.append(f"{name or problem['loc']}{value}: {said[:1].lower()}{said[1:]}")
    return f"Configuration{where}: {'; '.join(dict.fromkeys(found))}."


def _meant(name: str) -> str:
    """The key whose name is like one that is not known: of the same section, else of any."""
    *section, last = name.split(".")
    keys = [*RunConfig.model_fields]
    keys += [f"{prefix}.{key}" for prefix, model in SECTIONS.items() for key in model.model_fields]
    same = [key for key in keys if key.split(".")[:-1] == section]
    near = difflib.get_close_matches(last, [key.rpartition(".")[2] for key in same], n=1)
    if near:
        return f" (did you mean {'.'.join([*section, *near])}?)"
    own = [key for key in keys if key.rpartition(".")[2] == last]
    there = ", ".join(same or RunConfig.model_fields)
    return f" (did you mean {own[0]}?)" if own else f" (there are {there})"


SECTIONS: dict[str, type[Section]] = {"task": TaskSection, "adapter": AdapterSection, "training": TrainingSection}
"""The parts of a configuration."""
