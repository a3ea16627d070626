"""Adam-HD: Adam that also learns its learning rate, by the loss's gradient with respect to it.

    h  = <g_t, d_{t-1}>                             0 at t = 1
    lr <- lr + hypergrad_lr * h                     group state, starts at the argument lr
    d  = Adam's direction (adam.py) with coupled weight decay
    u  = -lr * d                                    with the new lr

    paper     one h over all parameters of the group, one lr for all of them; eps as in adam's paper
    original  parameter after parameter: each takes its own h, changes lr, steps with it; eps is the
              "eps hat" of adam's keras

Follows: Baydin, Cornish, Martinez Rubio, Schmidt, Wood, "Online Learning Rate Adaptation with
    Hypergradient Descent", arXiv 1703.04782, Algorithm 6 (dialect paper); the authors' code
    gbaydin/hypergradient-descent, adam_hd.py (dialect original, and all names and defaults).
    d_{t-1} is computed again from the averages and bias corrections of t - 1 instead of being
    stored.
Departs:
    - weight_decay is not in the paper; as in the authors' code it is coupled, and h sees the
      decayed gradient.
    - The original's result depends on the order of the parameters (its issue 9); that is why it is
      not the default.
    - The original leaves lr alone at a parameter's own first step; here the group's first step is
      left out, and a parameter that joins later adds 0 then, its averages being zero (0/0 only if
      eps is 0).
    - Nothing keeps lr from turning negative, as in both.
lr unit: as Adam. hypergrad_lr unit: lr per gradient unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Real
from isostep.rule import Rule
from isostep.rules import adam

DIALECTS = {"paper": "paper", "original": "keras"}  # which of adam.py's steps is meant


def measure(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    dialect: str,
) -> dict[str, Any]:
    """The products that sum to <g_t, d_{t-1}>; at t = 1, which ``advance`` skips, only finite."""
    step = adam.STEPS[DIALECTS[dialect]]
    # lr = -1: the direction that is subtracted.
    previous, _ = step(m, v, None, nm.maximum(t - 1, 1), lr=-1.0, betas=betas, eps=eps)
    return {"h": parts.coupled(p, g, weight_decay) * previous}


def advance(
    sums: Mapping[str, Any], group: Mapping[str, Any], t: int, /, *, hypergrad_lr: Any
) -> dict[str, Any]:
    """One step of descent for the learning rate; the first step has no previous direction."""
    return {"lr": nm.where(t > 1, group["lr"] + hypergrad_lr * sums["h"], group["lr"])}


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    dialect: str,
) -> tuple[Any, ...]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay)
    return adam.step(g, m, v, t, lr=lr, betas=betas, eps=eps, dialect=DIALECTS[dialect])


RULE = Rule(
    name="adam_hd",
    update=update,
    measure=measure,
    advance=advance,
    group={"lr": lambda h: h.lr},
    sequential=lambda h: h.dialect == "original",
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3, "learning rate of the first step"),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
        "hypergrad_lr": Real(1e-8, low=0, cases=(1e-3,), doc="learning rate of the learning rate"),
        "dialect": Choice(
            "paper", options=tuple(DIALECTS), doc="one lr per step, or the authors' code"
        ),
    },
    family="hypergradient",
    year=2017,
    paper="Baydin et al., Online Learning Rate Adaptation with Hypergradient Descent",
    arxiv="1703.04782",
)
