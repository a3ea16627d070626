"""Rules that nobody wrote: from a seed the source text of one that somebody might have, and what is left of it.

A ``Draft`` is a rule as text, statement by statement, so that a failure can be read, run by hand and shrunk. It draws
on all that a rule may be made of: hyperparameters of every domain, state of every first value, state of the group,
kinds of steps, inputs, sums over arrays, units and the group, facts of arrays, scalars of t, and published pieces
around it. Values are kept in intervals as they are written (``Term``), so that logarithms, roots and quotients have
what they need, and nothing grows without limit; what still sits at a threshold the truth exempts and counts.
"""

from __future__ import annotations

import linecache
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

import isostep
from isostep.rule import BoundRule
from isostep_conformance import hypers
from isostep_conformance.hypers import Wave, generator

#: Ranks of values, each wider than those before: a number, one for the group, an array, a unit, an element.
NUMBER, GROUP, ARRAY, UNIT, ELEMENT = range(5)
#: Beyond this size a value is bounded before it is used again.
LARGE = 40.0
#: No schedule of a piece but these can be written down as text.
_PLAIN = (bool, int, float, str, type(None), Wave)
#: What an author may get wrong in a statement, and is to be told of in one line, the same on every path.
SLIPS = (
    "nm.sum(g > 0)",
    "g * (g > 0)",
    "1.0 if t > 2 else g",
    "1.0 if lr > 0.05 else g",
    "1.0 if nm.sum(g) > 0 else g",
    "g.sum()",
    "g[0]",
    "float(lr) * g",
    "int(t) * g",
    "round(t) * g",
    "max(lr, 0.1) * g",
    "10**30 * g",
    "g // 2",
    "g % 2.0",
    "t // 2",
    "5 % nm.sum(g)",
    "nm.exp(g, g)",
    "nm.softplus(g)",
    "g + 'a'",
    "g + None",
    "[g, g]",
    "nm.mean(g, axis=3)",
    "nm.sum_units(g, 4)",
    "nm.sum_axis(g, axis=5)",
    "nm.matmul(g, nm.reshape(g, (-1, 1)))",
    "nm.reshape(g, (7, 11))",
    "g & g",
    "-(g > 0)",
    "nm.where(g, 1.0, 2.0)",
    "nm.where(lr, g, 2.0)",
    "nm.size(lr) * g",
    "lr.shape",
    "nm.transpose(nm.sum(g))",
    "nm.logical_and(g, g)",
    "nm.sqrt(g > 0)",
    "len(g) * g",
    "bool(g) * g",
    "undefined * g",
)


@dataclass(frozen=True)
class Term:
    """A value's text, its rank, and between which numbers it lies."""

    text: str
    rank: int
    low: float = -LARGE
    high: float = LARGE

    @property
    def size(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Function:
    """One of a rule's functions: its arguments, its statements ``name = text``, what it returns."""

    name: str
    head: str
    body: tuple[tuple[str, str], ...]
    result: str

    @property
    def text(self) -> str:
        """The source."""
        lines = [f"    {name} = {text}" for name, text in self.body]
        return "\n".join([f"def {self.name}({self.head}):", *lines, f"    return {self.result}\n"])


@dataclass(frozen=True)
class Draft:
    """A rule as text. ``after`` is what binds it; ``slip`` is the statement that makes it wrong, if it has one."""

    name: str
    functions: tuple[Function, ...]
    declaration: str
    bound: str
    slip: str = ""

    @property
    def source(self) -> str:
        """The whole file."""
        head = (
            f'"""Drawn at random: {self.name}."""\n'
            "from isostep import compose, nm, parts, pieces\n"
            "from isostep.domains import Choice, Flag, Integer, Pair, Real, Scheduled\n"
            "from isostep.rule import Rule\n"
            "from isostep_conformance.hypers import Wave\n\n\n"
        )
        functions = "\n\n".join(f.text for f in self.functions)
        return f"{head}{functions}\n\nRULE = {self.declaration}\nBOUND = {self.bound}\n"

    def bind(self) -> BoundRule:
        """The rule itself; its errors name lines of the source."""
        return bind(self.source, f"{self.name}.py")


def bind(source: str, file: str) -> BoundRule:
    """The rule ``BOUND`` of a source text."""
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    names: dict[str, Any] = {"__name__": file.removesuffix(".py")}
    exec(compile(source, file, "exec"), names)
    found: BoundRule = names["BOUND"]
    return found


@dataclass
class _Features:
    """What a rule has, drawn before its text is."""

    hyper: dict[str, str] = field(default_factory=dict)  # name -> its domain
    values: dict[str, str] = field(default_factory=dict)  # name -> what it is bound with
    terms: list[Term] = field(default_factory=list)  # what may be computed with everywhere
    flags: list[str] = field(default_factory=list)  # static conditions
    states: dict[str, str] = field(default_factory=dict)  # name -> its first value, or "" for zeros
    positive: set[str] = field(default_factory=set)  # states that are never negative
    inputs: list[str] = field(default_factory=list)
    group_inputs: list[str] = field(default_factory=list)
    group: dict[str, str] = field(default_factory=dict)  # name -> its first value
    sums: list[str] = field(default_factory=list)
    phases: int = 0
    axis: str = "0"
    ndim: tuple[int, ...] = ()  # generic rules only: those that work on axes
    shapely: bool = False
    adaptive: bool = False
    sequential: bool = False


def draft(seed: int, *, slips: bool = False) -> Draft:
    """The rule of a seed; with ``slips`` one with a mistake in it."""
    rng = generator("random rule", seed)
    name = f"random{seed}"
    features = _features(rng)
    functions = []
    if any(features.states.values()):
        functions.append(_init(features))
    if features.phases:
        functions.append(_phase(features))
    if features.sums:
        functions.append(_measure(features, rng))
    if features.group:
        functions.append(_advance(features, rng))
    update = _update(features, rng)
    slip = ""
    if slips:
        slip = _pick(rng, SLIPS)
        update = _spoilt(update, slip)
    functions.append(update)
    hyper = ", ".join(f"{n!r}: {d}" for n, d in features.hyper.items())
    declared = [
        f"name={name!r}",
        *(f"{f.name}={f.name}" for f in functions),
        f"hyper={{{hyper}}}",
        f"state={tuple(features.states)!r}",
        *([f"inputs={tuple(features.inputs)!r}"] if features.inputs else []),
        *([f"group_inputs={tuple(features.group_inputs)!r}"] if features.group_inputs else []),
        *([f"phases={features.phases}"] if features.phases else []),
        *([f"ndim={features.ndim!r}"] if features.ndim else []),
        *(["sequential=lambda hyper: True"] if features.sequential else []),
    ]
    if features.group:
        first = ", ".join(f"{n!r}: lambda hyper: {v}" for n, v in features.group.items())
        declared.append(f"group={{{first}}}")
    values = ", ".join(f"{n}={v}" for n, v in features.values.items())
    bound = _composed(f"RULE.bind({values})", features, rng)
    return Draft(name, tuple(functions), f"Rule({', '.join(declared)})", bound, slip)


# What a rule has.


def _pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def _chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def _features(rng: np.random.Generator) -> _Features:
    f = _Features()
    rate = float(f"{10.0 ** rng.uniform(-2.5, -0.5):.3g}")
    f.hyper["lr"] = "Real(low=0)"
    schedules = [f"Wave({rate})", f"lambda done: {rate} / (1 + done)"]
    f.values["lr"] = _pick(rng, [repr(rate), repr(rate), *schedules])
    f.terms.append(Term("lr", NUMBER, 0.0, rate))
    _hyperparameters(f, rng)
    for name in ("s0", "s1", "s2")[: int(rng.integers(4))]:
        firsts = ["", "", "", "parts.copied(p)", "parts.filled(p, 0.25)", "parts.filled(p, lr)"]
        firsts += ["nm.abs(p)", "parts.zeros(p)", "0.5 * p + lr"]
        f.states[name] = _pick(rng, firsts)
        if f.states[name] in ("", "nm.abs(p)", "parts.zeros(p)", "parts.filled(p, lr)"):
            f.positive |= {name} if _chance(rng, 0.4) else set()
    f.inputs = ["h"] if _chance(rng, 0.15) else []
    f.group_inputs = ["loss"] if _chance(rng, 0.1) else []
    if _chance(rng, 0.3):
        f.sums = ["q0", "q1"][: int(rng.integers(1, 3))]
    if _chance(rng, 0.3):
        firsts = ["0.0", "1.0", "hyper.lr", "2 * hyper.lr + 0.5"]
        f.group = {n: _pick(rng, firsts) for n in ("e0", "e1")[: int(rng.integers(1, 3))]}
        f.sequential = not f.sums and _chance(rng, 0.15)
    f.phases = _pick(rng, [0, 0, 0, 2, 3])
    f.axis = _pick(rng, ["0", "-1"])
    f.ndim = _pick(rng, [(2,), (1, 2), (2, 3)]) if _chance(rng, 0.12) else ()
    f.shapely = _chance(rng, 0.08)
    f.adaptive = _chance(rng, 0.15)
    return f


def _hyperparameters(f: _Features, rng: np.random.Generator) -> None:
    if _chance(rng, 0.5):
        f.hyper["betas"] = "parts.betas(0.9, 0.99)"
        first, second = (repr(float(f"{b:.3g}")) for b in rng.uniform(0.3, 0.97, 2))
        f.values["betas"] = f"({first}, {_pick(rng, [second, f'Wave({second})'])})"
        f.terms += [Term(f"betas[{i}]", NUMBER, 0.2, 0.97) for i in (0, 1)]
    if _chance(rng, 0.4):
        f.hyper["beta"] = "parts.decay_rate(0.9)"
        f.values["beta"] = _pick(rng, ["0.5", "0.83", "Wave(0.9)"])
        f.terms.append(Term("beta", NUMBER, 0.4, 0.9))
    if _chance(rng, 0.3):
        f.hyper["weight_decay"] = "parts.weight_decay(0.0)"
        f.values["weight_decay"] = _pick(rng, ["0.0", "0.1", "Wave(0.1)", "lambda done: 0.0"])
        f.terms.append(Term("weight_decay", NUMBER, 0.0, 0.1))
        f.flags.append("weight_decay")
    if _chance(rng, 0.3):
        f.hyper["nesterov"] = "Flag(False)"
        f.values["nesterov"] = _pick(rng, ["True", "False"])
        f.flags.append("nesterov")
    if _chance(rng, 0.25):
        f.hyper["dialect"] = "Choice('paper', options=('paper', 'torch'))"
        f.values["dialect"] = _pick(rng, ["'paper'", "'torch'"])
        f.flags.append("dialect == 'paper'")
    if _chance(rng, 0.25):
        f.hyper["k"] = f"Integer(2, low=1, high=6, static={_chance(rng, 0.5)})"
        f.values["k"] = _pick(rng, ["2", "3", "5"])
        f.terms.append(Term("k", NUMBER, 2.0, 5.0))
    if _chance(rng, 0.25):
        f.hyper["decay"] = "Scheduled(None)"
        f.values["decay"] = _pick(rng, ["None", "0.625", "Wave(0.8)"])
        if f.values["decay"] != "None":
            f.terms.append(Term("decay", NUMBER, 0.3, 0.8))
        f.flags.append("decay is not None")
    if _chance(rng, 0.2):
        f.hyper["delta"] = "Real(0.0, optional=True)"
        f.values["delta"] = _pick(rng, ["-0.75", "1.5", "None"])
        if f.values["delta"] != "None":
            f.terms.append(Term("delta", NUMBER, -0.75, 1.5))
        f.flags.append("delta is None")


# Functions.


def _init(f: _Features) -> Function:
    firsts = [first or "parts.zeros(p)" for first in f.states.values()]
    result = firsts[0] if len(firsts) == 1 else f"({', '.join(firsts)})"
    return Function("init", f"p, /, *, {', '.join(f.hyper)}", (), result)


def _phase(f: _Features) -> Function:
    period = "k" if "k" in f.hyper and f.values["k"] == str(f.phases) else str(f.phases)
    heads = f"t, /, *, {period}" if period == "k" else "t, /"
    return Function("phase", heads, (), f"t % {period}")


def _arrays(f: _Features) -> str:
    return ", ".join(["p", "g", *f.inputs, *f.states, "t", "/"])


def _known(f: _Features) -> list[Term]:
    """What the functions of a step begin with."""
    found = [*f.terms, Term("t", NUMBER, 1.0, 8.0)]
    found += [Term("p", ELEMENT), Term("g", ELEMENT), Term("g", ELEMENT)]
    found += [Term(n, ELEMENT) for n in f.inputs]
    for n in f.states:
        found.append(Term(n, ELEMENT, 0.0 if n in f.positive else -LARGE, LARGE))
    return found + [Term(n, GROUP) for n in (*f.group, *f.group_inputs)]


def _measure(f: _Features, rng: np.random.Generator) -> Function:
    writer = Writer(rng, replace(f, adaptive=False), _known(f))
    writer.write(int(rng.integers(0, 3)))
    made = []
    for n in f.sums:
        odd = ["1.0", "nm.size(p)", "lr", "nm.sum(g * g)", "g * g", "nm.abs(p)"]
        made.append(f"{n!r}: " + (_pick(rng, odd) if _chance(rng, 0.3) else writer.some(2).text))
    named = [*f.hyper, *f.group, *f.group_inputs, *(["phase"] if f.phases else [])]
    head = f"{_arrays(f)}, *, {', '.join(named)}"
    return Function("measure", head, tuple(writer.lines), f"{{{', '.join(made)}}}")


def _advance(f: _Features, rng: np.random.Generator) -> Function:
    terms = [*f.terms, Term("t", NUMBER, 1.0, 8.0)]
    terms += [Term(f"group[{n!r}]", GROUP) for n in (*f.group, *f.group_inputs)]
    terms += [Term(f"nm.tanh(sums[{n!r}])", GROUP, -1.0, 1.0) for n in f.sums]
    writer = Writer(rng, replace(f, ndim=(), adaptive=False), terms, most=GROUP)
    writer.write(int(rng.integers(0, 3)))
    made = []
    for n in f.group:
        new = writer.bounded(writer.some(2)).text
        kept = f"0.75 * group[{n!r}] + 0.25 * {new}"
        odd = [f"group[{n!r}]", "lr", "t", "1.0", "2"]
        made.append(f"{n!r}: {_pick(rng, odd) if _chance(rng, 0.2) else _pick(rng, [new, kept])}")
    head = f"sums, group, t, /, *, {', '.join(f.hyper)}"
    return Function("advance", head, tuple(writer.lines), f"{{{', '.join(made)}}}")


def _update(f: _Features, rng: np.random.Generator) -> Function:
    terms = _known(f) + [Term(f"nm.tanh({n})", GROUP, -1.0, 1.0) for n in f.sums]
    writer = Writer(rng, f, terms)
    writer.write(int(rng.integers(1, 7)))
    new = [_next_state(n, f, writer) for n in f.states]
    if new and _chance(rng, 0.7):  # usually the new state is what the rule goes on with
        for i, text in enumerate(new):
            writer.define(Term(text, ELEMENT, 0.0 if list(f.states)[i] in f.positive else -LARGE))
            new[i] = writer.lines[-1][0]
        writer.write(int(rng.integers(0, 3)))
    u = _result(f, writer)
    if len(new) > 1 and not f.positive and _chance(rng, 0.08):
        new = [*f.states][::-1]
    named = [*f.hyper, *f.group, *f.group_inputs, *f.sums, *(["phase"] if f.phases else [])]
    if f.adaptive:
        named.append("denominator=parts.same")
    head = f"{_arrays(f)}, *, {', '.join(named)}"
    result = ", ".join([u, *new])
    return Function("update", head, tuple(writer.lines), result)


def _next_state(name: str, f: _Features, writer: Writer) -> str:
    """The text of a state's new value."""
    rng, positive = writer.rng, name in f.positive
    x = writer.bounded(writer.element(2)).text
    if positive:
        x = _pick(rng, [f"nm.abs({x})", f"nm.minimum(({x}) * ({x}), 40.0)"])
    betas = ["beta"] * ("beta" in f.hyper) + ["betas[1]"] * ("betas" in f.hyper) + ["0.875"]
    beta = _pick(rng, betas)
    options = [
        f"parts.average({name}, {x}, {beta})",
        f"{beta} * {name} + (1 - {beta}) * {x}",
        f"nm.maximum({beta} * {name}, {x})",
        # With t the first step's weight is 1 on the host and an ulp off on a device, as the contract allows.
        f"parts.corrected({name}, {x}, {beta}, t + 1)",
        x,
    ]
    if f.phases:
        options.append(f"{name} if phase == 0 else {x}")
    if f.flags:
        options.append(f"{name} if {_pick(rng, f.flags)} else {x}")
    odd = [name, "0.5", "lr", "2", "nm.size(p)", "nm.abs(g)" if positive else "g", "p * 1.0"]
    odd += ["nm.abs(p)" if positive else "p", "nm.sqrt(nm.sum(g * g))", "t"]
    return str(_pick(rng, odd) if _chance(rng, 0.12) else _pick(rng, options))


def _result(f: _Features, writer: Writer) -> str:
    """The text of what is added to the parameter, or of what takes its place."""
    rng = writer.rng
    x = writer.bounded(writer.element(2)).text
    u = f"-lr * ({x})"
    if _chance(rng, 0.1):
        odd = [
            "-lr",
            "-lr * nm.tanh(nm.sum(g))",
            "0.0",
            "0",
            "g",
            "-p",
            "lr * nm.sign(g)",
            "-0.125",
        ]
        odd += [f"-lr * nm.sum_units(g, {f.axis})", "-0.5 * p"]
        u = str(_pick(rng, odd))
    over = f"nm.overwrite({_pick(rng, [f'0.75 * p - lr * ({x})', f'p + ({u})', 'p', '0.5', x])})"
    if _chance(rng, 0.12):
        return over
    if f.phases and _chance(rng, 0.3):
        return f"({over} if phase == {int(rng.integers(f.phases))} else {u})"
    return u


def _spoilt(update: Function, slip: str) -> Function:
    """The same with a mistake in it, and the gradient made to depend on that."""
    return replace(update, body=(*update.body, ("slip", slip), ("g", "g + 0 * slip")))


def _composed(bound: str, f: _Features, rng: np.random.Generator) -> str:
    if f.ndim or not _chance(rng, 0.3):
        return bound
    registry = isostep.pieces.registry

    def some(most: int, *kinds: str) -> list[str]:
        names = [n for n in registry.names() if any(getattr(registry[n], k) for k in kinds)]
        found = []
        for name in rng.permutation(names)[: int(rng.integers(most + 1))]:
            settings = hypers.bound(registry[name], name)
            plain = [v for v in settings if all(isinstance(x, _PLAIN) for x in v.values())]
            plain = [v for v in plain if not registry[name].needs_momentum(v)]  # nobody knows which
            values = _pick(rng, plain) if plain else {}
            if "unit_axis" in values:
                values = {**values, "unit_axis": int(f.axis)}
            given = ", ".join(f"{n}={v!r}" for n, v in values.items())
            found.append(f"pieces.{name}({given})")
        return found

    front = some(2, "before", *(["denominator"] if f.adaptive else []))
    behind = some(2, "after")
    if len(front) == 2 and front[0] == front[1]:
        front.pop()
    return f"compose({', '.join([*front, bound, *behind])})"


# Statements.


class Writer:
    """Writes statements one after the other; each may use what those before it have defined."""

    def __init__(
        self, rng: np.random.Generator, f: _Features, terms: list[Term], most: int = ELEMENT
    ) -> None:
        self.rng, self.f, self.terms, self.most = rng, f, list(terms), most
        self.lines: list[tuple[str, str]] = []

    def write(self, count: int) -> None:
        """So many statements more."""
        for _ in range(count):
            self.define(self.some(3))

    def define(self, x: Term) -> Term:
        """A statement that gives a value a name."""
        name = f"x{len(self.lines)}"
        self.lines.append((name, x.text))
        named = replace(x, text=name)
        self.terms += [named, named]  # new values are used more than old ones
        return named

    def element(self, depth: int) -> Term:
        """A value with an element's rank, whatever it takes."""
        x = self.some(depth)
        if x.rank == ELEMENT:
            return x
        elements = [t for t in self.terms if t.rank == ELEMENT]
        y = _pick(self.rng, elements)
        return self._times(self.bounded(x), y) if _chance(self.rng, 0.6) else self._plus(x, y)

    def some(self, depth: int) -> Term:
        """Any value, of expressions nested so deep."""
        if depth <= 0 or _chance(self.rng, 0.1):
            return self._leaf()
        makers: list[Callable[[int], Term]] = [
            *[self._arithmetic] * 6,
            *[self._smooth] * 4,
            *[self._choice] * 3,
            self._scalar,
            self._power,
            self._jump,
        ]
        if self.most == ELEMENT:
            makers += [self._sum, self._sum, self._fact]
            makers += [self._axis] * 4 if self.f.ndim else []
            makers += [self._looked] * 2 if self.f.shapely else []
        if self.f.flags or self.f.phases:
            makers.append(self._static)
        made: Term = _pick(self.rng, makers)(depth - 1)
        return self.bounded(made) if made.size > 30 * LARGE else made

    def _leaf(self) -> Term:
        if _chance(self.rng, 0.12):
            return self._literal()
        return _pick(self.rng, self.terms)

    def _literal(self) -> Term:
        text = _pick(self.rng, ["0.5", "2", "-1.25", "0.1", "3.0", "1", "1e-3", "-2", "0.0", "7"])
        return Term(f"({text})" if text[0] == "-" else text, NUMBER, float(text), float(text))

    def bounded(self, x: Term) -> Term:
        """The value itself, or what keeps it from growing."""
        if x.size <= LARGE:
            return x
        options = [
            Term(f"nm.tanh({x.text})", x.rank, -1.0, 1.0),
            Term(f"nm.clip({x.text}, -8.0, 8.0)", x.rank, -8.0, 8.0),
            Term(f"({x.text}) / (1 + nm.abs({x.text}))", x.rank, -1.0, 1.0),
        ]
        found: Term = _pick(self.rng, options)
        return replace(found, low=0.0) if x.low >= 0 else found

    def _positive(self, x: Term) -> Term:
        """A value that is at least a tenth."""
        if x.low >= 0.1:
            return x
        if x.low >= 0:
            return Term(f"({x.text} + 0.25)", x.rank, x.low + 0.25, x.high + 0.25)
        return Term(f"(nm.abs({x.text}) + 0.25)", x.rank, 0.25, x.size + 0.25)

    def _plus(self, x: Term, y: Term) -> Term:
        return Term(f"({x.text} + {y.text})", max(x.rank, y.rank), x.low + y.low, x.high + y.high)

    def _times(self, x: Term, y: Term) -> Term:
        ends = [a * b for a in (x.low, x.high) for b in (y.low, y.high)]
        low = 0.0 if x.text == y.text else min(ends)
        return Term(f"{x.text} * {y.text}", max(x.rank, y.rank), low, max(ends))

    def _arithmetic(self, depth: int) -> Term:
        x, y = self.some(depth), self.some(depth)
        kind = _pick(
            self.rng, ["+", "-", "*", "*", "/", "maximum", "minimum", "atan2", "denominator"]
        )
        rank = max(x.rank, y.rank)
        if kind == "+":
            return self._plus(x, y)
        if kind == "-":
            return Term(f"({x.text} - ({y.text}))", rank, x.low - y.high, x.high - y.low)
        if kind == "*":
            x, y = (replace(z, text=f"({z.text})") if " " in z.text else z for z in (x, y))
            return self._times(x, y)
        if kind == "/":
            y = self._positive(y)
            most = x.size / y.low
            return Term(
                f"({x.text}) / {y.text}" if " " in x.text else f"{x.text} / {y.text}",
                rank,
                -most,
                most,
            )
        if kind == "atan2":
            y = self._positive(y)
            return Term(f"nm.atan2({x.text}, {y.text})", rank, -math.pi, math.pi)
        if kind == "denominator":
            if not self.f.adaptive:
                return self._plus(x, y)
            y = self._positive(y)
            return Term(f"{x.text} / denominator({y.text})" if " " not in x.text else
                        f"({x.text}) / denominator({y.text})", rank, -x.size / 0.1, x.size / 0.1)  # fmt: skip
        pick = max if kind == "maximum" else min
        low, high = pick(x.low, y.low), pick(x.high, y.high)
        return Term(f"nm.{kind}({x.text}, {y.text})", rank, low, high)

    def _smooth(self, depth: int) -> Term:
        x = self.some(depth)
        kinds = [
            "sqrt",
            "cbrt",
            "exp",
            "expm1",
            "log",
            "log1p",
            "sin",
            "cos",
            "tanh",
            "abs",
            "square",
            "-",
        ]
        kind = _pick(self.rng, kinds)
        if kind == "-":
            return Term(f"(-({x.text}))", x.rank, -x.high, -x.low)
        if kind == "abs":
            return Term(
                _pick(self.rng, [f"nm.abs({x.text})", f"abs({x.text})"]), x.rank, 0.0, x.size
            )
        if kind == "square":
            return Term(f"nm.square({x.text})", x.rank, 0.0, x.size**2)
        if kind in ("sin", "cos", "tanh"):
            return Term(f"nm.{kind}({x.text})", x.rank, -1.0, 1.0)
        if kind == "cbrt":
            return Term(f"nm.cbrt({x.text})", x.rank, -(x.size ** (1 / 3)), x.size ** (1 / 3))
        if kind in ("exp", "expm1"):
            if x.size > 3:
                x = Term(f"nm.clip({x.text}, -3.0, 2.0)", x.rank, -3.0, 2.0)
            function = math.exp if kind == "exp" else math.expm1
            return Term(f"nm.{kind}({x.text})", x.rank, function(x.low), function(x.high))
        if kind in ("log", "log1p"):
            x = self._positive(x)
            function = math.log if kind == "log" else math.log1p
            return Term(f"nm.{kind}({x.text})", x.rank, function(x.low), function(x.high))
        if x.low < 0:
            x = Term(f"nm.abs({x.text})", x.rank, 0.0, x.size)
        return Term(f"nm.sqrt({x.text})", x.rank, math.sqrt(x.low), math.sqrt(x.high))

    def _power(self, depth: int) -> Term:
        x = self.some(depth)
        if _chance(self.rng, 0.5):
            x = self.bounded(x)
            power = int(_pick(self.rng, [2, 2, 3]))
            low = 0.0 if power == 2 else -(x.size**3)
            text = (
                f"({x.text}) ** {power}" if _chance(self.rng, 0.7) else f"nm.pow({x.text}, {power})"
            )
            return Term(text, x.rank, low, x.size**power)
        x = self._positive(self.bounded(x))
        power = _pick(self.rng, [0.5, -0.5, 0.25, -1, 1.5, -2])
        ends = x.low**power, x.high**power
        return Term(f"nm.pow({x.text}, {power})", x.rank, min(ends), max(ends))

    def _scalar(self, depth: int) -> Term:
        """A number of t."""
        texts = [
            ("t / (t + 3)", 0.2, 1.0), ("nm.minimum(t / 4, 1.0)", 0.2, 1.0), ("1 / nm.sqrt(t)", 0.3, 1.0),
            ("nm.where(t > 2, 1.0, 0.25)", 0.25, 1.0), ("nm.sqrt(t + 1)", 1.0, 3.0), ("nm.log(t + 1)", 0.6, 3.0),
            ("0.5 ** t", 0.0, 0.5), ("nm.floor(t / 2)", 0.0, 4.0), ("(t - 1)", 0.0, 7.0),
            ("t % 3", 0.0, 2.0), ("((t - 5) % 4)", 0.0, 3.0),
            ("nm.where(nm.logical_or(t == 1, t >= 4), lr, 0.5)", 0.0, 0.5), ("nm.exp(-0.25 * t)", 0.0, 0.8),
            ("nm.where(t <= 3, t, 3)", 1.0, 3.0), ("-(t ** 0.5)", -3.0, -1.0),
        ]  # fmt: skip
        for beta in ("beta", "betas[0]", "betas[1]"):
            if beta.partition("[")[0] in self.f.hyper:
                texts += [
                    (f"nm.one_minus_pow({beta}, t)", 0.03, 1.0),
                    (f"(1 - {beta} ** t)", 0.03, 1.0),
                ]
                texts += [
                    (f"({beta} ** (t + 1))", 0.0, 1.0),
                    (f"1 / nm.one_minus_pow({beta}, t)", 1.0, 34.0),
                ]
        text, low, high = _pick(self.rng, texts)
        return Term(f"({text})" if text[0] != "(" and " " in text else text, NUMBER, low, high)

    def _condition(self, depth: int) -> Term:
        x = self.some(depth)
        other = self._literal() if _chance(self.rng, 0.4) else self.some(depth)
        sign = _pick(
            self.rng, ["<", "<=", ">", ">=", "==", "!="] if _chance(self.rng, 0.3) else "<>"
        )
        if sign in ("==", "!="):
            other = Term("0", NUMBER)
        found = Term(f"({x.text}) {sign} {other.text}", max(x.rank, other.rank))
        joined = _pick(self.rng, ["", "", "", "not", "and", "or", "finite", "nan"])
        if joined == "not":
            return replace(found, text=f"nm.logical_not({found.text})")
        if joined in ("and", "or"):
            second = _pick(
                self.rng, [Term("g > 0", ELEMENT), Term("t > 2", NUMBER), Term("lr > 0.05", NUMBER)]
            )
            second = second if second.rank <= self.most else Term("t > 2", NUMBER)
            return Term(
                f"nm.logical_{joined}({found.text}, {second.text})", max(found.rank, second.rank)
            )
        if joined in ("finite", "nan"):
            return Term(f"nm.is{joined}({x.text})", x.rank)
        return found

    def _choice(self, depth: int) -> Term:
        x, y = self.some(depth), self.some(depth)
        kind = _pick(self.rng, ["where", "where", "clip", "sign"])
        if kind == "where":
            c = self._condition(depth - 1)
            rank = max(c.rank, x.rank, y.rank)
            text = f"nm.where({c.text}, {x.text}, {y.text})"
            return Term(text, rank, min(x.low, y.low), max(x.high, y.high))
        if kind == "clip":
            most = self._positive(y if y.size < LARGE else self._literal())
            text = f"nm.clip({x.text}, -{most.text}, {most.text})"
            return Term(text, max(x.rank, most.rank), -most.high, most.high)
        return Term(f"nm.sign({x.text})", x.rank, -1.0, 1.0)

    def _jump(self, depth: int) -> Term:
        x = self.some(depth)
        return Term(f"nm.floor(3 * ({x.text}))", x.rank, 3 * x.low - 1, 3 * x.high)

    def _sum(self, depth: int) -> Term:
        """A sum over the array or a unit, as a mean or a norm."""
        x = self.bounded(self.element(depth) if _chance(self.rng, 0.9) else self.some(depth))
        kinds = ["mean", "norm", "rms", "units", "units", "count", "plain"]
        kind = _pick(self.rng, kinds if x.rank > NUMBER else kinds[::6])
        # Not / n, which XLA makes of it where n is a constant: the mean of equal numbers would be off by a bit there.
        if kind == "mean":
            return Term(f"nm.sum({x.text}) * (1 / nm.maximum(nm.size(p), 1))", ARRAY, x.low, x.high)
        if kind == "plain":
            return Term(f"nm.sum({x.text})", ARRAY, -30 * x.size, 30 * x.size)
        if kind == "norm":
            return Term(f"parts.norm({x.text})", ARRAY, 0.0, 6 * x.size)
        if kind == "rms":
            mean = f"nm.sum(nm.square({x.text})) * (1 / nm.maximum(nm.size(p), 1))"
            return Term(f"nm.sqrt({mean})", ARRAY, 0.0, x.size)
        if kind == "count":
            return Term(f"nm.sum(nm.where({x.text} > 0.1, 1.0, 0.0))", ARRAY, 0.0, 30.0)
        axis = self.f.axis
        mean = f"nm.sum_units({x.text}, {axis}) * (1 / nm.maximum(nm.unit_size(p, {axis}), 1))"
        return Term(mean, UNIT, x.low, x.high)

    def _fact(self, depth: int) -> Term:
        texts = [
            "nm.ndim(p)",
            "nm.sqrt(nm.size(p))",
            "nm.where(nm.ndim(g) > 1, 2.0, 0.5)",
            "nm.eps(p)",
        ]
        texts += [
            "nm.minimum(nm.size(p), 5)",
            "1 / (1 + nm.size(g))",
            f"1 / (2 + nm.unit_size(p, {self.f.axis}))",
        ]
        texts += [f"nm.sqrt(nm.unit_size(p, {self.f.axis}))", "nm.where(nm.size(p) > 3, lr, 1.0)"]
        return Term(f"({_pick(self.rng, texts)})", ARRAY, 0.0, 8.0)

    def _looked(self, depth: int) -> Term:
        """What looks at shapes."""
        x = self.some(depth)
        kind = _pick(self.rng, ["len(p.shape)", "if", "if", "last"])
        if kind == "if":
            other = self.some(depth)
            test = _pick(
                self.rng, ["p.ndim >= 2", "len(p.shape) == 1", "0 in p.shape", "p.shape == ()"]
            )
            text = f"({x.text} if {test} else {other.text})"
            return Term(
                text, max(x.rank, other.rank), min(x.low, other.low), max(x.high, other.high)
            )
        text = "len(p.shape)" if kind != "last" else "(p.shape[-1] if p.shape else 1)"
        return Term(f"{text} * ({x.text})", x.rank, -8 * x.size, 8 * x.size)

    def _axis(self, depth: int) -> Term:
        """What works on axes; as wide as an element from here on."""
        x = self.bounded(self.element(depth))
        axis = int(_pick(self.rng, [0, -1]))
        options = [
            Term(f"nm.mean({x.text}, axis={axis})", ELEMENT, x.low, x.high),
            Term(f"nm.sum_axis({x.text}, axis={axis})", ELEMENT, -8 * x.size, 8 * x.size),
            Term(
                f"nm.reshape(nm.reshape({x.text} + 0 * p, (-1,)), p.shape)", ELEMENT, x.low, x.high
            ),
        ]
        # The largest of nothing is -inf.
        largest = f"nm.maximum(nm.max_axis({x.text}, axis={axis}), -100.0)"
        options.append(Term(largest, ELEMENT, min(x.low, -100.0), x.high))
        if self.f.ndim == (2,):
            y = self.bounded(self.element(0))
            # x may have been summed over an axis: of an element's shape it is again beside the parameter.
            product = f"nm.matmul(({x.text} + 0 * p), nm.matmul(nm.transpose({y.text} + 0 * p), p))"
            options.append(Term(f"nm.tanh({product})", ELEMENT, -1.0, 1.0))
            options.append(
                Term(f"nm.tanh(nm.transpose(nm.transpose({x.text})))", ELEMENT, -1.0, 1.0)
            )
        found: Term = _pick(self.rng, options)
        return found

    def _static(self, depth: int) -> Term:
        x, y = self.some(depth), self.some(depth)
        tests = [
            *self.f.flags,
            *(f"phase == {k}" for k in range(self.f.phases) if self.most == ELEMENT),
        ]
        if not tests:
            return self._plus(x, y)
        text = f"({x.text} if {_pick(self.rng, tests)} else {y.text})"
        return Term(text, max(x.rank, y.rank), min(x.low, y.low), max(x.high, y.high))


# Less of it.


def smaller(found: Draft) -> Iterator[Draft]:
    """The same rule with one statement, piece or part of a result replaced by something plainer."""
    if found.bound.startswith("compose("):
        start = found.bound.index("RULE.bind(")
        yield replace(found, bound=_balanced(found.bound[start:]))
    for i, function in enumerate(found.functions):
        for j, (name, text) in enumerate(function.body):
            for plain in ("g", "0.5", "lr"):
                if text != plain and (plain != "g" or function.name != "advance"):
                    body = (*function.body[:j], (name, plain), *function.body[j + 1 :])
                    yield _with(found, i, replace(function, body=body))
        used = partial(_used, function)
        kept = tuple(line for j, line in enumerate(function.body) if used(j))
        if len(kept) < len(function.body):
            yield _with(found, i, replace(function, body=kept))


def _used(function: Function, place: int) -> bool:
    name = function.body[place][0]
    later = [text for _, text in function.body[place + 1 :]]
    return any(name in _words(text) for text in [*later, function.result])


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in text).split()


def _with(found: Draft, place: int, function: Function) -> Draft:
    functions = (*found.functions[:place], function, *found.functions[place + 1 :])
    return replace(found, functions=functions)


def _balanced(text: str) -> str:
    """The call that a text begins with."""
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if c == ")" and not depth:
            return text[: i + 1]
    return text


def shrunk(found: Draft, fails: Callable[[Draft], bool], most: int = 60) -> Draft:
    """The plainest rule found in ``most`` attempts that still fails."""
    tried = 0
    going = True
    while going:
        going = False
        for candidate in smaller(found):
            if tried >= most:
                return found
            tried += 1
            if fails(candidate):
                found, going = candidate, True
                break
    return found
