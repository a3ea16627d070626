"""Adam on many small leaves in JAX: leaf by leaf, grouped and flat, against optax.

    python benchmarks/jax_leaves.py [LEAVES SIZE [train | members | ensemble] [WAY ...]]

WAY is ``model``, ``optax``, ``leaf``, ``grouped``, ``flat`` or ``stacked``; without one all are measured.

First call (compilation included) and best step of each, with donation: the update alone, and, for ``train``,
model, gradient and update of a deep network in one jit, for ``members`` of many networks of one layer each on one
batch, for ``ensemble`` of the same where each has a batch of its own, as bagging has;
``model`` is its value and gradient without any update, the floor of a training step. ``stacked`` is flat mode whose
model takes ``flat.stacked``, by ``scan`` or ``vmap``; the others' takes leaf by leaf. Leaves are square. Wall time
and this process's CPU time, since machines are shared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import isostep_jax

STEPS = 60


def deep(params: Any, x: jax.Array) -> jax.Array:
    """A network with one small matrix per layer."""
    if isinstance(params, list):
        for p in params:
            x = layer(x, p)
    else:
        x, _ = jax.lax.scan(lambda x, p: (layer(x, p), None), x, params)
    return jnp.sum(x * x)


def members(params: Any, x: jax.Array) -> jax.Array:
    """Networks of one small matrix each."""
    if isinstance(params, list):
        return sum(jnp.sum(layer(x, p) ** 2) for p in params)
    return jnp.sum(jax.vmap(lambda p: layer(x, p))(params) ** 2)


def ensemble(params: Any, x: jax.Array) -> jax.Array:
    """The same, each on inputs of its own."""
    if isinstance(params, list):
        return sum(jnp.sum(layer(x[i], p) ** 2) for i, p in enumerate(params))
    return jnp.sum(jax.vmap(layer)(x, params) ** 2)


def layer(x: jax.Array, p: jax.Array) -> jax.Array:
    """One layer."""
    return jnp.tanh(x @ p)


def timed(name: str, step: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Print the first call and the best step; ``step`` returns what replaces its last two arguments."""
    wall, cpu = time.perf_counter(), time.process_time()
    *fixed, params, state = args
    params, state = jax.block_until_ready(step(*fixed, params, state))
    first = time.perf_counter() - wall, time.process_time() - cpu
    walls, cpus = [], []
    for _ in range(STEPS):
        wall, cpu = time.perf_counter(), time.process_time()
        params, state = jax.block_until_ready(step(*fixed, params, state))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    print(
        f"{name:16} first {first[0]:7.2f} s ({first[1]:6.2f} cpu)"
        f"   step {1e3 * min(walls):8.3f} ms ({1e3 * min(cpus):8.3f} cpu)",
        flush=True,
    )


KINDS = {"train": deep, "members": members, "ensemble": ensemble}
WAYS = ("model", "optax", "leaf", "grouped", "flat", "stacked")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("leaves", nargs="?", type=int, default=1000, metavar="LEAVES")
    made.add_argument("size", nargs="?", type=int, default=1000, metavar="SIZE")
    made.add_argument("what", nargs="*", metavar="WHAT", help=", ".join((*KINDS, *WAYS)))
    return made


def main() -> None:
    """Every way, on the same arrays."""
    options = parser().parse_args()
    unknown = set(options.what) - {*KINDS, *WAYS}
    if unknown:
        parser().error(
            f"unknown: {', '.join(sorted(unknown))}; known: {', '.join((*KINDS, *WAYS))}"
        )
    leaves, size = options.leaves, options.size
    side = round(size**0.5)
    params = [jnp.full((side, side), (1.0 + i / leaves) / side) for i in range(leaves)]
    grads = [jnp.full((side, side), 0.1) for _ in range(leaves)]
    plain = isostep_jax.adam(1e-3)
    flat = isostep_jax.flat(plain, params)
    ways: dict[str, tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]] = {
        "optax": (optax.adam(1e-3), list, list),
        "leaf": (plain, list, list),
        "grouped": (isostep_jax.adam(1e-3, grouped=True), list, list),
        "flat": (flat, flat.flatten, flat.unflatten),
        "stacked": (flat, flat.flatten, flat.stacked),
    }
    words = set(options.what)
    asked = [k for k in KINDS if k in words]
    training, loss = bool(asked), KINDS[asked[0]] if asked else deep
    batch = jax.random.normal(jax.random.key(0), (leaves, 8, side))
    batch = batch if loss is ensemble else batch[0]
    if not training:
        del ways["stacked"]  # an update does not ask how a model sees its parameters
    chosen = [name for name in ways if name in words] or list(ways)
    if training and ("model" in words or len(chosen) == len(ways)):
        # What it returns takes the place of its arguments, so that it is timed as the others are.
        alone = jax.jit(lambda x, p, _: (p, jax.grad(loss)(p, x)), donate_argnums=(1, 2))
        timed("model train", alone, (batch, [jnp.array(p) for p in params], grads))
    for name in chosen:
        tx, into, back = ways[name]

        @partial(jax.jit, donate_argnums=(1, 2))
        def update(g: Any, p: Any, s: Any, tx: Any = tx) -> Any:
            updates, s = tx.update(g, s, p)
            return optax.apply_updates(p, updates), s

        @partial(jax.jit, donate_argnums=(1, 2))
        def train(x: Any, p: Any, s: Any, tx: Any = tx, back: Any = back) -> Any:
            updates, s = tx.update(jax.grad(lambda q: loss(back(q), x))(p), s, p)
            return optax.apply_updates(p, updates), s

        if not training:
            own = into([jnp.array(p) for p in params])
            timed(name, update, (into(grads), own, tx.init(own)))
        else:
            own = into([jnp.array(p) for p in params])
            timed(f"{name} train", train, (batch, own, tx.init(own)))


if __name__ == "__main__":
    main()
