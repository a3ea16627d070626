"""The rules that project onto the tangent plane, against the authors' package and the collections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

from .package_row import BETAS, EPS, MOMENTS, Row, many


def projections() -> Iterator[Row]:
    """AdamP and SGDP, with deltas for which some, all and none of the arrays are projected.

    torch_optimizer adds eps to the norms instead of bounding them by it, which must not matter beside it.
    """
    kept = {"momentum_buffer": "momentum"}
    settings = ((0.1, EPS), (1.0, 4.0), (2.0, EPS), (3.0, 4.0))
    for (delta, eps), nesterov in product(settings, (False, True)):
        shared = {"eps": eps, "delta": delta, "wd_ratio": 0.3, "nesterov": nesterov}
        others = ("torch_optimizer",) if eps == EPS else ()
        ours = {"betas": BETAS, "weight_decay": 0.1, **shared}
        for package in ("adamp", "timm.optim.adamp", *others):
            yield Row("adamp", package, "AdamP", ours, ours, MOMENTS, many)
        ours = {"momentum": 0.85, "dampening": 0.3, "weight_decay": 0.1, **shared}
        theirs = {"lr": 1.0, **ours}
        mine = {**ours, "dialect": "original"}
        for package in ("adamp", *others):
            yield Row("sgdp", package, "SGDP", mine, theirs, kept, many)
        yield Row("sgdp", "timm.optim.sgdp", "SGDP", ours, theirs, kept, many)


TABLES: tuple[Callable[[], Iterator[Row]], ...] = (projections,)
