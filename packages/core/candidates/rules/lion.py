"""Lion: the sign of a mix of gradient and momentum.

    u = -lr * sign(b1 * m + (1 - b1) * g) - lr * weight_decay * p
    m <- b2 * m + (1 - b2) * g

Follows: Chen, Liang, Huang, Real, Wang, Liu, Pham, Dong, Luong, Hsieh, Lu, Le, "Symbolic Discovery
    of Optimization Algorithms", arXiv 2302.06675, Program 1 and Algorithm 2. lion-pytorch,
    optax.lion, timm, pytorch_optimizer, optimi and Keras agree.
Departs:
    - The decay is decoupled and times lr, as in the paper. bitsandbytes coupled it in its 32-bit
      kernels until 2026.
    - sign(NaN) is NaN; torch.sign(NaN) is 0.
Other defaults: optax weight_decay 1e-3, Keras lr 1e-3.
lr unit: parameter units per step; every element moves by lr, or not at all where the mix is 0.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Pair, Real
from isostep.rule import Rule


def update(
    p: Any, g: Any, m: Any, t: int, /, *, lr: Any, betas: tuple[Any, Any], weight_decay: Any
) -> tuple[Any, Any]:
    """See the module's equations."""
    b1, b2 = betas
    u = -lr * nm.sign(b1 * m + (1 - b1) * g)
    if weight_decay:
        u = u - (lr * weight_decay) * p
    return u, b2 * m + (1 - b2) * g


RULE = Rule(
    name="lion",
    update=update,
    state=("exp_avg",),
    hyper={
        "lr": Real(1e-4, low=0, doc="learning rate"),
        "betas": Pair(
            Real(0.9, low=0, high=1, high_open=True),
            Real(0.99, low=0, high=1, high_open=True),
            doc="weights of the momentum in the step and in its own average",
        ),
        "weight_decay": Real(
            0.0, low=0, zero_is_static=True, cases=(0.1,), doc="decoupled weight decay"
        ),
    },
    family="sign",
    year=2023,
    paper="Chen et al., Symbolic Discovery of Optimization Algorithms",
    arxiv="2302.06675",
)
