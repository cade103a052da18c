"""Where adapters act on the residual stream itself: behind layers, and on the embeddings that enter the first."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from .parts import Anatomy, InputEmbeddings, Layer, LayerOutput, Tap, Tower

# Where prompts are put in, if not where the embeddings are that invertible adapters change.
_PLACES: dict[str, Tap] = {"whisper": Tap("encoder.layers.0", "input")}

# Where files of AdapterHub's `adapters` 1.3 have prompts behind all embeddings, so that text keeps its positions.
_BEHIND_POSITIONS = frozenset(
    "albert bert bert-generation deberta deberta-v2 distilbert electra roberta xlm-roberta xmod".split()  # noqa: SIM905
)

# Where AdapterHub's `adapters` 1.3 let prompts see padding, and padding see prompts.
_SEE_PADDING = frozenset({"deberta", "deberta-v2"})

# Where nothing can be put among the embeddings: pixels are brought back into place, tokens come first, or with audio.
_WITHOUT_ROW = frozenset({"mobilevit", "cpmant", "xlnet", "voxtral_realtime"})


def layer_outputs(anatomy: Anatomy, base: nn.Module) -> Iterator[tuple[Layer, LayerOutput]]:
    """Every layer, and the residual stream behind it.

    Raises:
        ValueError: a layer is no module of its own, so that nothing gives its output.
    """
    for tower in anatomy.towers:
        for layer in tower.layers:
            inner = [s.output.path for s in layer.sublayers]
            if not all(path.startswith(f"{layer.path}.") for path in inner):
                raise ValueError(
                    f"{anatomy.model_class} loops over its sublayers itself, so that no module gives the output of a "
                    "layer, which this configuration changes; use one that changes sublayers, such as seq_bn or lora."
                )
            size = next((s.size for s in reversed(layer.sublayers) if s.size), tower.size)
            yield layer, LayerOutput(layer.path, layer.index, size, caller(base, tower))


def caller(base: nn.Module, tower: Tower) -> str:
    """Path of the module that is called with the attention mask of a tower: the one that embeds, and has its layers."""
    tap, path = tower.embeddings, tower.path
    if tap is not None and tap.side == "output":
        parts = zip(tap.path.split("."), path.split("."), strict=False)
        return ".".join(part for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], parts))
    inside = {module for layer in tower.layers for module in base.get_submodule(layer.path).modules()}
    while path:  # where the embeddings are is not known, but what they are
        modules = base.get_submodule(path).modules()
        if any(isinstance(module, nn.Embedding) for module in modules if module not in inside):
            return path
        path = path.rpartition(".")[0]
    return tower.path if token_embeddings(base, "") is None else ""


def token_embeddings(base: nn.Module, path: str) -> nn.Embedding | None:
    """The embeddings of tokens in a part of a model, or None if it is not one that reads text.

    Args:
        base: The base model.
        path: The part.
    """
    module = base.get_submodule(path)
    for whole in (module, base):
        try:
            found = whole.get_input_embeddings() if isinstance(whole, PreTrainedModel) else None
        except (NotImplementedError, AttributeError):
            continue
        if isinstance(found, nn.Embedding):
            return found if any(m is found for m in module.modules()) else None
    return None


def input_embeddings(anatomy: Anatomy, base: nn.Module, among_tokens: bool = False) -> InputEmbeddings:
    """Where positions can be put among those of the input.

    It is where tokens are embedded, so that positions are counted anew. In the encoders that AdapterHub's `adapters`
    1.3 had prompts for, and where no tokens are embedded, it is behind the whole block of embeddings.

    Args:
        anatomy: The anatomy.
        base: The base model.
        among_tokens: Whether it is to be where tokens are embedded in those encoders too.

    Raises:
        ValueError: there is no such place.
    """
    reading = [t for t in anatomy.towers if "encoder_hidden_states" in _parameters(base.get_submodule(caller(base, t)))]
    towers = [t for t in anatomy.towers if t not in reading] or list(anatomy.towers)
    embedding = [t for t in towers if token_embeddings(base, caller(base, t)) is not None]
    tower = (embedding or [t for t in towers if t.embeddings] or towers)[0]
    called = caller(base, tower)
    tokens = token_embeddings(base, called)
    readers = tuple(caller(base, t) for t in reading if t is not tower)
    model_type = str(getattr(getattr(base, "config", None), "model_type", ""))
    tap = _PLACES.get(model_type, tower.embeddings)
    if model_type in _WITHOUT_ROW or (tokens is None and (tap is None or _has_places(base, tower))):
        raise ValueError(
            f"This {anatomy.model_class} has no row of embeddings that a prompt could be put into: its layers depend "
            "on where each position is, or embed no tokens. Use prefix_tuning or lora."
        )
    if tokens is None and among_tokens:
        raise ValueError(f"counts_positions=True cannot be met: this {anatomy.model_class} embeds no tokens.")
    if tokens is None and tap is not None:
        size = tower.embedding_size if tap.side == "output" else tower.size
        return InputEmbeddings(tap, size, called, False, "input_ids" in _parameters(base), readers)
    assert tokens is not None
    path = next(name for name, module in base.named_modules() if module is tokens)
    if tap is not None and model_type in _BEHIND_POSITIONS and not among_tokens:
        sees_padding = model_type in _SEE_PADDING and not _has_convolution(base)
        return InputEmbeddings(tap, tower.embedding_size, called, False, True, readers, sees_padding)
    return InputEmbeddings(Tap(path), tokens.embedding_dim, called, True, True, readers)


def _has_places(base: nn.Module, tower: Tower) -> bool:
    """Whether the layers of a tower know the places of positions in an image, so that there is none for others."""
    sizes = {s.size for layer in tower.layers for s in layer.sublayers}
    inner = [
        (name, module) for layer in tower.layers for name, module in base.get_submodule(layer.path).named_modules()
    ]
    has_table = any("relative_position" in name or "attention_biases" in vars(m)["_parameters"] for name, m in inner)
    return len(sizes) > 1 or has_table or any(isinstance(m, nn.Conv2d) for _, m in inner)


def _parameters(module: nn.Module) -> set[str]:
    return set(inspect.signature(type(module).forward).parameters)


def _has_convolution(base: nn.Module) -> bool:
    """Whether it reads the mask for a convolution too (in DeBERTa v2)."""
    return any(isinstance(module, nn.Conv1d) for module in base.modules())
