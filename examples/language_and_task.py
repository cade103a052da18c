"""MAD-X (Pfeiffer et al. 2020, arXiv:2005.00052): learn a task in one language, and use it in another one.

    python examples/language_and_task.py --output language-and-task
    python examples/language_and_task.py --model xlm-roberta-base --source texts/en --target texts/fo

1. Two language adapters with invertible adapters (`seq_bn_inv`) learn to find masked words in raw text, one in each
   language. They share one masked-LM head.
2. A task adapter is stacked on that of the source language, which stays as it is, and learns parts of speech there.
3. The language adapter below is exchanged for the target's, of which no labels were ever seen:

    tested on  on top of         accuracy
    source     source adapter    90.2
    target     source adapter    86.0
    target     target adapter    86.3

A language is a folder with `text.txt` (a sentence in each line) and `test.jsonl` (rows with `tokens` and `upos`); that
of the source has `train.jsonl` too. Without `--source` and `--target` there are no two languages, only two registers of
English out of `ud_en_ewt` in `--data`: weblogs, and e-mails. That is an adaptation to a domain, not to a language, and
all-MiniLM-L6-v2 knows both; so expect a small difference, in either direction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from text_tasks import DATA, Training, load, packaged_model
from torch import Tensor
from transformers import (
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    DataCollatorForTokenClassification,
    get_linear_schedule_with_warmup,
    set_seed,
)

from adapters import MultiTask, Stack

TAGS = ["ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM", "PART", "PRON", "PROPN", "PUNCT", "SCONJ"]
TAGS += ["SYM", "VERB", "X", "_"]
WORDS = "words"  # the masked-LM head
LONGEST = 96

Row = dict[str, Any]
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Language:
    """Raw text, and sentences with a part of speech for each word."""

    text: list[str]
    train: list[Row]
    test: list[Row]


def read(path: Path) -> list[Row]:
    """The rows of a file of JSON lines."""
    if not path.is_file():
        raise SystemExit(f"There is no {path}.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def language(folder: Path, is_source: bool) -> Language:
    """A language in a folder."""
    test = read(folder / "test.jsonl")
    text = (folder / "text.txt").read_text(encoding="utf-8").splitlines()
    return Language(text, read(folder / "train.jsonl") if is_source else [], test)


def register(data: Path, kind: str) -> Language:
    """One of the registers in English Web Treebank: the names of its rows begin with it."""
    train, test = ([row for row in read(data / "ud_en_ewt" / f"{split}.jsonl") if row["id"].startswith(kind)]
                   for split in ("train", "test"))  # fmt: skip
    return Language([row["text"] for row in train], train, test)


def masked(tokenizer: Any, text: Sequence[str]) -> list[Row]:
    """Sentences as the model reads them; words are masked when batches are made."""
    ids = tokenizer(list(text), truncation=True, max_length=LONGEST, return_special_tokens_mask=True)
    return [{key: values[i] for key, values in ids.items()} for i in range(len(text))]


def tagged(tokenizer: Any, rows: Sequence[Row]) -> list[Row]:
    """Sentences whose words have their part of speech at their first token, and -100 at all others."""
    words = [row["tokens"] for row in rows]
    ids = tokenizer(words, is_split_into_words=True, truncation=True, max_length=LONGEST)
    found = []
    for i, row in enumerate(rows):
        places = ids.word_ids(i)
        first = [place is not None and place not in places[:at] for at, place in enumerate(places)]
        labels = [TAGS.index(row["upos"][p]) if is_first else -100 for p, is_first in zip(places, first, strict=True)]
        found.append({key: values[i] for key, values in ids.items()} | {"labels": labels})
    return found


def batches(rows: Sequence[Row], collate: Callable[[list[Row]], Batch], size: int, count: int) -> list[Batch]:
    """So many random batches."""
    order = torch.cat([torch.randperm(len(rows)) for _ in range(-(-count * size // len(rows)))])
    return [collate([rows[i] for i in order[n * size : (n + 1) * size]]) for n in range(count)]


def train(model: Any, setups: Sequence[Any], given: Sequence[Sequence[Batch]], head: str, how: Training) -> float:
    """Train what is not frozen, with a batch of each setup in turn; the mean loss of the last tenth."""
    own = [p for p in model.parameters() if p.requires_grad]
    count = len(given[0])
    optimizer = torch.optim.AdamW(own, lr=how.rate)
    schedule: Any = get_linear_schedule_with_warmup(optimizer, count // 10, count)  # type: ignore[no-untyped-call]
    losses = []
    for turn in zip(*given, strict=True):
        total = 0.0
        for setup, batch in zip(setups, turn, strict=True):
            model.set_active_adapters(setup)
            model.active_head = head
            with torch.autocast(model.device.type, torch.bfloat16, enabled=how.bf16):
                loss = model(**{key: value.to(model.device) for key, value in batch.items()}).loss
            loss.backward()
            total += loss.item() / len(setups)
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(total)
    last = losses[-max(1, count // 10) :]
    return sum(last) / len(last)


def accuracy(model: Any, setup: Any, rows: Sequence[Row], collate: Callable[[list[Row]], Batch]) -> float:
    """The share of words with the right part of speech, in per cent."""
    model.set_active_adapters(setup)
    model.active_head = "task"
    model.eval()
    right = total = 0
    in_order = sorted(rows, key=lambda row: len(row["input_ids"]))
    for start in range(0, len(in_order), 64):
        batch = {key: value.to(model.device) for key, value in collate(in_order[start : start + 64]).items()}
        labels = batch.pop("labels")
        with torch.inference_mode():
            chosen = model(**batch).logits.argmax(-1)
        counted = labels != -100
        right += int((chosen == labels)[counted].sum())
        total += int(counted.sum())
    return 100 * right / total


def main(
    source: Annotated[Path | None, typer.Option(help="A folder with text.txt, train.jsonl, test.jsonl.")] = None,
    target: Annotated[Path | None, typer.Option(help="A folder with text.txt, test.jsonl.")] = None,
    language_steps: Annotated[int, typer.Option(min=1, help="Steps of the language adapters.")] = 300,
    task_steps: Annotated[int, typer.Option(min=1, help="Steps of the task adapter.")] = 200,
    rate: Annotated[float, typer.Option(help="The highest learning rate.")] = 1e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows in a step.")] = 16,
    seed: Annotated[int, typer.Option(help="The seed.")] = 1,
    bf16: Annotated[bool, typer.Option("--bf16", help="Train in bfloat16: faster.")] = False,
    model: Annotated[str | None, typer.Option(help="A folder or name; by default all-MiniLM-L6-v2.")] = None,
    data: Annotated[Path, typer.Option(help="A folder with ud_en_ewt.")] = DATA,
    output: Annotated[Path, typer.Option(help="A folder for the adapters.")] = Path("language-and-task"),
) -> None:
    """Train two language adapters, and a task adapter on one of them; test it on both."""
    if (source is None) != (target is None):
        raise SystemExit("Give --source and --target, or neither of them.")
    set_seed(seed)
    here = register(data, "weblog") if source is None else language(source, is_source=True)
    there = register(data, "email") if target is None else language(target, is_source=False)
    name, how = model or packaged_model(), Training(rate, seed=seed, bf16=bf16)
    tokenizer, made = AutoTokenizer.from_pretrained(name), load(name)
    made.to("cuda" if torch.cuda.is_available() else "cpu")
    made.add_masked_lm_head(WORDS)
    for one in ("source", "target"):
        made.add_adapter(one, config="seq_bn_inv")
    mask = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    texts = [batches(masked(tokenizer, one.text), mask, batch_size, language_steps) for one in (here, there)]
    made.train_adapter(MultiTask("source", "target"))  # unfreezes both
    print(f"masked words: loss {train(made, ['source', 'target'], texts, WORDS, how):.2f} in the end", flush=True)

    made.add_adapter("task", config="seq_bn")
    made.add_tagging_head("task", num_labels=len(TAGS), id2label=dict(enumerate(TAGS)))
    made.train_adapter("task")  # freezes the language adapters
    collate = DataCollatorForTokenClassification(tokenizer)
    rows = batches(tagged(tokenizer, here.train), collate, batch_size, task_steps)
    print(f"parts of speech: loss {train(made, [Stack('source', 'task')], [rows], 'task', how):.2f} in the end\n")

    print(f"{'tested on':<9}  {'on top of':<16}  accuracy")
    figures = []
    tests = {"source": tagged(tokenizer, here.test), "target": tagged(tokenizer, there.test)}
    for tested, below in (("source", "source"), ("target", "source"), ("target", "target")):
        found = accuracy(made, Stack(below, "task"), tests[tested], collate)
        figures.append({"tested on": tested, "on top of": below, "accuracy": found})
        print(f"{tested:<9}  {f'{below} adapter':<16}  {found:.1f}")
    made.save_all_adapters(output)
    (output / "figures.json").write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
