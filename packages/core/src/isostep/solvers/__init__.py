"""Solvers: what minimises a function by calling it, where a rule is handed one gradient a step.

    solver = isostep.solvers.lbfgs(line_search_fn="strong_wolfe")
    loss, params, state = solver.step(loss_and_grad, params)            and then with the state

The folder is the registry: each file declares one ``SOLVER``, and ``isostep.solvers.NAME(...)`` binds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from isostep.registry import Folder, constructor
from isostep.solver import BoundSolver, Solver

registry: Folder[Solver] = Folder(__name__, "SOLVER", "solver")


def names() -> list[str]:
    """The names of all solvers, sorted."""
    return registry.names()


if TYPE_CHECKING:  # the names are known only when the folder is read

    def __getattr__(name: str) -> Callable[..., BoundSolver]: ...


# At once rather than on demand: importing a submodule sets the module itself as the package's attribute.
for _name in registry.names():
    globals()[_name] = constructor(registry[_name])
