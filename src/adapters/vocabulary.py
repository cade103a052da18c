"""What a model holds for each token of its vocabulary, and how that is exchanged for what belongs to another one.

Shapes: V tokens of a vocabulary, D size of an embedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedModel

from .methods.weights import is_dense
from .registry import AdapterRegistry

INPUT, OUTPUT = "weight", "output.weight"

_SIZES = ("vocab_size", "decoder_vocab_size", "unpadded_vocab_size", "n_words")
# Positions and types of tokens are counted too, and their numbers may be that of the tokens by chance.
_OTHER_COUNTS = re.compile("position|type")

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
        return len(self.tensors[INPUT])

    @property
    def size(self) -> int:
        """Size D of an embedding."""
        return self.tensors[INPUT].shape[1]


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


def current_vocabulary(model: nn.Module, registry: AdapterRegistry) -> Vocabulary:
    """What the model holds now."""
    slots = _slots(model, registry)
    tensors = {role: _value(*places[0][1:]) for role, places in slots.items()}
    padding = {path: m.padding_idx for path, m, _ in slots[INPUT] if isinstance(m, nn.Embedding)}
    return Vocabulary(tensors, padding)


def exchange(model: nn.Module, registry: AdapterRegistry, new: Vocabulary) -> Vocabulary:
    """Put other embeddings into the model; what it gives are those that were there."""
    old = current_vocabulary(model, registry)
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
    return old


def input_modules(model: nn.Module, registry: AdapterRegistry) -> list[nn.Module]:
    """The modules that hold the input embeddings: several if they are tied."""
    return [module for _, module, _ in _slots(model, registry)[INPUT]]


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
    roles = {id(table.weight): INPUT} | _output_roles(model, table)
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
    roles = {} if output.weight is table.weight else {id(output.weight): OUTPUT}
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
    known = {id(module) for _, module, _ in slots[INPUT]}
    # Of modules around the output layer, only those in its head are looked at: sizes may be equal by chance.
    heads = {path.rpartition(".")[0] for places in slots.values() for path, m, _ in places if isinstance(m, nn.Linear)}
    others = [
        path
        for path, module in model.named_modules()
        if id(module) not in known and _counts(module, table, path.rpartition(".")[0] in heads - {""})
    ]
    others = [path for path in others if not _OTHER_COUNTS.search(path)]
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
    named = (*module._parameters.items(), *module._buffers.items())
    integers = [(name, t) for name, t in named if t is not None and not t.is_floating_point()]
    return any(size in t.shape and not _OTHER_COUNTS.search(name) for name, t in integers)
