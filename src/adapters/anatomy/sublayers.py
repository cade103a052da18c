"""From the graph of one layer to its sublayers: which additions are residual, and what lies on their branches."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from .dataflow import FIRST, RESHAPED, SCALED, SLICED, Graph, Value, read
from .parts import CONTAINERS, LOCATIONS, Kind, Sublayer, Tap

ATTENTION_NAME = re.compile(r"attn|attention|(?-i:MLA)", re.IGNORECASE)
_FFN_NAME = re.compile(r"MLP|FFN|FeedForward|MoE|Moe")
# By parts of class names as they are written; "SSM" must not be found in SeedOssMLP.
MIXER_NAME = re.compile(
    r"Mamba|Mixer|SSM|Rwkv|Recurrent|LSTM|LRU|Delta(?:Net|Attention)|Lightning|LinearAttention|Fourier|Retention"
    r"|ShortConv|Hyena|TimeMix"
)
# RWKV calls its time mixing attention.
_TIME_MIXER_NAME = re.compile(r"Rwkv\w*Attention")
_NORM_NAME = re.compile(r"norm|^ln_|_ln$|layer_?ln", re.IGNORECASE)

# Role of a projection by the last part of its name. The names are those of every family of transformers 5.
_ROLE_NAMES: dict[str, str] = {
    "q": r"q|wq|query|q_?lin|q_?proj|query_?proj|q_b_proj|to_q(?:uery)?|q_attn|query_linear|linear_q|self_attn_q"
    r"|q_up_proj|queries|q_head|q_gate_proj",
    "k": r"k|wk|key|k_?lin|k_?proj|key_?proj|to_k(?:ey)?|key_linear|linear_k|k_b_proj|keys|k_up_proj|k_head",
    "v": r"v|wv|value|v_?lin|v_?proj|value_?proj|to_v(?:alue)?|value_linear|linear_v|v_b_proj|values|v_up_proj"
    r"|v_head|v_proj_current|v_proj_delayed",
    "qkv": r"qkv|wqkv|c_attn|qkv_proj|query_key_value|in_proj|w_pack|att_proj|query_key_value_proj|mixed_qkv"
    r"|queries_keys_values",
    "kv": r"kv_b_proj|kv|kv_proj|key_value|c_kv|kv_up_proj|to_kv|keys_values",
    "o": r"o|wo|o_?proj|out_?proj|out_?lin|c_proj|dense|output_?proj|out|to_out|proj|output|attn_out|projection"
    r"|out_project|proj_out|linear_out|o_b_proj|post_proj",
}
_ROLES = [(role, re.compile(rf"(?:{pattern})", re.IGNORECASE)) for role, pattern in _ROLE_NAMES.items()]
_GATE_NAME = re.compile(r"gate|w1$|wi_0$|linear_v|fc_gate", re.IGNORECASE)
_ROUTER_NAME = re.compile(r"router|(^|\.)gate$|classifier|expert_gate$", re.IGNORECASE)
_EXPERTS_NAME = re.compile(r"expert", re.IGNORECASE)
# Modules that choose which tokens are attended to: their queries and keys are not those of attention.
_CHOOSER_NAME = re.compile(r"indexer", re.IGNORECASE)


def is_norm(module: nn.Module, path: str) -> bool:
    """Whether a module is a normalisation: by its class, or by its name if it is a small module of one vector."""
    if re.search(r"norm", type(module).__name__, re.IGNORECASE):
        return True
    return bool(_NORM_NAME.search(path.rpartition(".")[2])) and all(p.ndim <= 1 for p in module.parameters())


def is_weighted(module: nn.Module) -> bool:
    """Whether a module mixes the hidden dimension: it has a matrix."""
    return any(p.ndim >= 2 for p in module.parameters())


@dataclass(frozen=True)
class Reading:
    """What was read of one layer.

    Args:
        sublayers: Its branches, in order of execution.
        unread: Modules with matrices that are on none of these branches.
    """

    sublayers: tuple[Sublayer, ...]
    unread: tuple[str, ...] = ()


def find_sublayers(layer: nn.Module) -> Reading:
    """The sublayers of one layer; paths are relative to the layer.

    >>> [s.kind for s in find_sublayers(bert.encoder.layer[0]).sublayers]
    ['attention', 'ffn']
    """
    finder = _Finder(layer, read(layer))
    return Reading(tuple(finder.find()), finder.unread())


@dataclass(frozen=True)
class _Branch:
    """A sublayer with the sum that ends it (if one could be read), what that adds to, and the calls with matrices."""

    addition: Value | None
    x: Value
    r: Value
    segment: tuple[Value, ...]
    sublayer: Sublayer


class _Finder:
    def __init__(self, layer: nn.Module, graph: Graph) -> None:
        self.graph = graph
        self.modules = dict(layer.named_modules())
        self.counts = Counter(call.name for call in graph.calls)
        self.reach: dict[Value, frozenset[Value]] = {}
        self.consumers = self._consumers()
        self.returned = frozenset(_flat(graph.results))
        self.residual_additions: set[Value] = set()
        self.family = _family(layer)
        self.branches: list[_Branch] = []

    def find(self) -> Iterator[Sublayer]:
        """Every branch that is added back to what it came from, then those of which the sum could not be read."""
        claimed: set[Value] = set()
        for addition in self.graph.additions:
            for x, r in self.residual_branches(addition):
                if x in claimed:
                    continue
                claimed.add(x)
                self.residual_additions.add(addition)
                sublayer = self.describe(addition, x, r)
                if sublayer is not None:
                    self.branches.append(_Branch(addition, x, r, tuple(self.segment_of_own(x, r)), sublayer))
        self.branches = [branch for branch in self.branches if not self.is_inside_another(branch)]
        self.branches.extend(self.branches_without_sum())
        order = {call: n for n, call in enumerate(self.graph.calls)}
        self.branches.sort(key=lambda branch: order[branch.segment[0]])
        found = [branch.sublayer for branch in self.branches]
        # Where cross-attention is performed by the class that performs self-attention (BERT's decoders), upstream
        # knows only one kind of place, and both follow `mh_adapter`.
        owners = {type(self.modules[s.host]) for s in found if s.kind == "attention" and s.host}
        homes: Counter[tuple[str, str]] = Counter()
        for sublayer in found:
            homes[sublayer.host, sublayer.container] += 1
            is_cross = sublayer.kind == "cross_attention" and sublayer.host
            shared = is_cross and type(self.modules[sublayer.host]) in owners
            location = LOCATIONS["attention"] if shared else sublayer.location
            container = _numbered(sublayer.container, homes[sublayer.host, sublayer.container])
            yield replace(sublayer, location=location, container=container)

    def unread(self) -> tuple[str, ...]:
        """Modules with matrices of their own that are on no branch."""
        known: set[str] = set()
        for branch in self.branches:
            known.update(call.name for call in branch.segment)
            known.add(self.performer(branch.segment))
        return tuple(
            path
            for path, module in self.modules.items()
            if any(p.ndim >= 2 for p in module.parameters(recurse=False))
            and not any(path == name or path.startswith(f"{name}.") for name in known if name)
        )

    def is_inside_another(self, branch: _Branch) -> bool:
        """Whether a branch is a step of computing another, such as the convolutions of Zaya's queries and keys."""
        return bool(branch.sublayer.missing) and any(
            branch.addition in self.ancestors(outer.x) and branch.addition not in self.ancestors(outer.r) | {outer.r}
            for outer in self.branches
            if outer is not branch
        )

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
        for x in terms:
            sources = [self.source_in(r, x) for r in (*terms, *self.partial_sums(addition)) if r is not x]
            known = [source for source in sources if source is not None]
            if known:  # what x reads is the latest of the sums that it was made from
                yield x, max(known, key=lambda source: len(self.ancestors(source)))

    def source_in(self, r: Value, x: Value) -> Value | None:
        """r, seen through reshapes, if x was made from it by modules with weights."""
        while True:
            if r in self.ancestors(x) and self.segment(x, r) and not self.crosses_stream(x, r):
                return r
            if r.made_by != "same" or r.name == SLICED:  # x may have been made from another part
                return None
            r = r.sources[0]

    def crosses_stream(self, x: Value, r: Value) -> bool:
        """Whether x comes from another stream that r was added to (reversible layers): then it is not r's branch."""
        return any(
            sum_ in self.returned and sum_ in self.ancestors(x) and r in self.ancestors(sum_)
            for sum_ in self.graph.additions
        )

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

    def partial_sums(self, addition: Value) -> Iterator[Value]:
        """The residual sums that a sum is nested of."""
        for value in addition.sources:
            while value.made_by == "same" and len(value.sources) == 1:
                value = value.sources[0]
            if value.made_by == "add":
                yield from [value] if value in self.residual_additions else []
                yield from self.partial_sums(value)

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

    def segment_of_own(self, x: Value, r: Value) -> list[Value]:
        """The segment without that of a branch that was added to the same r before (Zamba's attention)."""
        earlier = {
            call
            for branch in self.branches
            if branch.r is r and branch.addition in self.ancestors(x)
            for call in branch.segment
        }
        segment = self.segment(x, r)
        return [call for call in segment if call not in earlier] or segment

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
        segment = self.segment_of_own(x, r)
        output, branch_norm = self.output_tap(x)
        host = self.graph.performed_in[addition]
        if output is None or self.is_channels_first(r) or self.is_step_of_attention(host, r):
            return None
        norm = branch_norm or self.norm_after(addition)
        kind = self.kind_of(segment, r)
        performer = self.performer(segment)
        projections = self.projections(kind, segment, r)
        pre_norm = self.norm_before(r)
        return Sublayer(
            kind=kind,
            output=output,
            residual=None if self.is_rearranged(addition, x, output) else self.residual_tap(r, x),
            norm=norm,
            norm_on_branch=branch_norm is not None,
            pre_norm=pre_norm if pre_norm or norm or not self.is_norm(r) else r.name,
            host=host,
            container="adapters" if host else CONTAINERS[kind],
            location=LOCATIONS[kind],
            projections=projections,
            size=self.size_of(segment, norm or pre_norm),
            performed_by=self.class_of(performer),
            borrows_keys=self.borrows_keys(performer, projections),
        )

    def is_step_of_attention(self, host: str, r: Value) -> bool:
        """Whether a sum in an attention module adds to its own queries or values, not to the residual stream."""
        if not host or ATTENTION_NAME.search(self.class_of(host)) is None:
            return False
        made = self.ancestors(r) | {r}
        return any(c in made and is_weighted(self.modules[c.name]) for c in self.calls_in(host))

    def calls_in(self, path: str) -> list[Value]:
        return [call for call in self.graph.calls if call.name.startswith(f"{path}.")]

    def branches_without_sum(self) -> Iterator[_Branch]:
        """Attention and feed-forward modules whose output goes into something else than a sum with what they read.

        That may be a mixture of several streams (hyper-connections), or source that could not be read. What they are
        made of, and their output, are known all the same.
        """
        known = {call for branch in self.branches for call in branch.segment}
        returned = [
            (path, value)
            for value, places in self.graph.outputs_of.items()
            for path, index in places
            if not index and self.kind_by_name(path) is not None and not self.is_part_of_kind(path)
        ]
        for path, value in sorted(returned, key=lambda item: item[0].count(".")):
            branch = self.branch_alone(path, value)
            if branch is not None and not known & set(branch.segment):
                known.update(branch.segment)
                yield branch

    def is_part_of_kind(self, path: str) -> bool:
        """Whether a module is inside one of its kind, as the shared expert is in a mixture of experts."""
        kind = self.kind_by_name(path)
        return any(path.startswith(f"{outer}.") and self.kind_by_name(outer) == kind for outer in self.graph.composites)

    def branch_alone(self, path: str, value: Value) -> _Branch | None:
        calls = self.calls_in(path)
        segment = tuple(c for c in calls if is_weighted(self.modules[c.name]))
        output, kind = self.tap_of(value), self.kind_by_name(path)
        is_once = all(self.counts[c.name] == 1 for c in segment)
        if not segment or not is_once or output is None or kind is None or not calls[0].sources:
            return None
        if not self.ends_in_weights(value, path) or self.is_channels_first(value):
            return None
        return _Branch(None, value, calls[0].sources[0], segment, self.describe_alone(kind, path, output, calls))

    def kind_by_name(self, path: str) -> Kind | None:
        name = self.graph.composites.get(path, "")
        if self.is_mixer(name):
            return "mixer"
        return "attention" if ATTENTION_NAME.search(name) else "ffn" if _FFN_NAME.search(name) else None

    def is_mixer(self, class_name: str) -> bool:
        return bool(MIXER_NAME.search(class_name.removeprefix(self.family)) or _TIME_MIXER_NAME.search(class_name))

    def ends_in_weights(self, value: Value, path: str) -> bool:
        """Whether a value is what matrices of a module have made: no norm, no residual comes after them."""
        if value.made_by == "module":
            is_inside = value.name.startswith(f"{path}.")
            if is_weighted(self.modules[value.name]):
                return is_inside
            return is_inside and not self.is_norm(value) and self.ends_in_weights(value.sources[0], path)
        if value.sources:
            return all(self.ends_in_weights(source, path) for source in value.sources)
        return False

    def describe_alone(self, kind: Kind, path: str, output: Tap, calls: list[Value]) -> Sublayer:
        entry = calls[0].sources[0]
        weighted = [c for c in calls if is_weighted(self.modules[c.name])]
        maker = entry
        while maker.made_by == "same":
            maker = maker.sources[0]
        pre_norm = next((c.name for c in (maker, calls[0]) if self.is_norm(c)), None)
        return Sublayer(
            kind=kind,
            output=output,
            residual=None,
            norm=None,
            norm_on_branch=False,
            pre_norm=pre_norm,
            host=path,
            container="adapters",
            location=LOCATIONS[kind],
            projections=self.projections(kind, weighted, entry),
            size=self.size_of(weighted, None),
            performed_by=self.class_of(path),
        )

    def performer(self, segment: Sequence[Value]) -> str:
        """The innermost module that all of a branch is in; else its first matrix."""
        heavy = [c.name for c in segment if not self.is_norm(c)] or [segment[0].name]
        shared = [path for path in self.graph.composites if path and all(p.startswith(f"{path}.") for p in heavy)]
        return max(shared, key=len) if shared else heavy[0]

    def borrows_keys(self, performer: str, projections: Mapping[str, tuple[str, ...]]) -> bool:
        """Whether an attention has queries of its own only: no module is there for keys and values."""
        roles = {_role(path) for path in self.modules if path.startswith(f"{performer}.")}
        return "q" in projections and not {"k", "v", "kv", "qkv"} & roles

    def class_of(self, path: str) -> str:
        return type(self.modules[path]).__name__

    def norm_before(self, r: Value) -> str | None:
        return next((c.name for c in self.consuming_calls(r) if self.is_norm(c)), None)

    def is_norm(self, call: Value) -> bool:
        return call.made_by == "module" and is_norm(self.modules[call.name], call.name)

    def is_of_norm(self, call: Value) -> bool:
        """Whether a call is a norm, or is made inside one (some have matrices that compute a gate)."""
        parents = [path for path in self.graph.composites if path and call.name.startswith(f"{path}.")]
        return self.is_norm(call) or any(_is_norm_class(self.class_of(path)) for path in parents)

    def output_tap(self, x: Value) -> tuple[Tap | None, str | None]:
        """The last module before the addition that can be hooked, and the norm on the branch after it, if any."""
        norm: Value | None = None
        shared: str | None = None  # a module that the layer calls several times, e.g. one dropout for all sublayers
        is_scaled = is_first = False
        while not self.is_channels_first(x):
            if self.is_norm(x) and norm is None and len(x.sources) == 1:
                norm, x = x, x.sources[0]
                continue
            tap = self.tap_of(x, 0 if is_first else None)
            if tap is not None:
                # Behind a scaling by a bare parameter (LayerScale) only the shared module sees x as it is added.
                is_hidden = is_scaled and shared is not None
                return (Tap(shared, armed_by=tap.path) if is_hidden and shared else tap), norm.name if norm else None
            weighted = x.made_by == "module" and is_weighted(self.modules[x.name])
            if x.made_by in ("input", "add", "other") or weighted or not x.sources:
                break
            if x.made_by == "module" and shared is None and not is_scaled:
                shared = x.name
            is_scaled = is_scaled or x.name == SCALED
            is_first = x.name == FIRST
            x = x.sources[0]
        # What comes before the norm cannot be hooked, or is in another order: the norm gives x.
        return (self.tap_of(norm) if norm is not None else None), None

    def is_rearranged(self, addition: Value, x: Value, output: Tap) -> bool:
        """Whether x is in another shape where it can be hooked than where it is added (windows, tokens in one row).

        Then no r is in the shape of x.
        """
        steps: list[Value] = []
        for value in addition.sources:
            after: list[Value] = []
            while value is not x and value.made_by == "same":
                after.append(value)
                value = value.sources[0]
            steps += after if value is x else []
        while output.armed_by is None and x.sources and self.tap_of(x, output.index) != output:
            steps.append(x)
            x = x.sources[0]
        return any(step.made_by == "same" and step.name in (RESHAPED, SLICED) for step in steps)

    def tap_of(self, x: Value, index: int | None = None) -> Tap | None:
        """A module whose output (or its element) is just this value, in one call per layer."""
        if x.made_by == "module" and self.counts[x.name] == 1:
            return Tap(x.name, "output", index)
        for path, place in self.graph.outputs_of.get(x, ()):
            return Tap(path, "output", place)
        return None

    def is_channels_first(self, x: Value) -> bool:
        """Whether x is what a convolution returns, (B, D, ...), while adapters act on the last dimension."""
        while x.made_by == "same" and x.name != RESHAPED:
            x = x.sources[0]
        if x.made_by == "add":
            return any(map(self.is_channels_first, x.sources))
        if x.made_by != "module" or not x.sources:
            return False
        module = self.modules[x.name]
        if is_weighted(module):
            return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        return self.is_channels_first(x.sources[0])

    def residual_tap(self, r: Value, x: Value) -> Tap | None:
        """Where r can be seen as it is: at a module of this branch that reads it, or at the one that makes it."""
        on_branch = {c.name for c in self.graph.calls if c in self.ancestors(x) or c is x}
        leaves = [path for path, value in self.graph.inputs if value is r and path in on_branch]
        composites = [path for path, value in self.graph.inputs if value is r and path in self.graph.composites]
        for path in (*leaves, *composites):
            called = {c.name for c in self.graph.calls if c.name == path or c.name.startswith(f"{path}.")}
            if called & on_branch and all(self.counts[name] == 1 for name in called):
                return Tap(path, "input")
        return self.tap_of(r) or self.cast_tap(r, on_branch)

    def cast_tap(self, r: Value, on_branch: set[str]) -> Tap | None:
        """A module that reads a cast of r."""
        casts = {c for c in self.consumers.get(r, ()) if c.made_by == "same" and not c.name and len(c.sources) == 1}
        for path, value in self.graph.inputs:
            if value in casts and path in on_branch and self.counts[path] == 1:
                return Tap(path, "input")
        return None

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
        held = {
            path: [p for p in paths if p == path or p.startswith(f"{path}.")]
            for path in (*self.graph.composites, *paths)
            if path
        }
        # A short convolution beside attention makes it no mixer.
        if any(2 * len(inner) > len(paths) and self.is_mixer(self.class_of(path)) for path, inner in held.items()):
            return "mixer"
        classes = [self.class_of(path) for path, inner in held.items() if inner]
        parts = {part for p in paths for part in p.split(".")[:-1]}
        names = [*classes, *(part for part in parts if not _NORM_NAME.search(part))]
        if any(ATTENTION_NAME.search(name) for name in names) or {"q", "k", "v"} <= {_role(p) for p in paths}:
            keys = [c for c in segment if _role(c.name) in ("k", "v", "kv")]
            is_cross = bool(keys) and not any(r in self.ancestors(c) for c in keys)
            return "cross_attention" if is_cross else "attention"
        if all(isinstance(self.modules[p], (nn.Conv1d, nn.Conv2d)) for p in paths):
            return "mixer"
        return "ffn"

    def projections(self, kind: Kind, segment: list[Value], r: Value) -> dict[str, tuple[str, ...]]:
        paths = list(dict.fromkeys(c.name for c in segment if not self.is_of_norm(c)))
        if kind in ("attention", "cross_attention"):
            return self.attention_projections(paths, segment, r)
        roles: dict[str, tuple[str, ...]] = {}
        experts = [p for p in paths if _is_expert(p, self.modules[p])]
        routers = [p for p in paths if _ROUTER_NAME.search(p) and p not in experts and len(paths) > 2]
        if experts:
            roles["experts"] = tuple(experts)
        if experts and routers:
            roles["router"] = tuple(routers)
        dense = [p for p in paths if p not in experts and not (experts and p in routers)]
        first = [c.name for c in segment if c.name in dense and self.is_first(c, r)]
        if len(dense) > 1:
            roles["down"] = (dense[-1],)
            gates = [p for p in first if _GATE_NAME.search(p.rpartition(".")[2])] if len(first) > 1 else []
            roles["gate"] = tuple(gates[:1])
            roles["up"] = tuple(p for p in first if p not in gates[:1] and p != dense[-1])
        return {role: found for role, found in roles.items() if found}

    def attention_projections(self, paths: list[str], segment: list[Value], r: Value) -> dict[str, tuple[str, ...]]:
        roles: dict[str, tuple[str, ...]] = {}
        paths = [p for p in paths if not _CHOOSER_NAME.search(p) and not _ROUTER_NAME.search(p)]
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
        named = {p for found in roles.values() for p in found}
        first = list(dict.fromkeys(c.name for c in segment if c.name in paths and self.is_first(c, r)))
        if not {"q", "k", "v", "qkv", "kv"} & roles.keys():
            names = {1: ("qkv",), 2: ("q", "kv"), 3: ("q", "k", "v")}.get(len(first), ())
            if names == ("qkv",) and not _widens(self.modules[first[0]]):
                names = ()
            roles.update({role: (path,) for role, path in zip(names, first, strict=True)} if names else {})
        elif "kv" in roles and "q" not in roles and len(rest := [p for p in first if p not in named]) == 1:
            roles["q"] = (rest[0],)
        return roles

    def is_first(self, call: Value, r: Value) -> bool:
        """Whether no other module with weights lies between r and this call."""
        return all(c is call or c not in self.ancestors(call) or self.is_of_norm(c) for c in self.segment(call, r))

    def size_of(self, segment: Sequence[Value], norm: str | None) -> int:
        """Hidden size D: that of the block's norm, else the output size of the last projection."""
        vectors = [p for p in self.modules[norm].parameters() if p.ndim == 1] if norm is not None else []
        if vectors:
            return int(vectors[0].shape[0])
        for call in reversed(segment):
            size = None if _ROUTER_NAME.search(call.name) else output_size(self.modules[call.name])
            if size:
                return size
        return 0


def output_size(module: nn.Module) -> int | None:
    """The size of the last dimension of what a projection returns.

    Quantised linears hide their weight's shape, so the attribute comes first; experts hold (E, D, F) tensors.
    """
    if isinstance(module, nn.Linear):
        return int(module.out_features)
    if isinstance(module, nn.MultiheadAttention):
        return int(module.embed_dim)
    if isinstance(out := module.__dict__.get("out_features", module.__dict__.get("nf")), int):
        return int(out)
    if isinstance(hidden := module.__dict__.get("hidden_dim", module.__dict__.get("hidden_size")), int):
        return int(hidden)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 3 and "down" in name:
            return int(parameter.shape[1])
    vectors = [p for p in module.parameters() if p.ndim == 1]
    return int(vectors[-1].shape[0]) if vectors else None


def _is_norm_class(name: str) -> bool:
    return name.endswith("Norm") and ATTENTION_NAME.search(name) is None  # DBRX has a NormAttentionNorm


def _numbered(container: str, number: int) -> str:
    """A name of its own for each sublayer of a layer that has several of a kind (two feed-forwards in a conformer)."""
    first, dot, rest = container.partition(".")
    return container if number == 1 else f"{first}_{number}{dot}{rest}"


def _family(layer: nn.Module) -> str:
    """What the names of a layer's classes begin with: what RecurrentGemma is called makes its feed-forward no mixer."""
    file = type(layer).__module__
    names = [type(m).__name__ for m in layer.modules() if type(m).__module__ == file]
    alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike)


def _role(path: str) -> str | None:
    name = path.rpartition(".")[2]
    for role, pattern in _ROLES:
        if pattern.fullmatch(name):
            return role
    return None


def _widens(module: nn.Module) -> bool:
    """Whether a projection returns more than it reads, as one of queries, keys and values together does."""
    return not isinstance(module, nn.Linear) or module.out_features > module.in_features


def _is_expert(path: str, module: nn.Module) -> bool:
    if "shared" in path.lower():
        return False
    is_named = bool(_EXPERTS_NAME.search(path) or _EXPERTS_NAME.search(type(module).__name__))
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    is_fused = len(matrices) > 1 or any(p.ndim == 3 for p in matrices)  # DBRX has those of all experts in one row
    return is_named and (is_fused or bool(re.search(r"experts\.\d+", path)))


def _flat(value: object) -> list[Value]:
    if isinstance(value, Value):
        return [value]
    if isinstance(value, (tuple, list)):
        return [v for inner in value for v in _flat(inner)]
    if isinstance(value, dict):
        return [v for inner in value.values() for v in _flat(inner)]
    return []
