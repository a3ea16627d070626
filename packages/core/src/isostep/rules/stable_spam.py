"""Stable-SPAM: Adam on gradients whose spikes are clipped and whose norms are steadied, with moments that start again.

    s  = t before step update_proj_gap, then t % update_proj_gap + 1        the steps since the moments started
    M <- gamma3 * M + (1 - gamma3) * max |g|
    k  = M / (1 - gamma3**t)
    e  = g / (max |g|) * k where |g| > k, else g                            AdaClip
    n  = |e|                                                                the norm of the whole array
    a <- gamma1 * a + (1 - gamma1) * n
    b <- gamma2 * b + (1 - gamma2) * n**2
    h  = e / n * (a / (1 - gamma1**t)) / (sqrt(b / (1 - gamma2**t)) + eps)  AdaGN
    m <- b1 * m + (1 - b1) * h                      m = v = 0 before, where t is a multiple of update_proj_gap
    v <- b2 * v + (1 - b2) * h**2
    u  = -lr / (1 - b1**s) * m / (sqrt(v / (1 - b2**s)) + eps) - lr * weight_decay * p

Follows: Huang et al., "Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam", arXiv
    2502.17055, by the authors' code TianjinYellow/StableSPAM, galore_torch/stablespam.py, from which
    are names and defaults. pytorch_optimizer's StableSPAM agrees, but that it leaves the moments of
    an array alone in a step whose gradient is zero (its gamma3 is called theta).
Departs:
    - In the authors' code the step that starts again still moves along the old moments, corrected
      as if they were of one step, and the steps of M, a and b are counted from there again,
      although these go on. Here, as in pytorch_optimizer, that step has new moments, and what goes
      on is corrected by t.
    - Their cosine decay of b1 and gamma1 (total_T, eta_min) is a schedule of either: betas=(lambda
      done: ..., 0.999). gamma1 = -1, which stands for b1, and amsgrad are left out.
lr unit: parameter units per step, as Adam.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Integer
from isostep.rule import Rule
from isostep.rules import adam


def init(p: Any, /) -> tuple[Any, ...]:
    """Zeros: two arrays like p, three numbers of it."""
    zeros = parts.zeros(p)
    return zeros, parts.zeros(p), *(nm.sum(zeros) for _ in range(3))


def steadied(
    g: Any, a: Any, b: Any, top: Any, t: Any, *, gammas: tuple[Any, Any, Any], eps: Any
) -> tuple[Any, Any, Any, Any]:
    """The gradient without spikes and with the norm that its last ones have had, and the averages that say which."""
    x, size = parts.in_peaks(g)
    a1, b1, top1 = parts.corrections(gammas, t)
    top = parts.average(top, size, gammas[2])
    bound = top / top1
    x = nm.where(nm.abs(g) > bound, x * (bound / nm.where(size == 0, 1.0, size)), x)
    length = parts.norm(x)
    n = size * length
    a, b = parts.average(a, n, gammas[0]), parts.average(b, n * n, gammas[1])
    steady = a / a1 / (parts.root(b, b1) + eps)
    return x / nm.where(size == 0, 1.0, length) * steady, a, b, top


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    a: Any,
    b: Any,
    top: Any,
    t: int,
    /,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    weight_decay: Any,
    gamma1: Any,
    gamma2: Any,
    gamma3: Any,
    update_proj_gap: int,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """See the module's equations."""
    gammas = (gamma1, gamma2, gamma3)
    x, a, b, top = steadied(g, a, b, top, t, gammas=gammas, eps=eps)
    done = t % update_proj_gap
    m, v = (nm.where(done == 0, 0.0, old) for old in (m, v))
    since = nm.where(t < update_proj_gap, done, done + 1)
    how: dict[str, Any] = {"betas": betas, "eps": eps, "dialect": "torch"}
    u, m, v = adam.step(x, m, v, since, lr=lr, denominator=denominator, **how)
    return parts.decoupled(p, u, lr, weight_decay), m, v, a, b, top


RULE = Rule(
    name="stable_spam",
    update=update,
    init=init,
    state=("exp_avg", "exp_avg_sq", "m_norm_t", "v_norm_t", "m_max_t"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-8, "added to the denominators of the norm and of the step"),
        "weight_decay": parts.weight_decay(),
        "gamma1": parts.decay_rate(0.7, "decay rate of the average norm"),
        "gamma2": parts.decay_rate(0.9, "decay rate of the average squared norm"),
        "gamma3": parts.decay_rate(0.999, "decay rate of the average largest magnitude"),
        "update_proj_gap": Integer(
            1000, low=1, cases=(3, 1), doc="steps from one start of the moments to the next"
        ),
    },
    family="adam",
    year=2025,
    paper="Huang et al., Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam",
    arxiv="2502.17055",
)
