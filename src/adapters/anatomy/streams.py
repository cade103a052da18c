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

# Where AdapterHub's `adapters` 1.3 let prompts see padding, and padding see prompts.
_SEE_PADDING = frozenset({"deberta", "deberta-v2"})


def layer_outputs(anatomy: Anatomy) -> Iterator[tuple[Layer, LayerOutput]]:
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
            yield layer, LayerOutput(layer.path, layer.index, size, caller(tower))


def caller(tower: Tower) -> str:
    """Path of the module that is called with the attention mask of a tower: what its embeddings and layers share."""
    if tower.embeddings is None or not tower.path:
        return tower.path
    parts = zip(tower.embeddings.path.split("."), tower.path.split("."), strict=False)
    return ".".join(part for part, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], parts))


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


def input_embeddings(anatomy: Anatomy, base: nn.Module) -> InputEmbeddings:
    """Where positions can be put among those of the input.

    In an encoder that is behind the whole block of embeddings, as files of AdapterHub's `adapters` 1.3 have it; in a
    decoder, and in the encoder of one, it is where tokens are embedded, so that positions are counted anew.

    Raises:
        ValueError: there is no such place.
    """
    towers = [t for t in anatomy.towers if token_embeddings(base, caller(t)) is not None]
    tower = towers[0] if towers else next((t for t in anatomy.towers if t.embeddings), anatomy.towers[0])
    called = caller(tower)
    tokens = token_embeddings(base, called)
    readers = tuple(caller(t) for t in anatomy.towers if t is not tower and _reads(base.get_submodule(caller(t))))
    model_type = str(getattr(getattr(base, "config", None), "model_type", ""))
    tap = _PLACES.get(model_type, tower.embeddings)
    if tokens is None:
        if tap is None:
            raise ValueError(
                f"This {anatomy.model_class} embeds no tokens, and no row of embeddings was found in it that a prompt "
                "could be put into; use prefix_tuning or lora."
            )
        size = tower.embedding_size if tap.side == "output" else tower.size
        return InputEmbeddings(tap, size, called, False, "input_ids" in _parameters(base), readers)
    path = next(name for name, module in base.named_modules() if module is tokens)
    is_block = tap is not None and tap.side == "output" and path.startswith(f"{tap.path}.")
    if tap is not None and is_block and not _is_causal(base.get_submodule(called)):
        sees_padding = model_type in _SEE_PADDING and not _has_convolution(base)
        return InputEmbeddings(tap, tower.embedding_size, called, False, True, readers, sees_padding)
    return InputEmbeddings(Tap(path), tokens.embedding_dim, called, True, True, readers)


def _reads(module: nn.Module) -> bool:
    """Whether a tower attends to what another gives."""
    return "encoder_hidden_states" in _parameters(module)


def _is_causal(module: nn.Module) -> bool:
    """Whether a tower only looks back, whatever its configuration."""
    source = inspect.getsource(type(module).forward)
    return "create_causal_mask" in source and "bidirectional" not in source


def _parameters(module: nn.Module) -> set[str]:
    return set(inspect.signature(type(module).forward).parameters)


def _has_convolution(base: nn.Module) -> bool:
    """Whether it reads the mask for a convolution too (in DeBERTa v2)."""
    return any(isinstance(module, nn.Conv1d) for module in base.modules())
