"""Embeddings for other tokenizers, by name. The model's own are named `default`.

Which embeddings are active is a state of the whole model, not of a thread or a setup: the model's modules stay, and the
parameters in them are exchanged, in the input embeddings and in all that is tied to them or counts their tokens.

Shapes: V tokens of a vocabulary, D size of an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from .anatomy.parts import Matrix, WholeModule
from .checkpoints.files import AdapterFileError, read_tensors, write_tensors
from .checkpoints.transactions import finish, located, together, write_folder
from .checkpoints.weights import load_pytorch, plain
from .registry import AdapterRegistry, unknown_name
from .vocabulary import INPUT, OUTPUT, Vocabulary, current_vocabulary, exchange, input_modules

DEFAULT = "default"
EMBEDDING_FILES = ("embedding.safetensors", "embedding.pt")
TOKENIZER_FOLDER = "tokenizer"


class LoadedEmbeddings:
    """The embeddings of one model.

    Args:
        registry: The adapters of the model, which may act on embeddings too.
    """

    def __init__(self, registry: AdapterRegistry) -> None:
        self._registry = registry
        self.active = DEFAULT
        # What is active is in the model, and only there.
        self._kept: dict[str, Vocabulary | None] = {DEFAULT: None}

    def __contains__(self, name: object) -> bool:
        return name in self._kept

    def get(self, model: nn.Module, name: str) -> Vocabulary:
        """The embeddings of a name.

        Raises:
            ValueError: there are none.
        """
        if name not in self._kept:
            raise ValueError(unknown_name(name, self._kept, "embedding"))
        return self._kept[name] or current_vocabulary(model, self._registry)

    def as_modules(self, model: nn.Module) -> dict[str, nn.Embedding]:
        """All embeddings by their names, as modules around the very parameters."""
        found = {}
        for name in self._kept:
            weight = self.get(model, name).tensors[INPUT]
            found[name] = nn.Embedding(len(weight), weight.shape[1], device="meta")
            found[name].weight = cast(nn.Parameter, weight)
        return found

    def add(self, model: nn.Module, name: str, vocabulary: Vocabulary) -> None:
        """Add embeddings, and make them the active ones.

        Raises:
            ValueError: the name is taken, or an adapter acts on the embeddings. The model is then as it was.
        """
        self.check_new(name)
        _refuse_adapters(model, self._registry)
        self._kept[name] = vocabulary
        self.activate(model, name)

    def check_new(self, name: str) -> None:
        """Raise `ValueError` for a name that is taken, or is none."""
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"{name!r} is no name for embeddings.")
        if name in self._kept:
            raise ValueError(f"There are embeddings named {name!r} already. Choose another name, or delete them first.")

    def activate(self, model: nn.Module, name: str) -> None:
        """Exchange the active embeddings for others. Those that go keep their numbers.

        Raises:
            ValueError: there are none of this name, or an adapter acts on the embeddings.
        """
        vocabulary = self.get(model, name)
        if name == self.active:
            return
        _refuse_adapters(model, self._registry)
        self._kept[self.active] = exchange(model, self._registry, vocabulary)
        self._kept[name] = None
        self.active = name

    def delete(self, model: nn.Module, name: str) -> None:
        """Remove embeddings; if they are active, the model's own are afterwards.

        Raises:
            ValueError: there are none of this name, or they are the model's own.
        """
        self.get(model, name)
        if name == DEFAULT:
            raise ValueError("The embeddings 'default' are the model's own and cannot be deleted.")
        if name == self.active:
            self.activate(model, DEFAULT)
        del self._kept[name]

    def requires_grad_(self, requires_grad: bool) -> None:
        """Freeze or unfreeze the input embeddings that are not active."""
        for vocabulary in self._kept.values():
            if vocabulary is not None:
                vocabulary.tensors[INPUT].requires_grad_(requires_grad)


def _refuse_adapters(model: nn.Module, registry: AdapterRegistry) -> None:
    """Raise if an adapter changes or replaces the embeddings: it is made for those that are active now."""
    modules = {id(module) for module in input_modules(model, registry)}
    for name, adapter in registry.adapters.items():
        for point in (placement.point for placement in adapter.placements):
            if isinstance(point, (Matrix, WholeModule)) and id(registry.base.get_submodule(point.path)) in modules:
                raise ValueError(
                    f"Adapter {name!r} acts on the vectors of the embeddings ({point.path}) that are active now, and "
                    "does not fit others: delete it before embeddings are added or exchanged."
                )


# -- making and reading ---------------------------------------------------------------------------------------------


def for_tokenizer(
    model: nn.Module, current: Vocabulary, tokenizer: Any, reference: tuple[Vocabulary, Any] | None = None
) -> Vocabulary:
    """New embeddings, drawn as the model draws its own, for as many tokens as the tokenizer has.

    Args:
        model: The model.
        current: What it holds now.
        tokenizer: The tokenizer.
        reference: Embeddings with their tokenizer: what they hold for tokens that both have is taken over.
    """
    tokens: dict[str, int] = tokenizer.get_vocab()
    size = max(len(tokenizer), 1 + max(tokens.values(), default=-1))  # some numbers may be left out
    new = _drawn(model, current, size, tokenizer.pad_token_id)
    if reference is not None:
        vocabulary, known = reference[0], reference[1].get_vocab()
        pairs = [(n, known[t]) for t, n in tokens.items() if t in known and known[t] < len(vocabulary)]
        own, theirs = ([pair[i] for pair in pairs] for i in (0, 1))
        with torch.no_grad():
            for role, tensor in new.tensors.items():
                source = vocabulary.tensors[role].to(device=tensor.device, dtype=tensor.dtype)
                if role in (INPUT, OUTPUT):
                    tensor[own] = source[theirs]
                else:
                    tensor[..., own] = source[..., theirs]
    return new


def save(vocabulary: Vocabulary, folder: Path, tokenizer: Any = None) -> None:
    """Write embeddings, and the tokenizer beside them, to a folder, which is made if it is not there."""
    with together(folder):
        write_tensors(folder, EMBEDDING_FILES, vocabulary.tensors, use_safetensors=True)
        if tokenizer is not None:
            write_folder(folder / TOKENIZER_FOLDER, tokenizer.save_pretrained)


def load(model: nn.Module, current: Vocabulary, folder: Path) -> tuple[Vocabulary, Any]:
    """Read embeddings, and the tokenizer beside them or None.

    Biases that the file does not have (those of AdapterHub's `adapters` 1.3 hold the input embeddings only) are zero.

    Raises:
        AdapterFileError: a file is missing, cut off, or does not fit the model.
    """
    finish(folder)  # the tokenizer is read by transformers
    tensors = _read(folder)
    weight = tensors.get(INPUT)
    width = current.tensors[INPUT].shape[1]
    if weight is None or weight.ndim != 2 or weight.shape[1] != width:
        shape = "none" if weight is None else f"of shape {tuple(weight.shape)}"
        raise AdapterFileError(f"The embeddings in {folder} are {shape}; this model needs (V, {width}).")
    tokenizer = None
    if (folder / TOKENIZER_FOLDER).is_dir():
        tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER_FOLDER)
    new = _drawn(model, current, len(weight), None if tokenizer is None else tokenizer.pad_token_id)
    if OUTPUT in new.tensors and OUTPUT not in tensors:
        raise AdapterFileError(
            f"The embeddings in {folder} come without an output layer, and that of this {type(model).__name__} is not "
            "tied to its embeddings: load them into its base model, or use add_embeddings."
        )
    misshapen = [n for n, t in new.tensors.items() if n in tensors and tensors[n].shape != t.shape]
    if misshapen:
        raise AdapterFileError(f"The embeddings in {folder} do not fit: {', '.join(misshapen)} have another shape.")
    with torch.no_grad():
        for role, tensor in new.tensors.items():
            if role in tensors:
                tensor.copy_(tensors[role])
    return new, tokenizer


def _read(folder: Path) -> Mapping[str, Tensor]:
    path = folder / EMBEDDING_FILES[1]
    old = located(path)
    if located(folder / EMBEDDING_FILES[0]) is not None or old is None:
        return read_tensors(folder, EMBEDDING_FILES)
    data = load_pytorch(old)
    if not isinstance(data, Tensor):
        raise AdapterFileError(f"{path} holds {type(data).__name__} instead of one tensor.")
    return {INPUT: plain(data, path)}


def _drawn(model: nn.Module, like: Vocabulary, size: int, padding_idx: int | None) -> Vocabulary:
    """New embeddings of a size. Padding is where it is in those that the model has."""
    tensors: dict[str, Tensor] = {}
    for role, tensor in like.tensors.items():
        if role in (INPUT, OUTPUT):
            new = _drawn_matrix(model, tensor, size, padding_idx if role == INPUT else None)
        else:
            new = tensor.new_zeros((*tensor.shape[:-1], size))
        is_parameter = isinstance(tensor, nn.Parameter)
        tensors[role] = nn.Parameter(new, requires_grad=tensor.requires_grad) if is_parameter else new
    return Vocabulary(tensors, {path: None if old is None else padding_idx for path, old in like.padding.items()})


def _drawn_matrix(model: nn.Module, like: Tensor, size: int, padding_idx: int | None) -> Tensor:
    """A matrix as the model draws it; if it does not say how, with the deviation of the one that it has."""
    table = nn.Embedding(size, like.shape[1], padding_idx)
    with torch.no_grad():
        table.weight.fill_(torch.nan)
        if isinstance(model, PreTrainedModel):
            cast(Any, model)._init_weights(table)
        if bool(table.weight.isnan().any()):
            table.weight.normal_(std=float(like.float().std()))
            if padding_idx is not None:
                table.weight[padding_idx] = 0
    return table.weight.detach().to(device=like.device, dtype=like.dtype)
