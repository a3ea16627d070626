"""Sanity runs beside the numeric cases: every rule goes down Rosenbrock's valley and trains a small network.

    python -m isostep_conformance.sanity            search settings for rules that have none, and record them
    python -m isostep_conformance.sanity adam sgd   search again for these

It proves nothing about arithmetic, which the cases do; it shows that a rule's settings have a sense. The setting
of each rule is data, in sanity.json; all in float32. A rule without an entry there is searched for when it is run.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import isostep
from isostep.domains import REQUIRED, Domain, DomainError, Pair, Real
from isostep.plot.paths import GRID
from isostep.plot.surfaces import SURFACES
from isostep.rule import BoundRule
from isostep.train import Data, Network, load_data

RECORD = Path(__file__).with_name("sanity.json")
#: Tried on every other number where no learning rate is enough.
FACTORS = (0.1, 10.0, 0.01, 100.0, 1e-4, 1e-6, 1e-8)
#: The learning rates that are tried first: one a decade.
COARSE = GRID[1::3]
Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Task:
    """What is minimised: first parameters, loss and gradient of step t, the loss that counts, how low is enough."""

    name: str
    steps: int
    start: Callable[[tuple[int, ...] | None], Arrays]
    both: Callable[[Arrays, int], tuple[Any, Arrays]]
    loss: Callable[[Arrays], float]
    enough: float


def rosenbrock() -> Task:
    """The valley from (-1.2, 1), where the loss is 24.2, towards 0 at (1, 1); for a rule of matrices it is one row."""
    surface = SURFACES["rosenbrock"]

    def start(ndim: tuple[int, ...] | None) -> Arrays:
        axes = 1 if ndim is None or 1 in ndim else min(n for n in ndim if n)
        return [np.array([-1.2, 1.0], np.float32).reshape((1,) * (axes - 1) + (2,))]

    def both(params: Arrays, t: int) -> tuple[Any, Arrays]:
        (p,) = params
        x, y = p.ravel()
        return surface.value(x, y), [np.array(surface.gradient(x, y), np.float32).reshape(p.shape)]

    def loss(params: Arrays) -> float:
        return float(surface.value(*params[0].ravel().astype(np.float64)))

    return Task("rosenbrock", 2000, start, both, loss, enough=0.242)


def digits(data: Data | None = None) -> Task:
    """scikit-learn's digits by one hidden layer of 16, batches of 128, five epochs; chance is a loss of 2.3."""
    found = load_data("digits") if data is None else data
    net = Network(found.shape, (16, found.classes))
    x, onehot = found.x_train.astype(np.float32), np.eye(found.classes, dtype=np.float32)
    order = np.random.default_rng(0).permutation(len(x))

    def start(ndim: tuple[int, ...] | None) -> Arrays:
        return net.weights(1, "float32")

    def both(params: Arrays, t: int) -> tuple[Any, Arrays]:
        rows = np.take(order, range(128 * (t - 1), 128 * t), mode="wrap")
        return net.by_hand(params, x[rows], onehot[found.y_train[rows]])

    def loss(params: Arrays) -> float:
        return float(net.loss(params, x, onehot[found.y_train]))

    return Task("digits", 60, start, both, loss, enough=0.7)


@cache
def tasks() -> dict[str, Task]:
    """The two, by name."""
    return {task.name: task for task in (rosenbrock(), digits())}


def hessian_diag(task: Task, params: Arrays, loss: Any, grads: Arrays, t: int) -> Arrays:
    """Hutchinson's estimate of the Hessian's diagonal, the product by a difference of gradients."""
    random = np.random.default_rng([11, t])
    h = np.float32(1e-3)
    signs = [np.asarray(random.integers(0, 2, p.shape) * 2 - 1, np.float32) for p in params]
    _, near = task.both([p + h * z for p, z in zip(params, signs)], t)
    return [z * (n - g) / h for z, n, g in zip(signs, near, grads)]


def probe(task: Task, params: Arrays, loss: Any, grads: Arrays, t: int) -> Arrays:
    """Standard normal numbers."""
    random = np.random.default_rng([12, t])
    return [random.standard_normal(p.shape).astype(np.float32) for p in params]


#: What rules ask for beside the gradient: for each parameter, or once for the group.
INPUTS: dict[str, Callable[[Task, Arrays, Any, Arrays, int], Any]] = {
    "hessian_diag": hessian_diag,
    "probe": probe,
    "loss": lambda task, params, loss, grads, t: float(loss),
}


def run(
    rule: BoundRule, task: Task, watch: Callable[[Arrays], None] = lambda params: None
) -> tuple[float, float]:
    """The loss before the first step and at the point to evaluate after the last one, by ``numpy:reference``.

    Parameters that the rule does not take, such as the biases where it is for matrices, stay as they are.
    """
    backend = isostep.backend("numpy:reference")
    params = task.start(rule.rule.ndim)
    own = [k for k, p in enumerate(params) if rule.rule.ndim is None or p.ndim in rule.rule.ndim]
    taken = [params[k] for k in own]
    needed = (*rule.input_names, *rule.group_input_names)
    first = task.loss(params)
    with np.errstate(all="ignore"):  # a setting that is tried may leave for infinity
        state = backend.init(rule, taken)
        watch(taken)
        for t in range(1, task.steps + 1):
            value, grads = task.both(params, t)
            inputs = {n: INPUTS[n](task, params, value, grads, t) for n in needed}
            inputs |= {n: [inputs[n][k] for k in own] for n in rule.input_names}
            backend.step(rule, taken, [grads[k] for k in own], state, **inputs)
            watch(taken)
            if not all(np.isfinite(p).all() for p in taken):
                return first, math.inf
        for k, p in zip(own, backend.evaluation_point(rule, taken, state)):
            params[k] = p
        last = task.loss(params)
    return first, last if math.isfinite(last) else math.inf


def varied(domain: Domain) -> list[Any]:
    """Other values than the default: of a number smaller and larger ones, of decay rates a shorter last one."""
    if isinstance(domain, Pair):
        *first, last = domain.default
        return [(*first, 1 - 10 * (1 - last))] if 0.9 < last < 1 else []
    if not isinstance(domain, Real):
        return []
    return [domain.default * f for f in FACTORS] if domain.default else list(domain.cases)


def search(name: str, task: Task) -> dict[str, Any]:
    """The learning rate of a grid that ends lowest, from coarse to fine.

    Where none is enough, every other number is made smaller or larger beside a few of them, until one is.
    """
    hyper = isostep.definition(name).hyper
    base = {n: 0.1 for n, d in hyper.items() if d.default is REQUIRED}
    found: dict[tuple[tuple[str, Any], ...], float] = {}

    def best() -> tuple[tuple[str, Any], ...]:
        return min(found, key=lambda setting: found[setting])

    def attempt(**setting: Any) -> float:
        key = tuple({**base, **setting}.items())
        try:
            found[key] = run(isostep.rule(name, **dict(key)), task)[1]
        except DomainError:
            found[key] = math.inf
        return found[key]

    if "lr" not in hyper:
        attempt()
    else:
        for lr in COARSE:
            attempt(lr=lr)
        middle = GRID.index(dict(best())["lr"])
        for lr in GRID[max(0, middle - 2) : middle + 3]:
            attempt(lr=lr)
    lrs: tuple[float | None, ...] = COARSE[1:] if "lr" in hyper else (None,)
    others = {n: values for n, d in hyper.items() if n != "lr" and (values := varied(d))}
    for k in range(len(FACTORS)):
        for n, values in others.items():
            for rate in lrs if k < len(values) else ():
                if found[best()] < task.enough:
                    return dict(best())
                attempt(**{n: values[k]}, **({} if rate is None else {"lr": rate}))
    return dict(best())


def record() -> dict[str, dict[str, dict[str, Any]]]:
    """The recorded settings: rule, task, hyperparameters that differ from their defaults."""
    return dict(json.loads(RECORD.read_text(encoding="utf-8")))


def rule_for(name: str, task: Task) -> BoundRule:
    """The rule with its recorded setting, or one that is found now."""
    known = record().get(name, {}).get(task.name)
    return isostep.rule(name, **(search(name, task) if known is None else known))


def main() -> None:
    """Search and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "rules", nargs="*", metavar="RULE", help="(default: those without an entry)"
    )
    names = parser.parse_args().rules
    known = record() if RECORD.exists() else {}
    for name in names or [n for n in isostep.rules() if n not in known]:
        known[name] = {}
        for task in tasks().values():
            known[name][task.name] = search(name, task)
            last = run(isostep.rule(name, **known[name][task.name]), task)[1]
            shown = "enough" if last < task.enough else "NOT ENOUGH"
            print(
                f"{name:22} {task.name:10} {last:.4g} {shown} {known[name][task.name]}", flush=True
            )
        text = json.dumps({n: known[n] for n in sorted(known)}, indent=1)
        RECORD.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
