"""Lookahead: slow weights that follow the fast ones every k steps and are where those then restart.

    slow  starts as a copy of p
    when a step synchronises:
        slow <- slow + alpha * (p + u - slow)
        p    <- slow

    paper             steps k, 2 k, 3 k, ...
    timm              the same, with alpha = 1 at step k
    torch_optimizer   steps 1, 1 + k, 1 + 2 k, ..., with alpha = 1 at step 1

Follows: Zhang, Lucas, Hinton, Ba, "Lookahead Optimizer: k steps forward, 1 step back", arXiv
    1907.08610, Algorithm 1, and the authors' code michaelrzhang/lookahead
    (pullback_momentum="none"). pytorch_optimizer agrees.
Departs:
    - The two other dialects are those libraries' (timm.optim.Lookahead, torch_optimizer.Lookahead), which make their
      slow weights at the first synchronisation: other trajectories under one name. optax keeps both sets of
      weights with the caller.
    - The rule's own state is left as it is at a synchronisation; the authors offer to reset or
      pull it back.
    - alpha is 0.5 by default, as in timm, pytorch_optimizer and torch-optimizer; the authors' code
      has 0.8.
"""

from __future__ import annotations

from typing import Any

from isostep import nm
from isostep.domains import Choice, Integer, Real
from isostep.rule import Piece


def init(p: Any, /) -> Any:
    """The slow weights start where the fast ones do: an array of their own, hence the product."""
    return 1.0 * p


def phase(t: int, /, *, k: int, dialect: str) -> bool:
    """Whether this step synchronises; the other steps cost nothing."""
    return t % k == (1 % k if dialect == "torch_optimizer" else 0)


def after(
    p: Any, g: Any, u: Any, slow: Any, t: int, /, *, k: int, alpha: Any, dialect: str, phase: bool
) -> Any:
    """See the module's equations."""
    if not phase:
        return u, slow
    if dialect != "paper":
        alpha = nm.where(t == (1 if dialect == "torch_optimizer" else k), 1.0, alpha)
    slow = slow + alpha * (p + u - slow)
    return nm.overwrite(slow), slow


PIECE = Piece(
    name="lookahead",
    after=after,
    init=init,
    phase=phase,
    state=("slow",),
    hyper={
        "k": Integer(5, low=1, cases=(3,), doc="steps between synchronisations"),
        "alpha": Real(0.5, low=0, high=1, cases=(0.7,), doc="how far the slow weights go"),
        "dialect": Choice(
            "paper", options=("paper", "timm", "torch_optimizer"), doc="which steps synchronise"
        ),
    },
    family="average",
    year=2019,
    paper="Zhang et al., Lookahead Optimizer: k steps forward, 1 step back",
    arxiv="1907.08610",
)
