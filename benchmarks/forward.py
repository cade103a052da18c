"""Time of a forward pass with adapters, over that of the bare model (eval, no_grad, one thread).

Run: `python benchmarks/forward.py [bert-base/1x16 …] [--seconds 8]`
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import adapters
from measure import emit, emit_error, paired_ratios, quiet_single_thread
from models import SHAPES, Shape, adapted, twin

Build = Callable[[nn.Module], Any]


@dataclass(frozen=True)
class Case:
    """Two models to compare, made from the bare one, and whether their outputs must differ."""

    candidate: Build
    reference: Build = lambda bare: bare
    differs: bool = True


def method(config: str, loaded: int = 1) -> Case:
    return Case(lambda bare: adapted(bare, config, loaded))


def merged(config: str) -> Case:
    """An adapter that is merged into the weights; the bare model keeps its own."""

    def build(bare: nn.Module) -> Any:
        model = adapted(copy.deepcopy(bare), config)
        model.merge_adapter("a0")
        return model

    return Case(build)


def inactive(loaded: int) -> Case:
    return Case(lambda bare: adapted(bare, loaded=loaded, active=False), differs=False)


CASES = {
    "control (bare over bare)": Case(twin, differs=False),
    "init only": inactive(0),
    "added, not active (1)": inactive(1),
    "added, not active (10)": inactive(10),
    "added, not active (100)": inactive(100),
    "seq_bn": method("seq_bn"),
    "double_seq_bn": method("double_seq_bn"),
    "par_bn, reduction 16": method("par_bn[reduction_factor=16]"),
    "compacter": method("compacter"),
    "adapter_plus": Case(lambda bare: adapted(bare, adapters.AdapterPlusConfig(stochastic_depth=0.0))),
    "lora r 8 (q, v)": method("lora"),
    "lora merged": merged("lora"),
    "ia3": method("ia3"),
    "dora": method("dora"),
    "vera": method("vera"),
    "prefix 30": method("prefix_tuning"),
    "prefix 30 flat": method("prefix_tuning_flat"),
    "prompt 10": method("prompt_tuning"),
    "loreft": method("loreft"),
    "seq_bn of 100 loaded": method("seq_bn", loaded=100),
    "seq_bn of 100 loaded, over seq_bn of 1": Case(lambda bare: adapted(bare, loaded=100), adapted),
}
LOW_RANK = ["lora r 8 (q, v)", "lora merged", "ia3", "dora", "vera"]
METHODS = [
    *("control (bare over bare)", "seq_bn", "double_seq_bn", "par_bn, reduction 16", "compacter"),
    *LOW_RANK,
    *("prefix 30", "prefix 30 flat", "prompt 10", "loreft"),
]
CASES_OF = {
    "bert-base/1x16": list(CASES),
    "bert-base/1x128": [*METHODS, "init only", "added, not active (1)"],
    "bert-base/8x128": METHODS,
    "bert-6x384/1x16": list(CASES),
    "llama-8x512/1x16": ["control (bare over bare)", "seq_bn", *LOW_RANK, "prefix 30"],
    "t5-small/1x16": ["control (bare over bare)", "seq_bn", *LOW_RANK, "prefix 30"],
}


def ratios(case: Case, bare: nn.Module, inputs: dict[str, Tensor], seconds: float) -> list[float]:
    """Check that the adapters act (or do not) as they should, then time."""
    reference, candidate = case.reference(bare), case.candidate(bare)
    expected, output = bare(**inputs)[0], candidate(**inputs)[0]
    output = output[:, output.shape[1] - expected.shape[1] :]  # prompts come in front
    if torch.allclose(expected, output, atol=1e-5) == case.differs:
        raise RuntimeError(f"the output {'equals' if case.differs else 'differs from'} the bare model's")
    return paired_ratios(lambda: reference(**inputs), lambda: candidate(**inputs), seconds, least=15)


@torch.no_grad()
def measure_shape(name: str, shape: Shape, seconds: float) -> None:
    bare, inputs = shape.build().eval(), shape.inputs()
    for title in CASES_OF[name]:
        case = f"{name} {title}"
        try:
            emit(case, "x", ratios(CASES[title], bare, inputs, seconds))
        except Exception as error:  # one case that a library cannot run must not end the others
            emit_error(case, error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), metavar="shape", help=", ".join(SHAPES))
    parser.add_argument("--seconds", type=float, default=8.0, help="time for each case")
    arguments = parser.parse_args()
    quiet_single_thread()
    for name in arguments.shapes:
        measure_shape(name, SHAPES[name], arguments.seconds)


if __name__ == "__main__":
    main()
