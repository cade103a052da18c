"""Run all benchmarks with this interpreter's `adapters`, and with a peer's, and print them side by side.

Run: `python benchmarks/compare.py [--peer /work/venvs/old/bin/python] [--rounds 3] [--json results.json]`
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from targets import EARLIER, limit

HERE = Path(__file__).parent
# The parts, each a script with arguments, between which the two libraries take turns.
PARTS = [
    *(("forward", f"{model}") for model in ("bert-base/1x16", "bert-base/1x128", "bert-base/8x128")),
    *(("forward", f"{model}") for model in ("bert-6x384/1x16", "llama-8x512/1x16", "t5-small/1x16")),
    *(("composition", section) for section in ("rows", "parallel", "fuse", "drop", "switch")),
    *(("lifecycle", section) for section in ("init", "add", "activate", "files", "memory", "import")),
    *(("training", m) for m in ("full fine-tuning", "seq_bn", "double_seq_bn", "par_bn, reduction 16", "compacter")),
    *(("training", m) for m in ("lora r 8 (q, v)", "ia3", "dora", "vera", "loreft")),
    *(("training", m) for m in ("prefix 30", "prefix 30 flat", "prompt 10", "seq_bn, first 6 dropped")),
]
VERSIONS = "import sys; from importlib.metadata import version as v; "
VERSIONS += "print(*(v(p) for p in (sys.argv[1], 'transformers', 'torch')))"

Record = dict[str, Any]
console = Console(width=None if sys.stdout.isatty() else 150)


@dataclass(frozen=True)
class Figure:
    """A case under one library: medians over the rounds."""

    unit: str
    median: float
    q1: float
    q3: float
    n: int

    def __str__(self) -> str:
        digits = 3 if self.unit == "x" else 2
        spread = f" [{self.q1:.{digits}f}–{self.q3:.{digits}f}]" if self.n > 1 else ""
        unit = "" if self.unit in "xn" else f" {self.unit}"
        return f"{self.median:.{digits}f}{unit}[dim]{spread.replace('[', chr(92) + '[')}[/dim]"


def options(script: str, effort: float) -> list[str]:
    """How long a script is to measure."""
    if script == "lifecycle":
        return ["--repeats", str(max(3, round(9 * effort)))]
    return ["--seconds", str((60.0 if script == "training" else 8.0) * effort)]


def run_part(side: str, python: str, script: str, argument: str, effort: float) -> Iterator[Record]:
    command = [python, str(HERE / f"{script}.py"), argument, *options(script, effort)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if side == "peft":  # the calls of `adapters`, made on PEFT
        environment["PYTHONPATH"] = str(HERE / "peft_calls")
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            yield json.loads(line)
    if done.returncode:
        yield {"case": f"{argument} ({script}.py)", "error": done.stderr.strip().splitlines()[-1][:300]}


def versions(python: str, library: str = "adapters") -> str:
    done = subprocess.run([python, "-c", VERSIONS, library], check=True, capture_output=True, text=True)
    version, transformers, torch = done.stdout.split()
    return f"{library} {version} (transformers {transformers}, torch {torch})"


def merge(records: list[Record]) -> Figure | str:
    """One figure of the rounds' figures, or the error if no round gave one."""
    good = [record for record in records if "median" in record]
    if not good:
        return str(records[-1]["error"])
    middle = {key: statistics.median(record[key] for record in good) for key in ("median", "q1", "q3")}
    return Figure(unit=good[0]["unit"], n=sum(record["n"] for record in good), **middle)


def verdict(ours: Figure | str | None, most: float | None) -> str:
    if most is None:
        return "–"
    text = f"≤ {most:.4g}"
    if not isinstance(ours, Figure):
        return text
    return f"[green]{text} met[/green]" if ours.median <= most else f"[red]{text} missed[/red]"


def cell(figure: Figure | str | None) -> str:
    if isinstance(figure, str):
        return f"[red]{figure[:60].replace('[', chr(92) + '[')}[/red]"
    return "" if figure is None else str(figure)


@dataclass(frozen=True)
class Row:
    """A case under each library."""

    case: str
    ours: Figure | str | None
    peer: Figure | str | None
    peft: Figure | str | None = None

    @property
    def limit(self) -> float | None:
        peers = [figure.median for figure in (self.peer, self.peft) if isinstance(figure, Figure)]
        return limit(self.case, min(peers, default=None))

    def as_json(self) -> Record:
        def plain(figure: Figure | str | None) -> Any:
            return vars(figure) if isinstance(figure, Figure) else figure

        sides = {"ours": plain(self.ours), "peer": plain(self.peer), "peft": plain(self.peft)}
        return {"case": self.case, **sides, "target": self.limit}


def table(rows: list[Row], names: Mapping[str, str]) -> Table:
    result = Table("case", names["ours"], names.get("peer", "adapters 1.3, as measured earlier"))
    if "peft" in names:
        result.add_column(names["peft"])
    result.add_column("target")
    for row in rows:
        peers = [cell(row.peer)]
        if "peer" not in names and row.case in EARLIER:
            peers = [f"[dim]{EARLIER[row.case]:g}[/dim]"]
        if "peft" in names:
            peers.append(cell(row.peft))
        result.add_row(row.case, cell(row.ours), *peers, verdict(row.ours, row.limit))
    return result


def collect(pythons: Mapping[str, str], parts: list[tuple[str, str]], rounds: int, effort: float) -> list[Row]:
    records: dict[str, dict[str, list[Record]]] = {}
    for turn in range(rounds):
        for script, argument in parts:
            for side, python in pythons.items():
                if side == "peft" and script == "lifecycle":
                    continue
                console.log(f"round {turn + 1}/{rounds}: {script} {argument} ({side})")
                for record in run_part(side, python, script, argument, effort):
                    records.setdefault(record["case"], {}).setdefault(side, []).append(record)
    merged = {case: {side: merge(found) for side, found in sides.items()} for case, sides in records.items()}
    return [Row(case, sides.get("ours"), sides.get("peer"), sides.get("peft")) for case, sides in merged.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter with the library to compare with")
    parser.add_argument("--peft", metavar="PYTHON", help="an interpreter with PEFT, for the methods that it has")
    parser.add_argument("--rounds", type=int, default=1, help="runs of everything, in fresh processes")
    parser.add_argument("--effort", type=float, default=1.0, help="factor on the time for each case")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="parts to run, e.g. training 1x16")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results there")
    arguments = parser.parse_args()
    pythons = {"ours": sys.executable} | ({"peer": arguments.peer} if arguments.peer else {})
    names = {side: versions(python) for side, python in pythons.items()}
    if arguments.peft:
        pythons["peft"], names["peft"] = arguments.peft, versions(arguments.peft, "peft")
    parts = [part for part in PARTS if any(text in " ".join(part) for text in arguments.only)]
    rows = collect(pythons, parts, arguments.rounds, arguments.effort)
    console.print(table(rows, names))
    if arguments.json:
        results = [row.as_json() for row in rows]
        arguments.json.write_text(json.dumps({"libraries": names, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
