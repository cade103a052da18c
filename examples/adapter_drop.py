"""AdapterDrop (Rücklé et al. 2021, arXiv:2010.11918): how fast and how good a model is without its first adapters.

    python examples/adapter_drop.py --task mrpc --output adapter-drop --bf16

trains an adapter as usual, and one with the adapters of the first n layers left out, where n is drawn anew for each
step (robust AdapterDrop). Both are measured with those of the first 0, 1, … layers left out, on the development rows.
Speed is that of forward passes of one row: with one adapter, and with `--tasks` adapters in one pass, whose lower
layers are then computed once for all. What is compared takes turns, and the ratio to "none dropped" is a median.

    dropped  usual  robust  speed, 1 adapter   speed, 8 adapters
    0        79.8   79.8    1.00 (3/s)         1.00 (1/s)
    …
    5        75.9   79.8    1.08 (3/s)         1.93 (2/s)

The folder `--output` has all figures (`figures.json`), the picture (`speed.png`), and both adapters.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from text_tasks import DATA, Training, features_of, load, metrics, packaged_model, rows_of, task_named, trainer
from transformers import AutoTokenizer, set_seed

from adapters import Parallel
from adapters.training import AdapterDropTrainerCallback

USUAL, ROBUST = "usual", "robust"


def trained(kind: str, name: str, tokenizer: Any, task: str, rows: list[dict[str, Any]], how: Training) -> Any:
    """A model with an adapter that was trained in one of the two ways."""
    set_seed(how.seed)
    model = load(name)
    model.add_adapter(kind, config="seq_bn[reduction_factor=4]")
    model.add_classification_head(kind, num_labels=task_named(task).labels)
    model.train_adapter(kind)
    callbacks = [AdapterDropTrainerCallback()] if kind == ROBUST else []
    trainer(model, tokenizer, features_of(tokenizer, task_named(task), rows), how, callbacks).train()
    return model.eval()


def scores(model: Any, kind: str, tokenizer: Any, task: str, rows: list[dict[str, Any]], bf16: bool) -> list[float]:
    """The score with the adapters of the first n layers left out, for each n."""
    found, features = [], features_of(tokenizer, task_named(task), rows)
    for dropped in range(model.config.num_hidden_layers):
        model.set_active_adapters(kind, skip_layers=range(dropped))
        found.append(statistics.fmean(metrics(model, tokenizer, task_named(task), features, bf16).values()))
    return found


def speeds(model: Any, setup: Any, batch: Any, rounds: int) -> list[dict[str, float]]:
    """Forward passes per second with the adapters of the first n layers left out, and the ratio to none, for each n."""

    def call(dropped: int) -> Callable[[], None]:
        def timed() -> None:
            model.set_active_adapters(setup, skip_layers=range(dropped))
            model(**batch)

        return timed

    calls = [call(dropped) for dropped in range(model.config.num_hidden_layers)]
    taken: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for turn in range(rounds + 3):  # the first ones warm up
            for times, one in zip(taken, calls, strict=True):
                started = time.perf_counter()
                one()
                if turn >= 3:
                    times.append(time.perf_counter() - started)
    return [
        {
            "per second": 1 / statistics.median(times),
            "ratio": statistics.median(none / some for none, some in zip(taken[0], times, strict=True)),
        }
        for times in taken
    ]


def draw(path: Path, figures: dict[str, Any], title: str) -> None:
    """A picture of speed and score."""
    import matplotlib

    matplotlib.use("Agg")  # draws to files; needs no screen
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, sharey=True, figsize=(10, 4), layout="constrained")
    for place, (name, speed) in zip(axes, figures["speed"].items(), strict=True):
        ratios = [one["ratio"] for one in speed]
        for kind, marker in ((USUAL, "o"), (ROBUST, "s")):
            place.plot(ratios, figures["score"][kind], marker=marker, label=f"{kind} training")
        for dropped, ratio in enumerate(ratios):
            place.annotate(str(dropped), (ratio, figures["score"][ROBUST][dropped]), (4, 4), textcoords="offset points")
        place.set_xlabel(f"speed over that of all layers, {name}")
    axes[0].set_ylabel("score, in per cent")
    axes[0].legend(frameon=False)
    figure.suptitle(f"{title}: the adapters of the first n layers dropped")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(
    task: Annotated[str, typer.Option(help="A task.")] = "mrpc",
    tasks: Annotated[int, typer.Option(min=2, help="Adapters in one pass, where speed is measured.")] = 8,
    epochs: Annotated[int, typer.Option(min=1, help="Rounds over the rows.")] = 4,
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="The seed.")] = 1,
    rows: Annotated[int | None, typer.Option(help="Train on the first rows only.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of speed.")] = 50,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train and score in bfloat16: faster.")] = False,
    model: Annotated[str | None, typer.Option(help="A folder or name; by default all-MiniLM-L6-v2.")] = None,
    data: Annotated[Path, typer.Option(help="A folder with a folder for each task.")] = DATA,
    output: Annotated[Path, typer.Option(help="A folder for what comes out.")] = Path("adapter-drop"),
) -> None:
    """Train with and without AdapterDrop; measure with 0, 1, … layers dropped."""
    name, how = model or packaged_model(), Training(rate, epochs, seed=seed, bf16=bf16)
    tokenizer = AutoTokenizer.from_pretrained(name)
    given, measured = rows_of(data, task, "train", rows), rows_of(data, task, "validation")
    figures: dict[str, Any] = {"task": task, "model": name, "rate": rate, "epochs": epochs, "seed": seed, "score": {}}
    for kind in (USUAL, ROBUST):
        made = trained(kind, name, tokenizer, task, given, how)
        made.save_adapter(output / kind, kind)
        figures["score"][kind] = scores(made, kind, tokenizer, task, measured, bf16)

    texts = [str(measured[0][column]) for column in task_named(task).texts]
    batch = tokenizer(*texts, return_tensors="pt", truncation=True).to(made.device)
    several = [f"{ROBUST}{number}" for number in range(tasks)]
    for one in several:
        made.load_adapter(output / ROBUST, load_as=one)
    figures["speed"] = {
        "1 adapter": speeds(made, ROBUST, batch, rounds),
        f"{tasks} adapters": speeds(made, Parallel(*several), batch, rounds),
    }
    (output / "figures.json").write_text(json.dumps(figures, indent=2), encoding="utf-8")
    draw(output / "speed.png", figures, task)

    print("dropped  usual  robust" + "".join(f"  {f'speed, {name}':<17}" for name in figures["speed"]))
    for dropped, (usual, robust) in enumerate(zip(*figures["score"].values(), strict=True)):
        points = [speed[dropped] for speed in figures["speed"].values()]
        shown = [f"{point['ratio']:.2f} ({point['per second']:.0f}/s)" for point in points]
        print(f"{dropped:<7}  {usual:<5.1f}  {robust:<6.1f}" + "".join(f"  {text:<17}" for text in shown))


if __name__ == "__main__":
    typer.run(main)
