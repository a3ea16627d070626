"""One run: train, time every step, and keep what the comparison with NumPy needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from frameworks import Framework
from numpy.typing import NDArray
from task import CLASSES, Task, Weights

FIRST = 100
"""Steps over which the deviation is judged."""
EVERY = 10
"""After the first FIRST steps the parameters are kept every so many steps."""


@dataclass
class Run:
    """Everything one training run left behind."""

    losses: NDArray[np.float64]
    snapshots: dict[int, NDArray[Any]]
    train_loss: float
    test_accuracy: float
    step_ms: float
    update_ms: float
    seconds: float


@dataclass
class Deviation:
    """How far a run is from the NumPy run.

    Parameters: largest absolute difference over all elements (max norm), at the kept steps.
    Loss: absolute difference of the batch loss, at every step.
    """

    steps: list[int]
    params: NDArray[np.float64]
    loss: NDArray[np.float64]

    @property
    def first(self) -> tuple[float, float]:
        """Largest deviation of (parameters, loss) over the first FIRST steps."""
        kept = [i for i, step in enumerate(self.steps) if step <= FIRST]
        return float(np.max(self.params[kept])), float(np.max(self.loss[:FIRST]))

    @property
    def whole(self) -> tuple[float, float]:
        """Largest deviation of (parameters, loss) over the whole run."""
        return float(np.max(self.params)), float(np.max(self.loss))


def deviation(run: Run, numpy_run: Run) -> Deviation:
    """Compare a run with the NumPy run of the same rule."""
    steps = sorted(numpy_run.snapshots)
    apart = [np.max(np.abs(run.snapshots[s] - numpy_run.snapshots[s])) for s in steps]
    return Deviation(steps, np.array(apart), np.abs(run.losses - numpy_run.losses))


def _cross_entropy(logits: NDArray[Any], y: NDArray[np.int64]) -> float:
    z = logits.astype(np.float64)
    z -= z.max(axis=1, keepdims=True)
    return float(np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(y)), y]))


def train(
    rule: Any,
    framework: Framework,
    task: Task,
    tick: Callable[[float], None],
    weights: Weights | None = None,
) -> Run:
    """Train with this rule in this framework, from these first weights (the task's if None)."""
    began = time.perf_counter()
    backend, net = framework.backend, framework.net
    params = [net.put(w) for w in (weights or task.weights)]
    state = backend.init(rule, params)
    losses = np.empty(task.steps)
    whole, update = np.empty(task.steps), np.empty(task.steps)
    snapshots: dict[int, NDArray[Any]] = {}
    onehot = np.eye(CLASSES, dtype=task.x_train.dtype)[task.y_train]
    for index, batch in enumerate(task.batches):
        x, y = net.put(task.x_train[batch]), net.put(onehot[batch])
        net.wait((x, y))
        start = time.perf_counter()
        loss, grads = net.loss_and_grads(params, x, y)
        net.wait((loss, grads))
        middle = time.perf_counter()
        params, state = backend.step(rule, params, list(grads), state)
        net.wait(params)
        end = time.perf_counter()
        whole[index], update[index] = end - start, end - middle
        losses[index] = float(loss)
        step = index + 1
        if step <= FIRST or step % EVERY == 0 or step == task.steps:
            snapshots[step] = np.concatenate([backend.to_numpy(p).ravel() for p in params])
        tick(losses[index])

    def scores(x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(backend.to_numpy(net.logits(params, net.put(x))))

    guesses = scores(task.x_test).argmax(axis=1)
    return Run(
        losses=losses,
        snapshots=snapshots,
        train_loss=_cross_entropy(scores(task.x_train), task.y_train),
        test_accuracy=float(np.mean(guesses == task.y_test)),
        step_ms=1e3 * float(np.median(whole)),
        update_ms=1e3 * float(np.median(update)),
        seconds=time.perf_counter() - began,
    )
