"""AdaGC: no array's gradient much longer than its gradients have been.

    n  = sqrt(sum of g**2 over the array)           a = n before the first step
    to step start_clip_steps    c = min(max_norm / (N + eps), 1)        N: the norm of the whole group
                                a <- min(a, c * n)
    from then on                c = min(clip_ratio * max(a, eps) / max(n, eps), 1)
                                a <- beta * a + (1 - beta) * c * n
    g <- c * g

Follows: Wang et al., "AdaGC: Improving Training Stability for Large Language Model Pretraining", arXiv
    2502.11034, by the authors' code lishuai-97/AdaGC (its patch of megatron/optimizer/clip_grads.py,
    class AdaGC), from which are names and defaults; max_norm is Megatron's clip_grad.
    pytorch_optimizer's AdaGC is this and AdamW; its lambda_abs is max_norm, lambda_rel clip_ratio, and
    warmup_steps one more than start_clip_steps.
Departs:
    - Once the warm-up is over, the authors' code has no eps beside a, and adds it to n: an array that has had a
      gradient of zeros in the warm-up, as one behind a layer of zeros has, gets nothing but zeros from then on.
    - The norm of the warm-up is over the parameter group.
    - Other defaults: pytorch_optimizer's clip_ratio 1.05, beta 0.98 and eps 1e-8.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Integer, Real
from isostep.rule import Piece


def init(p: Any, /) -> Any:
    """No norm yet."""
    return nm.sum(parts.zeros(p))


def measure(p: Any, g: Any, a: Any, t: int, /) -> dict[str, Any]:
    """The squares whose sum over the group is the squared norm of the warm-up."""
    return {"squared_norm": g * g}


def before(
    p: Any,
    g: Any,
    a: Any,
    t: int,
    /,
    *,
    max_norm: Any,
    clip_ratio: Any,
    beta: Any,
    eps: Any,
    start_clip_steps: Any,
    squared_norm: Any,
) -> tuple[Any, Any]:
    """See the module's equations."""
    x, size = parts.in_peaks(g)
    size = size * parts.norm(x)
    a = nm.where(t > 1, a, size)
    early = t - 1 < start_clip_steps
    bound = nm.where(early, max_norm, clip_ratio * nm.maximum(a, eps))
    whole = nm.where(early, nm.sqrt(squared_norm) + eps, nm.maximum(size, eps))
    factor = nm.minimum(bound / whole, 1.0)
    clipped = factor * size
    return factor * g, nm.where(early, nm.minimum(a, clipped), parts.average(a, clipped, beta))


PIECE = Piece(
    name="adagc",
    before=before,
    init=init,
    measure=measure,
    state=("norm_value",),
    hyper={
        "max_norm": Real(
            1.0, low=0, low_open=True, cases=(3.0,), doc="largest norm of the group in the warm-up"
        ),
        "clip_ratio": Real(
            1.04, low=0, cases=(1.5,), doc="how much longer than its average a gradient may be"
        ),
        "beta": parts.decay_rate(0.99, "decay rate of the average norm"),
        "eps": parts.eps(1e-6, "added to the norms that are divided by"),
        "start_clip_steps": Integer(100, low=0, cases=(2,), doc="steps of the warm-up"),
    },
    family="gradient",
    year=2025,
    paper="Wang et al., AdaGC: Improving Training Stability for Large Language Model Pretraining",
    arxiv="2502.11034",
)
