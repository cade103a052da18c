"""From the graph of one layer to its sublayers: which additions are residual, and what lies on their branches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from .dataflow import SCALED, Graph, Value, read
from .parts import CONTAINERS, LOCATIONS, Kind, Sublayer, Tap

ATTENTION_NAME = re.compile(r"attn|attention", re.IGNORECASE)
# By parts of class names as they are written; "SSM" must not be found in SeedOssMLP.
_MIXER_NAME = re.compile(
    r"Mamba|Mixer|SSM|Rwkv|Recurrent|LSTM|LRU|Delta(?:Net|Attention)|Lightning|LinearAttention|Fourier|Retention"
    r"|ShortConv|Hyena|TimeMix"
)
_NORM_NAME = re.compile(r"norm|^ln_|_ln$|layer_?ln", re.IGNORECASE)

# Role of a projection by the last part of its name. The names are those of every family of transformers 5.
_ROLE_NAMES: dict[str, str] = {
    "q": r"q|wq|query|q_?lin|q_?proj|query_?proj|q_b_proj|to_q|q_attn|query_linear|linear_q|self_attn_q|q_up_proj|queries",
    "k": r"k|wk|key|k_?lin|k_?proj|key_?proj|to_k|key_linear|linear_k|k_b_proj|keys|k_up_proj",
    "v": r"v|wv|value|v_?lin|v_?proj|value_?proj|to_v|value_linear|linear_v|v_b_proj|values|v_up_proj",
    "qkv": r"qkv|wqkv|c_attn|qkv_proj|query_key_value|in_proj|w_pack|att_proj|query_key_value_proj|mixed_qkv",
    "kv": r"kv_b_proj|kv|kv_proj|key_value|c_kv|kv_up_proj",
    "o": r"o|wo|o_?proj|out_?proj|out_?lin|c_proj|dense|output_?proj|out|to_out|proj|output|attn_out|projection"
    r"|out_project|proj_out|linear_out|o_b_proj",
}
_ROLES = [(role, re.compile(rf"(?:{pattern})", re.IGNORECASE)) for role, pattern in _ROLE_NAMES.items()]
_GATE_NAME = re.compile(r"gate|w1$|wi_0$|linear_v|fc_gate", re.IGNORECASE)
_ROUTER_NAME = re.compile(r"router|^gate$|classifier", re.IGNORECASE)
_EXPERTS_NAME = re.compile(r"expert", re.IGNORECASE)


def is_norm(module: nn.Module, path: str) -> bool:
    """Whether a module is a normalisation: by its class, or by its name if it is a small module of one vector."""
    if re.search(r"norm", type(module).__name__, re.IGNORECASE):
        return True
    return bool(_NORM_NAME.search(path.rpartition(".")[2])) and all(p.ndim <= 1 for p in module.parameters())


def is_weighted(module: nn.Module) -> bool:
    """Whether a module mixes the hidden dimension: it has a matrix."""
    return any(p.ndim >= 2 for p in module.parameters())


def find_sublayers(layer: nn.Module) -> list[Sublayer]:
    """The sublayers of one layer, in order of execution; paths are relative to the layer.

    >>> [s.kind for s in find_sublayers(bert.encoder.layer[0])]
    ['attention', 'ffn']
    """
    return list(_Finder(layer, read(layer)).find())


class _Finder:
    def __init__(self, layer: nn.Module, graph: Graph) -> None:
        self.graph = graph
        self.modules = dict(layer.named_modules())
        self.counts = Counter(call.name for call in graph.calls)
        self.reach: dict[Value, frozenset[Value]] = {}
        self.consumers = self._consumers()
        self.residual_additions: set[Value] = set()

    def find(self) -> Iterator[Sublayer]:
        """Every branch that is added back to what it came from."""
        claimed: set[Value] = set()
        found: list[Sublayer] = []
        for addition in self.graph.additions:
            for x, r in self.residual_branches(addition):
                if x in claimed:
                    continue
                claimed.add(x)
                self.residual_additions.add(addition)
                sublayer = self.describe(addition, x, r)
                if sublayer is not None:
                    found.append(sublayer)
        # Where cross-attention is performed by the class that performs self-attention (BERT's decoders), upstream
        # knows only one kind of place, and both follow `mh_adapter`.
        owners = {type(self.modules[s.host]) for s in found if s.kind == "attention" and s.host}
        for sublayer in found:
            shared = sublayer.kind == "cross_attention" and sublayer.host and type(self.modules[sublayer.host]) in owners
            yield replace(sublayer, location=LOCATIONS["attention"]) if shared else sublayer

    # -- which additions are residual ----------------------------------------------------------------------------

    def ancestors(self, value: Value) -> frozenset[Value]:
        """Everything a value was made from, without itself."""
        if value not in self.reach:
            todo, seen = list(value.sources), set()
            while todo:
                current = todo.pop()
                if current not in seen:
                    seen.add(current)
                    todo.extend(current.sources)
            self.reach[value] = frozenset(seen)
        return self.reach[value]

    def residual_branches(self, addition: Value) -> Iterator[tuple[Value, Value]]:
        """The branches x of a sum with the value r that they came from and are added to."""
        left, right = addition.sources
        for x, r in ((left, right), (right, left)):
            source = self.source_in(r, x)
            if source is not None:
                yield from ((term, source) for term in self.terms(x) if self.segment(term, source))
                return
        # Parallel blocks: attention and feed-forward read the same r, and the sum is nested in either order.
        terms = [*self.terms(left, through_residuals=True), *self.terms(right, through_residuals=True)]
        for r in terms:
            for x in terms:
                if x is not r and (source := self.source_in(r, x)) is not None:
                    yield x, source

    def source_in(self, r: Value, x: Value) -> Value | None:
        """r, seen through reshapes, if x was made from it by modules with weights."""
        while True:
            if r in self.ancestors(x) and self.segment(x, r):
                return r
            if r.made_by != "same":
                return None
            r = r.sources[0]

    def terms(self, value: Value, through_residuals: bool = False) -> list[Value]:
        """The summands of a branch that is itself a sum and that no module returns."""
        while value.made_by == "same" and len(value.sources) == 1 and not self.graph.outputs_of.get(value):
            if not self.leads_to_sum(value):
                break
            value = value.sources[0]
        is_sum = value.made_by == "add" and (through_residuals or value not in self.residual_additions)
        if is_sum and (through_residuals or not self.graph.outputs_of.get(value)):
            return [term for source in value.sources for term in self.terms(source, through_residuals)]
        return [value]

    def leads_to_sum(self, value: Value) -> bool:
        """Whether a value is a sum behind a dropout or a reshape."""
        while value.made_by == "same" and len(value.sources) == 1:
            value = value.sources[0]
        return value.made_by == "add" and value not in self.residual_additions

    def segment(self, x: Value, r: Value) -> list[Value]:
        """The calls of modules with weights between r and x, in order of execution."""
        between = (self.ancestors(x) | {x}) - self.ancestors(r) - {r}
        calls = [c for c in self.graph.calls if c in between and is_weighted(self.modules[c.name])]
        return calls if any(r in self.ancestors(c) for c in calls) else []

    def _consumers(self) -> dict[Value, list[Value]]:
        todo = [*self.graph.calls, *self.graph.additions, *_flat(self.graph.results)]
        seen: set[Value] = set()
        consumers: dict[Value, list[Value]] = {}
        while todo:
            value = todo.pop()
            if value not in seen:
                seen.add(value)
                todo.extend(value.sources)
                for source in value.sources:
                    consumers.setdefault(source, []).append(value)
        return consumers

    # -- what is on a branch ----------------------------------------------------------------------------------------

    def describe(self, addition: Value, x: Value, r: Value) -> Sublayer | None:
        segment = self.segment(x, r)
        output, branch_norm = self.output_tap(x)
        if output is None:
            return None
        norm = branch_norm or self.norm_after(addition)
        kind = self.kind_of(segment, r)
        pre_norms = [c.name for c in self.consuming_calls(r) if self.is_norm(c)]
        host = self.graph.performed_in[addition]
        return Sublayer(
            kind=kind,
            output=output,
            residual=self.residual_tap(r, x),
            norm=norm,
            norm_on_branch=branch_norm is not None,
            pre_norm=pre_norms[0] if pre_norms else None,
            host=host,
            container="adapters" if host else CONTAINERS[kind],
            location=LOCATIONS[kind],
            projections=self.projections(kind, segment, r),
            size=self.size_of(segment),
        )

    def is_norm(self, call: Value) -> bool:
        return call.made_by == "module" and is_norm(self.modules[call.name], call.name)

    def output_tap(self, x: Value) -> tuple[Tap | None, str | None]:
        """The last module before the addition that can be hooked, and the norm on the branch after it, if any."""
        norm: str | None = None
        shared: str | None = None  # a module that the layer calls several times, e.g. one dropout for all sublayers
        is_scaled = False
        while True:
            if self.is_norm(x) and norm is None and len(x.sources) == 1:
                norm, x = x.name, x.sources[0]
                continue
            tap = self.tap_of(x)
            if tap is not None:
                # Behind a scaling by a bare parameter (LayerScale) only the shared module sees x as it is added.
                is_hidden = is_scaled and shared is not None
                return (Tap(shared, armed_by=tap.path) if is_hidden and shared else tap), norm
            weighted = x.made_by == "module" and is_weighted(self.modules[x.name])
            if x.made_by in ("input", "add") or weighted or not x.sources:
                return None, norm
            if x.made_by == "module" and shared is None and not is_scaled:
                shared = x.name
            is_scaled = is_scaled or x.name == SCALED
            x = x.sources[0]

    def tap_of(self, x: Value) -> Tap | None:
        """A module whose output is just this value, in one call per layer."""
        if x.made_by == "module" and self.counts[x.name] == 1:
            return Tap(x.name)
        for path, index in self.graph.outputs_of.get(x, ()):
            return Tap(path, "output", index)
        return None

    def residual_tap(self, r: Value, x: Value) -> Tap | None:
        """Where r can be seen: at a module that reads it on this branch, or at the one that makes it."""
        on_branch = self.ancestors(x) | {x}
        for call in self.consuming_calls(r):
            if call in on_branch and self.counts[call.name] == 1:
                return Tap(call.name, "input")
        return self.tap_of(r)

    def consuming_calls(self, r: Value) -> list[Value]:
        """Calls that read r first, also through reshapes and casts."""
        same = {r}
        for value in self.consumers.get(r, ()):
            if value.made_by == "same" and len(value.sources) == 1:
                same.add(value)
        return [c for c in self.graph.calls if c.sources and c.sources[0] in same]

    def norm_after(self, addition: Value) -> str | None:
        """The norm of a post-norm block: the only reader of the sum."""
        readers = self.readers(addition)
        if len(readers) == 1 and self.is_norm(readers[0]) and addition not in _flat(self.graph.results):
            name = readers[0].name
            return name if self.counts[name] == 1 else None
        return None

    def readers(self, value: Value) -> list[Value]:
        found: list[Value] = []
        for consumer in self.consumers.get(value, ()):
            found += self.readers(consumer) if consumer.made_by == "same" else [consumer]
        return list(dict.fromkeys(found))

    def kind_of(self, segment: list[Value], r: Value) -> Kind:
        paths = [c.name for c in segment]
        classes = [
            name
            for path, name in self.graph.composites.items()
            if path and any(p.startswith(f"{path}.") for p in paths)
        ] + [type(self.modules[p]).__name__ for p in paths]
        if any(_MIXER_NAME.search(name) for name in classes):
            return "mixer"
        names = [*classes, *(part for p in paths for part in p.split(".")[:-1])]
        if any(ATTENTION_NAME.search(name) for name in names) or {"q", "k", "v"} <= {_role(p) for p in paths}:
            keys = [c for c in segment if _role(c.name) in ("k", "v", "kv")]
            is_cross = bool(keys) and not any(r in self.ancestors(c) for c in keys)
            return "cross_attention" if is_cross else "attention"
        if all(isinstance(self.modules[p], (nn.Conv1d, nn.Conv2d)) for p in paths):
            return "mixer"
        return "ffn"

    def projections(self, kind: Kind, segment: list[Value], r: Value) -> dict[str, tuple[str, ...]]:
        paths = list(dict.fromkeys(c.name for c in segment if not self.is_norm(c)))
        if kind in ("attention", "cross_attention"):
            return self.attention_projections(paths, segment, r)
        roles: dict[str, tuple[str, ...]] = {}
        experts = [p for p in paths if _is_expert(p, self.modules[p])]
        routers = [p for p in paths if _ROUTER_NAME.search(p.rpartition(".")[2]) and p not in experts and len(paths) > 2]
        if experts:
            roles["experts"] = tuple(experts)
        if experts and routers:
            roles["router"] = tuple(routers)
            paths = [p for p in paths if p not in routers]
        dense = [p for p in paths if p not in experts]
        first = [c.name for c in segment if c.name in dense and self.is_first(c, r)]
        if len(dense) > 1:
            roles["down"] = (dense[-1],)
            gates = [p for p in first if _GATE_NAME.search(p.rpartition(".")[2])] if len(first) > 1 else []
            roles["gate"] = tuple(gates[:1])
            roles["up"] = tuple(p for p in first if p not in gates[:1] and p != dense[-1])
        return {role: found for role, found in roles.items() if found}

    def attention_projections(self, paths: list[str], segment: list[Value], r: Value) -> dict[str, tuple[str, ...]]:
        roles: dict[str, tuple[str, ...]] = {}
        for path in paths:
            if isinstance(self.modules[path], nn.MultiheadAttention):  # one module that holds all projections
                return {"qkv": (path,), "o": (f"{path}.out_proj",)}
            role = _role(path)
            if role is not None:
                roles[role] = (*roles.get(role, ()), path)
        if "o" in roles:
            roles["o"] = roles["o"][-1:]
        elif paths and paths[-1] not in {p for found in roles.values() for p in found}:
            roles["o"] = (paths[-1],)
        if not {"q", "k", "v", "qkv", "kv"} & roles.keys():
            first = list(dict.fromkeys(c.name for c in segment if c.name in paths and self.is_first(c, r)))
            names = {1: ("qkv",), 2: ("q", "kv"), 3: ("q", "k", "v")}.get(len(first), ())
            roles.update({role: (path,) for role, path in zip(names, first, strict=True)} if names else {})
        return roles

    def is_first(self, call: Value, r: Value) -> bool:
        """Whether no other module with weights lies between r and this call."""
        return all(
            c is call or c not in self.ancestors(call) or self.is_norm(c) for c in self.segment(call, r)
        )

    def size_of(self, segment: list[Value]) -> int:
        """Hidden size D: the output size of the last projection."""
        for call in reversed(segment):
            size = output_size(self.modules[call.name])
            if size:
                return size
        return 0


def output_size(module: nn.Module) -> int | None:
    """The size of the last dimension of what a projection returns.

    Quantised linears hide their weight's shape, so the attribute comes first; experts hold (E, D, F) tensors.
    """
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.MultiheadAttention):
        return module.embed_dim
    if isinstance(out := module.__dict__.get("out_features", module.__dict__.get("nf")), int):
        return out
    if isinstance(hidden := module.__dict__.get("hidden_dim", module.__dict__.get("hidden_size")), int):
        return hidden
    for name, parameter in module.named_parameters():
        if parameter.ndim == 3 and "down" in name:
            return int(parameter.shape[1])
    vectors = [p for p in module.parameters() if p.ndim == 1]
    return int(vectors[-1].shape[0]) if vectors else None


def _role(path: str) -> str | None:
    name = path.rpartition(".")[2]
    for role, pattern in _ROLES:
        if pattern.fullmatch(name):
            return role
    return None


def _is_expert(path: str, module: nn.Module) -> bool:
    return bool(_EXPERTS_NAME.search(path)) and "shared" not in path.lower() and (
        any(p.ndim == 3 for p in module.parameters()) or bool(re.search(r"experts\.\d+", path))
    )


def _flat(value: object) -> list[Value]:
    if isinstance(value, Value):
        return [value]
    if isinstance(value, (tuple, list)):
        return [v for inner in value for v in _flat(inner)]
    if isinstance(value, dict):
        return [v for inner in value.values() for v in _flat(inner)]
    return []
