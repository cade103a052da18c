"""AdapterFusion (Pfeiffer et al. 2021, arXiv:2005.00247): what adapters of other tasks bring to a small task.

    python examples/adapter_fusion.py --target rte --output fusion-rte.json --bf16

trains an adapter for each source task, once: they are kept in `--folder`. Then it trains on the target, each way with a
new head and for the same number of steps:

- a head alone, on the frozen model;
- the target's own adapter; the same once more, for twice as many steps;
- each source's adapter, which goes on from what it has learned there;
- a fusion of the sources' adapters, and one of these and the target's own adapter. What that one has learned before
  counts too: the fair comparison with it is the own adapter with twice the steps.

The learning rate of each way is the best of `--rates` with the first seed. The table has mean ± standard deviation over
all seeds, on the development rows after the last epoch, in per cent:

    way                     rate    score         trained %
    own                     0.001   …    ± …      2.62
    fusion                  0.001   …    ± …      12.36

`--output` has all figures, and is where a run that was stopped goes on.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from text_tasks import DATA, Training, features_of, load, metrics, packaged_model, rows_of, task_named, trainer
from transformers import AutoTokenizer, set_seed

from adapters import AutoAdapterModel, Fuse

HEAD, OWN, TWICE, FUSION, WITH_OWN = "head alone", "own", "own, twice the steps", "fusion", "fusion with own"


@dataclass(frozen=True)
class Settings:
    """What all figures in a file have in common."""

    model: str
    data: str
    target: str
    sources: list[str]
    source_rows: int
    source_epochs: int
    config: str
    epochs: int
    batch_size: int
    bf16: bool


@dataclass(frozen=True)
class Run:
    """One training on the target."""

    way: str
    rate: float
    seed: int


class Experiment:
    """All that is trained and measured, each thing once."""

    def __init__(self, settings: Settings, folder: Path, output: Path) -> None:
        self.settings, self.folder, self.output = settings, folder, output
        self.tokenizer = AutoTokenizer.from_pretrained(settings.model)
        self.sources: dict[str, dict[str, Any]] = {}
        self.runs: dict[Run, dict[str, Any]] = {}
        if output.exists():
            found = json.loads(output.read_text(encoding="utf-8"))
            if found["settings"] != asdict(settings):
                raise SystemExit(f"{output} has figures of other settings: choose another --output, or remove it.")
            self.runs = {Run(one["way"], one["rate"], one["seed"]): one for one in found["runs"]}

    def train_source(self, task: str) -> None:
        """Train the adapter of a source task, if it is not there yet."""
        s, note = self.settings, self.folder / task / "figures.json"
        how = Training(epochs=s.source_epochs, batch_size=s.batch_size, bf16=s.bf16)
        wanted = {"model": s.model, "rows": s.source_rows, "config": s.config, **asdict(how)}
        if not note.exists():
            set_seed(how.seed)
            model = load(s.model)
            model.add_adapter(task, config=s.config)
            model.add_classification_head(task, num_labels=task_named(task).labels)
            model.train_adapter(task)
            found = self.fitted(model, task, how, s.source_rows)
            model.save_adapter(self.folder / task, task)
            write(note, {"settings": wanted, **found})
        self.sources[task] = json.loads(note.read_text(encoding="utf-8"))
        if self.sources[task]["settings"] != wanted:
            raise SystemExit(f"{note} is of other settings: choose another --folder, or remove {note.parent}.")
        print(f"source {task}: {self.sources[task]['score']:.1f}", flush=True)

    def best_rate(self, way: str, rates: list[float], seeds: list[int]) -> float:
        """Train one way as often as it takes, and find its learning rate."""
        scores = {rate: self.run(Run(way, rate, seeds[0]), rates, seeds) for rate in rates}
        best = max(rates, key=lambda rate: scores[rate])
        for seed in seeds[1:]:
            self.run(Run(way, best, seed), rates, seeds)
        return best

    def run(self, run: Run, rates: list[float], seeds: list[int]) -> float:
        """Train on the target and measure, if it has not been done; the score."""
        own = self.own_adapter(run.rate, run.seed)
        if run not in self.runs or (run.way == OWN and not own.exists()):
            s = self.settings
            before = self.own_adapter(self.best_rate(OWN, rates, seeds), run.seed) if run.way == WITH_OWN else None
            set_seed(run.seed)
            model = self.prepared(run.way, before)
            epochs = 2 * s.epochs if run.way == TWICE else s.epochs
            found = self.fitted(model, s.target, Training(run.rate, epochs, s.batch_size, run.seed, s.bf16))
            if run.way == OWN:
                model.save_adapter(own, OWN, with_head=False)
            self.runs[run] = {**asdict(run), **found}
            write(self.output, {"settings": asdict(s), "sources": self.sources, "runs": list(self.runs.values())})
            print(f"{run.way}, rate {run.rate:g}, seed {run.seed}: {found['score']:.1f}", flush=True)
        return float(self.runs[run]["score"])

    def own_adapter(self, rate: float, seed: int) -> Path:
        """Where the target's own adapter is kept for a fusion."""
        return self.folder / f"{self.settings.target}-own-{rate:g}-{seed}"

    def prepared(self, way: str, own: Path | None) -> Any:
        """A model with what a way trains and a new head; all else is frozen."""
        s = self.settings
        model = load(s.model)
        loaded = [self.folder / name for name in s.sources if way in (name, FUSION, WITH_OWN)]
        names = [model.load_adapter(path, with_head=False) for path in [*loaded, *([own] if own else [])]]
        if way == HEAD:
            model.freeze_model()
        elif way in (FUSION, WITH_OWN):
            model.add_adapter_fusion(Fuse(*names))
            model.train_adapter_fusion(Fuse(*names))
        else:
            if way in (OWN, TWICE):
                model.add_adapter(OWN, config=s.config)
            model.train_adapter(OWN if way == TWICE else way)
        model.add_classification_head("target", num_labels=task_named(s.target).labels)  # the active one from here on
        return model

    def fitted(self, model: Any, name: str, how: Training, limit: int | None = None) -> dict[str, Any]:
        """Train, and measure on the development rows."""
        data, task, clock = Path(self.settings.data), task_named(name), time.perf_counter()
        own = sum(p.numel() for p in model.parameters() if p.requires_grad)
        share = 100 * own / sum(p.numel() for p in AutoAdapterModel.from_config(model.config).parameters())
        features = features_of(self.tokenizer, task, rows_of(data, name, "train", limit))
        trainer(model, self.tokenizer, features, how).train()
        rows = features_of(self.tokenizer, task, rows_of(data, name, "validation"))
        found = metrics(model, self.tokenizer, task, rows, how.bf16)
        seconds = round(time.perf_counter() - clock, 1)
        return {"score": statistics.fmean(found.values()), "metrics": found, "trained %": share, "seconds": seconds}

    def table(self, best: dict[str, float], seeds: list[int]) -> None:
        """Print what came out."""
        print(f"\n{'way':<22}  {'rate':<6}  {'score':<12}  trained %")
        means = {}
        for way, rate in best.items():
            scores = [self.runs[Run(way, rate, seed)]["score"] for seed in seeds]
            means[way] = statistics.fmean(scores)
            spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
            share = self.runs[Run(way, rate, seeds[0])]["trained %"]
            print(f"{way:<22}  {rate:<6g}  {f'{means[way]:.1f}{spread}':<12}  {share:.2f}")
        single = max((way for way in best if way not in (HEAD, FUSION, WITH_OWN)), key=lambda way: means[way])
        print(f"\nThe best single adapter is {single!r}: {means[single]:.1f}", end="")
        print(f"; fusion {means[FUSION]:.1f}, with own {means[WITH_OWN]:.1f}, on {self.settings.target}.")


def write(path: Path, figures: dict[str, Any]) -> None:
    """Write JSON, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.part")
    beside.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    os.replace(beside, path)


def main(
    target: Annotated[str, typer.Option(help="The task to be learned.")] = "cb",
    sources: Annotated[list[str], typer.Option(help="A task whose adapter is used; once for each.")] = [  # noqa: B006
        "mrpc",
        "stsb",
        "sst2",
    ],
    rates: Annotated[list[float], typer.Option(help="A learning rate to try; once for each.")] = [3e-4, 1e-3, 3e-3],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Rounds over the target's rows.")] = 10,
    source_rows: Annotated[int, typer.Option(min=1, help="Rows of each source task.")] = 8000,
    source_epochs: Annotated[int, typer.Option(min=1, help="Rounds over them.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in a step.")] = 16,
    config: Annotated[str, typer.Option(help="The configuration of the adapters.")] = "seq_bn[reduction_factor=4]",
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16: faster.")] = False,
    model: Annotated[str | None, typer.Option(help="A folder or name; by default all-MiniLM-L6-v2.")] = None,
    data: Annotated[Path, typer.Option(help="A folder with a folder for each task.")] = DATA,
    folder: Annotated[Path, typer.Option(help="Where adapters are kept.")] = Path("fusion-adapters"),
    output: Annotated[Path, typer.Option(help="All figures, as JSON.")] = Path("fusion.json"),
) -> None:
    """Compare fusions of source tasks' adapters with single adapters on a target task."""
    name, learned = model or packaged_model(), (source_rows, source_epochs)
    settings = Settings(name, str(data), target, sources, *learned, config, epochs, batch_size, bf16)
    experiment, numbers = Experiment(settings, folder, output), list(range(1, seeds + 1))
    for source in sources:
        experiment.train_source(source)
    ways = [HEAD, OWN, TWICE, *sources, FUSION, WITH_OWN]
    experiment.table({way: experiment.best_rate(way, rates, numbers) for way in ways}, numbers)


if __name__ == "__main__":
    typer.run(main)
