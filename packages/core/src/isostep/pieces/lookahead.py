"""Lookahead: slow weights that follow the fast ones every k steps and are where those then restart.

    slow  starts as a copy of p
    when a step synchronises:
        slow <- slow + alpha * (p + u - slow)
        p    <- slow

    paper             steps k, 2 k, 3 k, ...
    timm              the same, with alpha = 1 at step k
    torch_optimizer   steps 1, 1 + k, 1 + 2 k, ..., with alpha = 1 at step 1

    and the rule's momentum m, by pullback_momentum, when a step synchronises:
    none      stays
    reset     m <- 0
    pullback  m <- alpha * m + (1 - alpha) * (m after the synchronisation before)       0 before the first

Follows: Zhang, Lucas, Hinton, Ba, "Lookahead Optimizer: k steps forward, 1 step back", arXiv
    1907.08610, Algorithm 1, and the authors' code michaelrzhang/lookahead.
    pytorch_optimizer agrees.
Departs:
    - The two other dialects are those libraries' (timm.optim.Lookahead, torch_optimizer.Lookahead), which make their
      slow weights at the first synchronisation: other trajectories under one name. optax keeps both sets of
      weights with the caller.
    - pullback_momentum is the authors' code's, for SGD's momentum_buffer; here for whatever the rule averages
      gradients in (isostep.sums.MOMENTA). What they keep for the next pullback is the buffer itself, which changes
      with every step, so that theirs multiplies m by alpha * (2 - alpha) instead; here, as in pytorch_optimizer, it
      is a copy.
    - alpha is 0.5 by default, as in timm, pytorch_optimizer and torch-optimizer; the authors' code
      has 0.8.
"""

from __future__ import annotations

from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Integer, Real
from isostep.rule import Piece


def init(p: Any, /, *, pullback_momentum: str) -> Any:
    """The slow weights start where the fast ones do, their momentum at zero."""
    slow = parts.copied(p)
    return (slow, parts.zeros(p)) if pullback_momentum == "pullback" else slow


def phase(t: int, /, *, k: int, dialect: str) -> bool:
    """Whether this step synchronises; the other steps cost nothing."""
    return t % k == (1 % k if dialect == "torch_optimizer" else 0)


def synchronized(
    p: Any, u: Any, slow: Any, t: Any, *, k: int, alpha: Any, dialect: str = "paper"
) -> tuple[Any, Any]:
    """The parameter and the slow weights after a step that synchronises."""
    if dialect != "paper":
        alpha = nm.where(t == (1 if dialect == "torch_optimizer" else k), 1.0, alpha)
    slow = slow + alpha * (p + u - slow)
    return nm.overwrite(slow), slow


def after(
    p: Any,
    g: Any,
    u: Any,
    slow: Any,
    /,
    *momenta_t: Any,
    k: int,
    alpha: Any,
    dialect: str,
    pullback_momentum: str,
    phase: bool,
) -> Any:
    """See the module's equations."""
    *momenta, t = momenta_t
    if not phase:
        return u, slow, *momenta
    u, slow = synchronized(p, u, slow, t, k=k, alpha=alpha, dialect=dialect)
    if pullback_momentum == "reset":
        momenta = [parts.zeros(p)]
    elif pullback_momentum == "pullback":
        kept, m = momenta
        momenta = [alpha * m + (1 - alpha) * kept] * 2
    return u, slow, *momenta


PIECE = Piece(
    name="lookahead",
    after=after,
    init=init,
    phase=phase,
    state=lambda h: ("slow", *(("slow_momentum",) if h.pullback_momentum == "pullback" else ())),
    changes_momentum=lambda h: h.pullback_momentum != "none",
    hyper={
        "k": Integer(5, low=1, cases=(3,), doc="steps between synchronisations"),
        "alpha": Real(0.5, low=0, high=1, cases=(0.7,), doc="how far the slow weights go"),
        "dialect": Choice(
            "paper", options=("paper", "timm", "torch_optimizer"), doc="which steps synchronise"
        ),
        "pullback_momentum": Choice(
            "none",
            options=("none", "reset", "pullback"),
            doc="what becomes of the rule's momentum then",
        ),
    },
    family="average",
    year=2019,
    paper="Zhang et al., Lookahead Optimizer: k steps forward, 1 step back",
    arxiv="1907.08610",
)
