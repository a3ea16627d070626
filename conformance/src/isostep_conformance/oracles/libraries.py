"""torch.optim, torch.nn.utils, optax and the papers as oracles, live, in float64.

A library that is missing is an error, not a shorter table.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import (
    check_derivations,
    check_muon,
    check_optax,
    check_optax_more,
    check_optax_rules,
    check_papers,
    check_pieces,
    check_solvers,
    check_torch,
    check_torch_rules,
)
from .check import Check
from .check_solvers import SolverCheck
from .outcome import Outcome


def all_checks() -> list[Check | SolverCheck]:
    """Every check, not yet run."""
    modules = (
        check_torch,
        check_torch_rules,
        check_optax,
        check_optax_rules,
        check_optax_more,
        check_muon,
        check_papers,
        check_pieces,
        check_derivations,
        check_solvers,
    )
    return [check for module in modules for check in module.checks()]


def checks(path: str = "numpy:reference") -> Iterator[Outcome]:
    """Every check on one path, as it is finished."""
    for check in all_checks():
        yield check.outcome(path)
