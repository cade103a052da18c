"""Train the whole model together with an adapter, each with a learning rate of its own.

    python examples/whole_model_and_adapter.py --task rte --output whole-model

prints the score on the development rows, writes the model with its adapter and head, reads it again, and checks that it
gives the same logits:

    22,713,216 parameters at 3e-05, 593,858 of the adapter and the head at 0.001
    rte: … after 3 epochs
    whole-model gives the same logits
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from text_tasks import DATA, Training, features_of, load, packaged_model, rows_of, score, task_named, trainer
from transformers import AutoTokenizer, DataCollatorWithPadding, set_seed


def main(
    task: Annotated[str, typer.Option(help="A task.")] = "rte",
    rate: Annotated[float, typer.Option(help="The highest learning rate of the adapter and the head.")] = 1e-3,
    model_rate: Annotated[float, typer.Option(help="That of the model.")] = 3e-5,
    epochs: Annotated[int, typer.Option(min=1, help="Rounds over the rows.")] = 3,
    rows: Annotated[int | None, typer.Option(help="Train on the first rows only.")] = None,
    seed: Annotated[int, typer.Option(help="The seed.")] = 1,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16: faster.")] = False,
    model: Annotated[str | None, typer.Option(help="A folder or name; by default all-MiniLM-L6-v2.")] = None,
    data: Annotated[Path, typer.Option(help="A folder with a folder for each task.")] = DATA,
    output: Annotated[Path, typer.Option(help="A folder for the model.")] = Path("whole-model"),
) -> None:
    """Train a model and an adapter in it."""
    name, how = model or packaged_model(), Training(rate, epochs, seed=seed, bf16=bf16)
    tokenizer, kind = AutoTokenizer.from_pretrained(name), task_named(task)
    set_seed(seed)
    made = load(name)
    of_model = list(made.parameters())
    made.add_adapter(task, config="seq_bn[reduction_factor=4]")
    made.add_classification_head(task, num_labels=kind.labels)
    made.train_adapter(task)
    made.freeze_model(False)  # now the model is trained too
    known = {id(parameter) for parameter in of_model}
    added = [parameter for parameter in made.parameters() if id(parameter) not in known]
    counts = [sum(p.numel() for p in group) for group in (of_model, added)]
    print(f"{counts[0]:,} parameters at {model_rate:g}, {counts[1]:,} of the adapter and the head at {rate:g}")

    groups = [{"params": of_model, "lr": model_rate}, {"params": added, "lr": rate}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    features = features_of(tokenizer, kind, rows_of(data, task, "train", rows))
    trainer(made, tokenizer, features, how, optimizer=optimizer, train_model=True).train()
    test = features_of(tokenizer, kind, rows_of(data, task, "validation"))
    print(f"{task}: {score(made, tokenizer, kind, test, bf16):.1f} after {epochs} epochs")

    made.save_pretrained(output)
    tokenizer.save_pretrained(output)
    again = load(str(output)).eval()
    again.set_active_adapters(task)
    batch = DataCollatorWithPadding(tokenizer)(test[:8])
    with torch.inference_mode():
        same = torch.equal(again(**batch).logits, made.cpu()(**batch).logits)
    if not same:
        raise SystemExit(f"{output} gives other logits.")
    print(f"{output} gives the same logits")


if __name__ == "__main__":
    typer.run(main)
