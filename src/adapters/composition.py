"""How adapters are combined: plain data, no tensors.

>>> from adapters.composition import Stack
>>> Stack("language", "task")
Stack('language', 'task')
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, TypeAlias, Union, cast

Setup: TypeAlias = Union[str, "AdapterCompositionBlock", None]
"""The name of an adapter, a block, or None for the bare model."""


class AdapterCompositionBlock(Sequence["Setup"]):
    """A combination of adapters; its children are adapter names, further blocks, or None for the bare model.

    Args:
        *children: Names of adapters, blocks, or None.
    """

    def __init__(self, *children: Setup) -> None:
        for child in children:
            if not (child is None or isinstance(child, (str, AdapterCompositionBlock))):
                raise TypeError(
                    f"{type(self).__name__} takes adapter names, composition blocks and None (the bare model), not "
                    f"{child!r} ({type(child).__name__})."
                )
        self.children: list[Setup] = list(children)

    def __getitem__(self, index: Any) -> Any:
        return self.children[index]

    def __len__(self) -> int:
        return len(self.children)

    def __iter__(self) -> Iterator[Setup]:
        return iter(self.children)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        arguments = [repr(child) for child in self.children]
        arguments += [f"{name}={value!r}" for name, value in self._arguments().items()]
        return f"{type(self).__name__}({', '.join(arguments)})"

    def _arguments(self) -> dict[str, Any]:
        """What the constructor takes besides the children."""
        return {}

    @property
    def parallel_channels(self) -> int:
        """How many times the batch is repeated by the blocks in here."""
        return max(map(channels, self.children), default=1)

    def first(self) -> str | None:
        """The name of the first adapter; None if that child is the bare model."""
        child = self.children[0]
        return child.first() if isinstance(child, AdapterCompositionBlock) else child

    def last(self) -> str | None:
        """The name of the last adapter; None if that child is the bare model."""
        child = self.children[-1]
        return child.last() if isinstance(child, AdapterCompositionBlock) else child

    def flatten(self) -> set[str]:
        """The names of all adapters in here."""
        names: set[str] = set()
        for child in self.children:
            if child is not None:
                names |= {child} if isinstance(child, str) else child.flatten()
        return names

    def blocks(self) -> Iterator[AdapterCompositionBlock]:
        """This block and all blocks in it."""
        yield self
        for child in self.children:
            if isinstance(child, AdapterCompositionBlock):
                yield from child.blocks()

    def with_children(self, children: Sequence[Setup]) -> AdapterCompositionBlock:
        """The same block with other children."""
        block = copy(self)
        block.children = list(children)
        return block

    def to_dict(self) -> dict[str, Any]:
        """The block as plain data, as `adapter_setup.json` holds it."""
        children = [
            child.to_dict() if isinstance(child, AdapterCompositionBlock) else {"type": "single", "children": [child]}
            for child in self.children
        ]
        data: dict[str, Any] = {"type": type(self).__name__, "children": children}
        if self._arguments():
            data["kwargs"] = self._arguments()
        return data

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Setup:
        """The inverse of `to_dict`.

        Raises:
            ValueError: the data names a block that does not exist.
        """
        children = data.get("children", [])
        if data.get("type") == "single":
            return None if children[0] is None else str(children[0])
        if data.get("type") not in BLOCKS:
            raise ValueError(f"Unknown composition block {data.get('type')!r}; there are {', '.join(BLOCKS)}.")
        block = BLOCKS[data["type"]]
        return block(*(AdapterCompositionBlock.from_dict(child) for child in children), **data.get("kwargs", {}))


class Stack(AdapterCompositionBlock):
    """One adapter after the other: each sees what the one before made of the sublayer's output."""


class Parallel(AdapterCompositionBlock):
    """The batch is repeated, and each copy goes through its own adapter. The rows of the first one come first."""

    @property
    def parallel_channels(self) -> int:
        return sum(map(channels, self.children))


class MultiTask(AdapterCompositionBlock):
    """Each row of a batch goes through the adapter of its task, which `task_ids` says in the call of the model."""


class Fuse(AdapterCompositionBlock):
    """The outputs of several adapters, mixed by attention (AdapterFusion, Pfeiffer et al. 2021)."""

    def __init__(self, *fuse_stacks: Setup, name: str | None = None) -> None:
        super().__init__(*fuse_stacks)
        self._name = name

    @property
    def name(self) -> str:
        """The name of the fusion: the given one, or its adapters' joined by commas."""
        names = (c.last() if isinstance(c, AdapterCompositionBlock) else c for c in self.children)
        return self._name or ",".join(str(name) for name in names)

    def _arguments(self) -> dict[str, Any]:
        return {"name": self._name} if self._name else {}


class Gate(Fuse):
    """The outputs of several adapters, mixed with learned weights: a softmax of one number per adapter and place."""


class Split(AdapterCompositionBlock):
    """The sequence is cut into pieces, and each piece goes through its own adapter.

    Args:
        splits: Lengths of the pieces in tokens, or one length for all.
    """

    def __init__(self, *split_adapters: Setup, splits: list[int] | int) -> None:
        super().__init__(*split_adapters)
        self.splits = _sizes("splits", splits, split_adapters)

    def _arguments(self) -> dict[str, Any]:
        return {"splits": self.splits}


class BatchSplit(AdapterCompositionBlock):
    """The batch is cut into groups of rows, and each group goes through its own adapter.

    Args:
        batch_sizes: Numbers of rows, or one number for all groups.
    """

    def __init__(self, *split_adapters: Setup, batch_sizes: list[int] | int) -> None:
        super().__init__(*split_adapters)
        self.batch_sizes = _sizes("batch_sizes", batch_sizes, split_adapters)

    def _arguments(self) -> dict[str, Any]:
        return {"batch_sizes": self.batch_sizes}


class Average(AdapterCompositionBlock):
    """The weighted mean of the outputs of several adapters.

    Args:
        weights: One weight per adapter; equal ones if None.
        normalize_weights: Whether the weights are divided by their sum.
    """

    def __init__(
        self, *average_adapters: Setup, weights: list[float] | None = None, normalize_weights: bool = True
    ) -> None:
        super().__init__(*average_adapters)
        given = weights if weights is not None else [1.0] * len(average_adapters)
        if len(given) != len(average_adapters):
            raise ValueError(f"Average got {len(average_adapters)} adapters and {len(given)} weights.")
        self.weights = [w / sum(given) for w in given] if weights is None or normalize_weights else list(given)

    def _arguments(self) -> dict[str, Any]:
        return {"weights": self.weights}


def channels(setup: Setup) -> int:
    """How many times a setup repeats the batch."""
    return setup.parallel_channels if isinstance(setup, AdapterCompositionBlock) else 1


def _sizes(name: str, sizes: list[int] | int, children: Sequence[Setup]) -> list[int]:
    """A size for each child.

    Raises:
        ValueError: there are not as many, or one is none.
    """
    found = list(sizes) if isinstance(sizes, (list, tuple)) else [sizes] * len(children)
    if len(found) != len(children) or not all(isinstance(size, int) and size >= 0 for size in found):
        raise ValueError(f"{name}={sizes!r} for {len(children)} children: give one number, or one for each.")
    return found


BLOCKS: dict[str, type[AdapterCompositionBlock]] = {
    block.__name__: block for block in (Stack, Fuse, Gate, Split, BatchSplit, Parallel, MultiTask, Average)
}

SetupLike: TypeAlias = Setup | Sequence[Any] | None


def validate_composition(
    adapter_composition: AdapterCompositionBlock, level: int = 0, model_type: str | None = None
) -> None:
    """Raise a ValueError for a setup without meaning, whatever the adapters are.

    Args:
        adapter_composition: The setup.
        level: Taken for compatibility: blocks may be nested to any depth.
        model_type: Taken for compatibility; every block is defined for every architecture.
    """
    for block in adapter_composition.blocks():
        if not len(block):
            raise ValueError(f"{block!r} is empty; give None to deactivate all adapters.")
        inner = {channels(child) for child in block} - {1}
        if isinstance(block, (BatchSplit, MultiTask)) and inner:
            raise ValueError(
                f"Parallel repeats the batch, and cannot be within {type(block).__name__}, for some rows of it only: "
                f"{block!r}. Put the Parallel outside."
            )
        if not isinstance(block, Parallel) and len(inner) > 1:
            raise ValueError(f"The Parallel blocks in {block!r} have different numbers of children: {sorted(inner)}.")


def parse_composition(
    adapter_composition: SetupLike, level: int = 0, model_type: str | None = None
) -> AdapterCompositionBlock | None:
    """What users write for a setup, as a block.

    >>> parse_composition("a"), parse_composition(["a", "b"])
    (Stack('a'), Stack('a', 'b'))

    Args:
        adapter_composition: A name, a block, a list of these (a `Stack`), or None.
        level: The depth of a nested list: the lists in a list are `Fuse` blocks, those in these `Stack` blocks …
        model_type: Taken for compatibility; every block is defined for every architecture.

    Raises:
        TypeError: neither of these was given.
    """
    if adapter_composition is None or isinstance(adapter_composition, AdapterCompositionBlock):
        return adapter_composition
    if isinstance(adapter_composition, str):
        return Stack(adapter_composition)
    if isinstance(adapter_composition, Sequence):
        block = Fuse if level % 2 else Stack
        children = [
            c if c is None or isinstance(c, str) else parse_composition(c, level + 1) for c in adapter_composition
        ]
        return block(*children) if children else None
    raise TypeError(
        f"An adapter setup is a name, a block such as Stack('a', 'b'), a list of these or None, "
        f"not {adapter_composition!r}."
    )


def parse_heads_from_composition(adapter_composition: SetupLike, reference_heads: Sequence[str] | None = None) -> Any:
    """The prediction heads that belong to a setup: those of the names of its last adapters.

    >>> parse_heads_from_composition(Stack("language", Parallel("a", "b")))
    ['a', 'b']

    Args:
        adapter_composition: A name, a block, or None.
        reference_heads: Taken for compatibility: the names do not depend on which heads there are.

    Returns:
        A name; a list of one for each child of `Parallel`; a `BatchSplit` or a `MultiTask` of names; that of a `Fuse`.
        None where an output has no adapter of its own (`Split`, `Average`).
    """
    setup = adapter_composition
    if setup is None or isinstance(setup, str):
        return setup
    if isinstance(setup, Stack):
        return parse_heads_from_composition(setup[-1]) if len(setup) else None
    if isinstance(setup, Fuse):
        return setup.name
    if isinstance(setup, (BatchSplit, MultiTask, Parallel)):
        found: list[Setup] = []
        for child in setup:
            head = parse_heads_from_composition(child)
            repeats = channels(child) > 1 and not isinstance(head, (list, Parallel))
            found.append(Parallel(*[head] * channels(child)) if repeats else _as_block(head))
        plain = isinstance(setup, Parallel) and not any(isinstance(head, AdapterCompositionBlock) for head in found)
        return found if plain else setup.with_children(found)
    return None


def _as_block(heads: Any) -> Setup:
    return Parallel(*heads) if isinstance(heads, list) else cast(Setup, heads)
