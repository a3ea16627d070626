"""optax, run on a problem with 64-bit floats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from .problems import MIXED_SHAPES, Floats, Problem, Record, transposed

Make = Callable[[Callable[[Any], Any]], optax.GradientTransformation]


def run(make: Make, problem: Problem, states: Mapping[str, str] | None = None) -> Record:
    """The record of a transformation made from a schedule of the learning rate.

    ``states`` maps isostep's names of the state to note to optax's.
    """
    with jax.enable_x64(True):
        table = jnp.asarray(problem.lrs, jnp.float64)
        transform = make(lambda count: table[count])
        params = [jnp.asarray(p, jnp.float64) for p in problem.start]
        state = transform.init(params)
        update = jax.jit(transform.update)
        record = Record()
        for t, gradients in enumerate(problem.gradients):
            grads = [jnp.asarray(g, jnp.float64) for g in gradients]
            loss = {"value": problem.inputs["loss"][t]} if "loss" in problem.inputs else {}
            updates, state = update(grads, state, params, **loss)
            params = optax.apply_updates(params, updates)
            kept = {
                ours: [np.asarray(leaf) for leaf in optax.tree.get(state, theirs)]
                for ours, theirs in (states or {}).items()
            }
            record.add(params, kept)
        return record


def given(values: Sequence[Sequence[Floats]]) -> optax.GradientTransformation:
    """A transformation that puts these arrays, one sequence for each step, in the place of the updates."""

    def update(updates: Any, count: Any, params: Any = None) -> tuple[Any, Any]:
        tables = [jnp.asarray(np.stack(steps)) for steps in zip(*values, strict=True)]
        return [table[count] for table in tables], count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def sm3(lr: Callable[[Any], Any], *, momentum: float, eps: float) -> optax.GradientTransformation:
    """optax's SM3 by its part, because the alias has a fixed eps and takes no schedule."""
    return optax.chain(optax.scale_by_sm3(momentum, eps=eps), optax.scale_by_learning_rate(lr))


def ldog(lr: Callable[[Any], Any], **settings: Any) -> optax.GradientTransformation:
    """optax's DoG for each array."""

    def labels(params: Any) -> Any:
        return list(range(len(params)))

    each = {k: optax.contrib.dog(lr, **settings) for k in range(len(MIXED_SHAPES))}
    return optax.partition(each, labels)


def polyak_sgd(
    lr: Callable[[Any], Any], *, c: float, eps: float, **settings: Any
) -> optax.GradientTransformation:
    """optax's SGD with Polyak's step size, which multiplies by its scaling before it takes the norm."""
    make = optax.inject_hyperparams(optax.polyak_sgd)
    return make(lambda count: lr(count) / c, scaling=c, eps=c * eps, **settings)


def run_transposed(make: Make, problem: Problem) -> Record:
    """The same on the transposed problem, transposed back: optax's matrices are (in, out)."""
    record = run(make, transposed(problem))
    return Record([[p.T for p in step] for step in record.p])


def run_lookahead(make: Make, problem: Problem, *, every: int, alpha: float) -> Record:
    """optax.lookahead around a transformation: the fast parameters, and the slow ones as state."""
    with jax.enable_x64(True):
        table = jnp.asarray(problem.lrs, jnp.float64)
        transform = optax.lookahead(make(lambda count: table[count]), every, alpha)
        start = [jnp.asarray(p, jnp.float64) for p in problem.start]
        params = optax.LookaheadParams.init_synced(start)
        state = transform.init(params)
        record = Record()
        for gradients in problem.gradients:
            grads = [jnp.asarray(g, jnp.float64) for g in gradients]
            updates, state = transform.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            record.add(params.fast, {"slow": params.slow})
        return record


def adafactor(
    lr: Callable[[Any], Any],
    *,
    decay: float,
    eps: float,
    clip: float,
    min_scale: float,
    exact: bool,
) -> optax.GradientTransformation:
    """optax's Adafactor with every matrix factored.

    ``exact`` builds the chain of ``optax.adafactor`` from optax's own parts, with the second
    moment's decay rate in float64; the alias computes that one scalar in float32 always.
    """
    if not exact:
        return optax.adafactor(
            lr, min_dim_size_to_factor=0, decay_rate=decay, clipping_threshold=clip, eps=eps
        )
    return optax.chain(
        optax.scale_by_factored_rms(
            min_dim_size_to_factor=0,
            decay_rate=decay,
            epsilon=eps,
            decay_rate_fn=lambda done, power: 1.0 - (done + 1.0) ** -jnp.float64(power),
        ),
        optax.clip_by_block_rms(clip),
        optax.scale_by_learning_rate(lr),
        optax.scale_by_param_block_rms(min_scale),
    )
