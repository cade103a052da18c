"""What of an adapter PEFT has nothing for, and what can be done instead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from ..anatomy.parts import InputEmbeddings
from ..methods.adalora import AdaLoRA
from ..methods.base import AdapterModule, SharedParameters
from ..methods.bitfit import BiasShift
from ..methods.copies import ModuleCopy, ModuleTwin
from ..methods.embedding_lora import EmbeddingLoRA
from ..methods.experts import ExpertsAdapter
from ..methods.ia3 import IA3, InputScaling
from ..methods.low_rank import LowRank
from ..methods.prefix_tuning import Prefix, PrefixPool
from ..methods.prompt_tuning import Prompt
from ..methods.targets import AdaptedMatrix
from ..methods.vera import Vera
from .peft_source import Source


@dataclass(frozen=True)
class Problem:
    """Something that cannot be written, or not be served.

    Args:
        what: What it is.
        instead: What can be done.
    """

    what: str
    instead: str

    def __str__(self) -> str:
        return f"{self.what}: {self.instead}"


class ExportError(ValueError):
    """An adapter cannot be written for somebody, or not be served by them; the message says all the reasons.

    Args:
        message: What was to be done.
        problems: The reasons.
    """

    def __init__(self, message: str, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join([message, *(f"  {problem}" for problem in problems)]))
        self.problems = tuple(problems)


_WRITTEN = (LowRank, EmbeddingLoRA, IA3, InputScaling, ModuleTwin, BiasShift, Prompt, PrefixPool, Prefix)
_GROUPS: dict[str, tuple[type[AdapterModule], ...]] = {
    "changes of weights": (LowRank, EmbeddingLoRA),
    "scalings": (IA3, InputScaling),
    "a prompt": (Prompt,),
    "prefixes": (PrefixPool,),
}


def problems(source: Source) -> Iterator[Problem]:
    """Whatever of an adapter cannot be written."""
    adapter = source.adapter
    if adapter.name in source.registry.merged:
        instead = f"call model.reset_adapter({adapter.name!r}) first"
        yield Problem("It is merged into the weights, which are not those of the model any more", instead)
    others = [m for m in adapter.modules() if not isinstance(m, (*_WRITTEN, SharedParameters, ExpertsAdapter))]
    for kind in dict.fromkeys(type(module).__name__ for module in others):
        yield Problem(
            f"PEFT has no method with modules such as {kind}",
            "share it in the layout of AdapterHub (model.save_adapter), which this library reads",
        )
    if source.modules(ExpertsAdapter):
        yield Problem(
            "Experts in one parameter (target_parameters of PEFT) are not written",
            "leave them out of target_modules, or use model.save_adapter",
        )
    gated = [m for m in source.modules(AdaptedMatrix).values() if m.gate is not None]
    if gated or any(m.reads_hidden for m in source.modules(Prefix).values()):
        yield Problem("use_gating=True: what it does depends on the input by gates", "train it without gates")
    found = [name for name, kinds in _GROUPS.items() if source.modules(*kinds)]
    if len(found) > 1:
        yield Problem(f"One adapter of PEFT cannot have {' and '.join(found)}", "train it as adapters of their own")
    shifts, copies = source.modules(BiasShift), source.modules(ModuleCopy)
    if shifts and (found != ["changes of weights"] or is_vera(source) or is_adalora(source)):
        yield Problem(
            "PEFT trains biases (BitFit) beside LoRA only",
            "train a ConfigUnion(LoRAConfig(...), BitFitConfig())",
        )
    if copies and found in (["a prompt"], ["prefixes"]):
        yield Problem("PEFT has no trained modules beside prompts and prefixes", "train them as adapters of their own")
    if not found and copies and shifts:
        yield Problem("PEFT has no adapter of biases and whole modules", "train a ConfigUnion with LoRA")
    yield from _problems_of_prompts(source)


def _problems_of_prompts(source: Source) -> Iterator[Problem]:
    for placement in source.adapter.placements:
        if isinstance(placement.module, Prompt):
            assert isinstance(placement.point, InputEmbeddings)
            if placement.module.follows_first:
                yield Problem("combine='prefix_after_bos': prompts of PEFT come first", "train it with 'prefix'")
            if not placement.point.are_tokens:
                yield Problem(
                    f"The prompt is behind all embeddings of this {source.registry.anatomy.model_class}, and not among "
                    "those of tokens",
                    "train it with PromptTuningConfig(counts_positions=True)",
                )
    prefixes = [p for p in source.adapter.placements if isinstance(p.module, Prefix)]
    if not prefixes:
        return
    if not all(cast(Prefix, p.module).counts_positions for p in prefixes):
        yield Problem(
            "In PEFT text begins at the position behind a prefix, and here at 0",
            "train it with PrefixTuningConfig(counts_positions=True)",
        )
    towers = source.registry.anatomy.towers
    wanted = {(la.index, s.kind) for la in towers[-1].layers for s in la.sublayers if s.kind == "attention"}
    given = {(p.layer, cast(Any, p.point).kind) for p in prefixes}
    if given != wanted:
        where = "the self-attention of the decoder" if len(towers) > 1 else "every attention"
        yield Problem(
            f"PEFT has prefixes in {where}, in all layers",
            "train it with leave_out=[], encoder_prefix=False, cross_prefix=False",
        )
    pools = source.modules(PrefixPool).values()
    if len({size for pool in pools for group in pool.groups for size in group.sizes}) > 1:
        yield Problem("PEFT has prefixes of one size of heads", "use a model whose layers are alike")


# -- which of PEFT's types it is ------------------------------------------------------------------------------------


def is_vera(source: Source) -> bool:
    """Whether it is VeRA as in PEFT: one pair of matrices for all, vectors at whole matrices, and nothing else."""
    modules = source.modules(LowRank, EmbeddingLoRA).values()
    shared = source.modules(SharedParameters)
    is_plain = all(isinstance(m, Vera) and m.m is None and m.is_whole and m.vera_B.ndim == 1 for m in modules)
    return bool(modules) and is_plain and len(shared) == 1


def is_adalora(source: Source) -> bool:
    """Whether it is AdaLoRA as in PEFT: whole matrices of one rank, and nothing else."""
    modules = source.modules(LowRank, EmbeddingLoRA).values()
    is_plain = all(isinstance(m, AdaLoRA) and m.is_whole for m in modules)
    return bool(modules) and is_plain and len({(m.rank, m.scaling) for m in modules}) == 1
