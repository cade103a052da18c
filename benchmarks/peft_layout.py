"""How far outputs are apart between this library and peft, for files of the one that the other loads.

Run it where peft is installed: python benchmarks/peft_layout.py. It prints a table for docs/peft.md: the largest
difference of logits, relative to the largest logit, for PEFT's files loaded here / our files loaded by PEFT.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "interop")]

import test_peft_layout as layout  # noqa: E402

import adapters  # noqa: E402

# What PEFT calls it, and what we do.
ROWS = [
    ("LoRA", "lora", "lora"),
    ("rsLoRA", "rslora", "rslora"),
    ("DoRA", "dora", "dora"),
    ("PiSSA", "pissa", "pissa"),
    ("AdaLoRA", "adalora", "adalora"),
    ("IA³", "ia3", "ia3"),
    ("VeRA", "vera", "vera"),
    ("LayerNorm tuning", "norms", "norms"),
    ("prompt tuning", "prompt", "prompt"),
    ("p-tuning", "p-tuning", ""),
    ("prefix tuning", "prefix", "flat prefix"),
    ("prefix tuning with projection", "projected prefix", "prefix"),
    ("LoRA with whole modules", "whole", ""),
]


def read(family: str, kind: str, folder: Path) -> float:
    """For a file of PEFT."""
    expected = layout.saved_by_peft(family, folder, layout.config(family, kind))
    return layout.difference(layout.by_ours(family, folder), expected)


def written(family: str, kind: str, folder: Path) -> float:
    """For a file of ours."""
    model = layout.own(family, kind)
    adapters.export_adapter(model, "a", folder)
    return layout.difference(layout.by_peft(family, folder), layout.logits(model, family))


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print("| method | " + " | ".join(layout.FAMILIES) + " |")
    print("|---|" + "---|" * len(layout.FAMILIES))
    for title, theirs, ours in ROWS:
        cells = []
        for family in layout.FAMILIES:
            with tempfile.TemporaryDirectory() as folder:
                one = f"{read(family, theirs, Path(folder) / 'a'):.0e}"
                other = f"{written(family, ours, Path(folder) / 'b'):.0e}" if ours else "–"
            cells.append(f"{one} / {other}")
        print(f"| {title} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
