"""ADOPT: Adam that divides each gradient by the root of the squares before it, and averages then.

    g <- g + weight_decay * p                       or, decoupled, u <- u - lr * weight_decay * p
    t = 1:  v <- g**2, and p stays
    t > 1:  n  = clip(g / max(sqrt(v), eps), (t - 1)**clip_exp)         both ways
            m <- b1 * m + (1 - b1) * n
            u  = -lr * m
            v <- b2 * v + (1 - b2) * g**2

Follows: Taniguchi, Harada, Minegishi, Oshima, Jeong, Nagahara, Iiyama, Suzuki, Iwasawa, Matsuo,
    "ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate", arXiv 2411.02853,
    Algorithm 2, and the authors' code iShohei220/adopt, whose clip_lambda is a function; here it
    is its exponent. optax.contrib.adopt and timm's Adopt agree.
Departs:
    - Algorithm 1, without clipping, is left out.
    - timm's default of clip_exp is 1/3. pytorch_optimizer clips with t in place of t - 1.
    - Decoupled decay leaves p alone at t = 1, as in the authors' code and timm.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Flag, Real
from isostep.rule import Rule


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
    clip_exp: Any,
    weight_decay: Any,
    decouple: bool,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    b1, b2 = betas
    g = parts.coupled(p, g, weight_decay, when=not decouple)
    # The bound is 0 at t = 1, so that m and p stay as they are without a choice.
    bound = nm.pow(t - 1, clip_exp)
    m = parts.average(m, nm.clip(g / nm.maximum(nm.sqrt(v), eps), -bound, bound), b1)
    # v is zero before the first step, so all that t = 1 needs is the whole square.
    v = b2 * v + nm.where(t > 1, 1 - b2, 1.0) * (g * g)
    u = -lr * m
    if weight_decay and decouple:
        u = u - nm.where(t > 1, lr * weight_decay, 0.0) * p
    return u, m, v


RULE = Rule(
    name="adopt",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(
            0.9,
            0.9999,
            doc="decay rates of the running averages of the quotient and of the square",
        ),
        "eps": parts.eps(1e-6, "smallest divisor", low_open=True),
        "clip_exp": Real(
            0.25, low=0, low_open=True, cases=(0.2,), doc="exponent of the bound of the quotient"
        ),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled by default"),
        "decouple": Flag(False, doc="weight decay past the averages, as in AdamW"),
    },
    family="adam",
    year=2024,
    paper="Taniguchi et al., ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal"
    " Rate",
    arxiv="2411.02853",
)
