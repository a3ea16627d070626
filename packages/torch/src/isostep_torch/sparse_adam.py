"""torch.optim.SparseAdam's class: Adam on the rows that sparse gradients name."""

from __future__ import annotations

from typing import Any

import isostep
from isostep_torch.optimizer import Optimizer
from isostep_torch.paths import number


class SparseAdam(Optimizer):
    """Adam in the form of torch.optim.SparseAdam (the keras dialect: eps is the paper's "eps hat").

    Only rows with a gradient change, their moments too; the step count is the parameter's. With a dense gradient
    torch's class is an error; here it is Adam on all rows.
    """

    definition = isostep.definition("adam")

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        **options: Any,
    ) -> None:
        values = {"lr": lr, "betas": betas, "eps": eps}
        numbers = {n: number(v, f"adam: {n}") for n, v in values.items()}
        rule = isostep.rule("adam", dialect="keras", **numbers)
        self._start(params, rule, values, {"maximize": maximize, **options})
