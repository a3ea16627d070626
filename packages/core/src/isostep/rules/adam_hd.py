"""Adam-HD: Adam that also learns its learning rate, by the loss's gradient with respect to it.

    h  = <g_t, d_{t-1}>                             0 at t = 1
    lr <- lr + hypergrad_lr * h                     group state, starts at the argument lr
    lr <- lr * (1 + hypergrad_lr * h / (|g_t| * |d_{t-1}|))     multiplicative; h = 0 where a norm is 0
    lr <- min(max(lr, min_lr), max_lr)              those that are not None
    d  = Adam's direction (adam.py) with coupled weight decay
    u  = -lr * d                                    with the new lr

    paper     one h over all parameters of the group, one lr for all of them; eps as in adam's paper
    original  parameter after parameter: each takes its own h, changes lr, steps with it; eps is the
              "eps hat" of adam's keras

Follows: Baydin, Cornish, Martinez Rubio, Schmidt, Wood, "Online Learning Rate Adaptation with
    Hypergradient Descent", arXiv 1703.04782, Algorithm 6 (dialect paper); the authors' code
    gbaydin/hypergradient-descent, adam_hd.py (dialect original, and all names and defaults).
    d_{t-1} is computed again from the averages and bias corrections of t - 1 instead of being
    stored. The multiplicative form (dialect paper) is as in sgd_hd.py; Martinez Rubio's dissertation
    has it for Adam in section 4.1.
Departs:
    - weight_decay is not in the paper; as in the authors' code it is coupled, and h sees the
      decayed gradient.
    - The original's result depends on the order of the parameters (its issue 9); that is why it is
      not the default.
    - The original leaves lr alone at a parameter's own first step; here the group's first step is
      left out, and a parameter that joins later adds 0 then, its averages being zero (0/0 only if
      eps is 0).
    - min_lr and max_lr are in neither (see sgd_hd.py); they bound the first step's lr too.
lr unit: as Adam. hypergrad_lr unit: lr per gradient unit; multiplicative, a fraction.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Real
from isostep.rule import Rule
from isostep.rules import adam, sgd_hd

DIALECTS = {"paper": "paper", "original": "keras"}  # which of adam.py's steps is meant


def direction(m: Any, v: Any, t: Any, betas: Any, eps: Any, dialect: str) -> Any:
    """What Adam subtracted at step t, divided by lr."""
    u, _ = adam.directed(m, v, None, t, lr=-1.0, betas=betas, eps=eps, dialect=DIALECTS[dialect])
    return u


def unscaled(m: Any, v: Any, t: Any, betas: Any, eps: Any) -> Any:
    """The paper's without the correction that only changes its length, which a cosine does not see."""
    return m / (parts.root(v, nm.one_minus_pow(betas[1], t)) + eps)


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
    multiplicative: bool,
    dialect: str,
) -> dict[str, Any]:
    """The products of g_t with d_{t-1}; at t = 1, which ``advance`` skips, only finite."""
    last = nm.maximum(t - 1, 1)
    if multiplicative:
        previous = unscaled(m, v, last, betas, eps)
    else:
        previous = direction(m, v, last, betas, eps, dialect)
    return sgd_hd.products(parts.coupled(p, g, weight_decay), previous, multiplicative)


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    hypergrad_lr: Any,
    multiplicative: bool,
    min_lr: Any,
    max_lr: Any,
) -> dict[str, Any]:
    """The next learning rate; the first step has no previous direction."""
    moved = sgd_hd.moved(group["lr"], sums, hypergrad_lr, multiplicative)
    return {"lr": sgd_hd.bounded(nm.where(t > 1, moved, group["lr"]), min_lr, max_lr)}


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


def check(h: SimpleNamespace) -> str | None:
    """The bounds in order; and the authors' code has no multiplicative form."""
    if h.multiplicative and h.dialect == "original":
        return "multiplicative=True needs dialect='paper', got dialect='original'; leave one of them out"
    return sgd_hd.check(h)


RULE = Rule(
    name="adam_hd",
    update=update,
    measure=measure,
    advance=advance,
    group={"lr": lambda h: h.lr},
    sequential=lambda h: h.dialect == "original",
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        **sgd_hd.START,
        "betas": parts.betas(0.9, 0.999, cases=(0.85, 0.96)),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
        # Cases in which lr changes visibly and does not run away: at 1e-3 it grows two hundredfold in six steps.
        "hypergrad_lr": Real(1e-8, low=0, cases=(1e-4,), doc="learning rate of the learning rate"),
        **sgd_hd.HYPERGRADIENT,
        "dialect": Choice(
            "paper", options=tuple(DIALECTS), doc="one lr per step, or the authors' code"
        ),
    },
    check=check,
    family="hypergradient",
    year=2017,
    paper="Baydin et al., Online Learning Rate Adaptation with Hypergradient Descent",
    arxiv="1703.04782",
)
