"""L-BFGS: steps along an approximate Newton direction, made of the last few changes of parameter and gradient.

    s_k = x_k+1 - x_k,  y_k = g_k+1 - g_k       kept where y . s > 1e-10, the last ``history_size`` of them
    d   = -H g                                  H from the pairs by two loops, starting at (s . y) / (y . y)
    x  <- x + t d                               t = lr, in the very first iteration lr * min(1, 1 / |g|_1);
                                                with strong_wolfe the line search starts there

A step is up to ``max_iter`` iterations or ``max_eval`` evaluations. It ends early where the largest magnitude in g is
at most ``tolerance_grad``, or the change of x or of the loss, or the slope along d, is within ``tolerance_change``.

Follows: Nocedal, Wright, "Numerical Optimization", 2nd edition, Algorithms 7.4 (two loops) and 7.5 with equation 7.20;
    torch.optim.LBFGS, whose names, defaults, tests and counts these are.
Departs:
    - A loss or gradient that is not finite at the start of a step is an error, where torch goes on with it.
    - An exception in the loss leaves parameters and state as they were before the step.
    - The length of the first iteration is torch's.
lr unit: iterations are of length lr in units of the Newton step, 1 for the whole of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from isostep import nm
from isostep.domains import Choice, Integer, Real
from isostep.line_search import Point, strong_wolfe
from isostep.solver import Solver, Vectors
from isostep.state import StepError

#: Pairs of less curvature than this are left out.
_FLATTEST = 1e-10


@dataclass
class LBFGSState:
    """What L-BFGS remembers, by torch.optim.LBFGS's names: ``old_dirs`` are the y, ``old_stps`` the s above."""

    func_evals: int = 0
    n_iter: int = 0
    d: Any = None
    t: Any = None
    old_dirs: list[Any] = field(default_factory=list)
    old_stps: list[Any] = field(default_factory=list)
    ro: list[Any] = field(default_factory=list)
    H_diag: Any = None
    prev_flat_grad: Any = None
    prev_loss: float | None = None
    #: a dict's, in whose order the vectors are; torch.optim.LBFGS knows none
    keys: tuple[Any, ...] | None = None

    def copy(self) -> LBFGSState:
        """One whose lists are its own; the arrays, which nobody writes, are shared."""
        return replace(self, old_dirs=[*self.old_dirs], old_stps=[*self.old_stps], ro=[*self.ro])


def step(
    evaluate: Callable[[Any], tuple[float, Any]],
    x: Any,
    state: LBFGSState,
    h: SimpleNamespace,
    vectors: Vectors,
) -> tuple[float, Any, LBFGSState]:
    """The loss before the step, the vector after it and the new state; ``evaluate(x)`` gives loss and gradient."""
    s = state.copy()
    most = h.max_iter * 5 // 4 if h.max_eval is None else h.max_eval
    loss, g = evaluate(x)
    first = loss
    s.func_evals += 1
    if not (math.isfinite(loss) and math.isfinite(float(_size(g)))):
        message = f"lbfgs: loss and gradient must be finite at the start, got the loss {loss}; start elsewhere"
        raise StepError(message)
    evals, done = 1, 0
    flat = bool(_size(g) <= h.tolerance_grad)
    while done < h.max_iter and not flat:
        done += 1
        s.n_iter += 1
        if s.n_iter > 1:
            _remember(s, g, h.history_size, vectors)
        else:
            s.old_dirs, s.old_stps, s.ro, s.H_diag = [], [], [], 1
        s.d = _direction(s, g, vectors)
        s.prev_flat_grad, s.prev_loss = g, loss
        total = nm.sum(nm.abs(g)) if s.n_iter == 1 else 0.0
        s.t = (min(1.0, 1.0 / total) if total > 0 else 1.0) * h.lr
        slope = vectors.dot(g, s.d)
        if slope > -h.tolerance_change:
            break
        tried = 0
        if h.line_search_fn == "strong_wolfe":
            start = Point(0, loss, g, slope)
            found, tried = _searched(evaluate, x, s, start, vectors, most - evals)
            loss, g, s.t = found.f, found.g, found.t
            x = vectors.add(x, s.d, s.t)
        else:
            x = vectors.add(x, s.d, s.t)
            if done < h.max_iter:  # the last iteration's end is the next step's start
                loss, g = evaluate(x)
                tried = 1
        flat = tried > 0 and bool(_size(g) <= h.tolerance_grad)
        evals += tried
        s.func_evals += tried
        still = bool(_size(s.d * s.t) <= h.tolerance_change)
        if evals >= most or still or abs(loss - s.prev_loss) < h.tolerance_change:
            break
    return first, x, s


def _searched(
    evaluate: Callable[[Any], tuple[float, Any]],
    x: Any,
    s: LBFGSState,
    start: Point,
    vectors: Vectors,
    most: int,
) -> tuple[Point, int]:
    def along(t: Any) -> Point:
        f, g = evaluate(vectors.add(x, s.d, t))
        return Point(t, f, g, vectors.dot(g, s.d))

    return strong_wolfe(along, start, s.t, _size(s.d), most=most)


def _remember(s: LBFGSState, g: Any, most: int, vectors: Vectors) -> None:
    """Take the last change of gradient and parameter into the history, if the curvature along it is positive."""
    y, step = g - s.prev_flat_grad, s.d * s.t
    curvature = vectors.dot(y, step)
    if not curvature > _FLATTEST:
        return
    for kept, new in ((s.old_dirs, y), (s.old_stps, step), (s.ro, 1.0 / curvature)):
        kept.append(new)
        del kept[:-most]
    s.H_diag = curvature / vectors.dot(y, y)


def _direction(s: LBFGSState, g: Any, vectors: Vectors) -> Any:
    """-H g, by the two loops over the pairs: the newest first, then the oldest first."""
    q, weights = -g, []
    for y, step, ro in zip(s.old_dirs[::-1], s.old_stps[::-1], s.ro[::-1], strict=True):
        weights.append(vectors.dot(step, q) * ro)
        q = vectors.add(q, y, -weights[-1])
    d = q * s.H_diag
    for y, step, ro in zip(s.old_dirs, s.old_stps, s.ro, strict=True):
        d = vectors.add(d, step, weights.pop() - vectors.dot(y, d) * ro)
    return d


def _size(x: Any) -> Any:
    """The largest magnitude."""
    return nm.max_axis(nm.abs(x), axis=0)[0] if x.shape[0] else 0.0


SOLVER = Solver(
    name="lbfgs",
    step=step,
    start=LBFGSState,
    hyper={
        "lr": Real(1.0, low=0, doc="length of an iteration, or of the line search's first trial"),
        "max_iter": Integer(20, low=1, doc="iterations of a step"),
        "max_eval": Integer(
            None, low=1, optional=True, doc="evaluations of a step; None: 5/4 of max_iter"
        ),
        "tolerance_grad": Real(
            1e-7, doc="largest magnitude of a gradient that ends a step; negative: none does"
        ),
        "tolerance_change": Real(
            1e-9, doc="change of loss or parameters that ends a step; negative: none does"
        ),
        "history_size": Integer(100, low=1, doc="pairs of changes that are kept"),
        "line_search_fn": Choice(None, options=(None, "strong_wolfe"), doc="the line search"),
    },
    family="quasi-Newton",
    year=1989,
    paper="Liu and Nocedal, On the limited memory BFGS method for large scale optimization",
)
