"""Time of a forward pass with adapters, over that of the bare model (eval, no_grad, one thread).

Run: `python benchmarks/forward.py [bert-base/1x16 …] [--seconds 8]`
"""

from __future__ import annotations

import argparse
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
    "seq_bn of 100 loaded": method("seq_bn", loaded=100),
    "seq_bn of 100 loaded, over seq_bn of 1": Case(lambda bare: adapted(bare, loaded=100), adapted),
}
METHODS = ["control (bare over bare)", "seq_bn", "double_seq_bn", "par_bn, reduction 16", "compacter"]
CASES_OF = {
    "bert-base/1x16": list(CASES),
    "bert-base/1x128": [*METHODS, "init only", "added, not active (1)"],
    "bert-base/8x128": METHODS,
    "bert-6x384/1x16": list(CASES),
    "llama-8x512/1x16": ["control (bare over bare)", "seq_bn"],
    "t5-small/1x16": ["control (bare over bare)", "seq_bn"],
}


def ratios(case: Case, bare: nn.Module, inputs: dict[str, Tensor], seconds: float) -> list[float]:
    """Check that the adapters act (or do not) as they should, then time."""
    reference, candidate = case.reference(bare), case.candidate(bare)
    expected, output = bare(**inputs)[0], candidate(**inputs)[0]
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
