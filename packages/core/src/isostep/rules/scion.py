"""Scion: steps to the corners of a ball of some operator norm, which the parameters are kept in, or need not be.

    m <- (1 - momentum) * m + momentum * g
    u  = -lr * p - lr * scale * o(m)                constrained: p stays where |p| <= scale
    u  = -lr * scale * o(m)                         unconstrained

    o(m), of a matrix with rows (outputs) and columns (inputs):
    spectral    newton_schulz(m) * sqrt(rows / columns)     without normalized sqrt(rows); see isostep/matrix.py
    sign        sign(m) / columns                           without normalized sign(m)
    row         m / (|m|_row * sqrt(columns) + eps)         without normalized without sqrt(columns)
    col         m / (rms(m)_column + eps)                   with normalized rms(m)_column * columns
    of a vector or a number  m / (rms(m) + eps), whatever norm is

Follows: Pethick, Xie, Antonakopoulos, Zhu, Silveti-Falls, Cevher, "Training Deep Learning Models with Norm-Constrained
    LMOs", arXiv 2502.07529, and the authors' code LIONS-EPFL/scion, scion.py: with norm="spectral" its "Auto".
Departs:
    - A kernel of 3 or 4 axes is the matrix of its first axis, and spectral divides by the elements of its window, as
      SpectralConv does; the other norms of the code take matrices alone.
    - normalized=None is each norm's default in the code: False of col, else True.
    - momentum has no default 1, which would be no momentum (and no state in the code); 0.1 is that of its examples.
    - The iteration runs in the compute dtype, not in bfloat16, and its norm has the lower bound ns_eps, to which the
      code adds 1e-7. See muon.
    - ScionLight, which keeps m in place of the gradient, is this rule's steps to whoever does not zero gradients.
    - The code's first weights (init) are not an update rule's.
    - pytorch_optimizer's SCION has weight_decay and a constraint flag of its own.
lr unit: the fraction of the way to the corner (constrained); a step of norm scale per unit of lr (unconstrained).
"""

from __future__ import annotations

import math
from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Flag, Real
from isostep.matrix import newton_schulz, orthogonalising
from isostep.rule import Rule

SETTINGS = orthogonalising()


def update(
    p: Any,
    g: Any,
    m: Any,
    t: int,
    /,
    *,
    lr: Any,
    momentum: Any,
    scale: Any,
    norm: str,
    normalized: bool | None,
    unconstrained: bool,
    eps: Any,
    ns_coefficients: tuple[Any, Any, Any],
    ns_steps: int,
    ns_eps: Any,
) -> tuple[Any, Any]:
    """See the module's equations."""
    m = (1 - momentum) * m + momentum * g
    if p.ndim < 2:
        o = m / ((parts.rms(m) if p.ndim else nm.abs(m)) + eps)
    else:
        rows, columns, window = p.shape[0], p.shape[1], math.prod(p.shape[2:])
        x, inputs = nm.reshape(m, (rows, columns * window)), max(columns * window, 1)
        narrow = norm != "col" if normalized is None else normalized
        if norm == "spectral":
            size = math.sqrt(rows / (max(columns, 1) if narrow else 1)) / max(window, 1)
            o = size * newton_schulz(x, ns_coefficients, ns_steps, ns_eps)
        elif norm == "sign":
            o = nm.sign(x) / inputs if narrow else nm.sign(x)
        else:
            across = norm == "row"
            total = nm.sum_axis(x * x, axis=-1 if across else -2)
            lengths = nm.sqrt(total if across else total / max(rows, 1))
            if narrow:
                lengths = lengths * (math.sqrt(inputs) if across else inputs)
            o = x / (lengths + eps)
        o = nm.reshape(o, p.shape)
    u = -(lr * scale) * o
    return (u if unconstrained else u - lr * p), m


RULE = Rule(
    name="scion",
    update=update,
    state=("momentum_buffer",),
    hyper={
        "lr": parts.lr(1e-3, unit="fraction of the way"),
        "momentum": Real(
            0.1, low=0, high=1, low_open=True, doc="weight of the gradient in its running average"
        ),
        "scale": Real(1.0, low=0, cases=(1.7,), doc="radius of the ball"),
        "norm": Choice(
            "spectral", options=("spectral", "sign", "row", "col"), doc="the norm of matrices"
        ),
        "normalized": Choice(
            None, options=(None, True, False), doc="whether the norm is divided by the inputs"
        ),
        "unconstrained": Flag(False, doc="steps alone: parameters may leave the ball"),
        "eps": parts.eps(1e-8, "added to norms of rows, columns and vectors"),
        "ns_coefficients": SETTINGS["ns_coefficients"],
        "ns_steps": SETTINGS["ns_steps"],
        "ns_eps": Real(1e-7, low=0, doc="lower bound of the norm that the matrix is divided by"),
    },
    ndim=(0, 1, 2, 3, 4),
    family="matrix",
    year=2025,
    paper="Pethick et al., Training Deep Learning Models with Norm-Constrained LMOs",
    arxiv="2502.07529",
)
