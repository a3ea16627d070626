"""Figures of an optimizer's steps: see ``isostep.telemetry`` for what they are.

>>> import torch
>>> from isostep.telemetry import CSV
>>> from isostep_torch import AdamW
>>> model = torch.nn.Linear(3, 1)
>>> optimizer = AdamW(model.parameters(), lr=1e-3)
>>> observer = optimizer.observe()
>>> model(torch.ones(2, 3)).sum().backward()
>>> optimizer.step()
>>> observer.groups[0].parameters()["gradient_norm"].shape
torch.Size([2])
"""

from __future__ import annotations

from typing import Any

from isostep.telemetry import GROUP, Figures


class Observer:
    """What ``optimizer.observe()`` returns; ``close()`` ends it, and so does leaving it as a context.

    With half-precision options (``master_weights``, ``kahan``, ``stochastic_rounding``, ``state_dtype``) the figures
    are of what the rule stepped, in float32; of a sparse gradient, of the rows that it names; of complex parameters, of
    their pairs of reals. A step that a ``GradScaler`` leaves out has figures where it runs on the device
    (``capturable``), else those of the step before stay.
    """

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    @property
    def groups(self) -> list[Figures | None]:
        """The figures of each parameter group's last step, for all its parameters; None before the first."""
        return [self.optimizer._figures_of(group) for group in self.optimizer.param_groups]

    def rows(self, model: Any = None) -> dict[str, dict[str, float]]:
        """All figures on the host, by parameter and by group. This waits for the device.

        Parameters are called what ``model`` (a module, or a dict) calls them, or what the optimizer was given with
        them (``model.named_parameters()``), else ``0.3`` for the fourth of the first group. Groups are ``group0``, ...
        """
        named = model.named_parameters() if hasattr(model, "named_parameters") else model or {}
        called = {p: n for n, p in dict(named).items()}
        found: dict[str, dict[str, float]] = {}
        for k, (group, each) in enumerate(zip(self.optimizer.param_groups, self.groups, strict=True)):
            if each is None:
                continue
            own = group.get("param_names") or [f"{k}.{i}" for i in range(len(group["params"]))]
            names = [called.get(p, n) for p, n in zip(group["params"], own, strict=True)]
            rows = each.rows(names)
            whole = rows.pop(GROUP)
            found |= rows
            found[f"{GROUP}{k}"] = whole
        return found

    def log(self, logger: Any, step: int, model: Any = None) -> None:
        """Hand all figures to one of ``isostep.telemetry``'s loggers."""
        logger.log(step, self.rows(model))

    def close(self) -> None:
        """Take figures no longer."""
        self.optimizer._stop_observing()

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
