"""The parameter-free rules against the authors' packages and the collections."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .package_row import ADAM, Row, walk


def estimates() -> Iterator[Row]:
    """Prodigy with the estimated distance as group state."""
    states = {n: n for n in ("exp_avg", "exp_avg_sq")}
    for settings in (
        {},
        {"use_bias_correction": True, "d_coef": 1.5},
        {"growth_rate": 1.1, "weight_decay": 0.1, "beta3": 0.9},
        {"safeguard_warmup": True, "weight_decay": 0.1, "decouple": False},
    ):
        ours = {**ADAM, "d0": 0.01, **settings}
        group = {n: n for n in ("d", "d_max", "d_numerator")}
        yield Row("prodigy", "prodigyopt", "Prodigy", ours, ours, states, walk, group=group)
        names = {"use_bias_correction": "bias_correction", "decouple": "weight_decouple"}
        theirs = {"foreach": False, **{names.get(n, n): x for n, x in ours.items()}}
        if settings.get("decouple", True):  # its coupled decay comes too late to have any effect
            yield Row("prodigy", "pytorch_optimizer", "Prodigy", ours, theirs, states, walk)


TABLES: tuple[Callable[[], Iterator[Row]], ...] = (estimates,)
