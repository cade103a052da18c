"""How prompts among the embeddings become steps: the call of the model gets longer, and with it all that it is told.

Of the T columns of a row, P are put in before column k: that of its first token, behind padding on the left, or the one
after it. So a text is the same to the model on whichever side it is padded. Text at column c is at c + P afterwards
(but for a first token before the prompt), and only the first call of a generation with a cache has a prompt to put in.

Shapes: B rows, T columns, P vectors of the prompt, E size of the embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..anatomy.parts import InputEmbeddings
from .calls import Calls, Generation
from .flows import Flow
from .hooks import HookPoint, Step
from .insertion import Insertion, insertion
from .progress import Ongoing
from .prompts import PromptFlow
from .signatures import Signature

# What a model is told of each token, and what of a prompt: a number, or as of the first token.
_TOLD: dict[str, int | None] = {"attention_mask": 1, "global_attention_mask": 0, "labels": -100}
_TOLD_EMBEDDINGS: dict[str, int | None] = {"token_type_ids": None, "mm_token_type_ids": None}
_ANSWERS = ("start_positions", "end_positions")


@dataclass
class Entry:
    """A call of the model that prompts are put into.

    Args:
        owner: The module that was called.
        insertion: Where they are put in; None if they are in the cache.
        length: Their number P.
        own_mask: The attention mask as it was given.
        rows: Number of rows of tokens B.
        columns: Number of columns P + T.
        is_done: Whether they have been put in.
    """

    owner: nn.Module
    insertion: Insertion | None
    length: int
    own_mask: Tensor | None = None
    rows: int = 0
    columns: int = 0
    is_done: bool = False


class Prompts:
    """The prompts of a routing, and the call that they are put into.

    Args:
        flow: The prompts.
    """

    def __init__(self, flow: PromptFlow) -> None:
        self.vectors = flow.vectors
        self.length = flow.length
        self.follow_first = flow.follow_first
        self.entry = Ongoing()


@dataclass
class LengthenCall:
    """At the call of the model: what it is told of each token is told of the prompts too.

    Args:
        prompts: The prompts.
        signature: That of the module.
        stand_in: The token that stands for a prompt until it is embedded; None if embeddings get longer by themselves.
        takes_tokens: Whether the model embeds tokens at all.
        sees_padding: Whether prompts and padding see each other.
    """

    prompts: Prompts
    signature: Signature
    stand_in: int | None
    takes_tokens: bool
    sees_padding: bool

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        prompts = self.prompts
        if prompts.entry.get() is not None:
            return None  # within a call that is longer already
        given = self.signature.named(inputs, arguments)
        if not self.takes_tokens:
            prompts.entry.put(Entry(module, Insertion(prompts.length, int(prompts.follow_first)), prompts.length))
            return None
        ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
        text = ids if ids is not None else embeds[..., 0] if embeds is not None else None
        if text is None:
            return None  # what goes on without this tower
        past = _past(given)
        mask = self._mask(given, text, past)
        where = insertion(mask, prompts.length, prompts.follow_first)
        self._check_cache(past, given, text, mask)
        longer = {**given, **self._told(given, text, mask, where, past)}
        entry = Entry(module, None if past else where, prompts.length, given.get("attention_mask"))
        entry.rows, entry.columns = text[..., 0].numel(), text.shape[-1] + prompts.length
        if not past:
            longer |= {name: where.moved(given[name]) for name in _ANSWERS if isinstance(given.get(name), Tensor)}
        if self.stand_in is not None:
            old = given.get("position_ids")
            if isinstance(old, Tensor):
                longer["position_ids"] = old + prompts.length if past else where.positions(old)
            if not past and ids is not None:
                longer["input_ids"] = where.insert(ids, self.stand_in)
            elif not past and embeds is not None:
                longer["inputs_embeds"] = where.put(embeds, prompts.vectors(embeds))
                entry.is_done = True
        prompts.entry.put(entry)
        return (), longer

    def _check_cache(self, past: int, given: Mapping[str, Any], text: Tensor, mask: Tensor | None) -> None:
        """Raise for a cache that does not hold the prompt, and all text but the new one."""
        length, generation = self.prompts.length, Generation.current()
        is_first = generation is not None and generation.is_first(self.prompts)
        if mask is not None:
            before = mask.shape[-1] - text.shape[-1]
        elif past and is_first and given.get("position_ids") is not None:  # a cache that generation goes on with
            before = int(given["position_ids"].flatten()[0])
        else:
            return
        if past != (before + length if past else before):
            raise ValueError(
                f"{text.shape[-1]} tokens are to follow {before} others, but the cache has {past} positions, those of "
                f"a prompt of {length} included. It must have been filled with the prompt, and not been cut since (as "
                "some releases of transformers do in assisted generation). To go on with a cache in generate, give the "
                "new tokens alone as input_ids, and the attention_mask of all."
            )

    def _told(
        self, given: Mapping[str, Any], text: Tensor, mask: Tensor | None, where: Insertion, past: int
    ) -> dict[str, Tensor]:
        """What is told of each token, told of the prompts too."""
        longer: dict[str, Tensor] = {}
        for name, value in (_TOLD if self.stand_in is None else _TOLD | _TOLD_EMBEDDINGS).items():
            old = given.get(name)
            if isinstance(old, Tensor) and _is_told(name, old, text):
                longer[name] = where.insert(old, value) if not past or name == "attention_mask" else old
        if mask is not None and given.get("attention_mask") is None:
            longer["attention_mask"] = where.insert(mask, 1)
        elif self.sees_padding and mask is not None and mask.ndim == 2:
            longer["attention_mask"] = where.pairs(mask)
        return longer

    def _mask(self, given: Mapping[str, Any], text: Tensor, past: int) -> Tensor | None:
        """The mask of the tokens. Where prompts are put in behind the embeddings, there must be one: models may make
        one of the input's shape."""
        mask = given.get("attention_mask")
        if mask is None:
            makes = self.stand_in is None and "attention_mask" in self.signature.names
            return torch.ones_like(text, dtype=torch.long) if makes and not past else None
        if not isinstance(mask, Tensor) or mask.ndim != text.ndim:
            shape = f"of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"that is a {type(mask).__name__}"
            raise ValueError(
                f"A prompt makes the attention mask longer, and one {shape} cannot be; give one of shape (batch, "
                "tokens). Generation with a static cache prepares masks by itself: use the default cache."
            )
        return mask


def _is_told(name: str, value: Tensor, text: Tensor) -> bool:
    """Whether an argument says something of each token: `labels` may also be those of rows."""
    return name == "attention_mask" or (value.shape == text.shape and not value.is_floating_point())


def _past(given: Mapping[str, Any]) -> int:
    """Number of positions in the cache."""
    cache = given.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())


@dataclass
class EndCall:
    """After the call of the model, also if it has failed: forget it."""

    prompts: Prompts

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        entry = self.prompts.entry.get()
        if entry is None or entry.owner is not module:
            return
        self.prompts.entry.clear()
        if output is not None and entry.insertion is not None and not entry.is_done:
            raise RuntimeError(
                f"{type(module).__name__} was called without the embeddings that a prompt is put into, so that it "
                "would have been left out; please report this model."
            )


@dataclass
class ShortenCall:
    """At the call of the block of embeddings: it is told of the tokens alone."""

    prompts: Prompts

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        entry = self.prompts.entry.get()
        if entry is None:
            return None

        mask = arguments.get("mask")
        if isinstance(mask, Tensor) and mask.shape[-1] == entry.columns:
            arguments["mask"] = None if entry.own_mask is None else entry.own_mask.reshape(entry.rows, -1)
        if arguments.get("past_key_values_length"):
            arguments["past_key_values_length"] -= entry.length
        return inputs, arguments


@dataclass
class PutBehindEmbeddings:
    """After the block of embeddings: the prompts are put into what it gives."""

    prompts: Prompts
    index: int | None

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        entry = self.prompts.entry.get()
        if entry is None or entry.insertion is None:
            return None
        x = output if self.index is None else output[self.index]
        longer = _put(entry, x, self.prompts)
        return longer if self.index is None else (*output[: self.index], longer, *output[self.index + 1 :])


@dataclass
class PutBeforeLayer:
    """At the call of the first layer: the prompts are put into its first input."""

    prompts: Prompts

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        entry = self.prompts.entry.get()
        if entry is None or entry.insertion is None:
            return None
        if inputs:
            return (_put(entry, inputs[0], self.prompts), *inputs[1:]), arguments
        return (), {**arguments, "hidden_states": _put(entry, arguments["hidden_states"], self.prompts)}


def _put(entry: Entry, x: Tensor, prompts: Prompts) -> Tensor:
    assert entry.insertion is not None
    vectors = prompts.vectors(x)
    if x.ndim != 3 or x.shape[2] != vectors.shape[-1]:
        raise ValueError(
            f"{type(entry.owner).__name__} has embeddings of shape {tuple(x.shape)}, where (batch, tokens, "
            f"{vectors.shape[-1]}) was expected: prompts cannot be put into them."
        )
    entry.is_done = True
    return entry.insertion.put(x, vectors)


@dataclass
class PutInPlaceOfTokens:
    """After the embedding of tokens: the prompts take the place of those that stand for them."""

    prompts: Prompts

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        entry = self.prompts.entry.get()
        if entry is None or entry.insertion is None or entry.is_done:
            return None
        if output.ndim != 3 or output.shape[0] != entry.rows or output.shape[1] < entry.columns:
            raise ValueError(
                f"{type(entry.owner).__name__} embeds tokens in the shape {tuple(output.shape)}, where "
                f"({entry.rows}, {entry.columns}, size) was expected: prompts cannot be put into them."
            )
        entry.is_done = True
        longer: Tensor = entry.insertion.replace(output, self.prompts.vectors(output))
        return longer


@dataclass
class LengthenMemory:
    """At the call of a decoder: the mask of what the encoder gives is as long as that.

    Args:
        prompts: The prompts.
        signature: That of the decoder.
    """

    prompts: Prompts
    signature: Signature

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        given = self.signature.named(inputs, arguments)
        name = "encoder_padding_mask" if "encoder_padding_mask" in given else "encoder_attention_mask"
        mask, memory = given.get(name), given.get("encoder_hidden_states")
        prompts = self.prompts
        if mask is None or memory is None or mask.ndim != 2 or mask.shape[1] + prompts.length != memory.shape[1]:
            return None
        where = insertion(mask, prompts.length, prompts.follow_first)
        return (), {**given, name: where.insert(mask, 1)}


def prompt_steps(base: nn.Module, point: InputEmbeddings, flow: Flow, calls: Calls) -> Iterator[tuple[HookPoint, Step]]:
    """The steps of prompts.

    Raises:
        ValueError: some come before the first token and some behind it, or it has no meaning for prompts.
    """
    prompts = Prompts(PromptFlow(flow))
    place = base.get_submodule(point.tap.path)
    stand_in = _stand_in(base) if point.are_tokens else None
    called = [base.get_submodule(point.caller)]
    if not point.readers:  # else labels, and all else that the model is told, belongs to the decoder
        called += [base, calls.model]
    for module in dict.fromkeys(called):
        signature = Signature(module)
        if signature.is_open:
            continue
        yield (
            (module, "call"),
            LengthenCall(prompts, signature, stand_in, point.takes_tokens, point.upstream_sees_padding),
        )
        yield (module, "finally"), EndCall(prompts)
    if point.are_tokens:
        yield (place, "after"), PutInPlaceOfTokens(prompts)
    elif point.tap.side == "input":
        yield (place, "call"), PutBeforeLayer(prompts)
    else:
        yield (place, "call"), ShortenCall(prompts)
        yield (place, "after"), PutBehindEmbeddings(prompts, point.tap.index)
    for path in point.readers:
        reader = base.get_submodule(path)
        yield (reader, "call"), LengthenMemory(prompts, Signature(reader))


def _stand_in(base: nn.Module) -> int:
    """A token that has no meaning to the model, so that nothing is taken for its end or its padding."""
    used = set(_special(base.config.to_dict()))  # type: ignore[operator,union-attr]
    return next(i for i in range(len(used) + 1) if i not in used)


def _special(config: Mapping[str, Any]) -> Iterator[int]:
    """The numbers of special tokens that a configuration names."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _special(value)
        elif str(name).endswith(("token_id", "token_index")):  # labels are named by numbers
            yield from value if isinstance(value, list) else [value]
