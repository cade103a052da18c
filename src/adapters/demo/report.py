"""What the demo prints."""

import math
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table

from .harvest import TOPICS, Example, Split
from .training import Progress

_PER_TOPIC = 2
_READABLE = range(30, 100)


@dataclass(frozen=True)
class Result:
    """One row of the table of results; None where there is nothing to measure."""

    name: str
    accuracy: float
    trained_parameters: int | None = None
    bytes_on_disk: int | None = None
    seconds: float | None = None


def print_header(console: Console, model: str, parameters: int, data: Split) -> None:
    """What will happen, with which model and which data."""
    console.print("[bold]Reading docstrings: which part of the library does this text come from?[/]")
    console.print(f"model   {model}, {parameters:,} parameters, from a folder on this disk")
    console.print("text    docstrings of Python's standard library, divided by module:")
    console.print(f"        train {_modules(data.train)}\n        test  {_modules(data.test)}")
    table = Table(box=SIMPLE_HEAD, show_footer=True)
    table.add_column("topic", "all")
    table.add_column("what its modules are about")
    table.add_column("train", str(len(data.train)), justify="right")
    table.add_column("test", str(len(data.test)), justify="right")
    train, test = (Counter(example.topic for example in examples) for examples in (data.train, data.test))
    for topic, (meaning, _) in TOPICS.items():
        table.add_row(topic, meaning, str(train[topic]), str(test[topic]))
    console.print(table)


def _modules(examples: list[Example]) -> str:
    names = sorted({example.module for example in examples})
    few = ", ".join(names[:: max(1, len(names) // 4)][:4])
    return f"{len(names)} modules ({few}, ...)"


def follow(console: Console, training: Iterable[Progress]) -> list[Progress]:
    """Run the training to its end and show how it goes: a live bar in a terminal, now and then a line elsewhere."""
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    curve: list[Progress] = []
    loss, measured = math.nan, "not yet measured"
    with ProgressBar(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        for now in training:
            curve.append(now)
            loss = now.loss if math.isnan(loss) else 0.9 * loss + 0.1 * now.loss
            if now.test_accuracy is not None:
                measured = f"{now.test_accuracy:.1%}"
            text = f"loss {loss:.2f}  test accuracy {measured}"
            bar.update(task, completed=now.step, total=now.steps, description=text)
            if not console.is_terminal and now.test_accuracy is not None:
                console.print(f"step {now.step:>4} of {now.steps}  {text}")
    return curve


def print_results(console: Console, results: list[Result], parameters: int, test_size: int) -> None:
    """The table of everything that was measured."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    for heading in ("test accuracy", "trained parameters", "file", "time"):
        table.add_column(heading, justify="right")
    for result in results:
        # The standard error of a share: how far a test set of this size can be trusted.
        error = math.sqrt(result.accuracy * (1 - result.accuracy) / test_size)
        trained = result.trained_parameters
        table.add_row(
            result.name,
            f"{result.accuracy:.1%} ± {error:.1%}",
            "" if trained is None else f"{trained:,} ({trained / parameters:.1%})",
            "" if result.bytes_on_disk is None else f"{result.bytes_on_disk / 1e6:.1f} MB",
            "" if result.seconds is None else f"{result.seconds:.0f} s",
        )
    console.print(table)
    console.print("frozen: only a head is trained, on the first token (as with the adapter) or the mean of all.")
    console.print(f"±: standard error with {test_size} test texts.\n")


def some_of_each_topic(examples: list[Example]) -> list[int]:
    """Places of a few test examples that fit on a line, from different modules; chosen without asking the model."""
    chosen: list[int] = []
    for topic in TOPICS:
        modules: set[str] = set()
        for place, example in enumerate(examples):
            fits = example.topic == topic and len(example.text) in _READABLE and example.module not in modules
            if fits and len(modules) < _PER_TOPIC:
                modules.add(example.module)
                chosen.append(place)
    return chosen


def print_predictions(console: Console, examples: list[Example], predicted: list[str]) -> None:
    """Texts with the predicted and the true label, for a person to judge."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("docstring")
    table.add_column("predicted", no_wrap=True)
    table.add_column("true", no_wrap=True)
    for example, topic in zip(examples, predicted, strict=True):
        colour = "green" if topic == example.topic else "red"
        text = textwrap.shorten(example.text, width=_READABLE.stop, placeholder=" ...")
        table.add_row(escape(text), f"[{colour}]{topic}[/]", example.topic)
    console.print(table)
