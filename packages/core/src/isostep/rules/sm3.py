"""SM3: AdaGrad with one accumulator for each index of each axis instead of one for each element.

    v  = min over the axes of their accumulators + g**2         an element is in one slice of each
    a_i <- max of v over all axes but the i-th                  a_i has one number for each index
    d  = g / sqrt(v + eps)                                      0 where v is 0
    m <- momentum * m + (1 - momentum) * d
    u  = -lr * m                                                -lr * d without momentum

Follows: Anil, Gupta, Koren, Singer, "Memory-Efficient Adaptive Optimization", arXiv 1901.11150,
    Algorithm SM3-II with the slices of its section 4 as its sets, and the momentum that the authors'
    code (google-research/sm3, sm3.py) has by default. optax.sm3 agrees.
Departs:
    - eps is optax's; the paper has 0 / 0 = 0, which eps = 0 gives here too.
    - Vectors have one accumulator per element, scalars one: AdaGrad. More than four axes are
      refused.
    - pytorch_optimizer's beta, which averages v, is left out.
lr unit: parameter units for the first step.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Real
from isostep.matrix import AXES, others
from isostep.rule import Rule


def init(p: Any, /, *, momentum: Any) -> tuple[Any, ...]:
    """A zero for each index of each axis; what an array has no use for is a 0-d zero."""
    zeros = parts.zeros(p)
    slices = [
        nm.sum_axis(zeros, axis=others(p.ndim, i)) if p.ndim > 1 else 1.0 * zeros
        for i in range(max(p.ndim, 1))
    ]
    unused = [1.0 * nm.sum(zeros) for _ in range(AXES - len(slices))]
    return (*([zeros] if momentum else []), *slices, *unused)


def update(p: Any, g: Any, /, *state_t: Any, lr: Any, momentum: Any, eps: Any) -> tuple[Any, ...]:
    """See the module's equations."""
    *state, _t = state_t
    buffer, slices = state[:-AXES], state[-AXES:]
    count = max(p.ndim, 1)
    v = slices[0]
    for a in slices[1:count]:
        v = nm.minimum(v, a)
    v = v + g * g
    new = [nm.max_axis(v, axis=others(p.ndim, i)) if p.ndim > 1 else v for i in range(count)]
    d = nm.where(v == 0, 0.0, g / nm.sqrt(v + eps))
    if momentum:
        d = parts.average(buffer[0], d, momentum)
    return (-lr * d, *([d] if momentum else []), *new, *slices[count:])


RULE = Rule(
    name="sm3",
    update=update,
    init=init,
    state=lambda h: (
        *(("momentum_buffer",) if h.momentum else ()),
        *(f"accumulator_{i}" for i in range(AXES)),
    ),
    hyper={
        "lr": parts.lr(0.1),
        "momentum": Real(
            0.9,
            low=0,
            high=1,
            high_open=True,
            zero_is_static=True,
            doc="decay rate of the running average of the steps",
        ),
        "eps": parts.eps(1e-8, "added under the root"),
    },
    ndim=(0, 1, 2, 3, 4),
    family="adaptive",
    year=2019,
    paper="Anil et al., Memory-Efficient Adaptive Optimization",
    arxiv="1901.11150",
)
