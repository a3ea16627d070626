"""What the runs add up to: the two tables, the verdict and the JSON file."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from task import BATCH, CLASSES, HIDDEN, INPUTS, RULES, SEED, Task
from training import EVERY, FIRST, Deviation, Run

BOUNDS = {"float32": 1e-3, "float64": 1e-12}
"""Largest deviation of the batch loss allowed over the first FIRST steps (see `explanation`)."""

CONTROLS = {"nudged": "NumPy, 1 ulp off", "mistaken": "NumPy, lr + 1 %"}
"""Runs of NumPy that are meant to differ: what rounding does, and what a small mistake does."""

DISTRIBUTIONS = (
    *("isostep", "isostep-torch", "isostep-jax", "isostep-cupy", "numpy", "numba", "torch", "jax"),
    *("jaxlib", "cupy-cuda12x", "cupy-cuda13x", "scikit-learn", "matplotlib", "rich"),
)


@dataclass
class Results:
    """All runs and deviations, by rule title and then by path or control name."""

    task: Task
    dtype: str
    runs: dict[str, dict[str, Run]] = field(default_factory=dict)
    deviations: dict[str, dict[str, Deviation]] = field(default_factory=dict)
    networks: dict[str, dict[str, str]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def bound(self) -> float:
        """The bound of this dtype."""
        return BOUNDS[self.dtype]

    def early_loss(self, name: str) -> dict[str, float]:
        """Return, by rule, how far this run's loss was from NumPy's in the first FIRST steps."""
        found = {rule: of_rule.get(name) for rule, of_rule in self.deviations.items()}
        return {rule: apart.first[1] for rule, apart in found.items() if apart is not None}

    def beyond(self) -> list[str]:
        """Say which run left the bound; a NaN counts as leaving it."""
        return [
            f"{rule} on {path}: loss {apart:.1e} away from NumPy, bound {self.bound:.0e}"
            for path in self.networks
            for rule, apart in self.early_loss(path).items()
            if not apart <= self.bound
        ]

    def toothless(self) -> list[str]:
        """Say for which rule the deliberate mistake stayed within the bound."""
        return [
            f"{rule}: the run with lr 1 % too large stayed within the bound ({apart:.1e})"
            for rule, apart in self.early_loss("mistaken").items()
            if apart <= self.bound
        ]


def explanation(results: Results) -> str:
    """Return the text that says what is compared and why the bound is what it is."""
    first = min(FIRST, results.task.steps)
    paths = [name for name in results.networks if name in next(iter(results.deviations.values()))]
    worst = [apart for name in paths for apart in results.early_loss(name).values()]
    rounding = max(results.early_loss("nudged").values(), default=float("nan"))
    mistake = min(results.early_loss("mistaken").values(), default=float("nan"))
    seen = f"{np.max(worst):.1e}" if worst else "nothing, as only NumPy ran"
    return (
        f"Compared with the NumPy run of the same rule from the same first weights on the same "
        f"batches, in {results.dtype}.\n"
        f"params: largest absolute difference over all weights (max norm), after each of the first "
        f"{FIRST} steps and then every {EVERY}. loss: absolute difference of the batch loss, every "
        f"step. Left: largest up to step {first}. Right: largest up to the end.\n"
        f"The bound, {results.bound:.0e}, is on the loss up to step {first}. Frameworks add up "
        "matrix products in different orders, so their gradients differ in the last digit. AddSign "
        "and PowerSign multiply by sign(m), which jumps where m crosses 0: there a last digit can "
        "flip one sign, and that moves one weight by about 2*lr*|g| at once. Weights therefore "
        "part in jumps, sooner or later, and no bound of a few ulp can hold for them; the loss, to "
        "which every weight adds a little, hardly feels one. The bound leaves room for a few "
        "flips in float32; in float64 they are too rare to need any.\n"
        f"Largest seen up to step {first}: {seen}. For scale, two "
        f"runs of NumPy against itself: weights moved by 1 ulp (rounding alone) part by at most "
        f"{rounding:.1e}; a learning rate 1 % too large (a small mistake) by at least "
        f"{mistake:.1e}, which must be, and is checked to be, beyond the bound."
    )


def print_tables(console: Console, results: Results) -> None:
    """Print how well and how fast each run trained, then how far it is from NumPy."""
    trained = Table(title="Training", box=SIMPLE_HEAD, title_justify="left")
    apart = Table(title="Deviation from NumPy", box=SIMPLE_HEAD, title_justify="left")
    for table in (trained, apart):
        table.add_column("rule")
        table.add_column("run")
    for name in ("train loss", "test acc.", "step ms", "update ms"):
        trained.add_column(name, justify="right")
    for name in ("params", "loss"):
        apart.add_column(f"{name}, {FIRST} | all", justify="right")
    for rule, runs in results.runs.items():
        for path, run in runs.items():
            end_section = path == list(runs)[-1]
            style = "dim" if path in CONTROLS else ""
            if path not in CONTROLS:
                trained.add_row(
                    rule,
                    path,
                    f"{run.train_loss:.6f}",
                    f"{run.test_accuracy:.4f}",
                    f"{run.step_ms:.3f}",
                    f"{run.update_ms:.3f}",
                )
            if path in results.deviations.get(rule, {}):
                found = results.deviations[rule][path]
                pairs = zip(found.first, found.whole, strict=True)
                cells = [f"{early:.1e} | {late:.1e}" for early, late in pairs]
                label = CONTROLS.get(path, path)
                apart.add_row(rule, label, *cells, style=style, end_section=end_section)
        trained.add_section()
    console.print(trained)
    console.print(apart)


def versions() -> dict[str, str]:
    """Return the versions of everything that took part, and the machine in a few words."""
    found = {"python": platform.python_version(), "machine": f"{os.cpu_count()} CPUs"}
    found["platform"] = f"{platform.system()} {platform.machine()}"
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def write_json(results: Results, path: Path) -> None:
    """Write versions, settings, table and curves."""
    task = results.task
    table, curves = [], []
    for rule, runs in results.runs.items():
        for name, run in runs.items():
            row = {"rule": rule, "run": name, "control": name in CONTROLS}
            curve = {**row, "loss": run.losses.tolist()}
            row |= {
                "train_loss": run.train_loss,
                "test_accuracy": run.test_accuracy,
                "step_ms": run.step_ms,
                "update_ms": run.update_ms,
                "seconds": run.seconds,
            }
            found = results.deviations.get(rule, {}).get(name)
            if found is not None:
                for scope, (params, loss) in (("first", found.first), ("all", found.whole)):
                    row |= {f"params_deviation_{scope}": params, f"loss_deviation_{scope}": loss}
                curve["params_deviation_steps"] = found.steps
                curve["params_deviation"] = found.params.tolist()
            table.append(row)
            curves.append(curve)
    content = {
        "versions": versions(),
        "settings": {
            "dtype": results.dtype,
            "epochs": task.epochs,
            "steps": task.steps,
            "batch": BATCH,
            "network": f"{INPUTS}-{HIDDEN}-{CLASSES} tanh, softmax cross-entropy",
            "seed": SEED,
            "rules": {setting.title: setting.describe() for setting in RULES},
            "runs": results.networks,
            "controls": CONTROLS,
        },
        "bound": {
            "on": f"batch loss, absolute, first {FIRST} steps",
            "value": results.bound,
            "beyond": results.beyond(),
            "mistake_within": results.toothless(),
        },
        "not_run": results.not_run,
        "failed": results.failed,
        "table": table,
        "curves": curves,
    }
    path.write_text(json.dumps(_finite(content)) + "\n", encoding="utf-8")
