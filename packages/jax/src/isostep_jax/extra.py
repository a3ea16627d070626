"""What some rules need beside a gradient, taken the way JAX does it. Each helper turns a loss into a function.

The loss is ``loss(params, *args) -> scalar``; parameters are any tree of floating arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

Loss = Callable[..., jax.Array]


def hutchinson(
    loss: Loss, *, samples: int = 1, distribution: str = "rademacher"
) -> Callable[..., Any]:
    """``estimate(params, key, *args)``: the mean over ``samples`` of z * (H z), a tree like the parameters.

    Its expectation is the diagonal of the Hessian H, which AdaHessian takes as ``hessian_diag``. H z is the
    derivative of the gradient along z (jvp of grad), so a sample costs about two gradients. ``rademacher`` draws
    +-1 (exact where H is diagonal), ``gaussian`` standard normal numbers.
    Source: Yao et al., arXiv 2006.00719, section 3.1.
    """
    draws = {"rademacher": jax.random.rademacher, "gaussian": jax.random.normal}
    if distribution not in draws or samples < 1:
        got = f"{distribution!r}, samples={samples}"
        message = f"hutchinson: distribution must be one of {', '.join(draws)} and samples >= 1, got {got}"
        raise ValueError(message)

    def estimate(params: Any, key: jax.Array, *args: Any) -> Any:
        leaves, tree = jax.tree.flatten(params)

        def one(key: jax.Array) -> Any:
            keys = jax.random.split(key, len(leaves))
            z = jax.tree.unflatten(
                tree,
                [
                    draws[distribution](k, p.shape, p.dtype)
                    for k, p in zip(keys, leaves, strict=True)
                ],
            )
            _, product = jax.jvp(lambda p: jax.grad(loss)(p, *args), (params,), (z,))
            return jax.tree.map(lambda a, b: a * b, z, product)

        found = jax.lax.map(one, jax.random.split(key, samples))
        return jax.tree.map(lambda a: jnp.mean(a, axis=0), found)

    return estimate


def sam_gradient(
    loss: Loss, *, rho: float = 0.05, adaptive: bool = False, eta: float = 0.01, eps: float = 1e-12
) -> Callable[..., Any]:
    """``gradient(params, *args)``: the gradient at the worst point near the parameters, for any rule.

    SAM: at p + rho * g / (|g| + eps), the norm over all parameters together (Foret et al., arXiv 2010.01412,
    equation 2). ``adaptive``, ASAM: at p + rho * T**2 g / (|T g| + eps) with T = |p| + eta
    (Kwon et al., arXiv 2102.11600, equation 8). Departs: T is elementwise for every array; the authors'
    code takes T = 1 for biases. ``eps`` is in neither paper: it keeps a zero gradient from giving NaN.
    """

    def gradient(params: Any, *args: Any) -> Any:
        g = jax.grad(loss)(params, *args)
        t = jax.tree.map(lambda p: jnp.abs(p) + eta if adaptive else jnp.ones_like(p), params)
        squares = jax.tree.map(lambda a, b: jnp.sum(jnp.square((a * b).astype(_wide(a)))), t, g)
        scale = rho / (jnp.sqrt(sum(jax.tree.leaves(squares))) + eps)
        moved = jax.tree.map(lambda p, a, b: (p + scale * a * a * b).astype(p.dtype), params, t, g)
        return jax.grad(loss)(moved, *args)

    return gradient


def task_gradients(losses: Sequence[Loss]) -> Callable[..., list[Any]]:
    """``gradients(params, *args)``: one gradient per loss."""
    return lambda params, *args: [jax.grad(loss)(params, *args) for loss in losses]


def pcgrad(losses: Sequence[Loss]) -> Callable[..., Any]:
    """``gradient(params, key, *args)``: the sum of the tasks' gradients without their conflicts.

    From each task's gradient its part against every other task's, in random order, is taken away where the two
    point apart: g_i <- g_i - (g_i . g_j) / |g_j|**2 g_j, with g_j as it was.
    Source: Yu et al., arXiv 2001.06782, algorithm 1.
    """
    every = task_gradients(losses)

    def gradient(params: Any, key: jax.Array, *args: Any) -> Any:
        found = every(params, *args)
        back = ravel_pytree(found[0])[1]
        tasks = jnp.stack([ravel_pytree(g)[0] for g in found])

        def freed(i: jax.Array, key: jax.Array) -> jax.Array:
            def against(g: jax.Array, j: jax.Array) -> tuple[jax.Array, None]:
                dot, size = g @ tasks[j], tasks[j] @ tasks[j]
                conflict = (dot < 0) & (j != i)
                part = jnp.where(conflict, dot / jnp.where(conflict, size, 1), 0)
                return g - part * tasks[j], None

            return jax.lax.scan(against, tasks[i], jax.random.permutation(key, len(losses)))[0]

        keys = jax.random.split(key, len(losses))
        return back(jnp.sum(jax.vmap(freed)(jnp.arange(len(losses)), keys), axis=0))

    return gradient


def _wide(x: jax.Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)
