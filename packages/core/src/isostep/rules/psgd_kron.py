"""PSGD with a Kronecker-factored preconditioner: momentum, whitened by triangular factors that are learned.

    m   <- momentum * m + (1 - momentum) * g
    h    = m / (1 - momentum**t)
    every preconditioner_update_every-th step, with x = h, or g without momentum_into_precond_update:
      A   = x times Q_1^T along its first axis, Q_2^T along its second, ...       Q_1 x Q_2^T for a matrix
      B   = probe times Q_1^-1 along its first axis, ...                           Q_1^-T probe Q_2^-1
      for each axis, with A_i and B_i what is unfolded along it:
        Q_i <- Q_i - precond_lr / |A_i A_i^T + B_i B_i^T| * triu(A_i A_i^T - B_i B_i^T) Q_i
    d    = h times Q_i^T Q_i along each axis
    d    = d * min(1, 1.1 / (rms(d) + 1e-6))
    u    = -lr * d - lr * weight_decay * p              weight decay of arrays of two axes or more
    |M| is a lower bound of the largest eigenvalue: the norm of M c, c = M m / the norm of M m, m the largest column
    of M; of a diagonal Q_i, the diagonals of everything are taken and |M| is the largest number.
    Q_i = I * precond_init_scale ** (1 / axes) before the first step. Every balance_every-th renewal is after a
    balancing of the Q_i: each is scaled so that their largest numbers are all the same, their product as before.

Follows: Li, "Preconditioned Stochastic Gradient Descent", arXiv 1512.04202; "Stochastic Hessian
    Fittings with Lie Groups", arXiv 2402.11858; and the authors' code as an optimizer: Kron of
    pytorch_optimizer 4.1, made of evanatyourservice/kron_torch, itself of lixilinx/psgd_torch.
    Kron of timm agrees, but that it clips with 1e-8 and decays vectors, too.
Departs:
    - A rule draws nothing: probe is an input of the step, one array of standard normal numbers for
      each parameter (isostep.noise.normal draws them). It is used at renewals only.
    - pytorch_optimizer and timm renew where the steps since the last renewal reach 1 / probability:
      with the probability 1 / preconditioner_update_every this rule does. Their default, which falls
      from 1 to 0.03 over 4000 steps, is not here: what kind of step t is has to be plain arithmetic.
    - They balance before one of a hundred renewals, drawn at random; here it is every
      balance_every-th.
    - The preconditioner has the compute dtype; pytorch_optimizer's triangular solves are float32.
    - More than four axes are refused. An axis of length 1 or longer than max_size_triangular has a
      diagonal Q_i, as do arrays of fewer than min_ndim_triangular axes. No memory_save_mode.
lr unit: parameter units per step: the whitened momentum has a root mean square near 1.
"""

from __future__ import annotations

from functools import reduce
from operator import mul
from typing import Any

from isostep import matrix, nm, parts
from isostep.domains import Flag, Integer, Real
from isostep.rule import Rule

#: The kinds of step beside that of no renewal.
RENEWING, BALANCING = 1, 2
#: The largest root mean square of a whitened momentum, and what keeps its quotient finite.
MOST, LEAST = 1.1, 1e-6
#: What keeps 0/0 from a renewal: the smallest normal number of float32.
TINY = 2.0**-126


def triangular(p: Any, axis: int, longest: int, least_rank: int) -> bool:
    """Whether this axis has a triangular matrix; else it has one number for each index."""
    return p.ndim >= max(least_rank, 1) and 1 < p.shape[axis] <= longest


def init(
    p: Any, /, *, precond_init_scale: Any, max_size_triangular: int, min_ndim_triangular: int
) -> tuple[Any, ...]:
    """A multiple of the identity for each axis; what an array has no use for is a 0-d zero."""
    zeros, factors = parts.zeros(p), []
    scale = nm.pow(precond_init_scale, 1.0 / max(p.ndim, 1))
    for i in range(max(p.ndim, 1)):
        if triangular(p, i, max_size_triangular, min_ndim_triangular):
            factors.append(scale * matrix.identity(p, i))
        else:
            factors.append(matrix.diagonal(zeros, i) + scale)
    return (zeros, *factors, *(nm.sum(zeros) for _ in range(matrix.AXES - len(factors))))


def phase(t: int, /, *, preconditioner_update_every: int, balance_every: int) -> int:
    """Which kind of step this is."""
    renewing = t % preconditioner_update_every == 0
    return renewing * (RENEWING + (t % (preconditioner_update_every * balance_every) == 0))


def largest(x: Any) -> Any:
    """The largest element, of no axes."""
    return nm.reshape(nm.max_axis(x, axis=tuple(range(-x.ndim, 0))), ()) if x.ndim else x


def bound(x: Any) -> Any:
    """A lower bound of the largest eigenvalue of a symmetric matrix without negative ones, of one row and column.

    Its largest element is one of its diagonal, and none is negative there.
    """
    size = nm.maximum(largest(x), TINY)
    x = x / size
    row = nm.matmul(nm.transpose(nm.largest_column(x)), x)
    return size * length(nm.matmul(row, x)) / nm.maximum(length(row), TINY)


def length(row: Any) -> Any:
    """The norm of a matrix of one row, as a matrix of one element."""
    return nm.sqrt(nm.matmul(row, nm.transpose(row)))


def balanced(factors: list[Any]) -> list[Any]:
    """The same Kronecker product of factors whose largest elements are the same in size."""
    sizes = [largest(nm.abs(q)) for q in factors]
    mean = nm.pow(reduce(mul, sizes), 1.0 / len(sizes))
    return [q * (mean / size) for q, size in zip(factors, sizes, strict=True)]


def renewed(x: Any, probe: Any, factors: list[Any], whole: list[bool], step: Any) -> list[Any]:
    """The factors after one step of the fit: towards x whitened, probes unwhitened."""
    a, b = x, probe
    for i, q in enumerate(factors):
        if whole[i]:
            a = matrix.along(a, i, nm.transpose(q))
            b = matrix.mapped(b, i, nm.over_triangle, q)
        else:
            a, b = a * q, b / q
    found = []
    for i, q in enumerate(factors):
        if whole[i]:
            one, two = matrix.gram(a, i), matrix.gram(b, i)
            change = nm.upper_triangle(step * (one - two)) / nm.maximum(bound(one + two), TINY)
            found.append(q - nm.matmul(change, q))
        else:
            one, two = matrix.diagonal(a * a, i), matrix.diagonal(b * b, i)
            found.append(q - step * (one - two) * q / nm.maximum(largest(one + two), TINY))
    return found


def update(
    p: Any,
    g: Any,
    probe: Any,
    m: Any,
    /,
    *state_t: Any,
    lr: Any,
    momentum: Any,
    weight_decay: Any,
    precond_lr: Any,
    balance_every: int,
    max_size_triangular: int,
    min_ndim_triangular: int,
    momentum_into_precond_update: bool,
    phase: int,
) -> tuple[Any, ...]:
    """See the module's equations."""
    *state, t = state_t
    count = max(p.ndim, 1)
    factors, rest = state[:count], state[count:]
    whole = [triangular(p, i, max_size_triangular, min_ndim_triangular) for i in range(count)]
    m = parts.average(m, g, momentum)
    h = m / nm.one_minus_pow(momentum, t)
    if phase == BALANCING and count > 1 and 0 not in p.shape:
        factors = balanced(factors)
    if phase:
        x = h if momentum_into_precond_update else g
        factors = renewed(x, probe, factors, whole, precond_lr)
    d = h
    for i, q in enumerate(factors):
        d = matrix.along(d, i, nm.matmul(nm.transpose(q), q)) if whole[i] else d * q * q
    d = d * nm.minimum(MOST / (parts.rms(d) + LEAST), 1.0)
    u = parts.decoupled(p, -lr * d, lr, weight_decay, when=count > 1)
    return (u, m, *factors, *rest)


RULE = Rule(
    name="psgd_kron",
    update=update,
    init=init,
    inputs=("probe",),
    phase=phase,
    phases=3,
    state=("momentum_buffer", *(f"factor_{i}" for i in range(matrix.AXES))),
    hyper={
        "lr": parts.lr(1e-3),
        "momentum": parts.decay_rate(0.9),
        "weight_decay": parts.weight_decay(),
        "preconditioner_update_every": Integer(
            1, low=1, static=True, cases=(1, 2), doc="steps from one renewal to the next"
        ),
        "balance_every": Integer(
            100, low=1, static=True, cases=(3,), doc="renewals from one balancing to the next"
        ),
        "max_size_triangular": Integer(
            8192, low=0, static=True, cases=(5, 6), doc="longest axis with a triangular factor"
        ),
        "min_ndim_triangular": Integer(
            2, low=0, static=True, cases=(2, 3), doc="fewest axes of arrays with triangular factors"
        ),
        "momentum_into_precond_update": Flag(
            True, doc="whether factors are fitted to the momentum, or to the gradient"
        ),
        "precond_lr": Real(0.1, low=0, high=1, cases=(0.9,), doc="step size of the factors"),
        "precond_init_scale": Real(
            1.0, low=0, low_open=True, cases=(1.7,), doc="product of the first factors"
        ),
    },
    ndim=(0, 1, 2, 3, 4),
    family="matrix",
    year=2015,
    paper="Li, Preconditioned Stochastic Gradient Descent",
    arxiv="1512.04202",
)
