"""The figures of JAX for ``gpu.py``: ours beside optax, on large leaves and on many small ones."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import optax
from gpu_rows import LARGE, ROUNDS, SMALL, STEPS

import isostep_jax

#: rule -> (ours, optax's)
PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "adam": (partial(isostep_jax.adam, 1e-3), partial(optax.adam, 1e-3)),
    "adamw": (partial(isostep_jax.adamw, 1e-3), partial(optax.adamw, 1e-3)),
    "lion": (partial(isostep_jax.lion, 1e-3), partial(optax.lion, 1e-3)),
    "lamb": (partial(isostep_jax.lamb, 1e-3), partial(optax.lamb, 1e-3)),
}


def seconds(tx: Any, params: Any, grads: Any) -> dict[str, float]:
    """The first call of update and addition in one jit with donation, and the median of later ones."""

    @partial(jax.jit, donate_argnums=(1, 2))
    def update(g: Any, p: Any, s: Any) -> Any:
        updates, s = tx.update(g, s, p)
        return optax.apply_updates(p, updates), s

    state = jax.block_until_ready(tx.init(params))
    begin = time.perf_counter()
    params, state = jax.block_until_ready(update(grads, params, state))
    first = time.perf_counter() - begin
    taken = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(STEPS):
            params, state = update(grads, params, state)
        jax.block_until_ready((params, state))
        taken.append((time.perf_counter() - begin) / STEPS)
    return {"first": first, "step": statistics.median(taken)}


def steps(row: dict[str, Any]) -> dict[str, Any]:
    """Ours and optax's; many small leaves also grouped and flat."""
    small = row["what"] == "jax small"
    count, size = SMALL if small else LARGE
    mine, theirs = PAIRS[row["rule"]]

    def leaves(seed: int, scale: float) -> list[Any]:
        keys = jax.random.split(jax.random.key(seed), count)
        return [scale * jax.random.normal(k, (size,)) for k in keys]

    ways: dict[str, tuple[Any, Callable[[Any], Any]]] = {"isostep": (mine(), list)}
    if small:
        flat = isostep_jax.flat(mine(), leaves(0, 1.0))
        ways = {
            "isostep": (flat, flat.flatten),
            "isostep, grouped": (mine(grouped=True), list),  # type: ignore[call-arg]
        }
    ways["optax"] = (theirs(), list)
    found = {
        name: seconds(tx, into(leaves(0, 1.0)), into(leaves(1, 1e-2)))
        for name, (tx, into) in ways.items()
    }
    return {
        "seconds": {name: each["step"] for name, each in found.items()},
        "first": {name: each["first"] for name, each in found.items()},
    }
