"""The one training task every framework solves: data, network size, first weights, batches, rules.

Everything here is NumPy and is made once, from one seed. A framework is handed copies, so that two
runs can differ only by their own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import isostep

SEED = 20170917
INPUTS, HIDDEN, CLASSES = 64, 64, 10
BATCH = 32
TEST_ROWS = 360
DECAY_CYCLES = 4

Weights = list[NDArray[Any]]


@dataclass(frozen=True)
class Task:
    """Digits split into a training and a test part, first weights and the batch of every step."""

    x_train: NDArray[Any]
    y_train: NDArray[np.int64]
    x_test: NDArray[Any]
    y_test: NDArray[np.int64]
    weights: Weights
    batches: NDArray[np.int64]
    epochs: int

    @property
    def steps(self) -> int:
        """Number of updates of one run."""
        return len(self.batches)

    @property
    def steps_per_epoch(self) -> int:
        """Number of updates of one pass over the training part."""
        return self.steps // self.epochs


def make_task(epochs: int, dtype: str) -> Task:
    """Load the bundled digits and draw the split, the first weights and the batches from SEED.

    The draws are made in float64 and rounded once, so float32 and float64 runs start alike.
    """
    digits = load_digits()
    random = np.random.default_rng(SEED)
    order = random.permutation(len(digits.target))
    x = (digits.data[order] / 16.0).astype(dtype)
    y = digits.target[order].astype(np.int64)
    shapes = [(INPUTS, HIDDEN), (HIDDEN, CLASSES)]
    weights: Weights = []
    for rows, columns in shapes:
        scale = np.sqrt(2.0 / (rows + columns))
        weights.append((scale * random.standard_normal((rows, columns))).astype(dtype))
        weights.append(np.zeros(columns, dtype))
    train_rows = len(y) - TEST_ROWS
    per_epoch = train_rows // BATCH
    batches = np.concatenate(
        [
            random.permutation(train_rows)[: per_epoch * BATCH].reshape(per_epoch, BATCH)
            for _ in range(epochs)
        ]
    )
    return Task(
        x_train=x[:train_rows],
        y_train=y[:train_rows],
        x_test=x[train_rows:],
        y_test=y[train_rows:],
        weights=weights,
        batches=batches,
        epochs=epochs,
    )


def nudged(weights: Weights) -> Weights:
    """Return the weights with every element moved by one unit in the last place, up or down."""
    random = np.random.default_rng(SEED + 1)
    return [
        np.nextafter(w, np.where(random.random(w.shape) < 0.5, -np.inf, np.inf).astype(w.dtype))
        for w in weights
    ]


@dataclass(frozen=True)
class RuleSetting:
    """One rule of the demo with the hyperparameters it trains well with."""

    title: str
    name: str
    lr: float
    hyper: dict[str, Any] = field(default_factory=dict)
    decay: Callable[[int], Any] | None = None
    """Makes the sign-internal decay from the number of steps of the run."""

    def build(self, steps: int, lr_factor: float = 1.0) -> Any:
        """Return the bound rule for a run of that many steps."""
        hyper = dict(self.hyper)
        if self.decay is not None:
            hyper["sign_internal_decay"] = self.decay(steps)
        return isostep.rule(self.name, lr=self.lr * lr_factor, **hyper)

    def describe(self) -> dict[str, Any]:
        """Return the settings in a form that JSON can hold."""
        found: dict[str, Any] = {"rule": self.name, "lr": self.lr, **self.hyper}
        if self.decay is not None:
            found["sign_internal_decay"] = (
                f"RestartCosineInternalDecay(T_max=steps, num_periods={DECAY_CYCLES})"
            )
        return found


def _restart_cosine(steps: int) -> Any:
    return isostep.schedules.RestartCosineInternalDecay(steps, num_periods=DECAY_CYCLES)


RULES = (
    RuleSetting("AddSign", "addsign", lr=0.1),
    RuleSetting("PowerSign, decay", "powersign", lr=0.1, decay=_restart_cosine),
    RuleSetting("AdamW", "adamw", lr=2e-3, hyper={"weight_decay": 1e-2}),
    RuleSetting("SGD-HD", "sgd_hd", lr=0.1, hyper={"hypergrad_lr": 1e-2}),
)
