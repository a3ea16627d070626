"""Traced values: the nodes of a program, and the table of operations they are made of.

A ``Value`` stands where an array or a float would stand when a rule is traced. Equal expressions are one
node (hash-consing), so common subexpressions cost nothing. Each value knows its *domain*: how often it has to
be computed, from once per set of hyperparameters to once per element.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Domain(enum.IntEnum):
    """How often a value is computed. The order matters: a result lives on the widest domain of its operands."""

    HOST = 0  # once per set of hyperparameters
    STEP = 1  # once per step number t
    GROUP = 2  # once per group of parameters
    ARRAY = 3  # once per array
    UNIT = 4  # once per unit (row, output channel) of an array
    ELEMENT = 5  # once per element
    TENSOR = 6  # anything else (factored state, matrices): run generically


@dataclass(frozen=True)
class Op:
    """One elementwise operation: its float64 form on the host, its array form and its text in listings.

    ``text`` is a format string over operands. ``threshold`` marks operations whose result jumps: near the jump
    rounding decides, so conformance exempts (and counts) the elements that sit there.
    """

    name: str
    arity: int
    host: Callable[..., Any]
    array: Callable[..., Any]
    text: str
    threshold: bool = False


def _nan_on_domain_error(function: Callable[..., float]) -> Callable[..., float]:
    """``math`` raises where IEEE arithmetic answers NaN or infinity; scalars must behave like array elements."""

    def safe(*args: float) -> float:
        try:
            return function(*args)
        except OverflowError:
            return math.inf
        except ValueError:
            return math.nan

    return safe


def _host_log(x: float) -> float:
    return -math.inf if x == 0 else _nan_on_domain_error(math.log)(x)


def _host_sign(x: float) -> float:
    return x if x != x else float(x > 0) - float(x < 0)


def _host_div(x: float, y: float) -> float:
    if y == 0:
        return math.nan if x == 0 or x != x else math.copysign(math.inf, x) * math.copysign(1.0, y)
    return x / y


def _host_mod(x: float, y: float) -> float:
    return x % y if y != 0 and math.isfinite(x) else math.nan


def _host_pow(x: float, y: float) -> float:
    try:
        result = x**y
    except (OverflowError, ZeroDivisionError):
        return -math.inf if math.copysign(1.0, x) < 0 and y % 2 == 1 else math.inf
    return math.nan if isinstance(result, complex) else result


def _host_maximum(x: float, y: float) -> float:
    return x if x >= y or x != x else y


def _host_minimum(x: float, y: float) -> float:
    return x if x <= y or x != x else y


def _sign(xp: Any, x: Any) -> Any:
    # torch.sign(NaN) is 0; the contract wants NaN everywhere.
    return xp.where(x != x, x, xp.sign(x))


def _cbrt(xp: Any, x: Any) -> Any:
    if hasattr(
        xp, "cbrt"
    ):  # not in the standard, and more accurate than a power where there is one
        return xp.cbrt(x)
    root = _sign(xp, x) * xp.pow(xp.abs(x), xp.asarray(1.0 / 3.0, dtype=x.dtype))
    # 1/3 is rounded, which costs as many ulp as x has factors of e; a step of Newton's takes them back.
    usable = xp.logical_and(xp.isfinite(root), root != 0)
    safe = xp.where(usable, root, xp.ones_like(root))
    better = safe - (safe - xp.where(usable, x, safe) / (safe * safe)) / 3.0
    return xp.where(usable, better, root)


def _call(name: str) -> Callable[..., Any]:
    def call(xp: Any, *args: Any) -> Any:
        return getattr(xp, name)(*args)

    return call


def _op(
    name: str, arity: int, host: Callable[..., Any], array: Any, text: str, threshold: bool = False
) -> Op:
    return Op(name, arity, host, _call(array) if isinstance(array, str) else array, text, threshold)


_LN = _nan_on_domain_error

MAPS: dict[str, Op] = {
    op.name: op
    for op in (
        _op("add", 2, lambda x, y: x + y, lambda xp, x, y: x + y, "({} + {})"),
        _op("sub", 2, lambda x, y: x - y, lambda xp, x, y: x - y, "({} - {})"),
        _op("mul", 2, lambda x, y: x * y, lambda xp, x, y: x * y, "({} * {})"),
        _op("div", 2, _host_div, lambda xp, x, y: x / y, "({} / {})"),
        _op("mod", 2, _host_mod, lambda xp, x, y: x % y, "({} % {})"),
        _op("pow", 2, _host_pow, lambda xp, x, y: x**y, "({} ** {})"),
        _op("neg", 1, lambda x: -x, lambda xp, x: -x, "(-{})"),
        _op("abs", 1, abs, "abs", "abs({})"),
        _op("sign", 1, _host_sign, _sign, "sign({})", True),
        _op("sqrt", 1, _LN(math.sqrt), "sqrt", "sqrt({})"),
        _op("cbrt", 1, math.cbrt, _cbrt, "cbrt({})"),
        _op("exp", 1, _LN(math.exp), "exp", "exp({})"),
        _op("expm1", 1, _LN(math.expm1), "expm1", "expm1({})"),
        _op("log", 1, _host_log, "log", "log({})"),
        _op(
            "log1p", 1, lambda x: -math.inf if x == -1 else _LN(math.log1p)(x), "log1p", "log1p({})"
        ),
        _op("sin", 1, _LN(math.sin), "sin", "sin({})"),
        _op("cos", 1, _LN(math.cos), "cos", "cos({})"),
        _op("tanh", 1, math.tanh, "tanh", "tanh({})"),
        _op("atan2", 2, math.atan2, "atan2", "atan2({}, {})"),
        _op("maximum", 2, _host_maximum, "maximum", "maximum({}, {})"),
        _op("minimum", 2, _host_minimum, "minimum", "minimum({}, {})"),
        _op(
            "floor",
            1,
            lambda x: float(math.floor(x)) if math.isfinite(x) else x,
            "floor",
            "floor({})",
            True,
        ),
        _op("isfinite", 1, math.isfinite, "isfinite", "isfinite({})", True),
        _op("isnan", 1, math.isnan, "isnan", "isnan({})", True),
        _op("where", 3, lambda c, x, y: x if c else y, "where", "where({}, {}, {})"),
        _op("lt", 2, lambda x, y: x < y, lambda xp, x, y: x < y, "({} < {})", True),
        _op("le", 2, lambda x, y: x <= y, lambda xp, x, y: x <= y, "({} <= {})", True),
        _op("gt", 2, lambda x, y: x > y, lambda xp, x, y: x > y, "({} > {})", True),
        _op("ge", 2, lambda x, y: x >= y, lambda xp, x, y: x >= y, "({} >= {})", True),
        _op("eq", 2, lambda x, y: x == y, lambda xp, x, y: x == y, "({} == {})", True),
        _op("ne", 2, lambda x, y: x != y, lambda xp, x, y: x != y, "({} != {})", True),
        _op("and", 2, lambda x, y: x and y, "logical_and", "({} and {})"),
        _op("or", 2, lambda x, y: x or y, "logical_or", "({} or {})"),
        _op("not", 1, lambda x: not x, "logical_not", "(not {})"),
    )
}

#: Operations whose result is true or false, not a number.
BOOLEAN = frozenset(("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "isfinite", "isnan"))
#: Operations that take what is true or false, and where among their operands; every other one takes numbers.
CONDITIONS = {"and": (0, 1), "or": (0, 1), "not": (0,), "where": (0,)}
#: Sums with a fixed order. A result is known only after a pass over the elements: stages are cut here.
REDUCTIONS = {"sum": Domain.ARRAY, "sum_units": Domain.UNIT, "sum_group": Domain.GROUP}
#: Facts of an array that are known before any pass: per array, not per element.
FACTS = ("size", "ndim", "unit_size", "eps")
#: What is made from eigenvalues: as good as that of a matrix within rounding, no better.
DECOMPOSITIONS = ("spectral_power",)
#: Orthonormal matrices of which there are several: every library has its own.
BASES = ("eigenbasis", "iterated_basis")
#: What is done to one matrix, or to one and a triangular one.
MATRIX_OPS = ("largest_column", "over_triangle", "upper_triangle")
#: What no fused lowering does; a program with one of these is generic.
TENSOR_OPS = (
    *("sum_axis", "max_axis", "matmul", "transpose", "reshape"),
    *(*MATRIX_OPS, *DECOMPOSITIONS, *BASES),
)


#: Whole numbers from minus this one to below it are what every library's arrays can be combined with.
WHOLE = 2**63


class NeedsShape(Exception):
    """A rule read ``.shape`` or ``.ndim`` while it was traced without one; the tracer starts again with it."""


class TraceError(TypeError):
    """A rule did something that has no meaning on a traced value."""


class Graph:
    """The nodes of one trace, in the order in which they were made (which is an order of evaluation)."""

    def __init__(self, shape: tuple[int, ...] | None = None) -> None:
        self.shape = shape
        self.shapes: dict[Value, tuple[int, ...]] = {}  # see ``isostep.shapes``
        self.nodes: list[Value] = []
        self._known: dict[Any, Value] = {}

    def node(
        self, op: str, args: tuple[Value, ...] = (), attrs: tuple[Any, ...] = (), **facts: Any
    ) -> Value:
        """The node ``op(*args)`` with these attributes, made only if there is none yet."""
        key = (op, tuple(id(a) for a in args), *((type(a), a) for a in attrs), facts.get("scope"))
        if op == "const" and attrs[0] == 0.0:
            key += (math.copysign(1.0, attrs[0]),)  # -0.0 == 0.0, yet they are two constants
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = Value(self, op, args, attrs, **facts)
            self.nodes.append(known)
        return known

    def const(self, number: float) -> Value:
        """A number written in the rule."""
        return self.node("const", attrs=(number,), domain=Domain.HOST)

    def value(self, x: Any) -> Value:
        """A value as it is; a number written in the rule as a node."""
        return x if isinstance(x, Value) else self.const(_as_number(x))

    def apply(self, op: str, args: tuple[Any, ...], attrs: tuple[Any, ...] = ()) -> Value:
        """``op`` on values and Python numbers; the domain follows from the operands."""
        values = tuple(map(self.value, args))
        places = CONDITIONS.get(op, ())
        if op != "where" or not all(map(is_bool, values[1:])):
            values = tuple(v if i in places else as_number(v) for i, v in enumerate(values))
        values = tuple(as_condition(v) if i in places else v for i, v in enumerate(values))
        domain, scope, axis = _join(values)
        if op in REDUCTIONS:
            if domain is Domain.TENSOR and op != "sum_units":
                domain = Domain.TENSOR if op == "sum" else Domain.GROUP
            else:
                domain = REDUCTIONS[op]
            axis = attrs[0] if op == "sum_units" else None
        elif op in FACTS:
            domain, axis = Domain.ARRAY, None
        elif op in TENSOR_OPS:
            domain, axis = Domain.TENSOR, None
        return self.node(op, values, attrs, domain=domain, scope=scope, axis=axis)


def is_bool(node: Value) -> bool:
    """Whether the value is true or false."""
    if node.op == "const":
        return isinstance(node.attrs[0], bool)
    return node.op in BOOLEAN or (node.op == "where" and is_bool(node.args[1]))


def attributes(node: Value) -> list[str]:
    """What an operation is given beside its operands, as text: not what a sum over the group is called."""
    return [] if node.op == "sum_group" else [repr(a) for a in node.attrs]


def as_number(node: Value) -> Value:
    """The node as a number. A comparison is none: a sum of three that hold is 3 in one library, True in another."""
    if not is_bool(node):
        return node
    if node.op == "const":
        return node.graph.const(int(node.attrs[0]))
    message = (
        f"{node!r} is true or false, not a number; write nm.where(c, 1.0, 0.0) to count it as one"
    )
    raise TraceError(message)


def as_condition(node: Value) -> Value:
    """The node as true or false. A number is neither: some libraries take it for a condition, others do not."""
    if is_bool(node):
        return node
    if node.op == "const":
        return node.graph.const(bool(node.attrs[0]))
    message = f"{node!r} is a number, not true or false; write what it is compared with: x != 0"
    raise TraceError(message)


def _as_number(x: Any) -> float | int | bool:
    if isinstance(x, bool | int):
        if not -WHOLE <= x < WHOLE:  # NumPy's arrays would take it, torch's do not
            message = f"whole numbers of a rule must fit into 64 bits, got one of {x.bit_length()}; write a float, 1e20"
            raise TraceError(message)
        return x
    if isinstance(x, float):
        return float(x)  # NumPy's are floats too, and are written in another way
    message = f"a traced rule met {type(x).__name__}; only numbers and the rule's own arrays may be combined"
    raise TraceError(message)


def _join(values: tuple[Value, ...]) -> tuple[Domain, str | None, int | None]:
    """The widest domain of the operands, the scope of scalars and the axis of units."""
    domain = max((v.domain for v in values), default=Domain.HOST)
    scopes = {v.scope for v in values if v.domain <= Domain.STEP and v.scope}
    scope = scopes.pop() if len(scopes) == 1 else None
    if domain <= Domain.STEP and scopes:  # a parameter's own t met the group's t
        return Domain.ARRAY, None, None
    if domain is Domain.GROUP and scope == "array":
        return Domain.ARRAY, None, None
    axes = {v.axis for v in values if v.domain is Domain.UNIT}
    if domain is Domain.UNIT and len(axes) > 1:
        return Domain.ELEMENT, None, None
    return (
        domain,
        scope if domain <= Domain.STEP else None,
        axes.pop() if domain is Domain.UNIT else None,
    )


class Value:
    """One node. Python's operators on it make further nodes; ``if`` on it is an error."""

    __slots__ = ("args", "attrs", "axis", "domain", "graph", "name", "op", "scope", "truth")
    __array_ufunc__ = None  # np.float64(2) * value must reach __rmul__, not NumPy

    def __init__(
        self,
        graph: Graph,
        op: str,
        args: tuple[Value, ...],
        attrs: tuple[Any, ...],
        *,
        domain: Domain,
        scope: str | None = None,
        axis: int | None = None,
        name: str | None = None,
        truth: bool = False,
    ) -> None:
        self.graph, self.op, self.args, self.attrs = graph, op, args, attrs
        self.domain, self.scope, self.axis, self.name, self.truth = domain, scope, axis, name, truth

    def __repr__(self) -> str:
        return f"<{self.name or self.op} on {self.domain.name.lower()}>"

    def __bool__(self) -> bool:
        if self.truth:
            return True
        message = (
            f"{self!r} is known only when the program runs, so it cannot decide an `if`; "
            "use nm.where, or declare the hyperparameter static"
        )
        raise TraceError(message)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an array value; reading it makes the program one for this shape only."""
        from isostep.shapes import shape_of

        if self.domain <= Domain.STEP:
            message = f"{self!r} is a number, which has no shape"
            raise AttributeError(message)
        if self.domain <= Domain.ARRAY:
            return ()
        if self.graph.shape is None:
            raise NeedsShape
        return shape_of(self)

    @property
    def ndim(self) -> int:
        """The number of axes; see ``shape``."""
        return len(self.shape)

    def __index__(self) -> int:
        message = (
            f"{self!r} is known only when the program runs, so it is no number to Python; "
            "use isostep.nm, or len(p.shape), which makes the rule one program for each shape"
        )
        raise TraceError(message)

    def __mod__(self, other: Any) -> Value:
        return self._rest(self, other)

    def __rmod__(self, other: Any) -> Value:
        return self._rest(other, self)

    def _rest(self, x: Any, y: Any) -> Value:
        """``t % k``: of what is computed once a step only, so that no kernel has to divide with a remainder."""
        for v in (x, y):
            if isinstance(v, Value) and v.domain > Domain.STEP:
                message = f"% is for numbers of the step, such as t, got {v!r}; write x - n * nm.floor(x / n)"
                raise TraceError(message)
        return self.graph.apply("mod", (x, y))

    def __neg__(self) -> Value:
        return self.graph.apply("neg", (self,))

    def __abs__(self) -> Value:
        return self.graph.apply("abs", (self,))

    __hash__ = object.__hash__


def _binary(op: str, *, swap: bool = False) -> Callable[[Value, Any], Value]:
    def method(self: Value, other: Any) -> Value:
        return self.graph.apply(op, (other, self) if swap else (self, other))

    return method


for _name, _operator in {
    "add": "add",
    "sub": "sub",
    "mul": "mul",
    "truediv": "div",
    "pow": "pow",
}.items():
    setattr(Value, f"__{_name}__", _binary(_operator))
    setattr(Value, f"__r{_name}__", _binary(_operator, swap=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(Value, f"__{_name}__", _binary(_name))
