"""Use the saved adapter in a process of its own: `python -m adapters.demo.predict demo-output "Return the size."`"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor

from .encoder import accuracy, load_adapter_model, predict_logits, tokenize
from .handover import ADAPTER_FOLDER, read_test_set
from .report import print_predictions, some_of_each_topic


def main(
    folder: Annotated[Path, typer.Argument(help="The output folder of the demo.", exists=True, file_okay=False)],
    texts: Annotated[list[str] | None, typer.Argument(help="Your own docstrings, instead of the test set.")] = None,
) -> None:
    """Load the adapter and predict. Without texts: the test set, which must give the very logits of training."""
    console = Console(highlight=False)
    model = load_adapter_model()
    model.load_adapter(str(folder / ADAPTER_FOLDER), set_active=True)
    topics: list[str] = model.get_labels()
    if texts:
        for text, logits in zip(texts, predict_logits(model, tokenize(texts)), strict=True):
            console.print(f"{topics[int(logits.argmax())]:<10} {text}", markup=False)
    else:
        _predict_test_set(console, model, topics, folder)


def _predict_test_set(console: Console, model: Any, topics: list[str], folder: Path) -> None:
    examples, expected = read_test_set(folder)
    logits = predict_logits(model, tokenize([example.text for example in examples]))
    shown = some_of_each_topic(examples)
    print_predictions(console, [examples[i] for i in shown], [topics[int(logits[i].argmax())] for i in shown])
    _check_identical(logits, expected)
    labels = torch.tensor([topics.index(example.topic) for example in examples])
    console.print(
        f"The adapter loaded from {folder / ADAPTER_FOLDER} gives the logits of training, bit for bit, "
        f"on all {len(examples)} test docstrings: test accuracy {accuracy(logits, labels):.1%}.",
        soft_wrap=True,
    )


def _check_identical(logits: Tensor, expected: Tensor) -> None:
    if not torch.equal(logits, expected):
        difference = (logits - expected).abs().max().item()
        raise AssertionError(f"The reloaded adapter's logits differ from those of training by up to {difference:.2e}.")


if __name__ == "__main__":
    typer.run(main)
