"""What evaluates programs on JAX arrays: core's interpreter, with derivatives that are numbers where rules need them.

The derivative of a root is infinite at 0, and what a rule makes of it there is 0 or is not chosen: Adam's update by a
gradient of zero, LAMB's ratio of a bias that is zero. Backwards that is 0 * inf, or inf behind a ``where``: NaN either
way. So roots have the derivative 0 at 0, which of a norm is a subgradient, the shortest. And JAX derives a quotient
with the square of what is divided by, which is 0 in float32 of the 1e-30 that keeps 0 / 0 away; here it is divided by
twice. Values have the bits that they have without all this.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp

from isostep import nm
from isostep.interpret import Interpreter, Task
from isostep.values import Value

Function = Callable[..., Any]


def _derived(operation: str, tangent: Callable[..., Any], *fixed: Any) -> Function:
    """An operation of programs whose derivative is ``tangent(itself, operands, their tangents)``.

    ``fixed`` are last operands that XLA knows. It is jitted, so traced and lowered once for all leaves of a shape.
    """

    @jax.custom_jvp
    def value(*operands: Any) -> Any:
        return nm.call(operation, *operands, *fixed)

    found: Function = jax.jit(value)

    @value.defjvp
    def _tangent(operands: Any, tangents: Any) -> Any:
        return found(*operands), tangent(found, operands, tangents)

    return found


def _of_root(slope: Callable[[Function, Any], Any]) -> Callable[..., Any]:
    """The tangent of a root that has the slope ``slope(root, x)``, but at 0 that of infinity, which is 0.

    Not 0 in the place of the slope at 0: a ``where`` around that would hide an infinity too, in second derivatives.
    """
    return lambda root, given, tangents: (
        tangents[0] * slope(root, jnp.where(given[0] == 0, jnp.inf, given[0]))
    )


def _of_power(power: Function, given: Any, tangents: Any) -> Any:
    x, exponent = given
    found, at_zero = power(x, exponent), (x == 0) & (exponent >= 0)
    slope = exponent * power(jnp.where(at_zero & (exponent < 1), jnp.inf, x), exponent - 1)
    steepness = jnp.log(jnp.where(at_zero | (found == 0), 1, x)) * found
    return tangents[0] * slope + tangents[1] * steepness


_power = _derived("pow", _of_power)


@cache
def _fixed(exponent: float) -> Function:
    slope = lambda _, x: exponent * nm.call("pow", x, exponent - 1)  # noqa: E731
    return _derived("pow", _of_root(slope), exponent)


def power(x: Any, exponent: Any) -> Any:
    """``x ** exponent`` of an array."""
    if isinstance(exponent, jax.Array):
        return _power(x, exponent)
    return _fixed(exponent)(x) if 0 <= exponent < 1 else nm.call("pow", x, exponent)


def _of_quotient(quotient: Function, given: Any, tangents: Any) -> Any:
    return quotient(tangents[0] - tangents[1] * quotient(*given), given[1])


_quotient = _derived("div", _of_quotient)


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
        return super()._apply(node, operands, task)
