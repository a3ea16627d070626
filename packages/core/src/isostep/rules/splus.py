"""SPlus: the sign of the momentum in the eigenbases of Shampoo's preconditioners, and an average of the parameters.

    m   <- b1 * m + (1 - b1) * g
    d    = Q_1 sign(Q_1^T m Q_2) Q_2^T              sign(m) for arrays that are no matrices
    r    = lr * 2 / (rows + columns)                lr * nonstandard_constant for those
    q    = p - r * d
    u    = q - r * weight_decay * q - p
    e   <- ema_rate * e + (1 - ema_rate) * q
    L_i <- b2 * L_i + (1 - b2) * G G^T              G: g unfolded along axis i
    Q_i <- the eigenvectors of L_i                  at t = 1 and every inverse_every-th step; I before
    The model is evaluated at e / (1 - ema_rate**t).

Follows: Frans, Levine, Abbeel, "A Stable Whitening Optimizer for Efficient Neural Network Training",
    arXiv 2506.07254, by the authors' code kvfrans/splus, torch/splus.py, from which are names and
    defaults. pytorch_optimizer's SPlus agrees.
Departs:
    - A step uses the bases that were there before it, and stores new ones, as there. Which
      eigenvectors a library gives is its own affair: signs never matter, but where an L_i is
      singular, as it is at first if a matrix has fewer elements across an axis than along it, runs
      may differ.
    - The eigenvectors are those of L_i, without the authors' 1e-30 * I.
    - An axis of max_dim elements or more keeps its own basis, and its matrix the lr of arrays that
      are none, as in their optax code; in their torch code, that from max_dim + 1 elements on.
    - Their optax code also tells by names which parameters have that lr (embeddings and norms): put
      those into a group of their own.
lr unit: half of (rows + columns) times the root mean square of a matrix's step.
"""

from __future__ import annotations

from typing import Any

from isostep import matrix, nm, parts
from isostep.domains import Integer, Real
from isostep.rule import Rule


def axes(p: Any, longest: int) -> tuple[int, ...]:
    """The axes that have a basis."""
    return tuple(i for i in range(p.ndim) if p.ndim == 2 and p.shape[i] < longest)


def init(p: Any, /, *, max_dim: int) -> tuple[Any, ...]:
    """Zeros and identities; what an array has no use for is a 0-d zero."""
    zeros, own = parts.zeros(p), axes(p, max_dim)
    bases = [matrix.identity(p, i) if i in own else nm.sum(zeros) for i in range(2)]
    return (zeros, 1.0 * zeros, *(0.0 * q for q in bases), *bases)


def phase(t: int, /, *, inverse_every: int) -> bool:
    """Whether this step makes new bases after it."""
    return (t == 1) + (t % inverse_every == 0) > 0


def update(
    p: Any,
    g: Any,
    m: Any,
    e: Any,
    left: Any,
    right: Any,
    q_left: Any,
    q_right: Any,
    t: int,
    /,
    *,
    lr: Any,
    b1: Any,
    b2: Any,
    ema_rate: Any,
    weight_decay: Any,
    max_dim: int,
    nonstandard_constant: Any,
    phase: bool,
) -> tuple[Any, ...]:
    """See the module's equations."""
    sides, bases, own = [left, right], [q_left, q_right], axes(p, max_dim)
    m = d = parts.average(m, g, b1)
    for i in own:
        d = matrix.along(d, i, bases[i])
    d = nm.sign(d)
    for i in own:
        d = matrix.along(d, i, nm.transpose(bases[i]))
        sides[i] = parts.average(sides[i], matrix.gram(g, i), b2)
        if phase:
            bases[i] = nm.eigenbasis(sides[i])
    rate = lr * (2 / max(sum(p.shape), 1) if len(own) == 2 else nonstandard_constant)
    u = -rate * d
    e = parts.average(e, p + u, ema_rate)
    return (parts.decoupled(p + u, u, rate, weight_decay), m, e, *sides, *bases)


def evaluate(p: Any, m: Any, e: Any, *rest_t: Any, ema_rate: Any) -> Any:
    """The average without its bias."""
    return e / nm.one_minus_pow(ema_rate, rest_t[-1])


RULE = Rule(
    name="splus",
    update=update,
    init=init,
    phase=phase,
    evaluate=evaluate,
    state=(
        "momentum_buffer",
        "ema",
        *(f"preconditioner_{i}" for i in range(2)),
        *(f"eigenbasis_{i}" for i in range(2)),
    ),
    hyper={
        "lr": parts.lr(0.1),
        "b1": parts.decay_rate(0.9, "decay rate of the momentum"),
        "b2": parts.decay_rate(0.999, "decay rate of the preconditioners"),
        "ema_rate": parts.decay_rate(0.999, "decay rate of the average of the parameters"),
        "inverse_every": Integer(
            100, low=1, static=True, cases=(3,), doc="steps from one pair of bases to the next"
        ),
        "weight_decay": parts.weight_decay(1e-2),
        "max_dim": Integer(
            10000, low=0, static=True, cases=(5, 6), doc="shortest axis that keeps its own basis"
        ),
        "nonstandard_constant": Real(
            1e-3, low=0, cases=(0.3,), doc="factor of lr for arrays without two bases"
        ),
    },
    family="matrix",
    year=2025,
    paper="Frans et al., A Stable Whitening Optimizer for Efficient Neural Network Training",
    arxiv="2506.07254",
)
