"""A tiny pretrained model with its tokenizer, and files to train with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

TEXT = "good bad fine poor the a film book was is it not very really actor oslo rome who where no yes"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def model_folder(folder: Path, is_decoder: bool = False) -> str:
    """A folder with a model and its tokenizer, as `from_pretrained` reads it."""
    torch.manual_seed(0)
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *TEXT.split()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
    fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        pad_token_id=0,
        is_decoder=is_decoder,
        initializer_range=0.2,  # with usual weights so small a model hardly sees its words
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    fast.save_pretrained(folder)
    BertModel(config).save_pretrained(folder)
    return str(folder)


def sentences(count: int) -> list[dict[str, Any]]:
    """Reviews that a word decides."""
    words = ("good", "bad", "fine", "poor")
    return [
        {"sentence": f"the {('film', 'book')[n % 3 == 0]} was {words[n % 4]}", "label": (n + 1) % 2}
        for n in range(count)
    ]


def write(path: Path, rows: Iterable[Any]) -> Path:
    """A file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def splits(folder: Path, train: Sequence[Any], validation: Sequence[Any] | None = None) -> Path:
    """A folder with a training and a development file."""
    write(folder / "train.jsonl", train)
    write(folder / "validation.jsonl", validation if validation is not None else train)
    return folder
