"""SOAP: Adam in the eigenbases of Shampoo's preconditioners.

    the first step makes L_i and Q_i, and nothing else; then, with s = t - 1:
    g'   = g in the bases Q_i, axis by axis                 Q_1^T g Q_2 for a matrix
    m   <- b1 * m + (1 - b1) * g
    v   <- b2 * v + (1 - b2) * g'**2
    d'   = (m in the bases) / (sqrt(v) + eps)
    d    = d' taken back                                    Q_1 d' Q_2^T
    w    = sqrt(1 - b2**s) / (1 - b1**s)                    1 without correct_bias
    q    = p - lr * w * d
    u    = q - lr * weight_decay * q - p
    L_i <- b3 * L_i + (1 - b3) * G G^T                      G: g unfolded along axis i; b3: shampoo_beta, or b2
    Q_i <- the Q of a QR decomposition of L_i Q_i           every precondition_frequency-th s
           the eigenvectors of L_i                          at the first step

Follows: Vyas, Morwani, Zhao, Shapira, Brandfonbrener, Janson, Kakade, "SOAP: Improving and
    Stabilizing Shampoo using Adam", arXiv 2409.11321, Algorithm 3 (a step) and 4 (one step of power
    iteration), and the authors' code (nikhilvyas/SOAP, soap.py): the skipped first step. With eps
    beside the root and the bias correction in the step size it is pytorch_optimizer's SOAP, which
    takes its QR decompositions in float32.
Departs:
    - The copy of the authors' code that was read bounds the root from below by eps, and divides
      averages that are corrected each by itself.
    - The authors sort columns by their estimated eigenvalues, those of v as well. Here they are
      decomposed in that order and stay where they were: the same bases with other numbers.
    - A step uses the bases that were there before it, and stores new ones. Which eigenvectors a
      library gives is its own affair: signs never matter, but where an L_i is singular, as it is
      at first if an array has fewer elements across an axis than along it, runs may differ.
    - The eigenvectors are those of L_i, without the authors' 1e-30 * I.
    - No axes are merged (merge_dims), no steps normalised (normalize_grads). More than four axes
      are refused. An axis longer than max_precond_dim keeps its own basis, as do all of scalars
      and, without precondition_1d, of vectors.
lr unit: parameter units per step.
"""

from __future__ import annotations

from typing import Any

from isostep import matrix, nm, parts
from isostep.domains import Flag, Integer, Real
from isostep.rule import Rule

#: The kinds of step: Adam's alone, the first, and one that turns the bases after it.
FIRST, TURNING = 1, 2


def axes(p: Any, longest: int, precondition_1d: bool) -> tuple[int, ...]:
    """The axes that have a basis."""
    if p.ndim == 1 and not precondition_1d:
        return ()
    return tuple(i for i in range(p.ndim) if p.shape[i] <= longest)


def init(p: Any, /, *, max_precond_dim: int, precondition_1d: bool) -> tuple[Any, ...]:
    """Zeros of the shapes that they will have; what an array has no use for is a 0-d zero."""
    zeros = parts.zeros(p)
    own = axes(p, max_precond_dim, precondition_1d)
    matrices = [
        0.0 * matrix.identity(p, i) if i in own else nm.sum(zeros)
        for i in range(matrix.AXES)
    ]
    return (zeros, 1.0 * zeros, *matrices, *(1.0 * m for m in matrices))


def phase(t: int, /, *, precondition_frequency: int) -> int:
    """Which kind of step this is."""
    turning = t % precondition_frequency == 1 % precondition_frequency
    return turning * (FIRST + (t > 1))


def update(
    p: Any,
    g: Any,
    m: Any,
    v: Any,
    /,
    *state_t: Any,
    lr: Any,
    betas: tuple[Any, Any],
    shampoo_beta: Any,
    eps: Any,
    weight_decay: Any,
    max_precond_dim: int,
    precondition_1d: bool,
    correct_bias: bool,
    phase: int,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *state, t = state_t
    sums, bases = state[: matrix.AXES], state[matrix.AXES :]
    own = axes(p, max_precond_dim, precondition_1d)
    u = 0.0
    if phase != FIRST:
        m = parts.average(m, g, betas[0])
        turned, d = g, m
        for i in own:
            turned, d = matrix.along(turned, i, bases[i]), matrix.along(d, i, bases[i])
        v = parts.average(v, turned * turned, betas[1])
        d = d / (nm.sqrt(v) + eps)
        for i in own:
            d = matrix.along(d, i, nm.transpose(bases[i]))
        size = lr
        if correct_bias:
            c1, c2 = parts.corrections(betas, t - 1)
            size = lr * (nm.sqrt(c2) / c1)
        u = -size * d
        u = parts.decoupled(p + u, u, lr, weight_decay)
    beta = betas[1] if shampoo_beta is None else shampoo_beta
    for i in own:
        sums[i] = parts.average(sums[i], matrix.gram(g, i), beta)
        if phase == FIRST:
            bases[i] = nm.eigenbasis(sums[i])
        elif phase == TURNING:
            bases[i] = nm.iterated_basis(sums[i], bases[i])
    return (u, m, v, *sums, *bases)


RULE = Rule(
    name="soap",
    update=update,
    init=init,
    phase=phase,
    phases=3,
    state=(
        "exp_avg",
        "exp_avg_sq",
        *(f"preconditioner_{i}" for i in range(matrix.AXES)),
        *(f"eigenbasis_{i}" for i in range(matrix.AXES)),
    ),
    hyper={
        "lr": parts.lr(3e-3),
        "betas": parts.betas(0.95, 0.95),
        "shampoo_beta": Real(
            None,
            low=0,
            high=1,
            high_open=True,
            optional=True,
            doc="decay rate of the preconditioners; None: that of the squares",
        ),
        "eps": parts.eps(1e-8),
        "weight_decay": parts.weight_decay(0.01),
        "precondition_frequency": Integer(
            10, low=1, static=True, cases=(3,), doc="steps from one turn of the bases to the next"
        ),
        "max_precond_dim": Integer(
            10000, low=0, static=True, cases=(5, 6), doc="longest axis with a basis of its own"
        ),
        "precondition_1d": Flag(False, doc="whether vectors have a basis"),
        "correct_bias": Flag(True, doc="Adam's bias correction"),
    },
    ndim=(0, 1, 2, 3, 4),
    family="matrix",
    year=2024,
    paper="Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam",
    arxiv="2409.11321",
)
