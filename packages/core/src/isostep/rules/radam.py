"""RAdam: Adam whose denominator is left out until enough gradients have been seen, then rectified.

    g <- g + weight_decay * p                       u <- u - lr * weight_decay * p instead with
    m <- b1 * m + (1 - b1) * g                      decoupled_weight_decay
    v <- b2 * v + (1 - b2) * g**2                   c1 = 1 - b1**t, c2 = 1 - b2**t
    R  = 2 / (1 - b2) - 1
    q  = R - 2 * t * b2**t / c2
    r  = sqrt((q - 4) * (q - 2) * R / ((R - 4) * (R - 2) * q))

    torch   u = -lr / c1 * m * r * sqrt(c2) / (sqrt(v) + eps)   where q > 5, else -lr / c1 * m
    optax   u = -lr / c1 * m * r / (sqrt(v / c2) + eps)         where q >= 5, else -lr / c1 * m
    paper   as optax                                            where q > 4, else -lr / c1 * m

Without degenerated_to_sgd there is no step, and no decoupled decay, until q is past the bound.

Follows: Liu, Jiang, He, Chen, Liu, Gao, Han, "On the Variance of the Adaptive Learning Rate and
    Beyond", arXiv 1908.03265, Algorithm 2 (paper); torch.optim.RAdam and pytorch_optimizer's RAdam
    with degenerated_to_sgd (torch); optax.radam and optimi's RAdam (optax). Without
    degenerated_to_sgd: the authors' code LiyuanLucasLiu/RAdam.
Departs:
    - The bound is the paper's 4 only in the paper dialect; the authors' code and nearly all others
      have 5.
    - The paper has no eps.
    - weight_decay is not in the paper's Algorithm 2: coupled, or decoupled, as in torch.
    - degenerated_to_sgd, an option of the authors' code, is on by default as in torch;
      pytorch_optimizer's default is off, and its decay goes on while there is no step.
lr unit: parameter units per step once q is past the bound; before, parameter units per gradient unit.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Flag, Pair
from isostep.rule import Rule

DIALECTS = ("torch", "optax", "paper")
#: Of the rules that take RAdam's factor as an option.
RECTIFY = Flag(False, doc="divide only once the variance is tractable, and rectified, as RAdam")
DEGENERATED = Flag(True, doc="step along the average alone, not at all if off, until the bound")


def betas(first: float) -> Pair:
    """The decay rates of both averages; cases reach the bound within their steps."""
    return Pair(
        parts.decay_rate(first),
        parts.decay_rate(0.999, cases=(0.844,)),
        doc="decay rates of the running averages of the gradient and of its square",
    )


def rectification(t: Any, b2: Any, dialect: str) -> tuple[Any, Any]:
    """Whether the variance is tractable at step t, and the factor r, which is one if it is not."""
    full = 2 / (1 - b2) - 1
    power = nm.exp(t * nm.log(b2))
    length = full - 2 * t * power / nm.one_minus_pow(b2, t)
    if dialect == "optax":
        tractable = length >= 5
    else:
        tractable = length > (5 if dialect == "torch" else 4)
    # One, not the root of a negative number that another choice throws away: a derivative goes through both branches.
    reached = nm.where(tractable, (length - 4) * (length - 2) * full, 1.0)
    limit = nm.where(tractable, (full - 4) * (full - 2) * length, 1.0)
    return tractable, nm.sqrt(reached) * nm.pow(limit, -0.5)


def directed(
    m: Any,
    v: Any,
    t: Any,
    *,
    lr: Any,
    betas: tuple[Any, Any],
    eps: Any,
    degenerated_to_sgd: bool,
    dialect: str = "torch",
    friction: Any = None,
    denominator: Any = parts.same,
) -> tuple[Any, Any]:
    """The step along m, past the bound times ``friction``, and whether step t is past it."""
    c1, c2 = parts.corrections(betas, t)
    tractable, r = rectification(t, betas[1], dialect)
    if dialect == "torch":
        past = (r * nm.sqrt(c2)) / denominator(nm.sqrt(v) + eps)
    else:
        past = r / denominator(parts.root(v, c2) + eps)
    if friction is not None:
        past = friction * past
    before = 1.0 if degenerated_to_sgd else 0.0
    return (-lr / c1) * m * nm.where(tractable, past, before), tractable


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
    decoupled_weight_decay: bool,
    degenerated_to_sgd: bool,
    dialect: str,
    denominator: Any = parts.same,
) -> tuple[Any, Any, Any]:
    """See the module's equations."""
    g = parts.coupled(p, g, weight_decay, when=not decoupled_weight_decay)
    m, v = parts.moments(g, m, v, betas)
    how: dict[str, Any] = {"dialect": dialect, "denominator": denominator}
    how["degenerated_to_sgd"] = degenerated_to_sgd
    u, tractable = directed(m, v, t, lr=lr, betas=betas, eps=eps, **how)
    rate = lr if degenerated_to_sgd else nm.where(tractable, lr, 0.0)
    return parts.decoupled(p, u, rate, weight_decay, when=decoupled_weight_decay), m, v


RULE = Rule(
    name="radam",
    update=update,
    state=("exp_avg", "exp_avg_sq"),
    hyper={
        "lr": parts.lr(1e-3),
        "betas": betas(0.9),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled by default"),
        "decoupled_weight_decay": Flag(False, doc="weight decay past the averages, as in AdamW"),
        "degenerated_to_sgd": DEGENERATED,
        "dialect": Choice("torch", options=DIALECTS, doc="place of eps and bound of the length"),
    },
    family="adam",
    year=2019,
    paper="Liu et al., On the Variance of the Adaptive Learning Rate and Beyond",
    arxiv="1908.03265",
)
