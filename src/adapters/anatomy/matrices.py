"""The matrices of a model: those of its sublayers by their roles, and any by name.

Letters: I inputs, O outputs of a matrix, H heads, K heads of keys and values, d size of a head.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from .parts import Anatomy, Layer, Matrix, Sublayer

_FUSED = {"qkv": ("q", "k", "v"), "kv": ("k", "v")}

T = TypeVar("T")


def projections(anatomy: Anatomy, base: nn.Module) -> Iterator[tuple[Layer, Sublayer, Matrix]]:
    """The matrix of every projection of every sublayer.

    >>> [matrix.role for _, _, matrix in projections(anatomy(gpt2), gpt2)]
    ['qkv', 'o', 'up', 'down', 'qkv', 'o', 'up', 'down']

    Args:
        anatomy: The anatomy.
        base: The base model: sizes are read from its modules, for weights may be quantised.
    """
    for layer, sublayer in anatomy.sublayers():
        for role in sorted(sublayer.projections, key=_ORDER.index):
            for path in sublayer.projections[role]:
                for matrix in _matrices_at(base, path, role, layer.index):
                    yield layer, sublayer, _with_rows(matrix, sublayer, base)


def matrix_at(base: nn.Module, path: str, role: str = "", layer: int = -1) -> Matrix | None:
    """The matrix of a linear layer or an embedding; None if the module is neither.

    Args:
        base: The base model.
        path: The module.
        role: What it is to its sublayer.
        layer: Index of its layer.
    """
    module = base.get_submodule(path)
    if isinstance(module, Conv1D):
        return Matrix(path, role, layer, module.nx, module.nf, is_transposed=True)
    if isinstance(module, nn.Embedding):
        return Matrix(path, role, layer, module.num_embeddings, module.embedding_dim, is_transposed=True)
    # torch's own attention reads the weight of the one without calling it; the other gives pairs (I-BERT).
    if isinstance(module, NonDynamicallyQuantizableLinear) or type(module).__module__.endswith("ibert.quant_modules"):
        return None
    # Linear layers of quantisers need not be `nn.Linear`, but all say their sizes like it.
    sizes = [vars(module).get(name) for name in ("in_features", "out_features")]
    if not all(isinstance(size, int) for size in sizes):
        return None
    return Matrix(path, role, layer, *sizes)  # type: ignore[arg-type]


_ORDER = ("q", "k", "v", "qkv", "kv", "o", "up", "gate", "down", "experts", "router")


# -- experts --------------------------------------------------------------------------------------------------------


def fused_matrices(base: nn.Module, path: str, layer: int = -1) -> list[Matrix]:
    """The matrices of experts that a module holds in one parameter each, of shape (E, O, I) or (E, I, O).

    >>> [(m.parameter, m.role, m.in_features, m.out_features) for m in fused_matrices(mixtral, "layers.0.mlp.experts")]
    [('gate_up_proj', 'up', 4096, 28672), ('down_proj', 'down', 14336, 4096)]

    Args:
        base: The base model.
        path: The module.
        layer: Index of its layer.
    """
    module = base.get_submodule(path)
    shapes = {name: tuple(p.shape) for name, p in module._parameters.items() if p is not None and p.ndim == 3}
    is_transposed = vars(module).get("is_transposed")
    if is_transposed is None:
        is_transposed = _reads_transposed(shapes)
    found = []
    for name, (_, first, second) in shapes.items():
        sizes = (first, second) if is_transposed else (second, first)
        found.append(Matrix(path, _role_of(name), layer, *sizes, is_transposed, name))
    return found


def _matrices_at(base: nn.Module, path: str, role: str = "", layer: int = -1) -> list[Matrix]:
    """The matrix of a linear layer or an embedding, or those of experts. The arguments are those of `matrix_at`."""
    name = path.rpartition(".")[2]
    matrix = matrix_at(base, path, _role_of(name) if role == "experts" else role, layer)
    if matrix is not None:
        return [matrix]
    return fused_matrices(base, path, layer) if role == "experts" or "experts" in name else []


def _role_of(name: str) -> str:
    """What a matrix of an expert is, by its name; Mixtral's three have numbers."""
    if "down" in name or name == "w2":
        return "down"
    return "gate" if name in ("gate_proj", "w1") else "up"


def _reads_transposed(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether matrices are stored as (I, O): then one that is twice as wide, for its gate, is so in its last dimension.

    Without a gate both layouts look the same, and transformers says which it is.
    """
    downs = [shape for name, shape in shapes.items() if _role_of(name) == "down"]
    ups = [shape for name, shape in shapes.items() if _role_of(name) == "up"]
    return any(up[2] == 2 * down[1] and up[1] == down[2] for up in ups for down in downs)


# -- matrices by name -----------------------------------------------------------------------------------------------


def named(
    anatomy: Anatomy, base: nn.Module, targets: Sequence[str] | str, foreign: type[nn.Module]
) -> list[tuple[Layer | None, Matrix]]:
    """The matrices that names or a regular expression choose, with the layer that each is in, if it is in one.

    >>> [matrix.path for _, matrix in named(anatomy(llama), llama, ["layers.0.*.down_proj"], AdapterModule)]
    ['layers.0.mlp.down_proj']

    Args:
        anatomy: The anatomy.
        base: The base model.
        targets: Ends of paths, where a `*` stands for any (piece of a) part; or one regular expression for whole paths.
        foreign: Modules of this class, and what they hold, are no part of the model.

    Raises:
        ValueError: a name chooses nothing; the message lists near ones.
    """
    at = {matrix.name: matrix for path, _ in _own_modules(base, "", foreign) for matrix in _matrices_at(base, path)}
    paths = list(at)
    if isinstance(targets, str):
        chosen = [path for path in paths if re.fullmatch(targets, path)]
        if not chosen:
            raise ValueError(
                f"target_modules={targets!r} matches the whole path of no linear layer or embedding of "
                f"{anatomy.model_class}; their paths are {_listed(paths)}."
            )
    else:
        require_hits("target_modules", targets, paths)
        chosen = [path for path in paths if any(ends_with(path, target) for target in targets)]
    found = []
    for path in chosen:
        layer = next((layer for layer in anatomy.layers if path.startswith(f"{layer.path}.")), None)
        found.append((layer, replace(at[path], layer=-1 if layer is None else layer.index)))
    return found


def ends_with(path: str, pattern: str) -> bool:
    """Whether a path has an end, part by part.

    >>> ends_with("layers.3.mlp.up_proj", "mlp.*_proj"), ends_with("layers.3.mlp.up_proj", "proj")
    (True, False)
    """
    parts, wanted = path.split("."), pattern.split(".")
    return len(wanted) <= len(parts) and all(map(fnmatch.fnmatchcase, parts[-len(wanted) :], wanted))


def value_at(path: str, values: Mapping[str, T], default: T) -> T:
    """The value whose pattern fits a path best: the one with most parts, then with most letters.

    >>> value_at("layers.0.mlp.up_proj", {"up_proj": 4, "layers.0.mlp.up_proj": 8}, 2)
    8
    """
    fitting = [pattern for pattern in values if ends_with(path, pattern)]
    if not fitting:
        return default
    return values[max(fitting, key=lambda pattern: (pattern.count("."), len(pattern.replace("*", ""))))]


def require_hits(option: str, patterns: Iterable[str], paths: Sequence[str]) -> None:
    """Raise for patterns that are the end of none of the paths, and list near ones.

    Raises:
        ValueError: there are such patterns.
    """
    missing = [pattern for pattern in patterns if not any(ends_with(path, pattern) for path in paths)]
    if missing:
        # What can be written are the ends of the paths.
        ends = dict.fromkeys(
            ".".join(path.split(".")[-n:]) for path in paths for n in range(1, max(p.count(".") for p in missing) + 2)
        )
        near = dict.fromkeys(n for p in missing for n in difflib.get_close_matches(p, ends, n=3, cutoff=0.5))
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are {_listed(paths)}."
        raise ValueError(f"{option} names {', '.join(map(repr, missing))}, which is the end of no path here. {hint}")


def _listed(paths: Sequence[str]) -> str:
    """The paths in short: those that differ in numbers only are named once."""
    short = list(dict.fromkeys(re.sub(r"\.\d+\b", ".*", path) for path in paths))
    return ", ".join(short[:12]) + (" …" if len(short) > 12 else "")


def _own_modules(module: nn.Module, path: str, foreign: type[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if not isinstance(child, foreign):
            inner = f"{path}.{name}" if path else name
            yield inner, child
            yield from _own_modules(child, inner, foreign)


# -- rows of fused matrices -----------------------------------------------------------------------------------------


def _with_rows(matrix: Matrix, sublayer: Sublayer, base: nn.Module) -> Matrix:
    """A fused matrix with the rows that belong to each of its matrices."""
    if matrix.role not in _FUSED:
        return matrix
    # In cross-attention, GPT-2 gives the name of the fused matrix to keys and values, beside queries of their own.
    role = "kv" if "q" in sublayer.projections else matrix.role
    pieces = _hinted_pieces(role, matrix, base) or _pieces(role, matrix, _inputs_of_output(sublayer, base))
    rows: dict[str, tuple[tuple[int, int], ...]] = dict.fromkeys(_FUSED[role], ())
    first = 0
    for name, size in pieces:
        rows[name] = _appended(rows[name], first, first + size)
        first += size
    assert first == matrix.out_features
    return replace(matrix, role=role, rows=rows)


_Pieces = Sequence[tuple[str, int]]


def _pieces(role: str, matrix: Matrix, query_size: int | None) -> _Pieces:
    """[q | k | v] or [k | v]: there are as many queries as the output projection reads, and the rest is halved."""
    total = matrix.out_features
    if role == "kv":
        return ("k", total // 2), ("v", total // 2)
    is_rest = query_size is not None and query_size < total and (total - query_size) % 2 == 0
    queries = query_size if query_size is not None and is_rest else total // 3
    half = (total - queries) // 2
    return ("q", queries), ("k", half), ("v", half)


def _appended(rows: tuple[tuple[int, int], ...], first: int, last: int) -> tuple[tuple[int, int], ...]:
    if rows and rows[-1][1] == first:
        return (*rows[:-1], (rows[-1][0], last))
    return (*rows, (first, last))


def _inputs_of_output(sublayer: Sublayer, base: nn.Module) -> int | None:
    paths = sublayer.projections.get("o", ())
    matrix = matrix_at(base, paths[0]) if paths else None
    return matrix.in_features if matrix is not None else None


def _hinted_pieces(role: str, matrix: Matrix, base: nn.Module) -> _Pieces | None:
    """What is known of the innermost module around a matrix for which something is known."""
    parts = matrix.path.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        attention = base.get_submodule(".".join(parts[:depth]))
        if role == "kv" and "qk_nope_head_dim" in vars(attention):
            return _latent(vars(attention), matrix.out_features)
        if role == "qkv" and type(attention).__name__ in _LAYOUTS:
            return _LAYOUTS[type(attention).__name__](vars(attention), matrix.out_features)
    return None


def _repeated(pieces: _Pieces, total: int) -> _Pieces:
    return tuple(pieces) * (total // sum(size for _, size in pieces))


def _by_head(attention: Mapping[str, Any], total: int) -> _Pieces:
    """H × [q | k | v] (GPT-NeoX, BLOOM, Persimmon)."""
    size = attention["head_dim"] if "head_dim" in attention else attention["head_size"]
    return _repeated((("q", size), ("k", size), ("v", size)), total)


def _latent(attention: Mapping[str, Any], total: int) -> _Pieces:
    """H × [k | v]: what latent attention (DeepSeek V2) makes of its latent vector; positions have keys of their own."""
    return _repeated((("k", attention["qk_nope_head_dim"]), ("v", attention["v_head_dim"])), total)


def _falcon(attention: Mapping[str, Any], total: int) -> _Pieces:
    """By group: K × [H/K · q | k | v], with one group where keys are shared by all heads, or one per head."""
    size, heads = attention["head_dim"], attention["num_heads"]
    if attention["new_decoder_architecture"]:
        queries = heads // attention["num_kv_heads"]
    else:
        queries = heads if attention["multi_query"] else 1
    return _repeated((("q", queries * size), ("k", size), ("v", size)), total)


def _gpt_bigcode(attention: Mapping[str, Any], total: int) -> _Pieces:
    """[q | k | v] with keys shared by all heads, or by head."""
    if not attention["multi_query"]:
        return _by_head(attention, total)
    return ("q", attention["embed_dim"]), ("k", attention["kv_dim"]), ("v", attention["kv_dim"])


def _codegen(attention: Mapping[str, Any], total: int) -> _Pieces:
    """4 × [q | v | k]: for the four processors that it was trained on."""
    size = attention["embed_dim"] // 4
    return _repeated((("q", size), ("v", size), ("k", size)), total)


def _levit(attention: Mapping[str, Any], total: int) -> _Pieces:
    """H × [q | k | v] with larger values."""
    size = attention["key_dim"]
    return _repeated((("q", size), ("k", size), ("v", attention["attention_ratio"] * size)), total)


# By class of the attention. DeBERTa's own layout is by head too, but AdapterHub's files take its matrix for
# [q | k | v]: a change of "values" there is one of queries, keys and values in a third of the heads. So it stays.
_LAYOUTS: dict[str, Callable[[Mapping[str, Any], int], _Pieces]] = {
    "BloomAttention": _by_head,
    "CodeGenAttention": _codegen,
    "FalconAttention": _falcon,
    "FalconFlashAttention2": _falcon,
    "GPTBigCodeAttention": _gpt_bigcode,
    "GPTNeoXAttention": _by_head,
    "GPTNeoXJapaneseAttention": _by_head,
    "LevitAttention": _levit,
    "PersimmonAttention": _by_head,
}
