"""torch.optim and torch.nn.utils, run on a problem."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch

from .problems import Problem, Record


def run(
    make: Callable[[list[torch.Tensor]], torch.optim.Optimizer],
    problem: Problem,
    states: Sequence[str] = (),
    *,
    before: Callable[[list[torch.Tensor]], object] | None = None,
    **changes: Callable[[float], float],
) -> Record:
    """The record of one optimizer of torch.optim; ``before`` runs ahead of each step.

    ``states`` are torch's names of the state to note; a parameter that lacks one notes an empty
    array. ``changes`` are further settings that depend on the learning rate.
    """
    params = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in problem.start]
    optimizer = make(params)
    record = Record()
    for gradients, lr in zip(problem.gradients, problem.lrs, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
            for name, change in changes.items():
                group[name] = change(lr)
        for p, gradient in zip(params, gradients, strict=True):
            p.grad = torch.tensor(gradient, dtype=torch.float64)
        if before is not None:
            before(params)
        optimizer.step()
        kept = {
            name: [np.asarray(optimizer.state[p].get(name, ())) for p in params] for name in states
        }
        record.add([p.detach().numpy() for p in params], kept)
    return record


def newton_schulz(
    matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Muon's Newton-Schulz iteration in the matrix's own dtype (torch's runs in bfloat16)."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / max(float(torch.linalg.matrix_norm(x)), eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + b * (gram @ x) + c * (gram @ gram @ x)
    return x.T if tall else x


@contextmanager
def exact_muon() -> Iterator[None]:
    """torch.optim.Muon with its bfloat16 Newton-Schulz replaced by one in float64."""
    with mock.patch("torch.optim._muon._zeropower_via_newtonschulz", newton_schulz):
        yield
