"""Rules, pieces, and what they become when hyperparameters are bound and pieces composed.

A ``Rule`` or ``Piece`` is a declaration, made once in a file of its own. ``bind`` checks hyperparameters and
gives a ``BoundRule``, which is what backends run and the tracer traces. A composed rule is a ``BoundRule``
with several components.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from types import SimpleNamespace
from typing import Any

from isostep.calls import RuleError, call_part, check_calls, check_names, keywords, written
from isostep.domains import REQUIRED, Domain, DomainError, Pair, evaluate
from isostep.sums import MOMENTA

#: Steps whose kind is looked at beforehand, for paths on which only the device knows t.
PROBED = 1000
_KINDS: dict[Any, list[tuple[int, ...]]] = {}  # of rules by their structure
#: The fields of rules and pieces with the functions that a step calls.
CALLED = (
    "init",
    "phase",
    "measure",
    "advance",
    "update",
    "evaluate",
    "before",
    "after",
    "denominator",
)


#: What no name may have.
UNQUOTABLE = frozenset("\"'`\\")

#: Name -> function of the hyperparameters that gives the value before the first step.
GroupState = Mapping[str, Callable[[SimpleNamespace], float]]


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Part:
    """What rules and pieces share: hyperparameters, state, group state, phases, and where they come from."""

    name: str
    hyper: Mapping[str, Domain] = field(default_factory=dict)
    state: tuple[str, ...] | Callable[[SimpleNamespace], tuple[str, ...]] = ()
    init: Callable[..., Any] | None = None
    inputs: tuple[str, ...] = ()
    group_inputs: tuple[str, ...] = ()  # numbers of the step, for the whole group: the loss
    group: GroupState | Callable[[SimpleNamespace], GroupState] = field(default_factory=dict)
    measure: Callable[..., Mapping[str, Any]] | None = None
    advance: Callable[..., Mapping[str, Any]] | None = None
    phase: Callable[..., int] | None = None
    phases: int = 2  # how many kinds of step ``phase`` tells apart: 0, 1, ...
    check: Callable[[SimpleNamespace], str | None] | None = None
    #: A condition of who binds it, which a run may leave: SGD's momentum may go to 0 under Nesterov.
    check_bound: Callable[[SimpleNamespace], str | None] | None = None
    #: Settings that go by a name of their own: ``sgd`` with momentum is ``momentum``.
    known_as: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    family: str = ""
    year: int | None = None
    paper: str = ""
    arxiv: str = ""

    def __post_init__(self) -> None:
        if not self.name.isprintable() or not self.name:
            message = f"a rule's or piece's name must be one printable line, got {self.name!r}"
            raise RuleError(message)
        if set(self.name) & UNQUOTABLE:  # it stands in texts and comments of several languages
            message = (
                f"a rule's or piece's name must have no quotes and backslashes, got {self.name!r}"
            )
            raise RuleError(message)
        named = (*self.hyper, *self.inputs, *self.group_inputs)
        check_names(self.name, named if callable(self.state) else (*named, *self.state))
        for what, function in self.called().items():
            if not callable(function) or not isinstance(function, Hashable):
                message = f"{self.name}: {what} must be a function, got {type(function).__name__}"
                raise RuleError(message)

    def called(self) -> dict[str, Callable[..., Any]]:
        """The functions that a step calls, by the fields that declare them."""
        found = {n: getattr(self, n, None) for n in CALLED}
        return {n: f for n, f in found.items() if f is not None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, ...)"

    @property
    def signature(self) -> inspect.Signature:
        """The keyword parameters with their defaults, in declared order."""
        keyword = inspect.Parameter.KEYWORD_ONLY
        return inspect.Signature(
            [
                inspect.Parameter(
                    n,
                    keyword,
                    default=inspect.Parameter.empty if d.default is REQUIRED else d.default,
                )
                for n, d in self.hyper.items()
            ]
        )

    @property
    def doc(self) -> str:
        """The docstring of the file that declares this: equations, ``Follows``, ``Departs``."""
        functions = [written(f) for f in (*self.functions(), self.phase) if f is not None]
        module = inspect.getmodule(functions[0]) if functions else None
        return inspect.cleandoc(module.__doc__) if module is not None and module.__doc__ else ""

    def __reduce__(self) -> Any:
        """Pickled by name where a registry knows it (its functions may be lambdas), else by value."""
        from isostep import _rules, pieces, solvers

        for folder in (_rules, pieces.registry, solvers.registry):
            place = folder.place(self)
            if place is not None:
                return folder.__getitem__, (place,)
        return super().__reduce__()

    def functions(self) -> tuple[Callable[..., Any] | None, ...]:
        """The step functions, for documentation and for naming values in listings."""
        return ()

    def bind_values(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Every hyperparameter checked and in normal form, defaults filled in."""
        values = self.values_of(hyper)
        self._hold(self.check_bound, values)
        return values

    def values_of(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """As ``bind_values``, of a run that goes on: without ``check_bound``."""
        values: dict[str, Any] = {}
        for name in hyper:
            if name not in self.hyper:
                known = ", ".join(self.hyper) or "none"
                message = f"{self.name} has no hyperparameter {name!r}; it has {known}"
                raise RuleError(message)
        for name, domain in self.hyper.items():
            value = hyper.get(name, domain.default)
            if value is REQUIRED:
                message = f"{self.name}: {name} is required; it must be {domain.describe()}"
                raise RuleError(message)
            values[name] = domain.check(f"{self.name}: {name}", value)
        self._hold(self.check, values)
        return values

    def _hold(
        self, check: Callable[[SimpleNamespace], str | None] | None, values: Mapping[str, Any]
    ) -> None:
        fault = None if check is None else check(SimpleNamespace(**values))
        if fault:
            message = fault if fault.startswith(f"{self.name}:") else f"{self.name}: {fault}"
            raise DomainError(message)


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Rule(Part):
    """One update rule: ``update(p, g, *inputs, *state, t, /, *, hyper) -> (u, *state)``; u is added to p.

    ``ndim`` restricts the parameters it takes; ``sequential`` says (from static hyperparameters) whether each
    parameter is a group of its own, the group state being threaded through them in order.
    ``evaluate(p, *state, t, /, *, hyper) -> p`` is for rules whose result is not the parameter that they
    step with: where the model is to be evaluated after t steps (schedule-free, ASGD's average).
    ``derived``: numbers ``name(t, /, *, hyper)`` of step t that torch.optim's class of the rule keeps as its state for
    the step to come; torch's state dicts have them.
    """

    update: Callable[..., Any]
    evaluate: Callable[..., Any] | None = None
    derived: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    ndim: tuple[int, ...] | None = None
    sequential: Callable[[SimpleNamespace], bool] | None = None

    def functions(self) -> tuple[Callable[..., Any] | None, ...]:
        return (self.update, self.measure, self.advance)

    @property
    def adaptive(self) -> bool:
        """Whether it hands what it divides by to ``denominator``, so that pieces can change that."""
        return "denominator" in (keywords(self.update) or ())

    def bind(self, **hyper: Any) -> BoundRule:
        """This rule with its hyperparameters; those not given take their defaults."""
        return BoundRule((Component(self),), self.bind_values(hyper))


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Piece(Part):
    """A change of the gradient (``before``), of the update or parameter (``after``), or of both.

    ``before(p, g, *inputs, *state, t, /, *, hyper) -> (g, *state)``; ``after(p, g, u, *inputs, *state, t, /, *,
    hyper) -> (u, *state)`` with g the gradient that the rule saw. A keyword that is not the piece's own
    hyperparameter (``lr``) is the rule's. ``denominator(d, /, *, hyper) -> d`` changes what an adaptive rule divides
    by: one whose ``update`` names the keyword ``denominator`` and calls it. ``changes_momentum`` says (from static
    hyperparameters) whether ``after`` takes the rule's new momentum too, behind the state of the piece, and returns it.
    """

    before: Callable[..., Any] | None = None
    after: Callable[..., Any] | None = None
    denominator: Callable[..., Any] | None = None
    changes_momentum: Callable[[SimpleNamespace], bool] | None = None

    def functions(self) -> tuple[Callable[..., Any] | None, ...]:
        return (self.before, self.after, self.denominator, self.measure)

    def needs_momentum(self, values: Mapping[str, Any]) -> bool:
        """Whether, with these hyperparameters, it goes around no rule but one that has a momentum."""
        return self.changes_momentum is not None and self.changes_momentum(
            SimpleNamespace(**values)
        )

    def bind(self, **hyper: Any) -> BoundPiece:
        """This piece with its hyperparameters, to be given to ``compose``."""
        return BoundPiece(self, self.bind_values(hyper))


@dataclass(frozen=True)
class BoundPiece:
    """A piece with its hyperparameters; ``compose`` puts it in front of or behind a rule."""

    piece: Piece
    values: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"{self.piece.name}({_arguments(self.piece, self.values)})"


@dataclass(frozen=True, eq=False)
class Component:
    """A part at its place in a composed rule; ``prefix`` keeps its names apart from the others'."""

    part: Rule | Piece
    prefix: str = ""

    def own(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Its own entries of a dictionary of the whole rule, without the prefix."""
        return {n: values[self.prefix + n] for n in self.part.hyper}

    def state_names(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of its state arrays in the whole rule, which may depend on static hyperparameters."""
        names = self.part.state
        if callable(names):
            names = names(SimpleNamespace(**self.own(values)))
        return tuple(self.prefix + n for n in names)

    def group_state(self, values: Mapping[str, Any]) -> GroupState:
        """Its group state without the prefix; like the state, it may depend on static hyperparameters.

        What the group is given at every step is a part of it: it holds the last step's.
        """
        group = self.part.group
        found = group(SimpleNamespace(**self.own(values))) if callable(group) else group
        return {**found, **dict.fromkeys(self.part.group_inputs, _nothing_yet)}


def _nothing_yet(_: SimpleNamespace) -> float:
    return 0.0


@dataclass(frozen=True, eq=False)
class BoundRule:
    """A rule ready to run: components in order of execution and the value of every hyperparameter.

    In a composed rule the names of a piece's hyperparameters and state carry its name, ``lookahead.alpha``; what a
    step is given from outside does not, so that it can be passed by keyword.
    """

    components: tuple[Component, ...]
    values: Mapping[str, Any]
    observed: bool | str = False  # or the momentum's name; see ``isostep.observe``

    def __post_init__(self) -> None:
        names: list[str] = []
        for c in self.components:
            group = c.group_state(self.values)
            # (A number of the group may start as a hyperparameter, and have its name.)
            own = (*group, *(n for n in c.part.hyper if n not in group))
            names += (*c.part.inputs, *self.state_of(c), *(c.prefix + n for n in own))
        clash = {n for n in names if names.count(n) > 1}
        if clash:
            inputs = [n for n in clash if self.input_names.count(n) > 1]
            hint = (
                "; inputs go by their own names, so only one part may take each" if inputs else ""
            )
            message = f"{self.name}: names of state, inputs or hyperparameters appear twice: {sorted(clash)}{hint}"
            raise RuleError(message)
        for c in self.components:
            kept = tuple(n.removeprefix(c.prefix) for n in self.state_of(c))
            check_calls(c.part, self.rule, kept, tuple(c.group_state(self.values)), self.lent(c))

    @cached_property
    def rule(self) -> Rule:
        """The one rule among the components."""
        return next(c.part for c in self.components if isinstance(c.part, Rule))

    @cached_property
    def name(self) -> str:
        """The rule's name, or the components' names joined by +."""
        return "+".join(c.prefix.rstrip(".") or c.part.name for c in self.components)

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """The domain of every hyperparameter, by its name in the whole rule."""
        return {c.prefix + n: d for c in self.components for n, d in c.part.hyper.items()}

    @cached_property
    def state_names(self) -> tuple[str, ...]:
        """The state arrays that each parameter has, in order."""
        return tuple(n for c in self.components for n in self.state_of(c))

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """What a step needs per parameter beside the gradient."""
        return tuple(n for c in self.components for n in c.part.inputs)

    @cached_property
    def group_input_names(self) -> tuple[str, ...]:
        """What a step needs beside the gradients once for the group: 0-d values such as the loss."""
        return tuple(c.prefix + n for c in self.components for n in c.part.group_inputs)

    @cached_property
    def group_names(self) -> tuple[str, ...]:
        """The group's own state: 0-d values shared by its parameters."""
        return tuple(c.prefix + n for c in self.components for n in c.group_state(self.values))

    @cached_property
    def momentum(self) -> str | None:
        """The state array that an observed rule compares with the gradient, if it has one."""
        if isinstance(self.observed, str):
            return self.observed
        return self._momentum

    @cached_property
    def _momentum(self) -> str | None:
        return next((n for n in MOMENTA if n in self.state_names and self.like_parameter(n)), None)

    def lent(self, component: Component) -> tuple[str, ...]:
        """The rule's state arrays that a piece's ``after`` takes and returns: its momentum, or none.

        Raises:
            RuleError: the rule has no state array that is known to be its momentum.
        """
        part = component.part
        if isinstance(part, Rule) or not part.needs_momentum(component.own(self.values)):
            return ()
        if self._momentum is None:
            message = (
                f"{part.name} changes the rule's momentum, and {self.rule.name} has none by the names of "
                f"{', '.join(MOMENTA)}; choose a rule that has one, or another setting of {part.name}"
            )
            raise RuleError(message)
        return (self._momentum,)

    def like_parameter(self, state: str) -> bool:
        """Whether a state array has the parameter's shape, at every rank that the rule takes."""
        from isostep.program import always_like_parameter, init_shapes

        component = next(c for c in self.components if state in self.state_of(c))
        if component.part.init is None:
            return True
        index = self.state_of(component).index(state)
        if always_like_parameter(self, component)[index]:
            return True
        shapes = [tuple(range(2, 2 + rank)) for rank in self.rule.ndim or (1, 2, 3)]
        return all(init_shapes(self, component, s)[index] == s for s in shapes)

    @cached_property
    def reduces_group(self) -> bool:
        """Whether parameters depend on one another through sums over the group."""
        return any(c.part.measure is not None for c in self.components)

    @cached_property
    def sequential(self) -> bool:
        """Whether each parameter is a group of its own, taken in order."""
        test = self.rule.sequential
        return bool(test is not None and test(SimpleNamespace(**self._own_of_rule())))

    def _own_of_rule(self) -> dict[str, Any]:
        component = next(c for c in self.components if c.part is self.rule)
        return component.own(self.values)

    def state_of(self, component: Component) -> tuple[str, ...]:
        """The names of one component's state arrays."""
        return component.state_names(self.values)

    def __reduce__(self) -> Any:  # without the cached properties, which hold on to this process
        return BoundRule, (self.components, dict(self.values), self.observed)

    def replace(self, **hyper: Any) -> BoundRule:
        """The same rule with other values; a state goes on as long as its arrays stay the same."""
        return self._with(hyper, Part.bind_values)

    def midway(self, **hyper: Any) -> BoundRule:
        """As ``replace``, where a run has changed the values: without ``check_bound``."""
        return self._with(hyper, Part.values_of)

    def _with(self, hyper: Mapping[str, Any], values_of: Callable[..., Any]) -> BoundRule:
        domains = self.domains
        for name in hyper:
            if name not in domains:
                message = f"{self.name} has no hyperparameter {name!r}; it has {', '.join(domains)}"
                raise RuleError(message)
        values: dict[str, Any] = {}
        for c in self.components:
            own = {n: hyper.get(c.prefix + n, self.values[c.prefix + n]) for n in c.part.hyper}
            values |= {c.prefix + n: v for n, v in values_of(c.part, own).items()}
        return BoundRule(self.components, values, self.observed)

    def at(self, t: int) -> Mapping[str, Any]:
        """The hyperparameters of step t: schedules are called with t - 1, the steps already done."""
        if not self.scheduled:
            return self.values
        found: dict[str, Any] = {}
        for name, domain in self.domains.items():
            value = self.values[name]
            label = f"{self.name}: {name}"
            if isinstance(domain, Pair):
                parts = zip(domain.parts, value, strict=True)
                found[name] = tuple(
                    evaluate(f"{label}[{i}]", d, v, t - 1) for i, (d, v) in enumerate(parts)
                )
            else:
                found[name] = evaluate(label, domain, value, t - 1)
        return found

    def derived(self, t: int) -> dict[str, float]:
        """The rule's ``derived`` numbers of step t."""
        component = next(c for c in self.components if c.part is self.rule)
        own = component.own(self.at(t))
        return {n: float(call_part(f, t, given=own)) for n, f in self.rule.derived.items()}

    @cached_property
    def scheduled(self) -> bool:
        """Whether any hyperparameter is a schedule, so that its values differ from step to step."""
        flat = (x for v in self.values.values() for x in (v if isinstance(v, tuple) else (v,)))
        return any(callable(x) for x in flat)

    def phase(self, t: int) -> tuple[int, ...]:
        """What kind of step t is: one small value for each component that has phases."""
        return tuple(self._phase_of(c, t) for c in self.components if c.part.phase is not None)

    def _phase_of(self, component: Component, t: int) -> int:
        part = component.part
        assert part.phase is not None
        found = call_part(part.phase, t, given=component.own(self.values))
        if not 0 <= found < part.phases or found != int(found):
            message = (
                f"{part.name}: phase({t}) must be a whole number in [0, {part.phases}), got {found!r}; "
                "declare phases=, how many kinds of step there are"
            )
            raise RuleError(message)
        return int(found)

    def kinds(self) -> list[tuple[int, ...]]:
        """Every kind of step that the rule has: what ``phase`` may return."""
        found = _KINDS.get(self.structure())
        if found is None:
            ranges = [range(c.part.phases) for c in self.components if c.part.phase is not None]
            if ranges:  # where t lives on a device, nobody sees that its kind is none of these
                list(map(self.phase, range(1, PROBED + 1)))
            found = _KINDS[self.structure()] = list(product(*ranges))
        return found

    def kind(self, t: Any) -> Any:
        """The place in ``kinds`` of what step t is, for a t that a host need not know: a whole number on a device."""
        place: Any = 0
        for c in self.components:
            if c.part.phase is not None:
                own = call_part(c.part.phase, t, given=c.own(self.values))
                place = place * c.part.phases + own
        return place

    def given_init(self, component: Component, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """What a component's ``init`` is given, of the first step's hyperparameters.

        Those whose zero is static decide what state there is. A schedule of one does not, whatever its value: it is
        handed over as it is, which is true and no number.
        """
        own = component.own(hyper)
        for n, domain in component.part.hyper.items():
            value = self.values[component.prefix + n]
            if callable(value) and getattr(domain, "zero_is_static", False):
                own[n] = value
        return own

    def group_init(self, hyper: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The group's state before the first step: floats, or of ``hyper``, the first step's, which may be traced."""
        initial = self.at(1) if hyper is None else hyper
        found = {
            c.prefix + n: make(SimpleNamespace(**c.own(initial)))
            for c in self.components
            for n, make in c.group_state(self.values).items()
        }
        return {n: float(v) for n, v in found.items()} if hyper is None else found

    def map_schedules(self, value: Callable[[Any], Any]) -> dict[str, Any]:
        """The hyperparameters with ``value(schedule)`` in the place of every schedule."""

        def one(x: Any) -> Any:
            return value(x) if callable(x) else x

        return {
            n: tuple(map(one, v)) if isinstance(v, tuple) else one(v)
            for n, v in self.values.items()
        }

    def structure(self) -> tuple[Any, ...]:
        """What a program depends on beside phase and shape: components, static values, which are schedules."""
        return self._structure

    @cached_property
    def _structure(self) -> tuple[Any, ...]:

        def kind(domain: Domain, value: Any) -> tuple[str, Any]:
            if domain.is_static(value):
                return "static", value
            return ("schedule" if callable(value) else "number"), None

        kinds: list[Any] = []
        for name, domain in self.domains.items():
            value = self.values[name]
            if isinstance(domain, Pair):
                kinds.append(tuple(kind(d, v) for d, v in zip(domain.parts, value, strict=True)))
            else:
                kinds.append(kind(domain, value))
        # The parts themselves, not their ids: what is remembered by this must keep them alive.
        return (tuple((c.part, c.prefix) for c in self.components), tuple(kinds), self.observed)

    def __repr__(self) -> str:
        if len(self.components) == 1:
            return f"{self.rule.name}({_arguments(self.rule, self.values)})"
        parts = (
            f"{c.part.name}({_arguments(c.part, c.own(self.values))})" for c in self.components
        )
        return f"compose({', '.join(parts)})"


def _arguments(part: Part, values: Mapping[str, Any]) -> str:
    return ", ".join(f"{n}={values[n]!r}" for n in part.hyper)


def compose(*parts: BoundPiece | BoundRule) -> BoundRule:
    """Put pieces in front of and behind one rule; the result is again a rule, traced and fused as one.

    Pieces that change the gradient run in the order given, then the rule, then those that change the update.
    A composed rule may be composed again. A piece may be there several times, the second as ``lookahead2``; but what a
    step is given from outside goes by its own name, so that one with an input (``gradient_noise``) may not.

    Raises:
        RuleError: there is not exactly one rule, or two parts have an input or a value of the step of one name.
    """
    rules = [p for p in parts if isinstance(p, BoundRule)]
    for p in parts:
        if not isinstance(p, BoundRule | BoundPiece):
            message = f"compose takes pieces and one rule, got {p!r}; call it first: isostep.pieces.NAME(...)"
            raise RuleError(message)
    if len(rules) != 1:
        message = f"compose takes exactly one rule, got {len(rules)}; wrap pieces around it"
        raise RuleError(message)
    components: list[Component] = []
    values: dict[str, Any] = {}
    taken: set[str] = set()
    seen_rule = False
    for p in parts:
        if isinstance(p, BoundRule):
            seen_rule = True
            components += p.components
            values |= p.values
            taken |= {c.prefix for c in p.components}
            continue
        what = "gradient" if p.piece.denominator is None else "denominator"
        if seen_rule and p.piece.after is None:
            message = (
                f"{p.piece.name} changes the {what}: put it in front of the rule, not behind it"
            )
            raise RuleError(message)
        if p.piece.denominator is not None and not rules[0].rule.adaptive:
            name = rules[0].rule.name
            message = f"{p.piece.name} changes the denominator, which {name} does not hand over; leave it out"
            raise RuleError(message)
        prefix = _fresh(p.piece.name, taken)
        taken.add(prefix)
        components.append(Component(p.piece, prefix))
        values |= {prefix + n: v for n, v in p.values.items()}
    return BoundRule(tuple(_with_names_apart(components)), values, rules[0].observed)


def _fresh(name: str, taken: Iterable[str]) -> str:
    """``name.``, or ``name2.`` for the second of its kind."""
    count = 1
    while (prefix := f"{name}{count if count > 1 else ''}.") in taken:
        count += 1
    return prefix


def _with_names_apart(components: list[Component]) -> list[Component]:
    prefixes = [c.prefix for c in components]
    if len(set(prefixes)) != len(prefixes):
        message = f"compose: the names {prefixes} clash; compose the pieces in one call"
        raise RuleError(message)
    return components
