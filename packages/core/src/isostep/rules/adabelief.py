"""AdaBelief: Adam that averages the squared surprise instead of the squared gradient.

    m <- b1 * m + (1 - b1) * g
    s <- b2 * s + (1 - b2) * (g - m)**2 + eps       the new m; the eps stays in s
    u  = -lr / (1 - b1**t) * m / (sqrt(s / (1 - b2**t)) + eps) - lr * weight_decay * p

With amsgrad the largest s so far is used for s. With rectify the step along m is RAdam's instead, in its torch dialect
with s for v: see radam.py.

Follows: Zhuang, Tang, Ding, Tatikonda, Dvornek, Papademetris, Duncan, "AdaBelief Optimizer: Adapting
    Stepsizes by the Belief in Observed Gradients", arXiv 2010.07468, Algorithm 2, and the authors'
    code adabelief-pytorch. timm, pytorch_optimizer, torch-optimizer and optax.adabelief
    (eps_root = eps) agree without rectify.
Departs:
    - With amsgrad torch-optimizer adds eps to the stored maximum at every step, and not to s.
    - rectify is the authors' package's, which has it on by default; off here, as in Algorithm 2. With amsgrad as well
      the package divides by the root of s, and only stores its largest; here, as in pytorch_optimizer, the largest
      divides.
    - weight_decay is decoupled and times lr, the package's default; not in Algorithm 2.
    - eps is 1e-16 by default, as in the package and all others; 1e-8 in the paper. As it is added
      at every step, s settles at eps / (1 - b2) without any surprise.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.rule import Rule
from isostep.rules import adam, radam


def update(
    p: Any,
    g: Any,
    m: Any,
    s: Any,
    /,
    *top_t: Any,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    rectify: bool,
    degenerated_to_sgd: bool,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *tops, t = top_t
    b1, b2 = betas
    m = parts.average(m, g, b1)
    surprise = g - m
    s = parts.average(s, surprise * surprise, b2) + eps
    top = tops[0] if tops else None
    how: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "denominator": denominator}
    if rectify:
        top = s if top is None else nm.maximum(top, s)
        u, _ = radam.directed(m, top, t, degenerated_to_sgd=degenerated_to_sgd, **how)
    else:
        u, top = adam.directed(m, s, top, t, **how)
    u = parts.decoupled(p, u, lr, weight_decay)
    return (u, m, s, top) if tops else (u, m, s)


RULE = Rule(
    name="adabelief",
    update=update,
    state=lambda h: ("exp_avg", "exp_avg_var", *(("max_exp_avg_var",) if h.amsgrad else ())),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": radam.betas(0.9),
        "eps": parts.eps(1e-16, "added to the average and to the denominator"),
        "weight_decay": parts.weight_decay(),
        "amsgrad": adam.RULE.hyper["amsgrad"],
        "rectify": radam.RECTIFY,
        "degenerated_to_sgd": radam.DEGENERATED,
    },
    family="adam",
    year=2020,
    paper="Zhuang et al., AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed"
    " Gradients",
    arxiv="2010.07468",
)
