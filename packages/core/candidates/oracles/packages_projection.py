"""The rules that project onto the tangent plane, against the authors' package and the collections."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .package_row import BETAS, EPS, MOMENTS, Row, many


def projections() -> Iterator[Row]:
    """AdamP and SGDP, with deltas for which some, all and none of the arrays are projected."""
    kept = {"momentum_buffer": "momentum"}
    for delta in (0.1, 1.0, 2.0, 3.0):
        for nesterov in (False, True):
            shared = {"eps": EPS, "delta": delta, "wd_ratio": 0.3, "nesterov": nesterov}
            ours = {"betas": BETAS, "weight_decay": 0.1, **shared}
            for package in ("adamp", "timm.optim.adamp", "torch_optimizer"):
                yield Row("adamp", package, "AdamP", ours, ours, MOMENTS, many)
            ours = {"momentum": 0.85, "dampening": 0.3, "weight_decay": 0.1, **shared}
            mine = {**ours, "dialect": "original"}
            for package in ("adamp", "torch_optimizer"):
                yield Row("sgdp", package, "SGDP", mine, {"lr": 1.0, **ours}, kept, many)
            theirs = {"lr": 1.0, **ours}
            yield Row("sgdp", "timm.optim.sgdp", "SGDP", ours, theirs, kept, many)


TABLES: tuple[Callable[[], Iterator[Row]], ...] = (projections,)
