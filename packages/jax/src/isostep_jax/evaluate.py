"""What evaluates programs on JAX arrays: core's interpreter, with derivatives that are numbers where rules need them.

The derivative of a root is infinite at 0, and what a rule makes of it there is 0 or is not chosen: Adam's update by a
gradient of zero, LAMB's ratio of a bias that is zero. Backwards that is 0 * inf, or inf behind a ``where``: NaN either
way. So roots have the derivative 0 at 0, which of a norm is a subgradient, the shortest. And JAX derives a quotient
with the square of what is divided by, which is 0 in float32 of the 1e-30 that keeps 0 / 0 away; here it is divided by
twice. Values have the bits that they have without all this.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from isostep import nm
from isostep.interpret import Interpreter, Task
from isostep.values import MAPS, Value

Function = Callable[..., Any]


def _derived(operation: str, tangent: Callable[..., Any]) -> Function:
    """An operation of programs whose derivative is ``tangent(itself, operands, their tangents)``, None where constant.

    It is jitted, so traced and lowered once for all leaves of a shape.
    """

    @jax.custom_jvp
    def value(*operands: Any) -> Any:
        return nm.call(operation, *operands)

    found: Function = jax.jit(value)

    def jvp(operands: Any, tangents: Any) -> Any:
        # Of a constant there is nothing to add: zero times what is not finite would be NaN.
        moved = [None if isinstance(t, SymbolicZero) else t for t in tangents]
        return found(*operands), tangent(found, operands, moved)

    value.defjvp(jvp, symbolic_zeros=True)
    return found


def _of_root(slope: Callable[[Function, Any], Any]) -> Callable[..., Any]:
    """The tangent of a root that has the slope ``slope(root, x)``, but at 0 that of infinity, which is 0.

    Not 0 in the place of the slope at 0: a ``where`` around that would hide an infinity too, in second derivatives.
    """

    def tangent(root: Function, operands: Any, moved: Any) -> Any:
        (x,), (dx,) = operands, moved
        return dx * slope(root, jnp.where(x == 0, jnp.inf, x))

    return tangent


def _of_power(power: Function, operands: Any, moved: Any) -> Any:
    (x, exponent), (dx, de) = operands, moved
    parts, rising = [], (x == 0) & (exponent >= 0)
    if dx is not None:
        base = jnp.where(rising & (exponent < 1), jnp.inf, x)
        parts.append(dx * (exponent * power(base, exponent - 1)))
    if de is not None:
        found = power(x, exponent)
        parts.append(de * (jnp.log(jnp.where(rising | (found == 0), 1, x)) * found))
    return sum(parts[1:], parts[0])


def _of_quotient(quotient: Function, operands: Any, moved: Any) -> Any:
    (x, y), (dx, dy) = operands, moved
    if dy is None:
        return quotient(dx, y)
    part = -dy * quotient(x, y)
    return quotient(part if dx is None else dx + part, y)


_power, _quotient = _derived("pow", _of_power), _derived("div", _of_quotient)


def power(x: Any, exponent: Any) -> Any:
    """``x ** exponent`` of an array."""
    if isinstance(exponent, jax.Array):
        return _power(x, exponent)
    if 0 <= exponent < 1:
        return _power(x, jnp.asarray(exponent, x.dtype))
    return nm.call("pow", x, exponent)


def quotient(x: Any, y: Any) -> Any:
    """``x / y`` by an array."""
    return _quotient(x if isinstance(x, jax.Array) else jnp.asarray(x, y.dtype), y)


#: By the names of a program's operations, and which operand has to be an array: derivatives are in the way only there.
FORMS: dict[str, tuple[int, Function]] = {
    "sqrt": (0, _derived("sqrt", _of_root(lambda root, x: 0.5 / root(x)))),
    "cbrt": (0, _derived("cbrt", _of_root(lambda root, x: (1 / 3) / root(x) ** 2))),
    "pow": (0, power),
    "div": (1, quotient),
}


class JaxInterpreter(Interpreter):
    """Evaluates a program's operations on JAX arrays."""

    def _apply(self, node: Value, operands: list[Any], task: Task) -> Any:
        place, form = FORMS.get(node.op, (0, None))
        if form is not None and isinstance(operands[place], jax.Array):
            return form(*operands)
        if node.op in MAPS:
            return super()._apply(node, operands, task)
        with whole_products():
            return super()._apply(node, operands, task)


def whole_products() -> AbstractContextManager[Any]:
    """Products of float32 matrices are those of float32, as on every other path; who has set JAX's default gets that.

    Elsewhere than on a CPU JAX would round their elements to TF32 or bfloat16, 10 or 7 bits.
    """
    return jax.default_matmul_precision(products_of_users() or "highest")


def products_of_users() -> str | None:
    """What JAX's default for products of matrices is set to; None where nobody has."""
    found: str | None = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return found
