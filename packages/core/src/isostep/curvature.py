"""Hutchinson's estimate of the Hessian's diagonal, for the rules that take ``hessian_diag``.

    diag(H) = E[z * (H z)],  z of independent elements of mean 0 and variance 1: random signs or normal numbers

With random signs the diagonal itself comes without error, and the rest of H as noise; normal numbers add noise of
the diagonal. Products with H come from ``hvp(z)``: a framework's own, or ``differences(gradient, params)``.

Follows: Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix", 1990; Bekas, Kokiopoulou, Saad,
    "An Estimator for the Diagonal of a Matrix", 2007; Yao et al., "ADAHESSIAN", arXiv 2006.00719
    (spatial averaging); Liu et al., "Sophia", arXiv 2305.14342, Algorithm 1 (normal numbers).
Departs:
    - Random numbers come from the generator that is handed in, in the order of the arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isostep import nm, noise
from isostep.backend import backend as find_backend
from isostep.schedules.base import check
from isostep.state import StepError, arranged, as_list


def hutchinson(
    hvp: Callable[[list[Any]], Any],
    params: Any,
    rng: np.random.Generator,
    *,
    backend: Any = "numpy:reference",
    samples: int = 1,
    distribution: str = "rademacher",
    spatial_axes: tuple[int, ...] | None = None,
) -> Any:
    """An estimate of the Hessian's diagonal: one array like each parameter, a list or dict as they are.

    It is the input ``hessian_diag`` of a step.

    Args:
        hvp: takes a list of arrays like the parameters, gives the Hessian's product with it, in the same order.
        params: a list or dict of arrays, whose shapes and dtypes are taken.
        rng: where the random numbers come from.
        backend: of the parameters' framework, to make arrays of them.
        samples: how many products are averaged.
        distribution: ``"rademacher"`` or ``"gaussian"``.
        spatial_axes: with these the magnitudes are averaged over these axes of arrays of four axes: (2, 3) for torch's
            convolutions, (0, 1) for JAX's. AdaHessian's.

    Raises:
        TypeError, ValueError: an argument is out of its range.
        StepError: what ``hvp`` gives is not like the parameters.
    """
    check("hutchinson", "samples", samples, at_least=1, whole=True, hint="pass how many to average")
    check_distribution(distribution)
    if not (hasattr(rng, "integers") and callable(rng.integers)):
        message = f"hutchinson: rng must be a numpy.random.Generator, got {rng!r}; numpy.random.default_rng(seed)"
        raise TypeError(message)
    made = find_backend(backend) if isinstance(backend, str) else backend
    arrays, total = as_list(params), None
    with made.quiet():
        for _ in range(samples):
            z = noise.drawn(lambda shape: _draw(rng, shape, distribution), arrays, made)
            # what the gradient does not depend on may have no product
            given = as_list(hvp(z))
            products = [0.0 * a if b is None else b for b, a in zip(given, z, strict=False)]
            fits = [tuple(a.shape) for a in products] == [tuple(a.shape) for a in z]
            if not fits or len(given) != len(z):
                got = f"{len(given)}, or of other shapes, for {len(z)}"
                message = f"hutchinson: hvp must give an array like each parameter, got {got}"
                raise StepError(message)
            found = [a * b for a, b in zip(z, products, strict=True)]
            total = found if total is None else [a + b for a, b in zip(total, found, strict=True)]
        mean = [a / samples for a in total or []]
        if spatial_axes is not None:
            mean = [spatial_mean(a, spatial_axes) for a in mean]
    return arranged(params, mean)


def check_distribution(distribution: str) -> None:
    """Raise unless it is one of the two."""
    if distribution not in ("rademacher", "gaussian"):
        message = (
            "hutchinson: distribution must be one of 'rademacher', 'gaussian', "
            f"got {distribution!r}; choose one"
        )
        raise ValueError(message)


def _draw(rng: np.random.Generator, shape: tuple[int, ...], distribution: str) -> Any:
    if distribution == "gaussian":
        return rng.standard_normal(shape)
    return rng.integers(0, 2, shape) * 2.0 - 1.0


def spatial_mean(estimate: Any, axes: tuple[int, ...]) -> Any:
    """Magnitudes, averaged over ``axes`` where there are four axes: one value per kernel, at each of its places."""
    magnitude = nm.abs(estimate)
    if len(estimate.shape) != 4:
        return magnitude
    return nm.mean(magnitude, axis=axes) + 0.0 * magnitude


def differences(
    gradient: Callable[[Any], Any], params: Any, *, step: float | None = None
) -> Callable[[list[Any]], list[Any]]:
    """Products with the Hessian by central differences of a gradient, for callables that have nothing better.

    Args:
        gradient: ``gradient(params) -> grads``; it gets new arrays, the given ones are left alone.
        params: a list or dict of arrays; a gradient of None is constant, its products are zeros.
        step: how far to go along z on both sides; None for the cube root of the arrays' machine epsilon, where the
            errors of rounding and of the difference meet for weights around 1 (about 1e-10 in float64).
    """
    hint = "pass None for one that fits the dtype"
    check("differences", "step", step, above=0, optional=True, hint=hint)
    arrays = as_list(params)

    def along(z: list[Any], size: float) -> list[Any]:
        moved = [p + size * v for p, v in zip(arrays, z, strict=True)]
        found = gradient(arranged(params, moved))
        if isinstance(params, Mapping) and isinstance(found, Mapping):  # in any order
            found = {k: found.get(k) for k in params}
        pairs = zip(as_list(found), moved, strict=True)
        # the caller may use its arrays again
        return [0.0 * p if g is None else 1.0 * g for g, p in pairs]

    def product(z: list[Any]) -> list[Any]:
        size = step if step is not None else max(nm.eps(p) for p in arrays) ** (1 / 3)
        pairs = zip(along(z, size), along(z, -size), strict=True)
        return [(a - b) / (2.0 * size) for a, b in pairs]

    return product


__all__ = ["differences", "hutchinson", "spatial_mean"]
