"""Shampoo: a full-matrix AdaGrad for each axis of an array, put together.

    g'   = g + weight_decay * p
    for each of the k axes, with G the array unfolded along it (its indices are the rows of G):
    L_i <- L_i + G' G'^T                                    L_i = eps * I before the first step
    P_i  = L_i^(-1 / r)                                     every precondition_frequency-th step, the first included
    d    = g' times P_1 along its first axis, times P_2 along its second, ...
    b   <- momentum * b + d                                 d without momentum
    u    = -lr * b
    r = 2 * k, or inv_root_override where that is not 0

Follows: Gupta, Koren, Singer, "Shampoo: Preconditioned Stochastic Tensor Optimization", arXiv
    1802.09568, Algorithm 1 (matrices: L^(-1/4) G R^(-1/4)) and 2 (tensors); the names and the momentum
    of facebookresearch/optimizers. pytorch_optimizer's Shampoo agrees without momentum.
Departs:
    - Scalars are vectors of one element. More than four axes are refused. No axes are merged: a
      convolution kernel (out, in, rows, columns) has four matrices and r = 8.
    - An axis longer than max_preconditioner_dim keeps the diagonal of its L_i only, whose power is
      taken element by element; facebookresearch/optimizers cuts such an array into blocks.
    - Roots are taken by a symmetric eigendecomposition, with eigenvalues below eps taken for eps:
      none is in exact arithmetic, and a root of rounding would be anything at all. There
      facebookresearch/optimizers adds eps to the eigenvalues of a sum from zero: the same matrix.
    - pytorch_optimizer takes the first root at step precondition_frequency, not at step 1, and
      stands still until then. Its momentum, and torch_optimizer's, mixes the last preconditioned
      step into the gradient before it is preconditioned.
    - torch_optimizer has r = k, and sums up gradients that are preconditioned along the axes before.
lr unit: parameter units for the first step, whose d has singular values near 1.
"""

from __future__ import annotations

from typing import Any

from isostep import matrix, nm, parts
from isostep.domains import Integer, Real
from isostep.rule import Rule


def full(p: Any, axis: int, longest: int) -> bool:
    """Whether this axis has a whole matrix; else it has one number for each index."""
    return p.ndim > 0 and p.shape[axis] <= longest


def init(
    p: Any, /, *, momentum: Any, eps: Any, precondition_frequency: int, max_preconditioner_dim: int
) -> tuple[Any, ...]:
    """eps on each diagonal and roots of zero; what an array has no use for is a 0-d zero."""
    zeros = parts.zeros(p)
    sums = []
    for i in range(max(p.ndim, 1)):
        if full(p, i, max_preconditioner_dim):
            sums.append(eps * matrix.identity(p, i))
        else:
            sums.append(matrix.diagonal(zeros, i) + eps)
    sums += [nm.sum(zeros) for _ in range(matrix.AXES - len(sums))]
    roots = [0.0 * s for s in sums] if precondition_frequency > 1 else []
    return (*([zeros] if momentum else []), *sums, *roots)


def phase(t: int, /, *, precondition_frequency: int) -> bool:
    """Whether roots are taken: at the first step and every so often from there."""
    return t % precondition_frequency == 1 % precondition_frequency


def update(
    p: Any,
    g: Any,
    /,
    *state_t: Any,
    lr: Any,
    momentum: Any,
    weight_decay: Any,
    eps: Any,
    precondition_frequency: int,
    max_preconditioner_dim: int,
    inv_root_override: int,
    phase: bool,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *state, _t = state_t
    buffer, state = (state[:1], state[1:]) if momentum else ([], state)
    sums, roots = state[: matrix.AXES], state[matrix.AXES :]
    g = parts.coupled(p, g, weight_decay)
    count = max(p.ndim, 1)
    exponent = -1.0 / (inv_root_override or 2 * count)
    d = g
    for i in range(count):
        whole = full(p, i, max_preconditioner_dim)
        sums[i] = sums[i] + (matrix.gram(g, i) if whole else matrix.diagonal(g * g, i))
        if phase or not roots:
            root = nm.spectral_power(sums[i], exponent, eps) if whole else nm.pow(sums[i], exponent)
            if roots:
                roots[i] = root
        else:
            root = roots[i]
        d = matrix.along(d, i, root) if whole else d * root
    if momentum:
        d = momentum * buffer[0] + d
    return (-lr * d, *([d] if momentum else []), *sums, *roots)


RULE = Rule(
    name="shampoo",
    update=update,
    init=init,
    phase=phase,
    state=lambda h: (
        *(("momentum_buffer",) if h.momentum else ()),
        *(f"preconditioner_{i}" for i in range(matrix.AXES)),
        *(
            (f"inverse_root_{i}" for i in range(matrix.AXES))
            if h.precondition_frequency > 1
            else ()
        ),
    ),
    hyper={
        "lr": parts.lr(0.1),
        "momentum": Real(
            0.0,
            low=0,
            high=1,
            high_open=True,
            zero_is_static=True,
            cases=(0.8,),
            doc="momentum of the preconditioned gradients",
        ),
        "weight_decay": parts.weight_decay(doc=parts.COUPLED),
        "eps": parts.eps(
            1e-4, "the preconditioners' first multiple of the identity", low_open=True
        ),
        "precondition_frequency": Integer(
            1, low=1, static=True, cases=(1, 3), doc="steps from one root to the next"
        ),
        "max_preconditioner_dim": Integer(
            1024, low=0, static=True, cases=(5, 6), doc="longest axis with a whole matrix"
        ),
        "inv_root_override": Integer(
            0,
            low=0,
            static=True,
            cases=(0, 3),
            doc="which root is taken; 0: twice the number of axes",
        ),
    },
    ndim=(0, 1, 2, 3, 4),
    family="matrix",
    year=2018,
    paper="Gupta et al., Shampoo: Preconditioned Stochastic Tensor Optimization",
    arxiv="1802.09568",
)
