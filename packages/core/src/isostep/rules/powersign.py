"""PowerSign: the gradient times a base to the power of its agreement in sign with its own average.

    m <- beta * m + (1 - beta) * g
    s  = sign(g) * sign(m)
    u  = -lr * exp(ln(base) * f * s) * g    f = sign_internal_decay(t - 1), or 1 without one

Follows: Bello, Zoph, Vasudevan, Le, "Neural Optimizer Search with Reinforcement Learning", arXiv
    1709.07417, the PowerSign update alpha ** (f(t) * sign(g) * sign(m)) * g, whose alpha is called
    ``base`` as in TensorFlow. The power is written exp((ln(base) * f) * s) and the order is that
    of TensorFlow's ApplyPowerSign kernel: m first, s from the new m, then (lr * factor) * g.
Departs:
    - As AddSign, in all six points (see addsign.py).
    - TensorFlow's sparse path and the PyTorch port (whose base is called alpha) write pow(base, f
      * s): a few ulp away.
Defaults are TensorFlow's; the PyTorch port has lr 1e-3. base = 1 is SGD, a base below 1 damps
agreement.
lr unit: that of SGD; a step is lr * g times a factor between 1/base and base.
"""

from __future__ import annotations

import math
from typing import Any

from isostep import nm
from isostep.domains import Real, Scheduled
from isostep.rule import Rule
from isostep.rules.addsign import agreement


def update(
    p: Any, g: Any, m: Any, t: int, /, *, lr: Any, beta: Any, base: Any, sign_internal_decay: Any
) -> tuple[Any, Any]:
    """See the module's equations."""
    s, m = agreement(g, m, beta)
    exponent = nm.log(base) if sign_internal_decay is None else nm.log(base) * sign_internal_decay
    return (-lr * nm.exp(exponent * s)) * g, m


RULE = Rule(
    name="powersign",
    update=update,
    state=("m",),
    hyper={
        "lr": Real(0.1, low=0, doc="learning rate"),
        "beta": Real(0.9, low=0, high=1, high_open=True, doc="decay rate of the running average"),
        "base": Real(math.e, low=0, low_open=True, cases=(10.0, 0.5), doc="base of the power"),
        "sign_internal_decay": Scheduled(
            doc="factor of the exponent, by the steps already done; see isostep.schedules"
        ),
    },
    family="sign",
    year=2017,
    paper="Bello et al., Neural Optimizer Search with Reinforcement Learning",
    arxiv="1709.07417",
)
