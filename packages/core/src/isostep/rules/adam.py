"""Adam: the running average of gradients over the root of the running average of their squares.

    g <- g + weight_decay * p                       (keras, and with decoupled_weight_decay:
                                                     u <- u - lr * weight_decay * p instead)
    m <- b1 * m + (1 - b1) * g                      c1 = 1 - b1**t
    v <- b2 * v + (1 - b2) * g**2                   c2 = 1 - b2**t

and then, by dialect, without and with amsgrad (top starts at zero):

    torch   u = -lr / c1 * m / (sqrt(v / c2) + eps)         top <- max(top, v), used for v
    paper   the same                                        as torch, but c1 = c2 = 1
    keras   u = -lr * sqrt(c2) / c1 * m / (sqrt(v) + eps)   top <- max(top, v), used for v
    optax   as torch                                        top <- max(top, v / c2), used for v / c2
    adamd   u = -lr * m / (sqrt(v / c2) + eps)              as torch

Follows: Kingma, Ba, "Adam: A Method for Stochastic Optimization", arXiv 1412.6980, Algorithm 1,
    all lines (torch, paper, optax); for keras the reordered form at the end of its section 2,
    whose eps is the paper's "eps hat". amsgrad: Reddi, Kale, Kumar, "On the Convergence of Adam
    and Beyond", arXiv 1904.09237, Algorithm 2 (paper). adamd: John, "AdamD: Improved bias-correction
    in Adam", arXiv 2110.10828, whose m keeps its bias, so that the first steps are small;
    pytorch_optimizer's adam_debias.
Departs:
    - amsgrad in torch, keras and TensorFlow corrects the bias of the maximum of the uncorrected v;
      in optax it is the corrected v / c2 whose maximum is kept. The paper corrects nothing (optax
      with both bias corrections off agrees) and has no eps, which every implementation adds. No
      setting of optax.amsgrad gives torch's.
    - weight_decay is not in the paper: coupled (L2) as torch.optim.Adam and
      optax.add_decayed_weights in front of adam; decoupled in keras, whose Adam(weight_decay) is
      AdamW. decoupled_weight_decay is torch.optim.Adam's.
    - Keras's own default of eps is 1e-7; here every dialect has 1e-8.
    - The bias corrections are taken in float64 or by expm1, never as 1 - b**t in float32 (optax
      does, and is 1e-5 off there).
Also eps hat: TensorFlow's ApplyAdam, torch.optim.SparseAdam, pytorch_optimizer's AdamP.
lr unit: parameter units per step; a step is about lr wherever the gradient keeps its sign.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Flag
from isostep.rule import Rule


def torch_rate(v: Any, top: Any, t: Any, *, lr: Any, betas: Any, eps: Any) -> tuple[Any, ...]:
    """Bias-corrected, eps outside; amsgrad keeps the maximum of v as it is."""
    c1, c2 = parts.corrections(betas, t)
    top = v if top is None else nm.maximum(top, v)
    return -lr / c1, parts.root(top, c2) + eps, top


def paper_rate(v: Any, top: Any, t: Any, *, lr: Any, betas: Any, eps: Any) -> tuple[Any, ...]:
    """Adam's Algorithm 1; AMSGrad's Algorithm 2 has no bias correction at all."""
    if top is None:
        return torch_rate(v, top, t, lr=lr, betas=betas, eps=eps)
    top = nm.maximum(top, v)
    return -lr, nm.sqrt(top) + eps, top


def keras_rate(v: Any, top: Any, t: Any, *, lr: Any, betas: Any, eps: Any) -> tuple[Any, ...]:
    """Both corrections in the scalar, so eps is the paper's eps hat."""
    c1, c2 = parts.corrections(betas, t)
    top = v if top is None else nm.maximum(top, v)
    return -lr * nm.sqrt(c2) / c1, nm.sqrt(top) + eps, top


def optax_rate(v: Any, top: Any, t: Any, *, lr: Any, betas: Any, eps: Any) -> tuple[Any, ...]:
    """Bias-corrected before the maximum, which is what amsgrad then stores."""
    c1, c2 = parts.corrections(betas, t)
    top = v / c2 if top is None else nm.maximum(top, v / c2)
    return -lr / c1, nm.sqrt(top) + eps, top


def adamd_rate(v: Any, top: Any, t: Any, *, lr: Any, betas: Any, eps: Any) -> tuple[Any, ...]:
    """As torch's, but only v is corrected."""
    top = v if top is None else nm.maximum(top, v)
    return -lr, parts.root(top, nm.one_minus_pow(betas[1], t)) + eps, top


#: By dialect: what m is multiplied by and divided by, and the largest v.
RATES = {
    "torch": torch_rate,
    "paper": paper_rate,
    "keras": keras_rate,
    "optax": optax_rate,
    "adamd": adamd_rate,
}


def directed(
    m: Any,
    v: Any,
    top: Any,
    t: Any,
    *,
    lr: Any,
    betas: Any,
    eps: Any,
    dialect: str = "torch",
    denominator: Any = parts.same,
) -> tuple[Any, Any]:
    """The step along m, and the largest v."""
    rate, d, top = RATES[dialect](v, top, t, lr=lr, betas=betas, eps=eps)
    return rate * m / denominator(d), top


def step(
    g: Any,
    m: Any,
    v: Any,
    *top_t: Any,
    lr: Any,
    betas: Any,
    eps: Any,
    dialect: str,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """Adam without decay: u and the new state, which has amsgrad's maximum if that came in."""
    *tops, t = top_t
    m, v = parts.moments(g, m, v, betas)
    top = tops[0] if tops else None
    how: dict[str, Any] = {"dialect": dialect, "denominator": denominator}
    u, top = directed(m, v, top, t, lr=lr, betas=betas, eps=eps, **how)
    return (u, m, v, top) if tops else (u, m, v)


def update(
    p: Any,
    g: Any,
    /,
    *state_t: Any,
    lr: Any,
    betas: Any,
    eps: Any,
    weight_decay: Any,
    decoupled_weight_decay: bool,
    dialect: str,
    denominator: Any = parts.same,
) -> tuple[Any, ...]:
    """See the module's equations."""
    coupled = dialect != "keras" and not decoupled_weight_decay
    g = parts.coupled(p, g, weight_decay, when=coupled)
    u, *state = step(
        g, *state_t, lr=lr, betas=betas, eps=eps, dialect=dialect, denominator=denominator
    )
    return parts.decoupled(p, u, lr, weight_decay, when=not coupled), *state


def state(h: SimpleNamespace) -> tuple[str, ...]:
    """amsgrad stores one array more."""
    return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq") if h.amsgrad else ("exp_avg", "exp_avg_sq")


RULE = Rule(
    name="adam",
    update=update,
    state=state,
    hyper={
        "lr": parts.lr(1e-3),
        "betas": parts.betas(0.9, 0.999),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(doc="weight decay, coupled but in keras"),
        "amsgrad": Flag(False, doc="divide by the largest average of squares so far"),
        "decoupled_weight_decay": Flag(False, doc="weight decay past the averages, as in AdamW"),
        "dialect": Choice("torch", options=tuple(RATES), doc="whose formula where they differ"),
    },
    known_as={"amsgrad": {"amsgrad": True}},
    family="adam",
    year=2014,
    paper="Kingma and Ba, Adam: A Method for Stochastic Optimization",
    arxiv="1412.6980",
)
