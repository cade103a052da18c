"""The configuration of a run: one YAML file, checked as a whole before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import RunError

KindName = Literal[
    "classification",
    "regression",
    "multiple_choice",
    "tagging",
    "question_answering",
    "dependency_parsing",
    "masked_lm",
    "causal_lm",
    "image_classification",
]


class Section(BaseModel):
    """A part of the configuration. What is not known in it is an error."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


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
    max_length: int = Field(128, ge=4, description="Tokens at which texts are cut off.")
    train_rows: int | None = Field(None, ge=1, description="Use the first rows of the training file only.")
    validation_rows: int | None = Field(None, ge=1, description="Use the first rows of the development file only.")


class AdapterSection(Section):
    """What is trained."""

    name: str | None = Field(None, description="The name of the adapter; by default that of the task.")
    config: str | dict[str, Any] | None = Field(
        "seq_bn", description="A preset such as `lora[r=16]`, or a dictionary; null for the head alone."
    )
    under: list[str] = Field([], description="Adapters to load and to stack below it, such as one for a language.")
    fuse: list[str] = Field([], description="Adapters to load and to fuse (AdapterFusion), instead of a new one.")
    drop_layers: int | None = Field(
        None, ge=1, description="AdapterDrop: in each step leave out the adapters of up to so many first layers."
    )
    train_model: bool = Field(False, description="Train the whole model too; with `config: null`, full fine-tuning.")


class TrainingSection(Section):
    """How it is trained."""

    epochs: float = Field(3.0, gt=0, description="Rounds over the training file.")
    max_steps: int | None = Field(None, ge=1, description="Stop after so many steps, whatever `epochs` says.")
    batch_size: int = Field(32, ge=1, description="Rows in a step.")
    gradient_accumulation: int = Field(1, ge=1, description="Batches of which one step is made.")
    eval_batch_size: int = Field(64, ge=1, description="Rows in a batch of an evaluation.")
    learning_rate: float = Field(3e-4, gt=0, description="The highest learning rate.")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's weight decay.")
    warmup_ratio: float = Field(0.06, ge=0, le=1, description="Share of the steps in which the learning rate rises.")
    scheduler: Literal["linear", "cosine", "constant"] = Field("linear", description="How it falls afterwards.")
    max_grad_norm: float = Field(1.0, ge=0, description="Norm at which gradients are clipped; 0 for none.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Numbers that products are computed with.")
    gradient_checkpointing: bool = Field(False, description="Compute layers twice instead of keeping their values.")
    evaluate: Literal["epoch"] | int = Field("epoch", description="When to evaluate: after epochs, or every n steps.")
    early_stopping: int | None = Field(None, ge=1, description="Stop after so many evaluations without a better one.")
    metric: str | None = Field(None, description="The metric by which the best state is chosen; by default the task's.")
    keep: Literal["best", "last"] = Field("best", description="Which state is kept in the end.")


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
    seed: int = Field(42, ge=0, description="Seed of everything random.")
    output: Path = Field(description="The folder that everything is written to.")

    @classmethod
    def read(cls, path: str | Path | None = None, changes: Mapping[str, Any] | None = None) -> RunConfig:
        """A configuration from a file, with changes.

        Args:
            path: A YAML file; by default only the changes are there.
            changes: Values by the dotted names of fields; None leaves a field as it is.

        Raises:
            RunError: the file cannot be read, or something in it is not known or has a wrong value.
        """
        data = _yaml(Path(path)) if path is not None else {}
        for name, value in (changes or {}).items():
            if value is not None:
                _put(data, name.split("."), value)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise RunError(_problems(error, path)) from None

    def to_yaml(self) -> str:
        """The configuration as a file, with all fields, in the order of their descriptions."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text


def _yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(data, dict):
        raise RunError(f"{path} holds no configuration, but {type(data).__name__}; see `adapters config-schema`.")
    return data


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
        name = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":
            found.append(f"{name} is missing")
        elif problem["type"] == "extra_forbidden":
            found.append(f"{name} is not known")
        else:
            found.append(f"{name} is {problem['input']!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}")
    return f"Configuration{where}: {'; '.join(found)}."
