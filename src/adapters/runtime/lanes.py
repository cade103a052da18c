"""Which rows of a batch go through which adapters.

A setup with `Parallel`, `BatchSplit` or `MultiTask` in it stands for several setups without them, its *lanes*, and each
row goes through one of these. `Parallel` also repeats the batch: the rows of its first channel come first.

Shapes: B rows of the batch, N channels, R = N·B rows, L lanes, G groups of consecutive rows of the same lane.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from ..composition import (
    AdapterCompositionBlock,
    BatchSplit,
    MultiTask,
    Parallel,
    Setup,
    channels,
    validate_composition,
)
from ..methods.kept import Kept
from .progress import Ongoing

_version = attrgetter("_version")


class RowsDifferError(ValueError, IndexError):
    """A batch has other rows than a setup is for: an `IndexError` too, as 1.3 raised for `BatchSplit`."""


class RowPlan:
    """The lanes of a setup, and the rule by which rows go through them.

    >>> RowPlan(Stack("language", Parallel("a", "b"))).lanes
    (Stack('language', 'a'), Stack('language', 'b'))

    Args:
        setup: The setup.

    Raises:
        ValueError: it repeats the batch for some of its rows only, or its blocks disagree on the number of rows, of
            channels or of tasks.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.channels = channels(setup)
        self.rows = _number_of_rows(setup)
        self.tasks = _number_of_tasks(setup)
        if isinstance(setup, AdapterCompositionBlock):
            validate_composition(setup)
        found: dict[Setup, int] = {}
        table = [
            [
                [found.setdefault(_lane(setup, channel, row, task), len(found)) for task in range(self.tasks or 1)]
                for row in range(self.rows or 1)
            ]
            for channel in range(self.channels)
        ]
        self.lanes: tuple[Setup, ...] = tuple(found)
        self._lanes = table  # by channel, row (if they differ) and task
        self._table = torch.tensor(table)

    def __deepcopy__(self, memo: dict[int, object]) -> RowPlan:
        return self

    @property
    def is_trivial(self) -> bool:
        """Whether all rows are alike, and none is repeated."""
        return len(self.lanes) == 1 and self.channels == 1

    def assignment(self, rows: int, task_ids: Sequence[int] | Tensor | None, with_beams: bool = False) -> Assignment:
        """The lane of each row.

        Args:
            rows: Number of rows R, those of all channels.
            task_ids: The task of each row of the batch. Shape: (B,).
            with_beams: Whether each row may have been followed by copies of it: beams, or texts to be sampled.

        Raises:
            ValueError: the numbers of rows do not fit.
        """
        per_channel = rows // self.channels
        if rows % self.channels:
            raise ValueError(f"{rows} rows are none of {self.channels} copies of a batch: {self.setup!r}.")
        of_rows: Any = [0]
        if self.rows is not None:
            of_rows = _repeated(range(self.rows), per_channel, f"the batch sizes of {self.setup!r}", with_beams)
        if not self.tasks:
            table = self._lanes
            each = per_channel // len(of_rows)
            return Assignment.of([lane[row][0] for lane in table for row in of_rows for _ in range(each)])
        if task_ids is None:
            raise ValueError(
                f"{self.setup!r} needs to know the task of each row: give task_ids=[...] in the call of the model, "
                "numbers or names of its children."
            )
        if isinstance(task_ids, Tensor):
            if per_channel % len(task_ids) or (per_channel != len(task_ids) and not with_beams):
                raise _rows_differ(len(task_ids), per_channel, "task_ids")
            ids = task_ids.repeat_interleave(per_channel // len(task_ids)) if per_channel != len(task_ids) else task_ids
            found = self._table.to(ids.device)[:, torch.tensor(of_rows, device=ids.device), ids]
            return Assignment(rows, None, found.flatten())
        names = _repeated(task_ids, per_channel, "task_ids (or adapter_names)", with_beams)
        of_rows = of_rows if self.rows is not None else [0] * per_channel
        table = self._lanes
        return Assignment.of([lane[row][task] for lane in table for row, task in zip(of_rows, names, strict=True)])


def _repeated(given: Sequence[int], rows: int, what: str, with_beams: bool) -> list[int]:
    """One for each row, where each of the batch may be followed by copies of it."""
    if not given or rows % len(given) or (rows != len(given) and not with_beams):
        raise _rows_differ(len(given), rows, what)
    return [one for one in given for _ in range(rows // len(given))]


def _rows_differ(given: int, rows: int, what: str) -> RowsDifferError:
    return RowsDifferError(f"{what}: {given} rows, but the batch has {rows}.")


def _lane(setup: Setup, channel: int, row: int, task: int) -> Setup:
    """What one row of one channel goes through."""
    if not isinstance(setup, AdapterCompositionBlock):
        return setup
    if isinstance(setup, Parallel):
        for child in setup:
            if channel < channels(child):
                return _lane(child, channel, row, task)
            channel -= channels(child)
    if isinstance(setup, BatchSplit):
        for child, size in zip(setup, setup.batch_sizes, strict=True):
            if row < size:
                return _lane(child, channel, row, task)
            row -= size
    if isinstance(setup, MultiTask):
        return _lane(setup[task], channel, row, task)
    children = [_lane(child, channel if channels(child) > 1 else 0, row, task) for child in setup]
    return setup.with_children(children)


def _blocks(setup: Setup) -> Iterator[AdapterCompositionBlock]:
    if isinstance(setup, AdapterCompositionBlock):
        yield from setup.blocks()


def _number_of_rows(setup: Setup) -> int | None:
    """How many rows a batch must have; None if that does not matter."""
    if not isinstance(setup, AdapterCompositionBlock):
        return None
    found = {rows for child in setup if (rows := _number_of_rows(child)) is not None}
    if isinstance(setup, BatchSplit):
        for child, size in zip(setup, setup.batch_sizes, strict=True):
            rows = _number_of_rows(child)
            if rows not in (None, size):
                raise ValueError(f"{child!r} splits {rows} rows, but its part of the batch has {size}: {setup!r}.")
        return sum(setup.batch_sizes)
    if len(found) > 1:
        raise ValueError(f"The parts of {setup!r} split batches of different sizes: {sorted(found)} rows.")
    return next(iter(found), None)


def _number_of_tasks(setup: Setup) -> int:
    found = {len(block) for block in _blocks(setup) if isinstance(block, MultiTask)}
    if len(found) > 1:
        raise ValueError(f"The MultiTask blocks of {setup!r} have different numbers of tasks: {sorted(found)}.")
    return next(iter(found), 0)


@dataclass
class Assignment:
    """The lanes of the rows of one call.

    Args:
        groups: Number G of consecutive groups of equally many rows that go through the same lane.
        known: The lane of each group, if it is known before the call.
        ids: The same. Shape: (G,).
        lasts: Whether further calls have the same, so that what was chosen for it is worth keeping.
    """

    groups: int
    known: tuple[int, ...] | None
    ids: Tensor | None
    lasts: bool = False
    _slots: dict[tuple[tuple[int, ...], torch.device], Tensor] = field(default_factory=dict)
    _in_order: dict[tuple[int, ...], bool] = field(default_factory=dict)

    @staticmethod
    def of(lanes: Sequence[int]) -> Assignment:
        """From the lane of each row."""
        # Written out, because neither `itertools.groupby` nor `math.gcd` can be compiled.
        step, length = 0, 0
        for row, lane in enumerate(lanes):
            length += 1
            if row + 1 == len(lanes) or lanes[row + 1] != lane:
                step, length = _common_divisor(step, length), 0
        known = tuple(lanes[::step])
        return Assignment(len(known), known, None)

    def chosen(self, stacks: Sequence[Tensor], slots: tuple[int, ...]) -> Sequence[Tensor]:
        """Of what was stacked for adapters, that of each group. Shape: (S, ...) each, to (G, ...).

        Args:
            stacks: The stacks.
            slots: The place in them of each lane's adapter.
        """
        count = stacks[0].shape[0]
        if self.known is not None and count == self.groups and self._are_in_order(slots, count):
            return stacks
        index = self.slots(slots, stacks[0].device)
        return [stack.index_select(0, index) for stack in stacks]

    def _are_in_order(self, slots: tuple[int, ...], count: int) -> bool:
        """Whether the groups go through all adapters of a stack, in its order."""
        if slots not in self._in_order:
            assert self.known is not None
            self._in_order[slots] = [slots[lane] for lane in self.known] == list(range(count))
        return self._in_order[slots]

    def slots(self, slots: tuple[int, ...], device: torch.device) -> Tensor:
        """A number for each group from one for each lane. Shape: (G,)."""
        if torch.compiler.is_compiling():
            return self._numbers(slots, device)
        key = (slots, device)
        if key not in self._slots:
            self._slots[key] = self._numbers(slots, device)
        return self._slots[key]

    def _numbers(self, slots: tuple[int, ...], device: torch.device) -> Tensor:
        if self.known is not None:
            return torch.tensor([slots[lane] for lane in self.known], device=device)
        assert self.ids is not None
        return torch.tensor(slots, device=device)[self.ids.to(device)]


def _common_divisor(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


@dataclass
class RowsOfCall:
    """What is known of the rows while the model is called.

    Args:
        task_ids: The task of each row of the batch, as numbers.
        is_repeated: Whether the batch has been repeated already.
        with_beams: Whether each row may be followed by copies of it.
        rows: Number of rows R, with those of all channels; None before that is known.
        owner: The module whose call it is.
        outer: What was known before.
        assignment: The lanes of the rows, when these were asked for.
        assignments: Those of the calls within this one, by their numbers of rows.
        repeated: What has been repeated for one layer, for the others too.
        state_of_weights: See `Lanes.state_of_weights`.
    """

    task_ids: Sequence[int] | Tensor | None = None
    is_repeated: bool = False
    with_beams: bool = False
    rows: int | None = None
    owner: nn.Module | None = None
    outer: RowsOfCall | None = None
    assignment: Assignment | None = None
    assignments: dict[int, Assignment] = field(default_factory=dict)
    repeated: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    state_of_weights: int | None = None


def _check_rows(x: Tensor, rows: int, may_have_tokens_first: bool) -> None:
    """Raise for what has not its rows first. What belongs to one row may be several ones there: windows of an image."""
    has_tokens_first = may_have_tokens_first and x.ndim > 2 and x.shape[1] == rows
    if x.shape[0] % rows or has_tokens_first:
        raise ValueError(
            f"The batch has {rows} rows, and here is something of shape {tuple(x.shape)}: this model mixes rows, or "
            "has them behind tokens, so that they cannot go through different adapters."
        )


class Lanes:
    """The lanes of a routing, and the rows of the call that is going on.

    Args:
        plan: The rule.
        may_have_tokens_first: Whether there are places in the model where what it computes is (tokens, rows, …).
    """

    def __init__(self, plan: RowPlan, may_have_tokens_first: bool = False) -> None:
        self.plan = plan
        self.may_have_tokens_first = may_have_tokens_first
        self.ongoing = Ongoing()
        self._static: dict[tuple[int, bool], Assignment] = {}
        self._watched: dict[object, list[Tensor]] = {}
        self._all_watched: list[Tensor] = []
        self._versions: list[int] = []
        self._changes = 0

    def __len__(self) -> int:
        return len(self.plan.lanes)

    def assignment(self, x: Tensor) -> Assignment:
        """The lanes of what is at some place in the model.

        Args:
            x: It. Shape: (R, ...), or with a multiple of R, if what belongs to one row is in several ones.

        Raises:
            ValueError: it has other rows.
        """
        call: RowsOfCall | None = self.ongoing.get()
        if call is None or call.rows is None:
            return self.of_rows(x.shape[0], None, False)
        if x.shape[0] != call.rows or self.may_have_tokens_first:
            _check_rows(x, call.rows, self.may_have_tokens_first)
        if call.assignment is None:
            call.assignment = self._of_call(call, call.rows)
        return call.assignment

    def _of_call(self, call: RowsOfCall, rows: int) -> Assignment:
        outer = call.outer
        if outer is None or outer.task_ids is None or torch.compiler.is_compiling():
            return self.of_rows(rows, call.task_ids, call.with_beams)
        if rows not in outer.assignments:  # a model that generates is called many times with the same rows
            outer.assignments[rows] = self.of_rows(rows, call.task_ids, call.with_beams)
            outer.assignments[rows].lasts = bool(outer.assignments[rows].known) and outer.owner is None
        return outer.assignments[rows]

    def numbers(self, task_ids: Any) -> Sequence[int] | Tensor:
        """Tasks of rows as numbers.

        Args:
            task_ids: For each row of the batch the number of a child of `MultiTask`, or the name of its adapter.

        Raises:
            ValueError: nothing in the setup asks for tasks, or one is unknown.
        """
        block = next((block for block in _blocks(self.plan.setup) if isinstance(block, MultiTask)), None)
        if block is None:
            raise ValueError(f"task_ids is for setups with MultiTask; the one in use is {self.plan.setup!r}.")
        if isinstance(task_ids, Tensor):
            if task_ids.device.type == "cpu" and not torch.compiler.is_compiling():
                return self.numbers(task_ids.flatten().tolist())
            return task_ids.flatten()
        children = [child.last() if isinstance(child, AdapterCompositionBlock) else child for child in block]
        found = []
        for task in task_ids:
            number = task if isinstance(task, int) else children.index(task) if task in children else -1
            if not 0 <= number < len(block):
                raise ValueError(f"task_ids: {task!r} is none of the {len(block)} tasks of {block!r}.")
            found.append(number)
        return found

    def of_rows(self, rows: int, task_ids: Sequence[int] | Tensor | None, with_beams: bool) -> Assignment:
        """The lanes of so many rows. What depends on nothing but their number is kept."""
        if self.plan.tasks or torch.compiler.is_compiling():
            return self.plan.assignment(rows, task_ids, with_beams)
        key = (rows, with_beams)
        if key not in self._static:
            if len(self._static) > 64:
                self._static.clear()
            self._static[key] = self.plan.assignment(rows, None, with_beams)
            self._static[key].lasts = True
        return self._static[key]

    # What is made of the weights of adapters is kept until these change. To ask each weight at its own place costs
    # more, in small models, than what is done there; so all are asked when the model is called.

    def state_of_weights(self) -> int | None:
        """A number that changes when a weight has; None outside of a call, and where gradients may flow."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return None
        call: RowsOfCall | None = self.ongoing.get()
        return None if call is None else call.state_of_weights

    def watch(self, key: object, weights: list[Tensor]) -> None:
        """Look after the weights that something was made of, from the next call on."""
        self._watched[key] = weights
        self._all_watched = [weight for watched in self._watched.values() for weight in watched]

    def look(self) -> int:
        """Look whether any weight has changed. Gives the state."""
        try:
            versions = [Kept.epoch, *map(_version, self._all_watched)]
        except RuntimeError:  # tensors that were made in inference mode count nothing
            versions = []
        if versions != self._versions or not versions:
            self._versions = versions
            self._changes += 1
        return self._changes

    def __deepcopy__(self, memo: dict[int, object]) -> Lanes:
        copied = memo[id(self)] = Lanes(self.plan, self.may_have_tokens_first)
        return copied

    def __reduce__(self) -> tuple[type[Lanes], tuple[RowPlan, bool]]:
        return Lanes, (self.plan, self.may_have_tokens_first)
