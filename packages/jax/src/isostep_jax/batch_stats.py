"""The statistics of a batch norm for averaged weights, taken anew over some batches.

>>> with average.swapped(params) as averaged:                    # isostep.averaging
...     def forward(stats, x):                                   # of a flax module
...         variables = {"params": averaged, "batch_stats": stats}
...         return model.apply(variables, x, train=True, mutable=["batch_stats"])[1]["batch_stats"]
...     stats = isostep_jax.fresh_batch_stats(forward, batch_stats, batches)

Follows: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", arXiv 1803.05407,
    section 3.2: one more pass over the data; the mean over batches, as torch.optim.swa_utils.update_bn takes it.
Departs:
    - flax has no cumulative average, but s <- m * s + (1 - m) * batch with a module's own m. Two calls with the first
      batch tell m for every array, and each batch's own statistics follow from a call with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp


def fresh_batch_stats(
    forward: Callable[[Any, Any], Any], batch_stats: Any, batches: Iterable[Any]
) -> Any:
    """The mean over ``batches`` of what each one's statistics are, a tree like ``batch_stats``.

    Args:
        forward: ``forward(batch_stats, batch) -> batch_stats``, one training pass with the averaged weights.
        batch_stats: a tree of arrays; one that a pass leaves as it is stays what it is here.
        batches: what ``forward`` takes, one after another.

    Raises:
        ValueError: there is no batch.
    """
    nothing = jax.tree.map(jnp.zeros_like, batch_stats)
    total, taken, count = nothing, nothing, 0
    for batch in batches:
        own = forward(nothing, batch)
        if count == 0:  # far above the statistics, so that rounding leaves m alone
            far = jax.tree.map(lambda s: 1024.0 * jnp.maximum(jnp.abs(s), 1.0), own)
            kept = jax.tree.map(lambda a, b, k: (a - b) / k, forward(far, batch), own, far)
            taken = jax.tree.map(lambda m: 1.0 - m, kept)
        total = jax.tree.map(jnp.add, total, own)
        count += 1
    if not count:
        message = "fresh_batch_stats: needs at least one batch, got none"
        raise ValueError(message)

    def mean(s: jax.Array, t: jax.Array, w: jax.Array) -> jax.Array:
        moves = w > 1e-6
        return jnp.where(moves, t / count / jnp.where(moves, w, 1.0), s).astype(s.dtype)

    return jax.tree.map(mean, batch_stats, total, taken)
