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

from isostep import nm, parts
from isostep.rule import Rule


def update(
    p: Any, g: Any, m: Any, t: int, /, *, lr: Any, betas: tuple[Any, Any], weight_decay: Any
) -> tuple[Any, Any]:
    """See the module's equations."""
    u = -lr * nm.sign(parts.average(m, g, betas[0]))
    return parts.decoupled(p, u, lr, weight_decay), parts.average(m, g, betas[1])


RULE = Rule(
    name="lion",
    update=update,
    state=("exp_avg",),
    hyper={
        "lr": parts.lr(1e-4),
        "betas": parts.betas(
            0.9,
            0.99,
            doc="weights of the momentum in the step and in its own average",
        ),
        "weight_decay": parts.weight_decay(),
    },
    family="sign",
    year=2023,
    paper="Chen et al., Symbolic Discovery of Optimization Algorithms",
    arxiv="2302.06675",
)
