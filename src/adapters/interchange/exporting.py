"""Adapters written for those who serve them: what each of them takes, what it does not, and what to do then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..checkpoints.files import ADAPTER_CONFIG
from ..registry import Adapter, AdapterRegistry
from . import peft_layout
from .conversion import ConversionReport, converted
from .peft_layout import PeftFile
from .peft_problems import ExportError, Problem
from .peft_source import Source
from .peft_writing import peft_file


@dataclass(frozen=True)
class Consumer:
    """What a program that serves adapters takes, of what PEFT can write. As of the releases named in docs/peft.md.

    Args:
        title: What it is called.
        is_plain: Whether it takes LoRA alone: without magnitudes (DoRA), biases, and other methods.
        has_patterns: Whether ranks and alphas may differ between matrices. Else scalings go into B, and lower ranks are
            filled up with zeros.
        has_stable_scaling: Whether it reads `use_rslora`.
        heads: Names of the modules that it takes trained whole; None if any.
        ranks: The ranks that a server can be started for; empty if any.
        default_rank: The rank that it takes if nothing is said.
        has_embeddings: Whether embeddings may be adapted.
        rank_option: How a server is told of the rank.
    """

    title: str
    is_plain: bool = True
    has_patterns: bool = False
    has_stable_scaling: bool = False
    heads: tuple[str, ...] | None = ()
    ranks: tuple[int, ...] = ()
    default_rank: int | None = None
    has_embeddings: bool = False
    rank_option: str = ""


CONSUMERS: dict[str, Consumer] = {
    "peft": Consumer(
        "PEFT", is_plain=False, has_patterns=True, has_stable_scaling=True, heads=None, has_embeddings=True
    ),
    "vllm": Consumer(
        "vLLM",
        has_patterns=True,
        has_stable_scaling=True,
        heads=("classifier", "score"),
        ranks=(1, 8, 16, 32, 64, 128, 256, 320, 512),
        default_rank=16,
        has_embeddings=True,
        rank_option="--max-lora-rank",
    ),
    "lorax": Consumer("LoRAX", has_stable_scaling=True),
    "tgi": Consumer("TGI", has_stable_scaling=True),
    "llama.cpp": Consumer("llama.cpp", has_embeddings=True),
}


@dataclass(frozen=True)
class ExportReport:
    """What was written, or would be, and what of it cannot be served.

    Args:
        adapter_name: The adapter.
        consumer: Whom it is for: a key of `CONSUMERS`.
        peft_type: Which kind of PEFT's adapters it is; None if it is none of them.
        files: The files, empty if none were written.
        rank: The largest rank; 0 without any.
        parameters: The number of numbers.
        notes: What was changed for the consumer, and what it has to be told.
        problems: What cannot be served, and what can be done instead.
        conversion: What was lost by a conversion to LoRA, if there was one.
    """

    adapter_name: str
    consumer: str
    peft_type: str | None = None
    files: tuple[Path, ...] = ()
    rank: int = 0
    parameters: int = 0
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    conversion: ConversionReport | None = None

    @property
    def is_served(self) -> bool:
        """Whether the consumer takes it."""
        return not self.problems

    def __str__(self) -> str:
        title = CONSUMERS[self.consumer].title
        verdict = "can be served" if self.is_served else "cannot be served"
        kind = f"{self.peft_type}, rank {self.rank}" if self.rank else str(self.peft_type or "no PEFT type")
        lines = [f"{self.adapter_name} for {title}: {verdict} ({kind}, {self.parameters:,} parameters)"]
        lines += [f"  problem: {problem}" for problem in self.problems]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  {line}" for line in str(self.conversion).splitlines()] if self.conversion else []
        return "\n".join([*lines, *(f"  wrote {path}" for path in self.files)])


def check_export(
    model: Any, adapter_name: str, consumer: str = "peft", *, rank: int | None = None, with_head: bool = True
) -> ExportReport:
    """Whether an adapter can be exported for somebody, without writing anything.

    >>> print(adapters.check_export(model, "task", "vllm"))
    task for vLLM: cannot be served (LORA, rank 8, 24,576 parameters)
      problem: DoRA (use_dora=True): pass rank=… to convert it to LoRA, or merge it into the model (merge_adapter)

    Args:
        model: The model.
        adapter_name: The adapter.
        consumer: Whom it is for: `peft`, `vllm`, `lorax`, `tgi` or `llama.cpp`.
        rank: If given, the adapter is converted to LoRA of this rank (see `convert_to_lora`).
        with_head: Whether the head is to be written too, but not those of language models.

    Raises:
        UnknownAdapterError: there is no such adapter.
        ValueError: there is no such consumer, or the adapter cannot be converted.
    """
    return _Export(model, adapter_name, consumer, rank, with_head).report


def export_adapter(
    model: Any,
    adapter_name: str,
    save_directory: str | Path,
    consumer: str = "peft",
    *,
    rank: int | None = None,
    with_head: bool = True,
) -> ExportReport:
    """Write an adapter in the layout of PEFT, for a program that reads it.

    Files for `peft` load there (`PeftModel.from_pretrained(bare_model, folder)`) with the same outputs. For others what
    they do not read is turned into what they do, or is an error that says what to do instead.

    >>> adapters.export_adapter(model, "task", "my-adapter")
    >>> print(adapters.export_adapter(model, "dora", "my-adapter", consumer="vllm", rank=16))

    Args:
        model: The model.
        adapter_name: The adapter.
        save_directory: The folder; made if it is not there.
        consumer: Whom it is for: `peft`, `vllm`, `lorax`, `tgi` or `llama.cpp`.
        rank: If given, the adapter is converted to LoRA of this rank first (see `convert_to_lora`); the model keeps it
            as it is.
        with_head: Whether the head is written too. Heads of language models are not: they are the model's own.

    Returns:
        What was written, and what has to be known of it.

    Raises:
        UnknownAdapterError: there is no such adapter.
        ExportError: it cannot be written, or not be served; the message lists all reasons. Nothing is written then.
        ValueError: there is no such consumer, or the adapter cannot be converted.
    """
    export = _Export(model, adapter_name, consumer, rank, with_head)
    if export.file is None or export.report.problems:
        title = CONSUMERS[consumer].title
        raise ExportError(f"Adapter {adapter_name!r} cannot be exported for {title}:", export.report.problems)
    folder = Path(save_directory).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; an adapter is exported to a folder.")
    peft_layout.write(folder, export.file)
    return export.described((folder / ADAPTER_CONFIG, folder / peft_layout.WEIGHTS[0]))


class _Export:
    """One adapter for one consumer. The arguments are those of `check_export`."""

    def __init__(self, model: Any, adapter_name: str, consumer: str, rank: int | None, with_head: bool) -> None:
        if consumer not in CONSUMERS:
            raise ValueError(f"consumer={consumer!r} is not known; there are {', '.join(CONSUMERS)}.")
        registry = cast(AdapterRegistry, model._adapter_registry)
        self.name, self.consumer, self.target = adapter_name, consumer, CONSUMERS[consumer]
        self.conversion: ConversionReport | None = None
        self.notes: list[str] = []
        adapter = registry[adapter_name]
        if rank is not None:
            adapter, self.conversion = self._converted(registry, adapter, rank)
        facts = model._facts_for_peft(adapter_name, with_head)
        source = Source(registry, adapter, facts.base_path, facts.task, model.model_name, facts.head)
        self.notes += facts.notes
        self.file: PeftFile | None = None
        problems: list[Problem] = []
        try:
            self.file = peft_file(source)
            problems += _unserved(self.file, self.target)
            if not problems:
                self.notes += _adapted(self.file, self.target)
        except ExportError as error:
            problems += error.problems
        self.problems = tuple(problems)
        self.report = self.described(())

    def _converted(
        self, registry: AdapterRegistry, adapter: Adapter, rank: int
    ) -> tuple[Adapter, ConversionReport | None]:
        keeps = not self.target.is_plain
        made, conversion = converted(registry, adapter, adapter.name, rank, keep_biases=keeps)
        if conversion.biases and not keeps:
            self.notes.append(
                f"the biases of {len(conversion.biases)} layers, which it changes too, are left as in the model"
            )
        return made, conversion

    def described(self, files: tuple[Path, ...]) -> ExportReport:
        """The report, with files if they were written."""
        file = self.file
        tensors = [] if file is None else list(peft_layout.formatted(file).values())
        found = [
            len(t) for parts in (file.modules.values() if file else ()) for n, t in parts.items() if n.endswith("_A")
        ]
        return ExportReport(
            adapter_name=self.name,
            consumer=self.consumer,
            peft_type=None if file is None else file.peft_type,
            files=files,
            rank=max(found, default=0) or int((file.options.get("r") if file else 0) or 0),
            parameters=sum(tensor.numel() for tensor in tensors),
            notes=tuple(self.notes),
            problems=self.problems,
            conversion=self.conversion,
        )


def _unserved(file: PeftFile, target: Consumer) -> list[Problem]:
    """What of a file a consumer does not take."""
    options = file.options
    found: list[Problem] = []
    merge = "or merge it into the model (merge_adapter)"
    if target.is_plain and file.peft_type != "LORA":
        is_weight = file.peft_type in ("VERA", "ADALORA", "IA3")
        instead = f"pass rank=… to convert it to LoRA, {merge}" if is_weight else "serve it with PEFT or this library"
        found.append(Problem(f"{target.title} reads LoRA alone, and this is {file.peft_type}", instead))
        return found
    if target.is_plain and options.get("use_dora"):
        found.append(Problem("DoRA (use_dora=True)", f"pass rank=… to convert it to LoRA, {merge}"))
    if target.is_plain and options.get("bias", "none") != "none":
        found.append(Problem("trained biases", f"train it without BitFit, {merge}"))
    if not target.has_embeddings and any("lora_embedding_A" in parts for parts in file.modules.values()):
        found.append(Problem("an adapted embedding", "leave embeddings out of target_modules"))
    heads = options.get("modules_to_save") or []
    refused = [name for name in heads if target.heads is not None and name not in target.heads]
    if refused:
        taken = f"{target.title} takes {' and '.join(target.heads)} alone" if target.heads else "it takes none"
        found.append(
            Problem(
                f"modules trained whole ({', '.join(refused)}), and {taken}",
                "pass with_head=False if that is the head, or train it without ModulesToSaveConfig",
            )
        )
    rank = _largest_rank(file)
    if target.ranks and rank > max(target.ranks):
        found.append(
            Problem(f"rank {rank}, and {target.title} takes up to {max(target.ranks)}", "pass rank=… to cut it")
        )
    return found


def _adapted(file: PeftFile, target: Consumer) -> list[str]:
    """Turn what a consumer does not read into what it does; in words, what that was."""
    notes = []
    options = file.options
    has_patterns = bool(options.get("rank_pattern") or options.get("alpha_pattern"))
    is_stable = bool(options.get("use_rslora"))
    if file.peft_type == "LORA" and (
        (has_patterns and not target.has_patterns) or (is_stable and not target.has_stable_scaling)
    ):
        ranks = {len(parts["lora_A"]) for parts in file.modules.values() if "lora_A" in parts}
        _make_uniform(file)
        notes.append("scalings are folded into B" + (", and ranks filled up with zeros" if len(ranks) > 1 else ""))
    rank = _largest_rank(file)
    if target.default_rank is not None and rank > target.default_rank:
        enough = next(r for r in target.ranks if r >= rank)
        notes.append(f"start the server with {target.rank_option} {enough}")
    if target.title == "llama.cpp":
        notes.append("convert it with convert_lora_to_gguf.py" + _base_hint(options))
    return notes


def _base_hint(options: Mapping[str, Any]) -> str:
    return "" if options.get("base_model_name_or_path") else ", and name the base model (--base): it has no name here"


def _largest_rank(file: PeftFile) -> int:
    return max([len(t) for parts in file.modules.values() for n, t in parts.items() if n.endswith("_A")], default=0)


def _make_uniform(file: PeftFile) -> None:
    """One rank and a scaling of one for all matrices: lower ranks get zeros, and B the scaling."""
    options = file.options
    rank = _largest_rank(file)
    for path, parts in file.modules.items():
        own = options.get("rank_pattern", {}).get(path, options["r"])
        alpha = options.get("alpha_pattern", {}).get(path, options["lora_alpha"])
        scaling = alpha / (math.sqrt(own) if options.get("use_rslora") else own)
        for name, tensor in parts.items():
            if name.endswith("_A"):
                parts[name] = _filled(tensor, rank, 0)
            elif name.endswith("_B"):
                parts[name] = _filled(scaling * tensor, rank, 1)
    options |= {"r": rank, "lora_alpha": rank, "rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}


def _filled(tensor: Tensor, size: int, dim: int) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim) if shape[dim] else tensor
