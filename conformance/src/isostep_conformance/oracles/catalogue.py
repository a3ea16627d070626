"""The authors' own packages and the collections of torch optimizers as oracles, live, in float64.

An environment of its own has them: pytorch_optimizer, torch_optimizer, timm, optimi, and the packages
of rules' authors. A package that is missing is an error, not a shorter table.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import (
    check_directions,
    check_kin,
    check_modern,
    check_orthogonal,
    check_second,
    packages_adam,
    packages_free,
    packages_kron,
    packages_matrix,
    packages_modern,
    packages_other,
    packages_projection,
    packages_ranger21,
    packages_second,
    packages_spikes,
    packages_torch,
)
from .check import Check
from .outcome import Outcome


def all_checks() -> list[Check]:
    """Every check, not yet run."""
    from . import packages_pieces  # its packages are looked for when it is imported

    modules = (
        packages_torch,
        packages_adam,
        packages_other,
        packages_modern,
        packages_free,
        packages_projection,
        packages_second,
        check_kin,
        check_directions,
    )
    tables = [table for module in modules for table in module.TABLES]
    rows = [row for table in tables for row in table()]
    return [
        *(row.check() for row in rows),
        *check_directions.packages(),
        *check_modern.checks(),
        *check_second.checks(),
        *check_orthogonal.collections(),
        *packages_matrix.checks(),
        *packages_kron.checks(),
        *packages_pieces.checks(),
        *packages_ranger21.checks(),
        *packages_spikes.checks(),
    ]


def checks(path: str = "numpy:reference") -> Iterator[Outcome]:
    """Every check on one path, as it is finished."""
    for check in all_checks():
        yield check.outcome(path)
