"""What some rules need beside a gradient, taken the way JAX does it. Each helper turns a loss into a function.

The loss is ``loss(params, *args) -> scalar``; parameters are any tree of floating arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from isostep import curvature
from isostep.schedules.base import check
from isostep_jax.dtypes import widest
from isostep_jax.evaluate import whole_products
from isostep_jax.trees import as_jax

Loss = Callable[..., jax.Array]


def hutchinson(
    loss: Loss,
    *,
    samples: int = 1,
    distribution: str = "rademacher",
    spatial_axes: tuple[int, ...] | None = None,
) -> Callable[..., Any]:
    """``estimate(params, key, *args)``: the mean over ``samples`` of z * (H z), a tree like the parameters.

    Its expectation is the diagonal of the Hessian H, which AdaHessian takes as ``hessian_diag``. H z is the
    derivative of the gradient along z (jvp of grad), so a sample costs about two gradients. ``rademacher`` draws
    +-1 (exact where H is diagonal), ``gaussian`` standard normal numbers. ``spatial_axes`` are those of a convolution's
    kernel over which magnitudes are averaged, (0, 1) in flax: see ``isostep.curvature``.
    Source: Yao et al., arXiv 2006.00719, section 3.1.
    """
    draws = {"rademacher": jax.random.rademacher, "gaussian": jax.random.normal}
    curvature.check_distribution(distribution)
    check("hutchinson", "samples", samples, at_least=1, whole=True, hint="pass how many to average")

    def estimate(params: Any, key: jax.Array, *args: Any) -> Any:
        params = jax.tree.map(as_jax, params)

        def one(key: jax.Array) -> Any:
            z = _drawn(draws[distribution], key, params)
            _, product = jax.jvp(lambda p: jax.grad(loss)(p, *args), (params,), (z,))
            return jax.tree.map(lambda a, b: a * b, z, product)

        found = jax.lax.map(one, jax.random.split(key, samples))
        mean = jax.tree.map(lambda a: jnp.mean(a, axis=0), found)
        if spatial_axes is None:
            return mean
        return jax.tree.map(lambda a: curvature.spatial_mean(a, spatial_axes), mean)

    return estimate


def noise(key: jax.Array, params: Any) -> Any:
    """Standard normal numbers, a tree like ``params`` (or gradients): ``update(..., noise=noise(key, params))``.

    For ``isostep.pieces.gradient_noise``. Pass another key at every step: ``jax.random.fold_in(key, step)``.
    """
    return _drawn(jax.random.normal, key, params)


def _drawn(draw: Callable[..., jax.Array], key: jax.Array, params: Any) -> Any:
    """A random tree like ``params``, each leaf of a key of its own."""
    leaves, tree = jax.tree.flatten(jax.tree.map(as_jax, params))
    keys = jax.random.split(key, len(leaves))
    made = [draw(k, p.shape, p.dtype) for k, p in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, made)


def sam_gradient(
    loss: Loss, *, rho: float = 0.05, adaptive: bool = False, eta: float = 0.0, eps: float = 1e-12
) -> Callable[..., Any]:
    """``gradient(params, *args)``: the gradient at the worst point near the parameters, for any rule.

    SAM: at p + rho * g / (|g| + eps), the norm over all parameters together (Foret et al., arXiv 2010.01412,
    equation 2). ``adaptive``, ASAM: at p + rho * T**2 g / (|T g| + eps) with T = |p| + eta
    (Kwon et al., arXiv 2102.11600, equation 8). Departs: T is elementwise for every array; the authors'
    code takes T = 1 for biases. ``eta`` is 0 as on every backend, 0.01 in the paper. ``eps`` is in neither paper: it
    keeps a zero gradient from giving NaN.
    """
    _check_way(rho, eta, eps)

    def gradient(params: Any, *args: Any) -> Any:
        params = jax.tree.map(as_jax, params)
        g = jax.grad(loss)(params, *args)
        return jax.grad(loss)(_away(params, g, rho, adaptive, eta, eps), *args)

    return gradient


def _check_way(rho: Any, eta: Any, eps: Any) -> None:
    """Raise unless the numbers of the way are at least 0; arrays, which may be traced, are taken as they are."""
    for name, value in (("rho", rho), ("eta", eta), ("eps", eps)):
        if not isinstance(value, jax.Array | np.ndarray):
            check("sam", name, value, at_least=0, hint="pass a length, or 0 for none")


def _away(params: Any, g: Any, rho: float, adaptive: bool, eta: float, eps: float) -> Any:
    """Where the second gradient is taken."""
    t = jax.tree.map(lambda p: jnp.abs(p) + eta if adaptive else jnp.ones_like(p), params)
    scale = rho / (jnp.sqrt(_dot(jax.tree.map(jnp.multiply, t, g))) + eps)

    def away(p: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        wide, s, a, b = _widened(p, scale, a, b)
        return (wide + s * a * a * b).astype(p.dtype)

    return jax.tree.map(away, params, t, g)


def _dot(a: Any, b: Any = None) -> jax.Array:
    """The dot product of two trees, or of one with itself; halves are widened."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(a if b is None else b), strict=True)
    products = [jnp.sum(x * y) for x, y in (_widened(*pair) for pair in pairs)]
    return functools.reduce(jnp.add, _widened(*products))


class LookSAMState(NamedTuple):
    """How many gradients were taken, and the last second one's part across the first."""

    count: jax.Array  # type: ignore[assignment]
    across: Any


class LookSAM(NamedTuple):
    """``init(params) -> state`` and ``gradient(params, state, *args) -> (gradient, state)``."""

    init: Callable[[Any], LookSAMState]
    gradient: Callable[..., tuple[Any, LookSAMState]]


def looksam_gradient(
    loss: Loss,
    *,
    rho: float = 0.05,
    k: int = 5,
    alpha: float = 0.7,
    adaptive: bool = False,
    eta: float = 0.0,
    eps: float = 1e-12,
) -> LookSAM:
    """SAM's second gradient every ``k``-th time only, its part across the gradient used again in between.

    The count is on the device, and only the branch that it takes is computed. The equations and their source are in
    ``isostep.sharpness``.
    """
    check("looksam", "k", k, at_least=1, whole=True, hint="pass 1 for SAM itself")
    check("looksam", "alpha", alpha, at_least=0, hint="pass a weight such as 0.7")
    _check_way(rho, eta, eps)

    def init(params: Any) -> LookSAMState:
        across = jax.tree.map(jnp.zeros_like, jax.tree.map(as_jax, params))
        return LookSAMState(jnp.zeros((), jnp.int32), across)

    def gradient(params: Any, state: LookSAMState, *args: Any) -> tuple[Any, LookSAMState]:
        params = jax.tree.map(as_jax, params)
        g = jax.grad(loss)(params, *args)

        def fresh(_: Any) -> tuple[Any, Any]:
            second = jax.grad(loss)(_away(params, g, rho, adaptive, eta, eps), *args)
            along = _dot(second, g) / _positive(_dot(g))
            return second, jax.tree.map(lambda s, x: _plus(s, -along, x), second, g)

        def again(across: Any) -> tuple[Any, Any]:
            scale = alpha * jnp.sqrt(_dot(g) / _positive(_dot(across)))
            return jax.tree.map(lambda x, v: _plus(x, scale, v), g, across), across

        used, across = jax.lax.cond(state.count % k == 0, fresh, again, state.across)
        return used, LookSAMState(state.count + 1, across)

    return LookSAM(init, gradient)


def _positive(square: jax.Array) -> jax.Array:
    """A squared norm to divide by: 1 where it is 0, as what is divided is 0 then."""
    return jnp.where(square > 0, square, 1)


def task_gradients(losses: Sequence[Loss]) -> Callable[..., list[Any]]:
    """``gradients(params, *args)``: one gradient per loss."""
    return lambda params, *args: [jax.grad(loss)(params, *args) for loss in losses]


def pcgrad(losses: Sequence[Loss], *, reduction: str = "mean") -> Callable[..., Any]:
    """``gradient(params, key, *args)``: the mean of the tasks' gradients without their conflicts, or their sum.

    ``reduction`` is ``"sum"`` as in the paper, or, as on every backend, ``"mean"``, which divides by the number of
    tasks: here every task has a gradient of every parameter, if it be of zeros. From each task's gradient its part
    against every other task's, in random order, is taken away where the two point apart:
    g_i <- g_i - (g_i . g_j) / |g_j|**2 g_j, with g_j as it was.
    Source: Yu et al., arXiv 2001.06782, algorithm 1.
    """
    if reduction not in ("mean", "sum"):
        message = f"pcgrad: reduction must be one of 'mean', 'sum', got {reduction!r}; choose one"
        raise ValueError(message)
    if not losses:
        message = (
            "pcgrad: losses must be one function for each task, got none; pass [loss_a, loss_b]"
        )
        raise ValueError(message)
    every = task_gradients(losses)

    def gradient(params: Any, key: jax.Array, *args: Any) -> Any:
        found = every(params, *args)
        with jax.numpy_dtype_promotion("standard"):  # leaves of several dtypes meet in one vector
            flat, ways_back = zip(*map(ravel_pytree, found), strict=True)
        back, narrow = ways_back[0], flat[0].dtype
        tasks = jnp.stack([g.astype(_wide(g)) for g in flat])  # as halves their products overflow

        def freed(i: jax.Array, key: jax.Array) -> jax.Array:
            def against(g: jax.Array, j: jax.Array) -> tuple[jax.Array, None]:
                with whole_products():
                    dot, size = g @ tasks[j], tasks[j] @ tasks[j]
                conflict = (dot < 0) & (j != i)
                part = jnp.where(conflict, dot / jnp.where(conflict, size, 1), 0)
                return g - part * tasks[j], None

            return jax.lax.scan(against, tasks[i], jax.random.permutation(key, len(losses)))[0]

        keys = jax.random.split(key, len(losses))
        merge = jnp.sum if reduction == "sum" else jnp.mean
        return back(merge(jax.vmap(freed)(jnp.arange(len(losses)), keys), axis=0).astype(narrow))

    return gradient


def _wide(x: jax.Array) -> Any:
    return widest(x.dtype, jnp.float32)


def _widened(*arrays: jax.Array) -> list[jax.Array]:
    """Arrays in the widest of their dtypes, float32 at least."""
    wide = widest(jnp.float32, *(a.dtype for a in arrays))
    return [a.astype(wide) for a in arrays]


def _plus(x: jax.Array, factor: jax.Array, y: jax.Array) -> jax.Array:
    """x + factor * y, rounded once to the dtype of x."""
    wide, f, other = _widened(x, factor, y)
    return (wide + f * other).astype(x.dtype)
