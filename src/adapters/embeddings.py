"""Embeddings for other tokenizers, by name. The model's own are named `default`.

Which embeddings are active is a state of the whole model, not of a thread or a setup: the model's modules stay, and the
parameters in them are exchanged, in the input embeddings and in all that is tied to them or counts their tokens.

Shapes: V tokens of a vocabulary, D size of an embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from .anatomy.parts import Matrix, WholeModule
from .checkpoints.files import AdapterFileError, read_tensors, write_tensors
from .methods.weights import is_dense
from .registry import AdapterRegistry, unknown_name

DEFAULT = "default"
EMBEDDING_FILES = ("embedding.safetensors", "embedding.pt")
TOKENIZER_FOLDER = "tokenizer"

_INPUT, _OUTPUT = "weight", "output.weight"
_SIZES = ("vocab_size", "decoder_vocab_size", "unpadded_vocab_size", "n_words")

_Slots = dict[str, list[tuple[str, nn.Module, str]]]
"""Where the model holds something per token: for each role the paths, the modules and the names in them."""


@dataclass
class Vocabulary:
    """What a model holds for the tokens of one tokenizer.

    Args:
        tensors: `weight`, the input embeddings (V, D), and where the model has such: `output.weight` (V, D) of an
            output layer that is not tied to them, and biases of its outputs (V,) or (1, V) by their names in the model.
        padding: By the paths of the embeddings: which token gets no gradient.
    """

    tensors: dict[str, Tensor]
    padding: dict[str, int | None]

    def __len__(self) -> int:
        return len(self.tensors[_INPUT])

    @property
    def size(self) -> int:
        """Size D of an embedding."""
        return self.tensors[_INPUT].shape[1]


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
        return self._kept[name] or _current(model, self._registry)

    def as_modules(self, model: nn.Module) -> dict[str, nn.Embedding]:
        """All embeddings by their names, as modules around the very parameters."""
        found = {}
        for name in self._kept:
            weight = self.get(model, name).tensors[_INPUT]
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
        previous = _current(model, self._registry)
        _exchange(model, self._registry, previous, vocabulary)
        self._kept[self.active], self._kept[name] = previous, None
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
                vocabulary.tensors[_INPUT].requires_grad_(requires_grad)


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
                if role in (_INPUT, _OUTPUT):
                    tensor[own] = source[theirs]
                else:
                    tensor[..., own] = source[..., theirs]
    return new


def save(vocabulary: Vocabulary, folder: Path, tokenizer: Any = None) -> None:
    """Write embeddings, and the tokenizer beside them, to a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder, EMBEDDING_FILES, vocabulary.tensors, use_safetensors=True)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)


def load(model: nn.Module, current: Vocabulary, folder: Path) -> tuple[Vocabulary, Any]:
    """Read embeddings, and the tokenizer beside them or None.

    Biases that the file does not have (those of AdapterHub's `adapters` 1.3 hold the input embeddings only) are zero.

    Raises:
        AdapterFileError: a file is missing, cut off, or does not fit the model.
    """
    tensors = _read(folder)
    weight = tensors.get(_INPUT)
    width = current.tensors[_INPUT].shape[1]
    if weight is None or weight.ndim != 2 or weight.shape[1] != width:
        shape = "none" if weight is None else f"of shape {tuple(weight.shape)}"
        raise AdapterFileError(f"The embeddings in {folder} are {shape}; this model needs (V, {width}).")
    tokenizer = None
    if (folder / TOKENIZER_FOLDER).is_dir():
        tokenizer = AutoTokenizer.from_pretrained(folder / TOKENIZER_FOLDER)
    new = _drawn(model, current, len(weight), None if tokenizer is None else tokenizer.pad_token_id)
    if _OUTPUT in new.tensors and _OUTPUT not in tensors:
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
    if (folder / EMBEDDING_FILES[0]).is_file() or not path.is_file():
        return read_tensors(folder, EMBEDDING_FILES)
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever it meets in a broken file
        raise AdapterFileError(f"{path} cannot be read as weights ({type(error).__name__}); is it cut off?") from None
    if not isinstance(data, Tensor):
        raise AdapterFileError(f"{path} holds {type(data).__name__} instead of one tensor.")
    return {_INPUT: data}


def _drawn(model: nn.Module, like: Vocabulary, size: int, padding_idx: int | None) -> Vocabulary:
    """New embeddings of a size. Padding is where it is in those that the model has."""
    tensors: dict[str, Tensor] = {}
    for role, tensor in like.tensors.items():
        if role in (_INPUT, _OUTPUT):
            new = _drawn_matrix(model, tensor, size, padding_idx if role == _INPUT else None)
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


# -- in the model ---------------------------------------------------------------------------------------------------


def token_embeddings(model: nn.Module, registry: AdapterRegistry) -> nn.Embedding:
    """The input embeddings of a model.

    Raises:
        ValueError: it has none, or none of tokens.
    """
    found = [_input_embeddings(m) for m in model.modules() if isinstance(m, PreTrainedModel)]
    tower = registry.anatomy.embedding_tower
    if not isinstance(model, PreTrainedModel) and tower is not None and tower.embeddings is not None:
        found.append(registry.base.get_submodule(tower.embeddings.path))
    table = next((module for module in found if isinstance(module, nn.Embedding)), None)
    if table is None:
        kinds = ", ".join(dict.fromkeys(f"a {type(m).__name__}" for m in found if m is not None)) or "none"
        raise ValueError(f"{type(model).__name__} has no embeddings of tokens: its input embeddings are {kinds}.")
    return table


def _input_embeddings(model: PreTrainedModel) -> nn.Module | None:
    try:
        return cast("nn.Module | None", model.get_input_embeddings())
    except (AttributeError, NotImplementedError):  # so transformers says that there are none, or only in its parts
        return None


def _current(model: nn.Module, registry: AdapterRegistry) -> Vocabulary:
    """What the model holds now."""
    slots = _slots(model, registry)
    tensors = {role: _value(*places[0][1:]) for role, places in slots.items()}
    padding = {path: m.padding_idx for path, m, _ in slots[_INPUT] if isinstance(m, nn.Embedding)}
    return Vocabulary(tensors, padding)


def _exchange(model: nn.Module, registry: AdapterRegistry, old: Vocabulary, new: Vocabulary) -> None:
    """Put other embeddings into the model."""
    for role, places in _slots(model, registry).items():
        tensor, previous = new.tensors[role], old.tensors[role]
        tensor.data = tensor.data.to(device=previous.device, dtype=previous.dtype)
        for path, module, name in places:
            held: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
            held[name] = tensor
            if isinstance(module, nn.Embedding):
                module.num_embeddings, module.padding_idx = len(new), new.padding[path]
            elif isinstance(module, nn.Linear):
                module.out_features = len(new)
    for owner, name in list(_sizes(model, len(old))):
        setattr(owner, name, len(new))


def _sizes(model: nn.Module, size: int) -> Iterator[tuple[object, str]]:
    """Where the size of the vocabulary is noted: in modules, and in configurations, which modules may share."""
    for module in model.modules():
        yield from ((module, name) for name in _SIZES if module.__dict__.get(name) == size)
        if isinstance(module, PreTrainedModel):
            config = module.config.get_text_config()
            yield from ((config, name) for name in _SIZES if config.to_dict().get(name) == size)


def _value(module: nn.Module, name: str) -> Tensor:
    value = module._parameters[name] if name in module._parameters else module._buffers[name]
    assert value is not None
    return value


def _slots(model: nn.Module, registry: AdapterRegistry) -> _Slots:
    """Where the model holds something per token.

    Raises:
        ValueError: the embeddings are not all that there is, or cannot be exchanged.
    """
    table = token_embeddings(model, registry)
    roles = {id(table.weight): _INPUT} | _output_roles(model, table)
    slots: _Slots = {role: [] for role in roles.values()}
    for path, module in model.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if id(tensor) in roles:
                slots[roles[id(tensor)]].append((path, module, name))
    _check(model, table, slots)
    return slots


def _output_roles(model: nn.Module, table: nn.Embedding) -> dict[int, str]:
    """What the output layer of a language model, and the modules around it, hold per token, by `id`."""
    output = cast(Any, model).get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    if output is None:
        return {}
    size = table.num_embeddings
    if not isinstance(output, nn.Linear) or len(output.weight) != size:
        raise ValueError(
            f"The output layer of this {type(model).__name__} ({output}) is not one of the {size} tokens of its "
            "embeddings, so that they cannot be exchanged together."
        )
    roles = {} if output.weight is table.weight else {id(output.weight): _OUTPUT}
    path = next(name for name, module in model.named_modules() if module is output)
    while True:  # a bias may belong to the head around it (BERT), or to the model itself (BART)
        owner = model.get_submodule(path)
        for name, tensor in (*owner._parameters.items(), *owner._buffers.items()):
            if tensor is not None and tensor.numel() == size == tensor.shape[-1]:
                roles[id(tensor)] = f"{path}.{name}" if path else name
        if not path:
            return roles
        path = path.rpartition(".")[0]


def _check(model: nn.Module, table: nn.Embedding, slots: _Slots) -> None:
    if not is_dense(table.weight):
        raise ValueError(f"The embeddings of this {type(model).__name__} are quantised and cannot be exchanged.")
    known = {id(module) for _, module, _ in slots[_INPUT]}
    # Of modules around the output layer, only those in its head are looked at: sizes may be equal by chance.
    heads = {path.rpartition(".")[0] for places in slots.values() for path, m, _ in places if isinstance(m, nn.Linear)}
    others = [
        path
        for path, module in model.named_modules()
        if id(module) not in known and _counts(module, table, path.rpartition(".")[0] in heads - {""})
    ]
    others = [path for path in others if "position" not in path and "type" not in path]
    if others:
        raise ValueError(
            f"This {type(model).__name__} holds more for each of its {table.num_embeddings} tokens than embeddings and "
            f"an output layer, in {', '.join(others)}, so that they cannot be exchanged."
        )


def _counts(module: nn.Module, table: nn.Embedding, is_in_head: bool) -> bool:
    """Whether a module holds something per token, too: other embeddings, a matrix, or a table of integers."""
    size, width = table.weight.shape
    if isinstance(module, nn.Embedding):
        return module.num_embeddings == size
    if isinstance(module, nn.Linear) and is_in_head:
        return module.in_features == size != width
    tensors = [*module._parameters.values(), *module._buffers.values()]
    return any(t is not None and not t.is_floating_point() and size in t.shape for t in tensors)


def _refuse_adapters(model: nn.Module, registry: AdapterRegistry) -> None:
    """Raise if an adapter changes or replaces the embeddings: it is made for those that are active now."""
    modules = {id(module) for _, module, _ in _slots(model, registry)[_INPUT]}
    for name, adapter in registry.adapters.items():
        for point in (placement.point for placement in adapter.placements):
            if isinstance(point, (Matrix, WholeModule)) and id(registry.base.get_submodule(point.path)) in modules:
                raise ValueError(
                    f"Adapter {name!r} acts on the vectors of the embeddings ({point.path}) that are active now, and "
                    "does not fit others: delete it before embeddings are added or exchanged."
                )
