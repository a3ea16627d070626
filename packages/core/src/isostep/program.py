"""Programs: traced rules, cut into stages, printable.

``trace`` runs a rule once on symbols. The result is a list of nodes in order of evaluation. Everything that
depends only on hyperparameters and t is scalar and leaves the loops; every sum over an array, a unit or the
group ends a stage, because what uses it must wait for a whole pass over the elements.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from isostep import sums
from isostep.calls import COUNT, RuleError, first_state, written
from isostep.domains import DomainError, Pair
from isostep.flow import Group, Item, flow
from isostep.nm import Overwrite
from isostep.rule import BoundRule, Component
from isostep.shapes import broadcast
from isostep.storage import FACTOR, LOST, PLAIN, SEED, Storage, whole
from isostep.values import REDUCTIONS, Domain, Graph, NeedsShape, TraceError, Value, as_number

#: Outputs that are not state arrays. A program has exactly one of them.
UPDATE, PARAMETER = "u", "p"


@dataclass(frozen=True, eq=False)
class Program:
    """One rule in one phase, as nodes and outputs.

    ``outputs`` maps ``"u"`` (added to the parameter) or ``"p"`` (overwrites it) and each state name to a
    node; ``group_outputs`` does so for the group's state. A state whose output is its own input is not stored.
    ``group_sums`` are the sums over the group by the names that ``measure`` gives them, in the order in which they are
    taken: all that there are, since others of the group may need this part of one that nothing here uses.
    ``figures`` are the sums of an observed rule (``isostep.sums``), which the last stage collects. ``noise`` are the
    seed and t where arrays are rounded stochastically as they are stored.
    """

    name: str
    nodes: tuple[Value, ...]
    outputs: dict[str, Value]
    group_outputs: dict[str, Value]
    state_names: tuple[str, ...]
    input_names: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    group_sums: dict[str, Value] = field(default_factory=dict)
    figures: tuple[Value, ...] = ()
    noise: tuple[Value, ...] = ()

    def inputs(self, domain: Domain | None = None) -> dict[str, Value]:
        """The input nodes by name, of one domain or of all."""
        return {
            n.name or "": n
            for n in self.nodes
            if n.op == "input" and (domain is None or n.domain is domain)
        }

    @cached_property
    def generic(self) -> bool:
        """Whether some value is neither per element, unit, array nor group, so that it cannot be fused."""
        return any(n.domain is Domain.TENSOR for n in self.live) or bool(self.nested)

    @cached_property
    def nested(self) -> list[Value]:
        """The sums over what is not per element (a sum of sums): no pass over the elements takes those."""
        return [
            n for n in self.live if n.op in REDUCTIONS and n.args[0].domain is not Domain.ELEMENT
        ]

    @cached_property
    def roots(self) -> tuple[Value, ...]:
        """All outputs, sums over the group, and what figures and noise are made of."""
        observed = (x for f in self.figures for x in sums.factors(f))
        outputs = (*self.outputs.values(), *self.group_outputs.values())
        return (*outputs, *observed, *self.noise, *self.group_sums.values())

    @cached_property
    def live(self) -> tuple[Value, ...]:
        """The nodes that some output or sum over the group needs, in order."""
        needed = ancestors(self.roots)
        return tuple(n for n in self.nodes if n in needed)

    @cached_property
    def group_inputs(self) -> tuple[Value, ...]:
        """The inputs that belong to the group: its state, and its own t and hyperparameters."""
        inputs = (n for n in self.live if n.op == "input")
        return tuple(n for n in inputs if n.domain is Domain.GROUP or n.scope == "group")

    @cached_property
    def stored(self) -> dict[str, Value]:
        """The state outputs that differ from their inputs."""
        return {
            name: node
            for name, node in self.outputs.items()
            if name in self.state_names and not (node.op == "input" and node.attrs[0] == name)
        }

    @cached_property
    def stage(self) -> dict[Value, int]:
        """The stage in which a node can be computed first: one more for each reduction on its way."""
        found: dict[Value, int] = {}
        for node in self.nodes:
            found[node] = max(
                (found[a] + (a.op in REDUCTIONS) for a in node.args),
                default=0,
            )
        return found

    @cached_property
    def stages(self) -> int:
        """How many passes over the elements a step takes."""
        return 1 + max((self.stage[n] + (n.op in REDUCTIONS) for n in self.live), default=0)

    def reductions(self, stage: int) -> list[Value]:
        """The sums that the pass of this stage collects."""
        return [n for n in self.live if n.op in REDUCTIONS and self.stage[n] == stage]

    def __str__(self) -> str:
        from isostep.listing import listing

        return listing(self)


def ancestors(roots: Iterable[Value], *, stop: Iterable[Value] = ()) -> set[Value]:
    """All nodes that the roots depend on, the roots included; not looking behind ``stop``."""
    barrier = set(stop)
    found: set[Value] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            if node not in barrier:
                waiting += node.args
    return found


#: The shape that a rule which looks at it is traced for where none is given.
EXAMPLE = (4, 3)
_CACHE: dict[Any, Program] = {}
_LOCK = threading.Lock()


def trace(
    rule: BoundRule,
    phase: tuple[int, ...] | None = None,
    shape: tuple[int, ...] | None = None,
    kept: Storage = PLAIN,
) -> Program:
    """The program of ``rule`` in ``phase`` (that of t = 1 by default). Cached.

    ``shape`` is used only by rules that look at it; their programs are one per shape, and without a shape
    they are traced for a matrix of 4 x 3, or for an array of a rank that they take. ``kept``: how the arrays are
    stored, ``Storage.of`` the parameter's dtype.
    """
    if phase is None:
        phase = rule.phase(1)
    key: tuple[Any, ...] = (rule.structure(), phase, kept)
    with _LOCK:
        found = _CACHE.get(key) or _CACHE.get((*key, examples(rule)[0] if shape is None else shape))
    if found is not None:
        return found
    try:
        program = _traced(rule, phase, None, kept)
    except NeedsShape:
        if shape is None:
            return _of_some_shape(rule, phase, kept)
        key = (*key, shape)
        with _LOCK:
            if (found := _CACHE.get(key)) is not None:
                return found
        program = _traced(rule, phase, shape, kept)
    with _LOCK:
        return _CACHE.setdefault(key, program)


def shaped(rule: BoundRule, phase: tuple[int, ...], shape: tuple[int, ...]) -> Program:
    """The program for one shape, also of a rule that does not look at it. Cached."""
    program = trace(rule, phase, shape)
    if program.shape is not None:
        return program
    key: tuple[Any, ...] = (rule.structure(), phase, PLAIN, shape)
    with _LOCK:
        found = _CACHE.get(key)
    if found is None:
        found = _traced(rule, phase, shape, PLAIN)
        with _LOCK:
            found = _CACHE.setdefault(key, found)
    return found


def examples(rule: BoundRule) -> list[tuple[int, ...]]:
    """The shapes one of which stands for all where a rule looks at shapes, of the ranks that the rule takes."""
    ranks = rule.rule.ndim or (2, 3, 4, 1, 0)
    shapes = [(*EXAMPLE, *[2] * rank)[:rank] for rank in ranks]
    return sorted(shapes, key=lambda shape: shape != EXAMPLE)


def _of_some_shape(rule: BoundRule, phase: tuple[int, ...], kept: Storage) -> Program:
    """The program for the first of the examples that can be traced: some rules take no matrix, and do not say."""
    errors = []
    for shape in examples(rule):
        try:
            return trace(rule, phase, shape, kept)
        except (RuleError, TraceError, DomainError) as error:
            errors.append(error)
    raise errors[0]


def uniform(rule: BoundRule) -> bool:
    """Whether arrays of all shapes share the programs of the rule's kinds of step, and nothing in them is generic."""
    programs = (trace(rule, kind) for kind in rule.kinds())
    return all(p.shape is None and not p.generic for p in programs)


def _traced(
    rule: BoundRule, phase: tuple[int, ...], shape: tuple[int, ...] | None, kept: Storage
) -> Program:
    """As ``_trace``; what a rule's own functions did wrong is told with the rule's name and the line."""
    try:
        return _trace(rule, phase, shape, kept)
    except (NeedsShape, RuleError, DomainError):
        raise
    except Exception as error:
        files = _files(rule)
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if f.filename in files]
        if not lines:
            raise
        if isinstance(error, TraceError):
            message = f"{rule.name}: {error} ({lines[-1]})"
            raise TraceError(message) from error
        what = f"{type(error).__name__} in {lines[-1]}, where the rule is traced"
        message = f"{rule.name}: {what}: {error}; use operators and isostep.nm on its arrays"
        raise RuleError(message) from error


def _trace(
    rule: BoundRule, phase: tuple[int, ...], shape: tuple[int, ...] | None, kept: Storage
) -> Program:
    graph = Graph(shape)
    state = {n: _state_input(graph, rule, n) for n in rule.state_names}
    t = _input(graph, COUNT, Domain.STEP, "array", truth=True)
    stored = p = _input(graph, "p", Domain.ELEMENT)
    beside = _input(graph, kept.beside, Domain.ELEMENT) if kept.beside else None
    if beside is not None:
        own = {str(kept.beside): beside}
        held = lambda x: graph.node("stored", (x,), domain=Domain.ELEMENT)  # noqa: E731
        p = whole(stored, own, held, lambda *xs: graph.apply("where", xs))
    g = _input(graph, "g", Domain.ELEMENT)
    if kept.scaled:
        g = graph.apply("mul", (g, _input(graph, FACTOR, Domain.HOST, "array")))
    item = Item(
        t=t,
        p=p,
        g=g,
        inputs={n: _input(graph, n, Domain.ELEMENT) for n in rule.input_names},
        state=dict(state),
        hyper=_symbols(graph, rule, "array"),
        phase=phase,
    )
    totals: dict[str, Value] = {}
    # Where this program may meet others, equal sums of two names are two: in those they may differ.
    apart = shape is not None or any(c.part.phase is not None for c in rule.components)

    def total(name: str, items: Sequence[Item], values: Sequence[Any]) -> Value:
        found = totals[name] = graph.apply("sum_group", (values[0],), (name,) if apart else ())
        return found

    group = Group(
        t=_input(graph, COUNT, Domain.STEP, "group", truth=True),
        state={n: _input(graph, n, Domain.GROUP) for n in rule.group_names},
        hyper=_symbols(graph, rule, "group"),
        total=total,
        fit=lambda value, item: value,
        keep=lambda value: value,
    )
    with _local_names(rule):
        flow(rule, [item], group)
    overwrites = isinstance(item.u, Overwrite)
    outputs = {
        PARAMETER if overwrites else UPDATE: item.u.value if overwrites else item.u,
        **item.state,
    }
    if beside is not None:
        outputs = _beside(graph, outputs, p, beside)
    outputs = {n: as_number(graph.value(v)) for n, v in outputs.items()}
    if shape is not None:
        outputs = {n: _in_shape(n, v, state.get(n, p)) for n, v in outputs.items()}
    groups = {n: as_number(graph.value(v)) for n, v in group.state.items()}
    figures = _figures(rule, p, g, item) if rule.observed else ()
    noise = (_input(graph, SEED, Domain.HOST, "array"), t) if kept.noisy else ()
    return Program(
        name=rule.name,
        nodes=tuple(graph.nodes),
        outputs=outputs,
        group_outputs=groups,
        state_names=(*rule.state_names, *((kept.beside,) if kept.beside else ())),
        input_names=rule.input_names,
        shape=shape,
        group_sums=totals,
        figures=figures,
        noise=noise,
    )


def _in_shape(name: str, new: Value, old: Value) -> Value:
    """A new value in the shape of the array that it is stored to, which may be larger: a mean kept along an axis."""
    if new.domain <= Domain.UNIT and old.domain is Domain.ELEMENT:
        return new  # what is one number or one a unit is spread over elements wherever it is stored
    number = new.domain <= Domain.ARRAY
    own, found = old.shape, () if number else new.shape
    if found == own and not number:
        return new
    if broadcast(own, found) != own or any(n not in (1, m) for n, m in zip(found[::-1], own[::-1])):
        message = f"{name} has shape {own}, and its new value {found}; sum over axes, or reshape it"
        raise TraceError(message)
    wide: Value = new.graph.apply("where", (old == old, new, new))
    return wide


def _beside(graph: Graph, outputs: dict[str, Any], p: Value, beside: Value) -> dict[str, Any]:
    """The outputs of a parameter that has something beside it, which the step brings up to date."""
    outputs = dict(outputs)
    new = p + outputs.pop(UPDATE) if UPDATE in outputs else outputs.pop(PARAMETER)
    rest = new = new if isinstance(new, Value) else graph.const(new)
    if beside.name == LOST:
        kept = graph.node("stored", (new,), domain=Domain.ELEMENT)
        lost = graph.apply("sub", (new, kept))
        rest = graph.apply("where", (graph.apply("isfinite", (lost,)), lost, 0.0))
    return {PARAMETER: new, **outputs, str(beside.name): rest}


def _figures(rule: BoundRule, p: Value, g: Value, item: Item) -> tuple[Value, ...]:
    """The sums that an observed rule's last pass collects."""
    u = item.u.value - p if isinstance(item.u, Overwrite) else item.u
    u = u if isinstance(u, Value) else p.graph.const(u)
    m = None if rule.momentum is None else item.state[rule.momentum]
    return sums.nodes(p, g, u, m)


def _input(
    graph: Graph,
    name: str,
    domain: Domain,
    scope: str | None = None,
    *,
    truth: bool = False,
    shape: Any = None,
) -> Value:
    return graph.node(
        "input", attrs=(name, shape), domain=domain, scope=scope, name=name, truth=truth
    )


def _symbols(graph: Graph, rule: BoundRule, scope: str) -> dict[str, Any]:
    """The hyperparameters as the rule sees them: static ones as Python values, the others as inputs."""

    def symbol(name: str, value: Any, static: bool, truth: bool) -> Any:
        if static:
            return value
        domain = Domain.STEP if callable(value) else Domain.HOST
        return _input(graph, name, domain, scope, truth=truth)

    found: dict[str, Any] = {}
    for name, domain in rule.domains.items():
        value = rule.values[name]
        if isinstance(domain, Pair):
            found[name] = tuple(
                symbol(f"{name}[{i}]", v, d.is_static(v), d.zero_is_static)
                for i, (d, v) in enumerate(zip(domain.parts, value, strict=True))
            )
        else:
            truth = getattr(domain, "zero_is_static", False)
            found[name] = symbol(name, value, domain.is_static(value), truth)
    return found


def _state_input(graph: Graph, rule: BoundRule, name: str) -> Value:
    """A state array's node: per element if it has the parameter's shape, else a tensor of its own shape."""
    component = next(c for c in rule.components if name in rule.state_of(c))
    if component.part.init is None:
        return _input(graph, name, Domain.ELEMENT)
    index = rule.state_of(component).index(name)
    if graph.shape is None:
        if always_like_parameter(rule, component)[index]:
            return _input(graph, name, Domain.ELEMENT)
        raise NeedsShape
    own = init_shapes(rule, component, graph.shape)[index]
    if own == graph.shape:
        return _input(graph, name, Domain.ELEMENT)
    return _input(graph, name, Domain.TENSOR, shape=own)


def always_like_parameter(rule: BoundRule, component: Component) -> list[bool]:
    """Which of the arrays that a component's ``init`` makes have the parameter's shape, whatever that is."""
    made = _traced_state(rule, component, Graph())
    if made is None:
        return [False] * len(rule.state_of(component))
    return [a.domain is Domain.ELEMENT for a in made]


def starts_as_zeros(rule: BoundRule, component: Component) -> list[bool]:
    """Which of a component's state arrays are zeros of the parameter's shape, whatever its shape and numbers are."""
    if component.part.init is None:
        return [True] * len(rule.state_of(component))
    import numpy as np

    found = [True] * len(rule.state_of(component))
    for shape in examples(rule):
        made = _first_state(rule, component, np.full(shape, 1.5))
        same = [tuple(np.shape(a)) == shape and not np.any(a) for a in made]
        found = [a and b for a, b in zip(found, same, strict=True)]
    return found


def init_shapes(
    rule: BoundRule, component: Component, shape: tuple[int, ...]
) -> list[tuple[int, ...]]:
    """The shapes of a component's state arrays, of a parameter of this shape."""
    made = _traced_state(rule, component, Graph(shape))
    if made is None:  # arrays as large as the parameter, on the host: only where nothing else tells
        import numpy as np

        made = _first_state(rule, component, np.zeros(shape))
    return [tuple(a.shape) for a in made]


def _traced_state(rule: BoundRule, component: Component, graph: Graph) -> tuple[Any, ...] | None:
    """What a component's ``init`` makes of a parameter as values; None if it looks at what only an array has."""
    try:
        return _first_state(rule, component, _input(graph, "p", Domain.ELEMENT))
    except RuleError:
        raise
    except Exception:
        return None


def _first_state(rule: BoundRule, component: Component, p: Any) -> tuple[Any, ...]:
    # A schedule may be traced, and shapes do not depend on its value: any number will do.
    hyper = rule.map_schedules(lambda schedule: 1.0)
    given = rule.given_init(component, hyper)
    return first_state(component, p, rule.state_of(component), given)


def _files(rule: BoundRule) -> set[str]:
    """The files that the rule's functions were written in."""
    functions = (f for c in rule.components for f in c.part.called().values())
    codes = (getattr(written(f), "__code__", None) for f in functions)
    return {code.co_filename for code in codes if code is not None}


class _local_names:
    """While a rule is traced, remember what it calls its intermediate values, so that listings can too."""

    def __init__(self, rule: BoundRule) -> None:
        self.files = _files(rule)

    def __enter__(self) -> None:
        self.free = (
            sys.getprofile() is None
        )  # a profiler that is running goes on; names are only for readers
        if self.free:
            sys.setprofile(self._on_event)

    def __exit__(self, *_: object) -> None:
        if self.free:
            sys.setprofile(None)

    def _on_event(self, frame: Any, event: str, _arg: Any) -> None:
        if event == "return" and frame.f_code.co_filename in self.files:
            for name, value in frame.f_locals.items():
                if isinstance(value, Value) and value.name is None and value.op != "const":
                    value.name = name
