"""The demo from beginning to end. `python -m adapters.demo --help` lists the options."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from . import baseline, training
from .encoder import Texts, accuracy, load_adapter_model, load_plain_model, model_folder, predict_logits, tokenize
from .handover import ADAPTER_FOLDER, size_on_disk, write_test_set
from .harvest import TOPICS, Example, Split, harvest, split
from .picture import draw_curve
from .report import Result, follow, print_header, print_results

_OUTPUT = Path("demo-output")
_EVERY_IN_QUICK = 20


def run() -> None:
    """Read the command line and run the demo."""
    typer.run(main)


def main(
    output: Annotated[Path, typer.Option(help="Folder for the adapter, the picture and the test set.")] = _OUTPUT,
    epochs: Annotated[int, typer.Option(min=1, help="Rounds over the training texts.")] = training.EPOCHS,
    seed: Annotated[int, typer.Option(help="Seed of initial weights, dropout and the order of texts.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A tiny run that shows every part; learns little.")] = False,
) -> None:
    """Train an adapter on the docstrings of the standard library, save it, and load it in a new process."""
    started = time.perf_counter()
    console = Console(highlight=False)
    torch.manual_seed(seed)
    output.mkdir(parents=True, exist_ok=True)

    data = split(harvest())
    if quick:
        data, epochs = Split(data.train[::_EVERY_IN_QUICK], data.test[::_EVERY_IN_QUICK]), 1
    encoder = load_plain_model()
    parameters = sum(p.numel() for p in encoder.parameters())
    print_header(console, model_folder().parent.name, parameters, data)

    train_texts, test_texts = _labelled(data.train), _labelled(data.test)
    model = load_adapter_model()
    training.add_adapter(model, list(TOPICS))
    baselines = _measure_baselines(encoder, model.heads[training.ADAPTER], train_texts, test_texts, output)

    clock = time.perf_counter()
    curve = follow(console, training.train(model, train_texts, test_texts, epochs, seed))
    seconds = time.perf_counter() - clock
    logits = predict_logits(model, test_texts.tokens)
    model.save_adapter(str(output / ADAPTER_FOLDER), training.ADAPTER)
    write_test_set(output, data.test, logits)
    trained = Result(
        "adapter",
        accuracy(logits, test_texts.labels),
        training.count_trainable(model),
        size_on_disk(output / ADAPTER_FOLDER),
        seconds,
    )
    print_results(console, [*baselines, trained], parameters, len(data.test))

    picture = output / "training.png"
    draw_curve(picture, curve, baselines)
    console.print(f"Training curve: {picture}\n\nNow a new process loads the adapter:", soft_wrap=True)
    _predict_in_new_process(output)
    console.print(f"\nAll of it took {time.perf_counter() - started:.0f} seconds. Try texts of your own:")
    console.print(f'    python -m adapters.demo.predict {output} "Raised when the queue is empty."', soft_wrap=True)


def _labelled(examples: list[Example]) -> Texts:
    topics = list(TOPICS)
    labels = torch.tensor([topics.index(example.topic) for example in examples])
    return Texts(tokenize([example.text for example in examples]), labels)


def _measure_baselines(encoder: Any, head: nn.Sequential, train: Texts, test: Texts, output: Path) -> list[Result]:
    """The majority class, and copies of the adapter's own head trained without the adapter."""
    majority = Result("majority class", baseline.majority_accuracy(train.labels, test.labels))

    clock = time.perf_counter()
    of_train = baseline.frozen_vectors(encoder, train.tokens)
    of_test = baseline.frozen_vectors(encoder, test.tokens)
    encoding = time.perf_counter() - clock

    def measure(name: str, train_vectors: Tensor, test_vectors: Tensor) -> Result:
        clock = time.perf_counter()
        trained = baseline.trained_head(head, train_vectors, train.labels)
        seconds = encoding + time.perf_counter() - clock
        with torch.no_grad():
            share = accuracy(trained(test_vectors), test.labels)
        file = output / f"{name.replace(', ', '-').replace(' ', '-')}-head.safetensors"
        save_file(trained.state_dict(), file)
        return Result(name, share, training.count_trainable(trained), size_on_disk(file), seconds)

    return [
        majority,
        measure("frozen, first token", of_train.first, of_test.first),
        measure("frozen, mean of all", of_train.mean, of_test.mean),
    ]


def _predict_in_new_process(output: Path) -> None:
    sys.stdout.flush()  # or its output would come before ours where stdout is a file
    command = [sys.executable, "-m", "adapters.demo.predict", str(output)]
    result = subprocess.run(command, check=False)
    if result.returncode != 0:
        raise typer.Exit(result.returncode)
