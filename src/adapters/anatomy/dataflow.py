"""Reads what a module's `forward` does with its tensors, without running it.

The tree of modules says *what* a Transformer layer is made of, but not in which order: BART's and mBART's layers have
the same children, and one normalises after the residual, the other before. The source of `forward` says it. So this
file reads that source like a person would: it follows the tensors through the calls of sub-modules, branches whose
conditions are known from the live module, and additions, and returns the graph of what feeds what.

Roads not taken: running the model on made-up inputs (which inputs? and MoE routers or image grids branch on data), and
torch.fx or torch.export (they need inputs too, and stop at the first thing they do not understand, where this reader
only loses one edge).
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from torch import Tensor, nn

MAX_DEPTH = 24
MAX_ITERATIONS = 64

# Calling these on known values is harmless, and their results decide branches and loops.
_PURE = (
    len,
    range,
    enumerate,
    zip,
    isinstance,
    hasattr,
    min,
    max,
    int,
    float,
    bool,
    str,
    tuple,
    list,
    reversed,
    any,
    all,
)
# Methods and functions whose result is still "the same tensor" for the reader: reshapes, casts, dropout, scaling.
_RESHAPES = frozenset(
    ("view", "view_as", "reshape", "reshape_as", "squeeze", "unsqueeze", "transpose", "permute", "flatten", "unflatten")
)
_TRANSPARENT = _RESHAPES | frozenset(
    (
        *("contiguous", "clone", "to", "type", "type_as", "float", "half"),
        *("dropout", "drop_path", "clamp", "clip", "mul", "mul_", "masked_fill", "masked_fill_"),
    )
)
_SHAPE_ATTRIBUTES = frozenset({"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad"})
# Ways around the usual one: models called with embeddings instead of tokens, and the second streams that only the
# pretraining of DeBERTa and XLNet, and the hybrid layers of Zamba, use.
_ABSENT_ARGUMENTS = frozenset(
    (
        *("inputs_embeds", "decoder_inputs_embeds", "encoder_outputs"),
        *("query_states", "output_g", "target_mapping", "transformer_hidden_states"),
    )
)
# Layers that take their states three times (Funnel's) are given the same states each time.
_STATES_THREE_TIMES = ("query", "key", "value")
_SHAPE_METHODS = frozenset(("size", "dim", "numel", "item", "tolist", "any", "all", "new_zeros", "new_ones"))
_JOINS = frozenset(("cat", "concat", "concatenate"))

# What a `same` value is, where it matters.
SCALED = "scaled"
RESHAPED = "reshaped"
SLICED = "sliced"
FIRST = "first"


@dataclass(eq=False, repr=False)
class Value:
    """A tensor in the graph: what made it, from what.

    Args:
        made_by: `input`, `module`, `add`, `same` (a reshape, cast, dropout or scaling of its first source) or `other`.
        sources: The values it was made from.
        name: The path of the module, for `module`; the name of the argument, for `input`; for `same`, `SCALED` by a
            parameter such as that of LayerScale, `RESHAPED`, `SLICED` (a part of the tensor), or `FIRST` (of the
            tuple that a module returns).
    """

    made_by: str
    sources: tuple[Value, ...] = ()
    name: str = ""


@dataclass
class Graph:
    """What was read from one module.

    Args:
        calls: Every call of a leaf module, in order of execution.
        additions: Every sum of two tensors, in order of execution.
        outputs_of: Of each value, the composite modules that return it, innermost first, with the index in the tuple
            that they return (None if they return it alone).
        performed_in: Of each addition, the path of the module whose `forward` performs it.
        composites: Path and class name of every module that was read through.
        inputs: The first positional argument of each call of a module, leaf or not: what a hook before it sees.
        results: What the module returns.
    """

    calls: list[Value] = field(default_factory=list)
    additions: list[Value] = field(default_factory=list)
    outputs_of: dict[Value, list[tuple[str, int | None]]] = field(default_factory=dict)
    performed_in: dict[Value, str] = field(default_factory=dict)
    composites: dict[str, str] = field(default_factory=dict)
    inputs: list[tuple[str, Value]] = field(default_factory=list)
    results: Any = None

    @property
    def size(self) -> tuple[int, int, int]:
        """How much was read so far."""
        return len(self.calls), len(self.additions), len(self.inputs)

    def forget(self, path: str, size: tuple[int, int, int]) -> None:
        """Undo what was read of a module since the graph had that size."""
        calls, additions, inputs = size
        del self.calls[calls:], self.additions[additions:], self.inputs[inputs:]
        inner = [name for name in self.composites if name == path or name.startswith(f"{path}.")]
        for name in inner:
            del self.composites[name]
        for places in self.outputs_of.values():
            places[:] = [place for place in places if place[0] not in inner]


class _Unknown:
    """A Python value that cannot be known without running."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()


class _Record(dict[str, Any]):
    """A named tuple, dataclass or model output, by the names of its fields."""


class _Raised(Exception):
    """The branch being read ends in a `raise`."""


class _Returned(Exception):
    """The function being read returns."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Stopped(Exception):
    """The loop being read ends early (`break` or `continue`)."""


def read(module: nn.Module, leaves: frozenset[nn.Module] = frozenset()) -> Graph:
    """The graph of a module's `forward`.

    >>> [call.name for call in read(bert.encoder.layer[0]).calls][:3]
    ['attention.self.query', 'attention.self.key', 'attention.self.value']

    Args:
        module: Any module. Paths in the graph are relative to it.
        leaves: Modules inside it that are not to be read through.
    """
    reader = _Reader(module, leaves)
    reader.graph.results = reader.call_composite(module, [], {}, is_root=True)
    return reader.graph


@functools.cache
def _parse(function: Callable[..., Any]) -> ast.FunctionDef | ast.Lambda | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            return node
    return None


def is_leaf(module: nn.Module) -> bool:
    """Whether a call of the module is one step of the graph.

    These are torch's own modules, those without children, and experts: a list of modules of which the router's choice
    runs, or matrices of all experts in one parameter (E, D, F).
    """
    stacked = any(p.ndim > 2 for p in module.parameters(recurse=False))
    if re.search(r"Experts$", type(module).__name__) or (stacked and not _has_parameters_below(module)):
        return True
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return False
    return type(module).__module__.startswith("torch.nn") or not any(True for _ in module.children())


def _has_parameters_below(module: nn.Module) -> bool:
    return any(True for child in module.children() for _ in child.parameters())


def _may_add(module: nn.Module, tensors: Sequence[Value]) -> bool:
    """Whether a leaf is to be read all the same: one without matrices may be where a residual is added (Zaya)."""
    if len(tensors) < 2 or type(module).__module__.startswith("torch.nn") or "Norm" in type(module).__name__:
        return False
    return all(p.ndim < 2 for p in module.parameters())


@dataclass
class _LocalFunction:
    """A function defined inside the function that is being read."""

    definition: ast.FunctionDef | ast.Lambda
    frame: _Frame


class _Reader:
    def __init__(self, root: nn.Module, leaves: frozenset[nn.Module]) -> None:
        self.graph = Graph()
        self.leaves = leaves
        self.paths = {child: name for name, child in root.named_modules()}
        self.stack: list[str] = []
        self.joins: dict[tuple[Value, ...], Value] = {}

    # -- calls ------------------------------------------------------------------------------------------------------

    def call_module(self, module: nn.Module, args: list[Any], kwargs: dict[str, Any]) -> Any:
        tensors = _values([*args, *kwargs.values()])
        if args and isinstance(args[0], Value):
            self.graph.inputs.append((self.paths.get(module, ""), args[0]))
        is_read = module in self.paths and module not in self.leaves
        if is_read and len(self.stack) < MAX_DEPTH and (not is_leaf(module) or _may_add(module, tensors)):
            if isinstance(module, nn.Sequential):
                return self.call_sequential(module, args)
            return self.call_composite(module, args, kwargs)
        return self.call_leaf(self.paths.get(module, ""), tensors)

    def call_sequential(self, module: nn.Sequential, args: list[Any]) -> Any:
        result = args[0] if args else UNKNOWN
        for child in module:
            result = self.call_module(child, [result], {})
        self.note_output(self.paths[module], result)
        return result

    def call_composite(self, module: nn.Module, args: list[Any], kwargs: dict[str, Any], is_root: bool = False) -> Any:
        path = self.paths[module]
        definition = _parse(inspect.unwrap(type(module).forward))
        tensors = _values([*args, *kwargs.values()])
        if not isinstance(definition, ast.FunctionDef):
            return self.call_leaf(path, tensors)
        before = self.graph.size
        self.graph.composites[path] = type(module).__name__
        self.stack.append(path)
        result = self.call_function(inspect.unwrap(type(module).forward), definition, [module, *args], kwargs, is_root)
        self.stack.pop()
        if is_root:
            return result
        if tensors and any(p.ndim >= 2 for p in module.parameters()) and not _is_made_from(result, tensors):
            # The thread was lost, e.g. in a loop over tokens: the module is one step.
            self.graph.forget(path, before)
            return self.call_leaf(path, tensors)
        self.note_output(path, result)
        return result

    def call_leaf(self, path: str, tensors: tuple[Value, ...]) -> Value:
        value = Value("module", tensors, path)
        self.graph.calls.append(value)
        return value

    def note_output(self, path: str, result: Any) -> None:
        """Remember that a composite module returns these values."""
        if isinstance(result, _Record):
            result = tuple(result.values())
        outputs = list(enumerate(result)) if isinstance(result, tuple) else [(None, result)]
        for index, value in outputs:
            if isinstance(value, Value):
                self.graph.outputs_of.setdefault(value, []).append((path, index))

    def call_function(
        self,
        function: Callable[..., Any],
        definition: ast.FunctionDef,
        args: list[Any],
        kwargs: dict[str, Any],
        arguments_are_inputs: bool = False,
    ) -> Any:
        scope = self.bind(function, definition.args, args, kwargs, arguments_are_inputs)
        return _Frame(self, scope, function.__globals__).result_of(definition.body)

    def bind(
        self,
        function: Callable[..., Any],
        parameters: ast.arguments,
        args: list[Any],
        kwargs: dict[str, Any],
        arguments_are_inputs: bool,
    ) -> dict[str, Any]:
        """The arguments by name. Those of the module that is read are inputs of the graph, unless they are settings."""
        scope: dict[str, Any] = {}
        names = [p.arg for p in (*parameters.posonlyargs, *parameters.args)]
        defaults = {
            name: p.default
            for name, p in inspect.signature(function).parameters.items()
            if p.default is not inspect.Parameter.empty
        }
        for name in (*names, *(p.arg for p in parameters.kwonlyargs)):
            default = defaults.get(name, UNKNOWN)
            if arguments_are_inputs and type(default) is int:  # a length, such as that of BLIP-2's queries
                scope[name] = UNKNOWN
            elif arguments_are_inputs and name in _ABSENT_ARGUMENTS:
                scope[name] = None
            elif arguments_are_inputs and (default is None or default is UNKNOWN):
                scope[name] = Value("input", name=name)
            else:
                scope[name] = default
        if arguments_are_inputs and scope.keys() >= {*_STATES_THREE_TIMES}:
            scope.update(dict.fromkeys(_STATES_THREE_TIMES, scope[_STATES_THREE_TIMES[0]]))
        scope.update(zip(names, args, strict=False))
        rest = {k: v for k, v in kwargs.items() if k not in scope}
        scope.update({k: v for k, v in kwargs.items() if k in scope})
        if parameters.vararg:
            scope[parameters.vararg.arg] = tuple(args[len(names) :])
        if parameters.kwarg:
            scope[parameters.kwarg.arg] = rest
        return scope


def _values(items: Iterable[Any]) -> tuple[Value, ...]:
    """The tensors in arguments, also in tuples and dictionaries."""
    found: list[Value] = []
    for item in items:
        if isinstance(item, Value):
            found.append(item)
        elif isinstance(item, (tuple, list)):
            found.extend(_values(item))
        elif isinstance(item, dict):
            found.extend(_values(item.values()))
    return tuple(found)


def _is_made_from(result: Any, tensors: tuple[Value, ...]) -> bool:
    """Whether a result has anything to do with the tensors."""
    todo, seen = list(_values([result])), set(tensors)
    while todo:
        value = todo.pop()
        if value in tensors:
            return True
        if value not in seen:
            seen.add(value)
            todo.extend(value.sources)
    return False


def _is_known(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_known, value))
    return not isinstance(value, (Value, _Unknown))


class _Frame:
    """One function being read: its local names, and how each kind of statement and expression acts on them."""

    def __init__(self, reader: _Reader, scope: dict[str, Any], global_scope: dict[str, Any]) -> None:
        self.reader = reader
        self.scope = scope
        self.global_scope = global_scope
        self.early_result: Any = UNKNOWN

    # -- statements -------------------------------------------------------------------------------------------------

    def run(self, statements: Sequence[ast.stmt]) -> None:
        for statement in statements:
            handler = getattr(self, f"run_{type(statement).__name__}", None)
            if handler is not None:
                handler(statement)

    def result_of(self, body: Sequence[ast.stmt]) -> Any:
        """What the function returns whose body this is."""
        try:
            self.run(body)
        except _Returned as returned:
            return returned.value
        except _Raised:
            return UNKNOWN
        return self.early_result

    def run_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.scope[node.name] = _LocalFunction(node, self)

    def run_Expr(self, node: ast.Expr) -> None:
        value = self.eval(node.value)
        function = node.value.func if isinstance(node.value, ast.Call) else None
        # A method in place, such as `out.add_(other)`, changes what the name stands for.
        if isinstance(function, ast.Attribute) and re.search(r"[a-z]_$", function.attr) and isinstance(value, Value):
            self.assign(function.value, value)

    def run_Assign(self, node: ast.Assign) -> None:
        value = self.eval(node.value)
        for target in node.targets:
            self.assign(target, value)

    def run_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.assign(node.target, self.eval(node.value))

    def run_AugAssign(self, node: ast.AugAssign) -> None:
        target = ast.copy_location(ast.parse(ast.unparse(node.target), mode="eval").body, node)
        self.assign(node.target, self.combine(node.op, self.eval(target), self.eval(node.value)))

    def run_Return(self, node: ast.Return) -> None:
        raise _Returned(self.eval(node.value) if node.value is not None else None)

    def run_Raise(self, node: ast.Raise) -> None:
        raise _Raised

    def run_Break(self, node: ast.Break) -> None:
        raise _Stopped

    def run_Continue(self, node: ast.Continue) -> None:
        raise _Stopped

    def run_With(self, node: ast.With) -> None:
        self.run(node.body)

    def run_Try(self, node: ast.Try) -> None:
        self.run(node.body)

    def run_While(self, node: ast.While) -> None:
        self.run_loop(node.body)

    def run_For(self, node: ast.For) -> None:
        items = self.eval(node.iter)
        if _is_known(items) or isinstance(items, (tuple, list)):
            try:
                known = list(items)[:MAX_ITERATIONS]
            except TypeError:
                known = [UNKNOWN]
        else:
            known = [Value("other", _values([items]))]
        for item in known:
            self.assign(node.target, item)
            self.run_loop(node.body)

    def run_loop(self, body: Sequence[ast.stmt]) -> None:
        with contextlib.suppress(_Stopped):
            self.run(body)

    def run_If(self, node: ast.If) -> None:
        test = self.truth(node.test)
        if test is True:
            try:
                self.run(node.body)
            except _Raised:  # e.g. "if a mask is given, but it can't be": the mask is not given
                self.run(node.orelse)
        elif test is False:
            self.run(node.orelse)
        else:
            self.run_both(node.body, node.orelse)

    def run_both(self, first: Sequence[ast.stmt], second: Sequence[ast.stmt]) -> None:
        """Read both branches of a condition that only a run can decide, and join what they leave."""
        before = dict(self.scope)
        after_first = self.run_branch(first)
        self.scope = before if after_first is None else dict(before)
        after_second = self.run_branch(second)
        if after_first is None and after_second is None:
            # Both branches return or raise. What was returned last stands for the function.
            raise _Returned(self.early_result)
        self.scope = _join(after_first, after_second)

    def run_branch(self, statements: Sequence[ast.stmt]) -> dict[str, Any] | None:
        try:
            self.run(statements)
        except _Returned as returned:
            self.early_result = returned.value
            return None
        except (_Raised, _Stopped):
            return None
        return self.scope

    def assign(self, target: ast.expr, value: Any) -> None:
        if isinstance(target, ast.Name):
            self.scope[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            self.assign_several(target.elts, value)
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            whole = self.scope.get(target.value.id)
            if isinstance(whole, Value) and (parts := _values([value])):
                self.scope[target.value.id] = Value("other", (whole, *parts))

    def assign_several(self, targets: Sequence[ast.expr], value: Any) -> None:
        for index, element in enumerate(targets):
            if isinstance(element, ast.Starred):
                after = len(targets) - index - 1
                items = _items(value)
                end = None if items is None else len(items) - after
                self.assign(element.value, UNKNOWN if items is None else items[index:end])
                for n, target in enumerate(targets[index + 1 :]):
                    self.assign(target, UNKNOWN if items is None or end is None else _item(items, end + n))
                return
            self.assign(element, _item(value, index))

    # -- expressions ------------------------------------------------------------------------------------------------

    def eval(self, node: ast.expr) -> Any:
        handler = getattr(self, f"eval_{type(node).__name__}", None)
        return UNKNOWN if handler is None else handler(node)

    def eval_Constant(self, node: ast.Constant) -> Any:
        return node.value

    def eval_Name(self, node: ast.Name) -> Any:
        if node.id in self.scope:
            return self.scope[node.id]
        value = self.global_scope.get(node.id, getattr(builtins, node.id, UNKNOWN))
        return UNKNOWN if value is None else value  # a global that is None is yet to be set, e.g. an optional kernel

    def eval_NamedExpr(self, node: ast.NamedExpr) -> Any:
        value = self.eval(node.value)
        self.assign(node.target, value)
        return value

    def eval_Attribute(self, node: ast.Attribute) -> Any:
        base = self.eval(node.value)
        if isinstance(base, Value):
            return UNKNOWN if node.attr in _SHAPE_ATTRIBUTES else Value("other", (base,))
        if isinstance(base, _Record) and node.attr in base:
            return base[node.attr]
        if isinstance(base, _Unknown) or (isinstance(base, nn.Module) and node.attr == "training"):
            return UNKNOWN
        try:
            return getattr(base, node.attr)
        except Exception:  # a property may raise anything
            return UNKNOWN

    def eval_Subscript(self, node: ast.Subscript) -> Any:
        base, index = self.eval(node.value), self.eval(node.slice)
        if isinstance(base, Value):
            if base.made_by == "module" and index == 0:
                return Value("same", (base,), FIRST)
            return Value("same", (base,), SLICED if _is_part(node.slice) else "")
        if isinstance(base, _Record) and isinstance(index, (int, slice)):
            base = tuple(base.values())
        if _is_known(index) and isinstance(base, (Sequence, Mapping, nn.ModuleList, nn.ModuleDict, nn.Sequential)):
            try:
                return base[index]
            except (KeyError, IndexError, TypeError):
                return UNKNOWN
        return UNKNOWN

    def eval_Slice(self, node: ast.Slice) -> Any:
        parts = [self.eval(part) if part is not None else None for part in (node.lower, node.upper, node.step)]
        return slice(*parts) if _is_known(parts) else UNKNOWN

    def eval_Tuple(self, node: ast.Tuple | ast.List) -> Any:
        items: list[Any] = []
        for element in node.elts:
            if isinstance(element, ast.Starred):
                inner = self.eval(element.value)
                items.extend(inner if isinstance(inner, (tuple, list)) else [])
            else:
                items.append(self.eval(element))
        return tuple(items)

    eval_List = eval_Tuple

    def eval_Dict(self, node: ast.Dict) -> Any:
        result: dict[Any, Any] = {}
        for key, value_node in zip(node.keys, node.values, strict=True):
            value = self.eval(value_node)
            if key is None:
                result.update(value if isinstance(value, dict) else {})
            elif _is_known(name := self.eval(key)):
                result[name] = value
        return result

    def eval_IfExp(self, node: ast.IfExp) -> Any:
        test = self.truth(node.test)
        if test is not None:
            return self.eval(node.body if test else node.orelse)
        return _merge(self.eval(node.body), self.eval(node.orelse))

    def eval_BoolOp(self, node: ast.BoolOp) -> Any:
        undecided: Any = None
        value: Any = UNKNOWN
        for operand in node.values:
            value = self.eval(operand)
            known = _truth_of(value)
            if known is not None and known is isinstance(node.op, ast.Or):
                # "x and False" is false whatever x is; but "x or y" may be x.
                return value if undecided is None or known is False else undecided
            if known is None and undecided is None:
                undecided = value
        return value if undecided is None else undecided

    def eval_UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.eval(node.operand)
        if isinstance(node.op, ast.Not):
            known = _truth_of(value)
            return UNKNOWN if known is None else not known
        if isinstance(node.op, ast.USub) and isinstance(value, (int, float)):
            return -value
        return Value("other", (value,)) if isinstance(value, Value) else UNKNOWN

    def eval_Compare(self, node: ast.Compare) -> Any:
        left, right = self.eval(node.left), self.eval(node.comparators[0])
        if len(node.ops) > 1 or isinstance(left, _Unknown) or isinstance(right, _Unknown):
            return UNKNOWN
        operator = node.ops[0]
        if isinstance(operator, (ast.Is, ast.IsNot)):
            # A tensor is never None; that a whole argument is absent is not explored.
            same = left is right or (left == right if _is_known([left, right]) and isinstance(left, bool) else False)
            return same is isinstance(operator, ast.Is)
        if not _is_known([left, right]):
            return UNKNOWN
        try:
            return _COMPARISONS[type(operator)](left, right)
        except Exception:  # foreign objects may compare in any way
            return UNKNOWN

    def eval_BinOp(self, node: ast.BinOp) -> Any:
        return self.combine(node.op, self.eval(node.left), self.eval(node.right))

    def eval_JoinedStr(self, node: ast.JoinedStr) -> Any:
        parts = [
            self.eval(part.value) if isinstance(part, ast.FormattedValue) else self.eval(part) for part in node.values
        ]
        return "".join(map(str, parts)) if _is_known(parts) else UNKNOWN

    def eval_ListComp(self, node: ast.ListComp | ast.GeneratorExp) -> Any:
        items = self.eval(node.generators[0].iter)
        outer = dict(self.scope)
        results = []
        if isinstance(items, (tuple, list)) or (_is_known(items) and isinstance(items, Iterable)):
            for item in list(items)[:MAX_ITERATIONS]:
                self.assign(node.generators[0].target, item)
                if all(self.truth(condition) is not False for condition in node.generators[0].ifs):
                    results.append(self.eval(node.elt))
        self.scope = outer
        return tuple(results) if results else Value("other", _values([items]))

    eval_GeneratorExp = eval_ListComp

    def eval_Lambda(self, node: ast.Lambda) -> Any:
        return _LocalFunction(node, self)

    def eval_Call(self, node: ast.Call) -> Any:
        args: list[Any] = []
        for argument in node.args:
            value = self.eval(argument.value if isinstance(argument, ast.Starred) else argument)
            if not isinstance(argument, ast.Starred):
                args.append(value)
            elif isinstance(value, (tuple, list)):
                args.extend(value)
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self.eval(keyword.value)
            if keyword.arg is not None:
                kwargs[keyword.arg] = value
            elif isinstance(value, dict):
                kwargs.update(value)
        if isinstance(node.func, ast.Attribute) and isinstance(base := self.eval(node.func.value), Value):
            return self.call_method(node.func.attr, base, args, kwargs)
        return self.call(self.eval(node.func), _last_name(node.func), args, kwargs)

    def call_method(self, name: str, base: Value, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if name in _SHAPE_METHODS:
            return UNKNOWN
        others = _values([*args, *kwargs.values()])
        if name in ("add", "add_") and others:
            return self.add(base, others[0])
        return _transformed(name, (base, *others))

    def call(self, function: Any, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if isinstance(function, nn.Module):
            return self.reader.call_module(function, args, kwargs)
        if isinstance(function, functools.partial):
            return self.call(function.func, name, [*function.args, *args], {**function.keywords, **kwargs})
        if isinstance(function, _LocalFunction):
            return function.frame.call_local(function.definition, args, kwargs)
        tensors = _values([*args, *kwargs.values()])
        if name == "apply_chunking_to_forward":  # (function, chunk size, chunk dimension, *tensors)
            return self.call(args[0], "", args[3:], kwargs)
        if name == "add" and len(tensors) == 2:
            return self.add(*tensors)
        if function is getattr and len(args) > 1 and not isinstance(args[0], Value) and _is_known(args):
            return getattr(args[0], args[1], args[2] if len(args) > 2 else UNKNOWN)
        if _is_one_of(function, _PURE):
            return _call_pure(function, args)
        if inspect.isclass(function) and (names := _field_names(function)):
            return _Record({**dict(zip(names, args, strict=False)), **kwargs})
        inlined = self.inline(function, args, kwargs)
        if inlined is not UNKNOWN:
            return inlined
        if not tensors:
            return UNKNOWN
        if name in _JOINS:  # two modules that join the same tensors have the same result
            return self.reader.joins.setdefault(tensors, Value("other", tensors))
        return _transformed(name, tensors)

    def call_local(self, definition: ast.FunctionDef | ast.Lambda, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Read through a function that was defined in this one: it sees the names of this one."""
        names = [p.arg for p in definition.args.args]
        inner = _Frame(self.reader, {**self.scope, **dict(zip(names, args, strict=False)), **kwargs}, self.global_scope)
        if isinstance(definition, ast.Lambda):
            return inner.eval(definition.body)
        return inner.result_of(definition.body)

    def inline(self, function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Read through methods of modules and through functions of the file that is being read."""
        if inspect.ismethod(function) and isinstance(function.__self__, nn.Module):
            args = [function.__self__, *args]
            function = function.__func__
        elif not inspect.isfunction(function) or function.__globals__ is not self.global_scope:
            return UNKNOWN
        function = inspect.unwrap(function)
        definition = _parse(function)
        if not isinstance(definition, ast.FunctionDef) or len(self.reader.stack) >= MAX_DEPTH:
            return UNKNOWN
        self.reader.stack.append(self.reader.stack[-1])
        result = self.reader.call_function(function, definition, args, kwargs)
        self.reader.stack.pop()
        return result

    def combine(self, operator: ast.operator, left: Any, right: Any) -> Any:
        """The value of a binary operation."""
        tensors = _values([left, right])
        if len(tensors) == 2 and isinstance(left, Value) and isinstance(right, Value):
            return self.add(left, right) if isinstance(operator, ast.Add) else Value("other", tensors)
        if tensors:
            if isinstance(left, (tuple, list)):  # what is appended to known outputs may be unknown
                return (*left, *right) if isinstance(right, (tuple, list)) else tuple(left)
            is_scaled = any(isinstance(side, Tensor) for side in (left, right))
            return Value("same", tensors, SCALED if is_scaled else "")
        if isinstance(left, (int, float, tuple)) and isinstance(right, (int, float, tuple)):
            try:
                return _ARITHMETIC[type(operator)](left, right)
            except (KeyError, TypeError, ZeroDivisionError):
                return UNKNOWN
        return UNKNOWN

    def add(self, left: Value, right: Value) -> Value:
        value = Value("add", (left, right))
        self.reader.graph.additions.append(value)
        self.reader.graph.performed_in[value] = self.reader.stack[-1]
        return value

    def truth(self, node: ast.expr) -> bool | None:
        return _truth_of(self.eval(node))


_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: lambda a, b: bool(a == b),
    ast.NotEq: lambda a, b: bool(a != b),
    ast.Lt: lambda a, b: bool(a < b),
    ast.LtE: lambda a, b: bool(a <= b),
    ast.Gt: lambda a, b: bool(a > b),
    ast.GtE: lambda a, b: bool(a >= b),
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Div: lambda a, b: a / b,
    ast.Mod: lambda a, b: a % b,
}


def _transformed(name: str, tensors: tuple[Value, ...]) -> Value:
    """The result of a function or method by its name."""
    if name not in _TRANSPARENT or len(tensors) > 1:
        return Value("other", tensors)
    return Value("same", tensors, RESHAPED if name in _RESHAPES else "")


def _field_names(cls: type) -> tuple[str, ...]:
    """The fields of a class of records, in order; none, if it is another class."""
    if issubclass(cls, tuple):
        return tuple(getattr(cls, "_fields", ()))
    return tuple(f.name for f in fields(cls)) if is_dataclass(cls) else ()


def _is_part(index: ast.expr) -> bool:
    """Whether a subscript takes a range out of a tensor."""
    parts = index.elts if isinstance(index, ast.Tuple) else [index]
    return any(isinstance(part, ast.Slice) and (part.lower or part.upper) is not None for part in parts)


def _truth_of(value: Any) -> bool | None:
    """True, False, or None where only a run can tell."""
    if isinstance(value, (Value, _Unknown, Tensor)):
        return None
    try:
        return bool(value)
    except Exception:  # foreign objects may refuse
        return None


def _call_pure(function: Callable[..., Any], args: list[Any]) -> Any:
    """Call a harmless builtin, where what it needs is known."""
    if function in (len, isinstance, hasattr, min, max, int, float, bool, str, any, all, range) and not _is_known(args):
        return UNKNOWN
    try:
        result = function(*args)
        return list(result) if function in (enumerate, zip, reversed) else result
    except Exception:  # wrong types: the value is not what it seemed
        return UNKNOWN


def _is_one_of(function: Any, functions: Sequence[Any]) -> bool:
    return any(function is f for f in functions)


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _items(value: Any) -> tuple[Any, ...] | None:
    """The elements of a tuple or a record; None, if the value is neither."""
    if isinstance(value, (tuple, list)):
        return tuple(value)
    return tuple(value.values()) if isinstance(value, _Record) else None


def _item(value: Any, index: int) -> Any:
    """Element of what may be a tuple, or a tensor or call result of unknown structure."""
    items = _items(value)
    if items is not None:
        return items[index] if index < len(items) else UNKNOWN
    if isinstance(value, Value):
        return Value("same", (value,), FIRST) if index == 0 else Value("other", (value,))
    return UNKNOWN


def _merge(first: Any, second: Any) -> Any:
    """What stands for a name after two branches that set it differently."""
    if first is second or isinstance(second, _Unknown) or second is None:
        return first
    if isinstance(first, _Unknown) or first is None:
        return second
    if isinstance(first, Value) and isinstance(second, Value):
        return Value("same", (first, second))
    if isinstance(first, tuple) and isinstance(second, tuple):  # e.g. outputs with and without attention weights
        return tuple(_merge(a, b) for a, b in itertools.zip_longest(first, second))
    return first if isinstance(first, Value) else second if isinstance(second, Value) else UNKNOWN


def _join(first: dict[str, Any] | None, second: dict[str, Any] | None) -> dict[str, Any]:
    if first is None or second is None:
        return first if first is not None else second or {}
    return {
        name: _merge(first[name], second[name])
        if name in first and name in second
        else first.get(name, second.get(name))
        for name in {**first, **second}
    }
