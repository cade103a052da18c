"""The contract between a method and the rest of the library.

A method makes *modules* and says where each belongs: its place in the tree of modules, which is its place in files, and
the *point* of the model where it acts. What a module at a point must offer is written below, a class per kind of point.

Shapes: B rows, T tokens, D hidden size.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..anatomy.parts import Anatomy, Point


class Chooser(Protocol):
    """Knows which adapter each row of a batch goes through, and keeps what was stacked for all adapters.

    Shapes: R rows, S adapters, G groups of consecutive rows with the same adapter.
    """

    def __call__(
        self, x: Tensor, sources: Callable[[], list[Tensor]], stacked: Callable[[], Sequence[Tensor]]
    ) -> Sequence[Tensor]:
        """Of what is stacked for the adapters, that of each group of the rows in x. Shape: (G, ...) each.

        Args:
            x: What the adapters read. Shape: (R, ...).
            sources: Gives the tensors that the stacks are made of.
            stacked: Makes the stacks, of shape (S, ...). It is called if these have changed, or need gradients.
        """


class AdapterModule(nn.Module):
    """A module of an adapter. What it does in the model is said by the subclasses for the kinds of points.

    Its hooks (`register_forward_hook` and so on) run around what it does, with what that is given and gives. A module
    without hooks is not called as a module, which takes longer, but acts by its own methods.
    """

    acts_by: ClassVar[str | None] = None
    """The method that hooks run around; None where it is `forward`."""
    hooks_registered: ClassVar[int] = 0
    """How many hooks there ever were: setups that were compiled before do not know of the last ones."""

    fixed: frozenset[str] = frozenset()
    """The last parts of the names of parameters that are never trained."""
    dtype: torch.dtype | None = None
    """The type of numbers that the configuration asks for; None for that of the module it is attached to."""

    def start(self, base: nn.Module) -> None:
        """Set initial weights that take more than the configuration and the sizes of the model. Not called for a file.

        Args:
            base: The base model, of which nothing is changed.

        Raises:
            ValueError: what they are made of cannot be had.
        """

    def shown(self) -> nn.Module | None:
        """What `get_adapter` shows at the place of the module; None for nothing."""
        return self

    def read(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors of this module as a file of any age holds them, in today's form.

        A module whose parameters may have several forms takes on the form that the file has.

        Args:
            tensors: By the names of its parameters, as they are in the file.
        """
        return tensors

    def forward(self, *args: Any) -> Any:
        """What it does."""
        if self.acts_by is None:
            raise NotImplementedError(f"{type(self).__name__} acts by the modules that it is part of, not by itself.")
        return getattr(type(self), self.acts_by)(self, *args)

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> RemovableHandle:
        """See `nn.Module.register_forward_pre_hook`."""
        self._act_as_module()
        return super().register_forward_pre_hook(*args, **kwargs)

    def register_forward_hook(self, *args: Any, **kwargs: Any) -> RemovableHandle:
        """See `nn.Module.register_forward_hook`."""
        self._act_as_module()
        return super().register_forward_hook(*args, **kwargs)

    def register_full_backward_pre_hook(self, *args: Any, **kwargs: Any) -> RemovableHandle:
        """See `nn.Module.register_full_backward_pre_hook`."""
        self._act_as_module()
        return super().register_full_backward_pre_hook(*args, **kwargs)

    def register_full_backward_hook(self, *args: Any, **kwargs: Any) -> RemovableHandle:
        """See `nn.Module.register_full_backward_hook`."""
        self._act_as_module()
        return super().register_full_backward_hook(*args, **kwargs)

    def _act_as_module(self) -> None:
        AdapterModule.hooks_registered += 1
        if self.acts_by is not None:
            self.__dict__[self.acts_by] = self.__call__

    def common_key(self) -> Hashable:
        """Its `stack_key`; None with hooks, which want to see the module itself."""
        return None if self.acts_by in self.__dict__ else self.stack_key()

    def stack_key(self) -> Hashable:
        """What modules must have in common to be computed together for the rows of a batch, each row by its own.

        None if there is no such way; rows are then computed adapter by adapter.
        """
        return None

    @classmethod
    def stacked(cls, modules: Sequence[Any], choose: Chooser) -> AdapterModule:
        """Modules of one key as one, which computes all rows at once. It has no parameters of its own.

        Args:
            modules: The modules.
            choose: Says which of them each row goes through.
        """
        raise NotImplementedError(f"{cls.__name__} has a stack_key, but no way to be stacked.")


class SharedParameters(AdapterModule, nn.ParameterDict):
    """Parameters that all layers of an adapter share. They act by the modules that hold them too."""


@dataclass(frozen=True)
class Placement:
    """A module of an adapter, and where it belongs.

    Args:
        host: Path of the module that it is attached to, from the base model ("" for the base model itself).
        container: Path of the dictionary of adapters within the host: `adapters`, `output_adapters.adapters` …
        location: What `get_adapter` calls the place: `mh_adapter`, `output_adapter`, `selfattn_lora`, `invertible` …
        layer: Number of the layer, or -1 for what belongs to no layer.
        module: The module.
        point: Where it acts in a forward pass; None if it only holds what other modules of the adapter use.
    """

    host: str
    container: str
    location: str
    layer: int
    module: AdapterModule
    point: Point | None = None


class SublayerMap(AdapterModule, ABC):
    """A module that changes the output of a sublayer: x becomes x′, and the model goes on with x′ + r."""

    acts_by = "increment"
    increments_norm: bool
    """x′ = x + f(norm(x + r)) for some f: in a post-norm block only the norm's input is needed."""
    replaces_norm: bool
    """The result takes the place of norm(x + r), not of x."""
    needs_residual: bool
    """x′ depends on r."""
    is_parallel: bool
    """f reads r alone, and is added to the sublayer's own x."""

    @abstractmethod
    def increment(self, h: Tensor) -> Tensor:
        """f(h), without any residual. Shape: (B, T, D) to (B, T, D)."""

    def reads(self, x: Tensor, r: Tensor | None, norm: nn.Module | None) -> Tensor:
        """h, that f is applied to: asked for where maps are fused. Shapes: (B, T, D), (B, T, D) to (B, T, D)."""
        return x

    def residual(self, h: Tensor, x: Tensor, r: Tensor | None) -> Tensor:
        """What f(h) is added to there. Shapes: (B, T, D) to (B, T, D)."""
        return x

    @abstractmethod
    def adapt(self, x: Tensor, r: Tensor | None, norm: nn.Module | None) -> Tensor:
        """x′, before what `replaces_norm` says. Shapes: (B, T, D), (B, T, D) to (B, T, D)."""

    @abstractmethod
    def finish(self, x: Tensor, r: Tensor | None, norm: nn.Module | None) -> Tensor:
        """What the block gives for the sum, if this is the last map and `replaces_norm`. Shapes as `adapt`."""


class LinearMap(AdapterModule, ABC):
    """A module that changes what a linear layer computes: y = W x + b becomes y′.

    Shapes: x is (..., I) and y is (..., O), for O × I the shape of W.
    """

    acts_by = "adapt"

    @abstractmethod
    def adapt(self, x: Tensor, y: Tensor) -> Tensor:
        """y′, from the input and the output of the layer. Shapes: (..., I), (..., O) to (..., O)."""

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
        """`adapt`, as what runs after the layer."""
        return self.adapt(inputs[0], output)

    def _act_as_module(self) -> None:
        super()._act_as_module()
        self.__dict__["after"] = functools.partial(LinearMap.after, self)


class WeightMap(LinearMap):
    """A linear map that is a change of the weight, and so can be merged into it."""

    @abstractmethod
    def merged(self, weight: Tensor) -> Tensor:
        """The weight with which the layer alone computes y′. Shape: (O, I), kept.

        Raises:
            ValueError: with this configuration y′ is not linear in x.
        """

    def merged_bias(self, bias: Tensor) -> Tensor:
        """The bias with which the layer alone computes y′. Shape: (O,), kept."""
        return bias


class PositionsMap(AdapterModule, ABC):
    """A module that adds to the hidden states behind a layer, at the first and the last positions of each row's tokens.

    A position that is among both counts as one of the last.
    """

    acts_by = "increment"
    size: int
    """Hidden size D."""
    prefix_positions: int
    """Number of positions at the start of each row's tokens, not of its padding."""
    suffix_positions: int
    """Number of positions at their end; while a model generates, at the end of the text that it was given."""

    @abstractmethod
    def increment(self, h: Tensor, is_suffix: bool) -> Tensor:
        """What is added to the hidden states at N such positions. Shape: (B, N, D), kept.

        Args:
            h: The hidden states there.
            is_suffix: Whether the positions are the last ones.
        """


class PromptMap(AdapterModule, ABC):
    """A module that puts vectors of its own among the embeddings of the input."""

    acts_by = "vectors"
    follows_first: bool
    """Whether they come behind the first token of each row, and not before it."""

    @property
    @abstractmethod
    def length(self) -> int:
        """Number of vectors P."""

    @abstractmethod
    def vectors(self) -> Tensor:
        """The vectors. Shape: (P, E), for E the size of the embeddings."""


class ModuleMap(AdapterModule, ABC):
    """A module that takes the place of one of the model."""

    acts_by = "replaced"

    @abstractmethod
    def replaced(self, module: nn.Module, inputs: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        """The output that takes the place of the module's, for the inputs that it was called with."""


class SharedModule(AdapterModule, ABC):
    """A module whose tensors all layers share: they are made once, where a pass of the model begins."""

    acts_by = "shares"

    @abstractmethod
    def shares(self) -> tuple[Tensor, ...]:
        """The tensors."""


class PrefixMap(AdapterModule, ABC):
    """A module that puts keys and values in front of those of an attention.

    Shapes: B rows, T tokens, D hidden size, P positions of the prefix, K heads of keys and values, d size of a head.
    """

    acts_by = "prefix"
    reads_hidden: bool
    """Whether the prefix depends on the hidden states that the attention is called with."""
    length: int
    """Number of positions P."""
    counts_positions: bool
    """Whether they are the first P positions of the model, so that text begins at position P."""

    @property
    @abstractmethod
    def pool(self) -> SharedModule:
        """What holds the prefixes of all layers."""

    @abstractmethod
    def prefix(self, shares: tuple[Tensor, ...], hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """The keys and the values.

        Args:
            shares: What the pool gives.
            hidden: The hidden states, (B, T, D); None if they are not read.

        Returns:
            Both of shape (1, K, P, d), or (B, K, P, d) if the rows differ.
        """


class Method(ABC):
    """What a file in this folder offers."""

    @abstractmethod
    def place(self, config: Any, anatomy: Anatomy, base: nn.Module) -> Iterable[Placement]:
        """Make the modules of a new adapter, and say where they belong.

        Args:
            config: The configuration.
            anatomy: Where the parts of the model are.
            base: The base model: sizes and weights may be read, and nothing is changed.

        Raises:
            ValueError: the configuration cannot be met by this model.
        """

    def updated(self, config: Any, version: str | None, names: Collection[str]) -> Any:
        """The configuration in a file of any age, in today's words.

        Args:
            config: The configuration as it was read.
            version: The release that wrote the file; None before releases were noted.
            names: The names of the tensors in the file.
        """
        return config
