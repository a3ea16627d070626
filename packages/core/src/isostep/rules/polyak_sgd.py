"""Polyak SGD: SGD whose rate is at most lr, and what is left of the loss over the squared gradient.

    gap = loss - fstar                              at least 0 with variant "sps+"
    r   = min(lr, gap / (c * sum of g**2 + eps))    the sum over all parameters of the group
    u   = -r * g

Follows: Loizou, Vaswani, Laradji, Lacoste-Julien, "Stochastic Polyak Step-size for SGD: An Adaptive
    Learning Rate for Fast Convergence", arXiv 2002.10542, its SPS_max with gamma_b as lr, and the
    authors' code IssamLaradji/sps, sps.py, with adapt_flag="constant" and its eta_max as lr.
    optax.polyak_sgd agrees.
Departs:
    - loss is an input of the step, one number for the group: this step's (batch) loss, before the
      step.
    - In the paper fstar is the least value of the batch's own loss; here it is one number, or a
      schedule. A gap below zero is no step in the authors' code (and "sps+" of Garrigos et al.,
      arXiv 2307.14528), and a step uphill with optax's default, "sps".
    - The paper has no eps. Where all is zero that it is divided by there is no step; the authors'
      code takes none where the norm is below 1e-8, optax where the sum and eps are at most 2.2e-16.
    - The smoothed bound of the authors' experiments (adapt_flag="smooth_iter"), which lets r grow by
      a factor at most, is left out, as is its centralized gradient (put centralize in front).
    - optax multiplies the gradient by its scaling before it takes the norm: its scaling is c here,
      lr is scaling * max_learning_rate, eps is its eps / scaling.
Other defaults: the authors' eta_max is None; optax has c 1, eps 0, "sps".
lr unit: as SGD, an upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isostep import nm, parts
from isostep.domains import Choice, Real
from isostep.rule import Rule
from isostep.rules.momo import TINY


def measure(p: Any, g: Any, t: int, /) -> Mapping[str, Any]:
    """The squares of the gradient."""
    return {"squares": g * g}


def advance(
    sums: Mapping[str, Any],
    group: Mapping[str, Any],
    t: int,
    /,
    *,
    lr: Any,
    c: Any,
    fstar: Any,
    eps: Any,
    variant: str,
) -> dict[str, Any]:
    """The rate that this step goes by."""
    gap = group["loss"] - fstar
    if variant == "sps+":
        gap = nm.maximum(gap, 0.0)
    rate = gap / nm.maximum(c * sums["squares"] + eps, TINY)
    return {"step_size": nm.minimum(rate, lr)}


def update(p: Any, g: Any, t: int, /, *, step_size: Any) -> Any:
    """See the module's equations."""
    return -step_size * g


RULE = Rule(
    name="polyak_sgd",
    update=update,
    measure=measure,
    advance=advance,
    group_inputs=("loss",),
    group={"step_size": lambda h: 0.0},
    hyper={
        "lr": parts.lr(1.0, "largest learning rate"),
        "c": Real(0.5, low=0, low_open=True, cases=(0.7,), doc="factor of the squared gradient"),
        "fstar": Real(0.0, cases=(1.5, 12.0, 0.5), doc="the least loss that there can be"),
        "eps": parts.eps(1e-8),
        "variant": Choice(
            "sps+", options=("sps", "sps+"), doc="whether a loss below fstar is a step uphill"
        ),
    },
    family="sgd",
    year=2020,
    paper="Loizou et al., Stochastic Polyak Step-size for SGD",
    arxiv="2002.10542",
)
