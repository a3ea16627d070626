"""AddSign: the gradient, scaled by whether it agrees in sign with its own running average.

    m <- beta * m + (1 - beta) * g
    s  = sign(g) * sign(m)
    u  = -lr * (alpha + f * s) * g          f = sign_internal_decay(t - 1), or 1 without one

Follows: Bello, Zoph, Vasudevan, Le, "Neural Optimizer Search with Reinforcement Learning", arXiv
    1709.07417, the AddSign update with internal decay f(t), m a plain running average (no bias
    correction). The paper leaves the order open; as in TensorFlow's ApplyAddSign kernel m is
    updated first, s sees the new m, and the product is taken as (lr * factor) * g.
Departs:
    - f gets t - 1, the steps already done, as in TensorFlow's code (its docstrings say otherwise)
      and in the PyTorch port by cydonia999.
    - 1 - beta is taken in float64 and rounded once. TensorFlow takes it in the variable's dtype: in
      float32 m differs by 2e-7 at beta = 0.9, by 1.3e-5 at 0.999; its sign, all that p sees, does not.
    - float16 and bfloat16 compute in float32; TensorFlow rounds after every operation.
    - sign(NaN) is NaN, as in TensorFlow; torch.sign(NaN) is 0, so the PyTorch port stays finite
      there.
    - Denormals are kept; TensorFlow's CPU kernels flush them.
    - t is counted per parameter; TensorFlow has one global step. The PyTorch port also counts per
      parameter.
Defaults are TensorFlow's; the PyTorch port has lr 1e-3.
lr unit: that of SGD; with alpha = 1 and f = 1 a step is 0, 1 or 2 times lr * g.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Real, Scheduled
from isostep.rule import Rule


def agreement(g: Any, m: Any, beta: Any) -> tuple[Any, Any]:
    """sign(g) * sign(new m), and the new m. PowerSign shares it."""
    m = beta * m + (1 - beta) * g
    return nm.sign(g) * nm.sign(m), m


def update(
    p: Any, g: Any, m: Any, t: int, /, *, lr: Any, beta: Any, alpha: Any, sign_internal_decay: Any
) -> tuple[Any, Any]:
    """See the module's equations."""
    s, m = agreement(g, m, beta)
    factor = alpha + (s if sign_internal_decay is None else sign_internal_decay * s)
    return (-lr * factor) * g, m


RULE = Rule(
    name="addsign",
    update=update,
    state=("m",),
    hyper={
        "lr": Real(0.1, low=0, doc="learning rate"),
        "beta": Real(0.9, low=0, high=1, high_open=True, doc="decay rate of the running average"),
        "alpha": Real(
            1.0, low=0, cases=(0.7,), doc="weight of the plain gradient beside the agreement"
        ),
        "sign_internal_decay": Scheduled(
            doc="weight of the agreement, by the steps already done; see isostep.schedules"
        ),
    },
    family="sign",
    year=2017,
    paper="Bello et al., Neural Optimizer Search with Reinforcement Learning",
    arxiv="1709.07417",
)
