"""What the towers of a model are called with: seen once per call, for all adapters that depend on it.

Shapes: B rows, T tokens of a call, K columns of its attention mask: those of the cache, then the T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from ..anatomy.parts import Anatomy
from ..anatomy.streams import caller
from ..methods.base import SharedModule
from .flows import Flow, has_pieces
from .hooks import HookPoint, Step
from .passes import BeginPass, EndPass, PassValue
from .positions import shift_steps
from .progress import Ongoing
from .signatures import Signature


@dataclass
class Call:
    """One call of a tower, as the layers in it see it.

    Args:
        mask: Its attention mask, of shape (B, K), (B, Q, K) or (B, H, Q, K), as it was given.
        past: Number of positions in its cache; None without a cache.
        known: What was found out about the call, by whoever did.
    """

    mask: Tensor | None = None
    past: int | Tensor | None = None
    known: dict[Any, Any] = field(default_factory=dict)

    def start(self, h: Tensor) -> int:
        """The column of the first of the T tokens whose hidden states these are.

        Raises:
            ValueError: the mask is not one of these tokens.
        """
        past = int(self.past) if self.past is not None else 0
        if self.mask is None:
            return past
        rows, columns = self.mask.shape[0], self.mask.shape[-1]
        spare = columns - h.shape[1]
        if rows not in (1, h.shape[0]) or spare < 0 or (self.past is None and spare):
            raise ValueError(
                f"The attention mask of shape {tuple(self.mask.shape)} does not say which of the hidden states of "
                f"shape {tuple(h.shape)} are padding. It should be of shape (batch, tokens), with those of the cache; "
                "or this model changes the number of tokens, and adapters that need positions cannot be used with it."
            )
        return min(past, spare)  # a static cache has more columns than are in use, one with a window fewer

    def real(self) -> Tensor | None:
        """Which columns are tokens and no padding; None if all are. Shape: (B, K)."""
        mask = self.mask
        if mask is None or mask.ndim == 2:
            return mask if mask is None else mask != 0
        is_seen = mask > _BLOCKED if mask.is_floating_point() else mask != 0  # the former is added to scores
        return is_seen.flatten(1, -2).any(1)


_BLOCKED = -1e3


def _plain(mask: Any) -> Tensor | None:
    """The mask as a tensor. Of several, for kinds of attention, the one without a window; None says: no padding."""
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention", next(iter(mask.values())))
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim in (2, 3, 4)):
        given = f"of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"that is a {type(mask).__name__}"
        raise ValueError(
            f"The attention mask says which tokens are padding here, and one {given} cannot be read; give one of shape "
            "(batch, tokens)."
        )
    return mask


class Generation:
    """While a model generates: how long the prompt is, which is the first call of each tower.

    >>> with Generation():
    ...     model.generate(...)
    """

    count = 0  # a number, because `torch.compile` can read it, and cannot read context variables

    def __init__(self) -> None:
        self._prompts: dict[Caller, tuple[int, int]] = {}
        self._seen: set[object] = set()
        self._token: Token[Generation | None] | None = None

    def __enter__(self) -> Generation:
        Generation.count += 1
        self._token = _GENERATION.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._token is not None
        _GENERATION.reset(self._token)
        Generation.count -= 1

    def prompt(self, of: Caller, columns: int, start: int) -> int:
        """The number of columns that are the prompt's, for a call with this many, whose tokens begin at `start`.

        Without a cache every call has one column more than the last one; one with as few begins a new text.
        """
        known = self._prompts.get(of)
        prompt = columns if known is None or (start == 0 and columns <= known[1]) else known[0]
        self._prompts[of] = (prompt, columns)
        return prompt

    def is_first(self, key: object) -> bool:
        """Whether this was not asked before."""
        is_first = key not in self._seen
        self._seen.add(key)
        return is_first

    @staticmethod
    def current() -> Generation | None:
        """The one that is going on in this thread or task."""
        return _GENERATION.get() if Generation.count else None


_GENERATION: ContextVar[Generation | None] = ContextVar("generation", default=None)


_TOKENS = ("input_ids", "inputs_embeds", "hidden_states", "input")


class Caller:
    """A module that is called with an attention mask, and what it is being called with in this thread.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.signature = Signature(module)
        # The mask of audio or of pixels is not one of what the layers see.
        self.takes_tokens = not set(self.signature.names).isdisjoint(_TOKENS)
        self.ongoing = Ongoing()

    @property
    def call(self) -> Call:
        """The call that is going on; one without a mask if a layer is called by itself."""
        return self.ongoing.get() or Call()

    def prompt(self, columns: int, start: int) -> int:
        """The number of columns that are the prompt's while a model generates; all of them otherwise.

        To be asked once per call.
        """
        generation = Generation.current()
        return columns if generation is None else generation.prompt(self, columns, start)


@dataclass
class SeeCall:
    """At the call of a tower: remember what it is called with."""

    caller: Caller

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> None:
        given = self.caller.signature.given
        cache = given("past_key_values", inputs, arguments)
        past = None if cache is None else cache.get_seq_length()
        mask = given("attention_mask", inputs, arguments) if self.caller.takes_tokens else None
        self.caller.ongoing.put(Call(_plain(mask), past))


@dataclass
class EndCall:
    """After the call of a tower, also if it has failed: forget it."""

    caller: Caller

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.caller.ongoing.clear()


def no_tokens(x: Tensor) -> int:
    """Where nothing depends on the tokens in the cache."""
    return 0


@dataclass(frozen=True)
class Start:
    """The number of tokens before those of the call that is going on: those in the cache."""

    caller: Caller

    def __call__(self, x: Tensor) -> int:
        past = self.caller.call.past
        return 0 if past is None else int(past)


class Calls:
    """The calls of a model's towers, as one routing sees them.

    Args:
        base: The base model.
        model: The model that it is part of, or itself.
        anatomy: Where its towers are.
    """

    def __init__(self, base: nn.Module, model: nn.Module, anatomy: Anatomy) -> None:
        self.base = base
        self.model = model
        self.anatomy = anatomy
        self._callers: dict[str, Caller] = {}
        self._shared: dict[SharedModule, PassValue] = {}
        self._shifts: dict[str, int] = {}

    def __bool__(self) -> bool:
        """Whether anything depends on the calls of towers."""
        return bool(self._callers)

    def shared(self, module: SharedModule) -> PassValue:
        """Where the tensors that a module shares among layers are, while a pass of the model lasts.

        It is empty if a part of the model is called on its own: the module then gives them.
        """
        return self._shared.setdefault(module, PassValue())

    def of(self, path: str) -> Caller:
        """The module that is called with a tower's attention mask, by its path."""
        if path not in self._callers:
            self._callers[path] = Caller(self.base.get_submodule(path))
        return self._callers[path]

    def start_at(self, path: str, flow: Flow) -> Callable[[Tensor], int]:
        """What tells how many tokens come before those at a place, if a flow there depends on it.

        Args:
            path: The place.
            flow: The flow.
        """
        if not has_pieces(flow):
            return no_tokens
        inside = [t for t in self.anatomy.towers if any(f"{path}.".startswith(f"{la.path}.") for la in t.layers)]
        return Start(self.of(caller(self.base, inside[0]) if inside else ""))

    def shift(self, path: str, length: int, has_biases: bool) -> None:
        """Let text begin at a later position, for what is in front of it at a place.

        Args:
            path: The place.
            length: The number of positions in front.
            has_biases: Whether the place has relative positions alone, so that there is nothing to move.

        Raises:
            ValueError: other places of the tower have another number.
        """
        inside = [t for t in self.anatomy.towers if any(f"{path}.".startswith(f"{la.path}.") for la in t.layers)]
        tower = caller(self.base, inside[0]) if inside else ""
        if not has_biases and self._shifts.setdefault(tower, length) != length:
            raise ValueError(
                f"Prefixes of {self._shifts[tower]} and of {length} positions cannot count positions together."
            )

    def steps(self) -> Iterator[tuple[HookPoint, Step]]:
        """The steps that see the calls which were asked for."""
        for tower, length in self._shifts.items():
            yield from shift_steps(self.base.get_submodule(tower), length)
        for called in self._callers.values():
            yield (called.module, "call"), SeeCall(called)
            yield (called.module, "finally"), EndCall(called)
        if self._shared:
            yield (self.base, "before"), BeginPass(list(self._shared.items()))
            yield (self.base, "after"), EndPass(list(self._shared.values()))
