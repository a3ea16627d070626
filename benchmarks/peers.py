"""What isostep is measured against: for each rule a setting, and the same setting in other libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

import isostep
from isostep.lower.threads import threads


@dataclass(frozen=True)
class Contender:
    """A name, and a function of parameters and gradients that returns one step to be timed."""

    name: str
    prepare: Callable[[list[np.ndarray], list[np.ndarray]], Callable[[], Any]]


def torch_class(source: str, name: str, label: str = "", **hyper: Any) -> Contender:
    """An optimizer class of any package, on tensors; ``source`` is what to import it from."""

    def prepare(params: list[np.ndarray], grads: list[np.ndarray]) -> Callable[[], Any]:
        import torch

        from isostep_conformance.oracles.torch_packages import optimizer_class

        torch.set_num_threads(threads())
        own = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params]
        for p, g in zip(own, grads, strict=True):
            p.grad = torch.from_numpy(g.copy())
        return optimizer_class(source, name)(own, **hyper).step

    return Contender(label or source, prepare)


def torch_optim(name: str, kind: str, **hyper: Any) -> Contender:
    """A class of torch.optim in its ``fused`` or ``foreach`` form."""
    return torch_class("torch.optim", name, f"torch {kind}", **{kind: True}, **hyper)


def jitted(tx: Any, options: dict[str, Any] | None = None) -> Callable[..., Any]:
    """``step(params, grads, state)``: update and apply_updates in one jit with donation."""
    import jax
    from optax import apply_updates

    @partial(jax.jit, donate_argnums=(0, 2), compiler_options=options)
    def step(p: Any, g: Any, s: Any) -> Any:
        updates, s = tx.update(g, s, p)
        return apply_updates(p, updates), s

    return step


def transformation(
    label: str, make: Callable[[], Any], compiled: Callable[[Any], Callable[..., Any]] = jitted
) -> Contender:
    """An optax-style transformation, and how its step is compiled."""

    def prepare(params: list[np.ndarray], grads: list[np.ndarray]) -> Callable[[], Any]:
        import jax
        import jax.numpy as jnp

        tx = make()
        update = compiled(tx)
        own, given = [jnp.array(p) for p in params], [jnp.array(g) for g in grads]
        held = {"params": own, "state": tx.init(own)}

        def step() -> None:
            held["params"], held["state"] = update(held["params"], given, held["state"])
            jax.block_until_ready(held["params"])

        return step

    return Contender(label, prepare)


def optax(name: str, *args: Any, **hyper: Any) -> Contender:
    """One of optax's."""
    return transformation("optax", lambda: getattr(import_module("optax"), name)(*args, **hyper))


#: rule -> (the rule as measured, the same rule elsewhere)
PEERS: dict[str, tuple[isostep.BoundRule, list[Contender]]] = {
    "adamw": (
        isostep.rule("adamw", lr=1e-3),
        [
            torch_optim("AdamW", "fused", lr=1e-3),
            torch_optim("AdamW", "foreach", lr=1e-3),
            optax("adamw", 1e-3, weight_decay=1e-2),
        ],
    ),
    "sgd": (
        isostep.rule("sgd", lr=1e-3, momentum=0.9),
        [
            torch_optim("SGD", "fused", lr=1e-3, momentum=0.9),
            torch_optim("SGD", "foreach", lr=1e-3, momentum=0.9),
            optax("sgd", 1e-3, momentum=0.9),
        ],
    ),
    "lamb": (isostep.rule("lamb", lr=1e-3), [optax("lamb", 1e-3)]),
    "addsign": (isostep.rule("addsign", lr=1e-3), []),
    "powersign": (isostep.rule("powersign", lr=1e-3), []),
    "sgd_hd": (isostep.rule("sgd_hd", lr=1e-3), []),
}
