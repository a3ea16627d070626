"""More than one gradient, as torch code asks for it: SAM around an optimizer, Hutchinson's estimate, PCGrad; noise.

>>> import torch
>>> from isostep_torch import AdamW
>>> from isostep_torch.second import SAM
>>> model = torch.nn.Linear(3, 1)
>>> optimizer = SAM(AdamW(model.parameters(), lr=1e-3), rho=0.05)

The arithmetic and its sources are those of ``isostep.sharpness``, ``isostep.curvature`` and ``isostep.multitask``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from isostep import curvature, multitask, sharpness
from isostep.schedules.base import check
from isostep.state import StepError
from isostep_torch.loop import TorchLoop


class SAM:
    """Sharpness-aware minimization around any optimizer of torch's kind; ``adaptive`` for ASAM.

    With a closure that zeroes the gradients, computes the loss and calls backward: ``sam.step(closure)``. By hand:

        loss(model).backward(); sam.first_step()
        sam.zero_grad(); loss(model).backward(); sam.second_step()

    With a ``torch.amp.GradScaler`` both losses are scaled, nothing is unscaled before the first step (the way is as
    long whatever the scale), and ``sam.second_step(scaler)`` steps through the scaler.

    Args:
        optimizer: what steps with the second gradient; schedulers and checkpoints use it as ever.
        rho: how far the second gradient is taken.
        adaptive, eta, eps: see ``isostep.sharpness``.
        backend: the path that perturbs; ``torch:loop`` takes tensors of any device.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        eta: float = 0.0,
        eps: float = 1e-12,
        backend: Any = None,
    ) -> None:
        self.optimizer = optimizer
        self.sam = sharpness.SAM(backend or TorchLoop(), rho, adaptive=adaptive, eta=eta, eps=eps)
        self._away: AbstractContextManager[Any] | None = None

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's."""
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The optimizer's."""
        self.optimizer.zero_grad(set_to_none)

    def first_step(self, zero_grad: bool = False) -> None:
        """Go from the weights to where the second gradient is taken.

        Raises:
            StepError: they are there already, or no parameter has a gradient.
        """
        if self._away is not None:
            message = "sam: first_step after first_step; call second_step or restore first"
            raise StepError(message)
        params = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
        if not params:
            message = "sam: first_step needs gradients; call backward first"
            raise StepError(message)
        away = self.sam.perturbed(params, [p.grad for p in params])
        away.__enter__()
        self._away = away
        if zero_grad:
            self.zero_grad()

    def restore(self) -> None:
        """Put the weights back without a step; where they are not away, nothing happens."""
        away, self._away = self._away, None
        if away is not None:
            away.__exit__(None, None, None)

    def second_step(self, scaler: Any = None, zero_grad: bool = False, **inputs: Any) -> None:
        """Put the weights back and step with the gradients that there are now.

        Args:
            scaler: a gradient scaler, whose ``step(optimizer)`` is called instead of the optimizer's.
            zero_grad: zero the gradients afterwards.
            inputs: what else the optimizer's ``step`` takes, such as AdaHessian's ``hessian_diag``.

        Raises:
            StepError: without a first step; nothing has changed then.
        """
        if self._away is None:
            message = "sam: second_step without first_step; call it after the first backward"
            raise StepError(message)
        self.restore()
        if scaler is None:
            self.optimizer.step(**inputs)
        else:
            scaler.step(self.optimizer, **inputs)
        if zero_grad:
            self.zero_grad()

    def step(self, closure: Callable[[], Any] | None = None, **inputs: Any) -> Any:
        """One step; ``closure`` zeroes the gradients, computes the loss and calls backward. Called twice.

        ``inputs`` go to the optimizer's ``step``, as those of ``second_step`` do.

        Returns:
            The first call's loss.

        Raises:
            StepError: there is no closure. Whatever the closure raises: the weights are back.
        """
        if closure is None:
            message = "sam: step needs a closure that computes the loss; or call first_step and second_step"
            raise StepError(message)
        try:
            with torch.enable_grad():
                loss = closure()
            self.first_step()
            with torch.enable_grad():
                closure()
            self.second_step(**inputs)
        finally:
            self.restore()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's; SAM has no state between steps."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The optimizer's."""
        self.optimizer.load_state_dict(state_dict)


class LookSAM:
    """SAM's second gradient every ``k`` steps only, with a closure, see ``isostep.sharpness``.

    Args:
        optimizer: what steps.
        rho, adaptive, eta, eps, backend: as for ``SAM``.
        k: every k-th step takes a second gradient, the first among them.
        alpha: weight of its part that the other steps use again.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        rho: float = 0.05,
        *,
        k: int = 5,
        alpha: float = 0.7,
        adaptive: bool = False,
        eta: float = 0.0,
        eps: float = 1e-12,
        backend: Any = None,
    ) -> None:
        self.optimizer = optimizer
        sam = sharpness.SAM(backend or TorchLoop(), rho, adaptive=adaptive, eta=eta, eps=eps)
        self.look = sharpness.LookSAM(sam, k=k, alpha=alpha)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's."""
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The optimizer's."""
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None, **inputs: Any) -> Any:
        """One step; ``closure`` zeroes the gradients, computes the loss and calls backward. Called once or twice.

        A parameter without a gradient is left alone. Whatever the closure raises: the weights are back. ``inputs`` go
        to the optimizer's ``step``.

        Returns:
            The first call's loss.

        Raises:
            StepError: there is no closure, or it leaves no gradient.
        """
        if closure is None:
            message = "looksam: step needs a closure that computes the loss and calls backward"
            raise StepError(message)
        params = [p for g in self.param_groups for p in g["params"] if p.requires_grad]
        losses, missing = [], set[int]()

        def gradient(_: Any) -> list[torch.Tensor]:
            with torch.enable_grad():
                losses.append(closure())
            missing.update(i for i, p in enumerate(params) if p.grad is None)
            if len(missing) == len(params):
                message = "looksam: the closure left no gradient; call backward in it"
                raise StepError(message)
            return [torch.zeros_like(p) if p.grad is None else p.grad for p in params]

        found = self.look.gradient(gradient, params)
        for i, (p, g) in enumerate(zip(params, found, strict=True)):
            p.grad = None if i in missing else g.detach()
        self.optimizer.step(**inputs)
        return losses[0]

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's, and what the next steps use again."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "count": self.look.count,
            "across": list(self.look.across),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: it is not one of LookSAM's.
        """
        missing = sorted({"optimizer", "count", "across"} - set(state_dict))
        if missing:
            message = f"looksam: the state dict has no {missing[0]!r}; load what LookSAM.state_dict() gave"
            raise ValueError(message)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.look.count = state_dict["count"]
        self.look.across = [a.clone() for a in state_dict["across"]]


def hutchinson(
    grads: Sequence[torch.Tensor | None],
    params: Iterable[torch.Tensor],
    *,
    samples: int = 1,
    distribution: str = "rademacher",
    spatial_axes: tuple[int, ...] | None = None,
    generator: torch.Generator | None = None,
) -> dict[torch.Tensor, torch.Tensor]:
    """An estimate of the Hessian's diagonal by double backward, for ``optimizer.step(hessian_diag=...)``.

    Args:
        grads: the parameters' gradients with their graph: ``torch.autograd.grad(loss, params, create_graph=True)``.
            One that has none, or is None, is constant, and so is its part of the Hessian zero.
        params: the parameters, in the same order.
        samples: how many products are averaged.
        distribution: ``"rademacher"`` or ``"gaussian"``.
        spatial_axes: (2, 3) for AdaHessian's average over a convolution's kernel.
        generator: where the random numbers come from.

    Raises:
        StepError: no gradient has a graph, or there is not one for each parameter.
    """
    grads, params = list(grads), list(params)
    check("hutchinson", "samples", samples, at_least=1, whole=True, hint="pass how many to average")
    curvature.check_distribution(distribution)
    if len(grads) != len(params):
        message = (
            f"hutchinson: needs a gradient for each of {len(params)} parameters, got {len(grads)}"
        )
        raise StepError(message)
    kept = [i for i, g in enumerate(grads) if g is not None and g.requires_grad]
    if not kept:
        message = "hutchinson: the gradients have no graph; compute them with create_graph=True"
        raise StepError(message)
    total = [torch.zeros_like(p) for p in params]
    for _ in range(samples):
        z = [_draw(p, distribution, generator) for p in params]
        found = torch.autograd.grad(
            [g for g in grads if g is not None and g.requires_grad],
            params,
            [z[i] for i in kept],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        with torch.no_grad():
            total = [t + a * b / samples for t, a, b in zip(total, z, found, strict=True)]
    if spatial_axes is not None:
        total = [curvature.spatial_mean(t, spatial_axes) for t in total]
    return dict(zip(params, total, strict=True))


def _draw(p: torch.Tensor, distribution: str, generator: torch.Generator | None) -> torch.Tensor:
    if distribution == "gaussian":
        return torch.randn(p.shape, dtype=p.dtype, device=p.device, generator=generator)
    signs = torch.randint(0, 2, p.shape, device=p.device, generator=generator)
    return signs.to(p.dtype) * 2.0 - 1.0


def noise(
    params: Iterable[torch.Tensor], *, generator: torch.Generator | None = None
) -> dict[torch.Tensor, torch.Tensor]:
    """Standard normal numbers for ``optimizer.step(noise=...)``, see ``isostep.pieces.gradient_noise``.

    Args:
        params: the parameters; numbers are drawn in their order.
        generator: where the numbers come from, on the parameters' device.
    """
    return {p: _draw(p, "gaussian", generator) for p in params}


def pcgrad(
    losses: Iterable[torch.Tensor],
    params: Iterable[torch.Tensor],
    *,
    reduction: str = "mean",
    rng: Any = None,
) -> None:
    """Set ``p.grad`` of every parameter to PCGrad's gradient of several losses, see ``isostep.multitask``.

    A parameter that no loss depends on gets a gradient of None. Gradients that were there are overwritten.
    """
    params = list(params)
    tasks = [
        list(torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True))
        for loss in losses
    ]
    merged = multitask.pcgrad(tasks, reduction=reduction, rng=rng)
    for p, g in zip(params, merged, strict=True):
        p.grad = g


__all__ = ["SAM", "LookSAM", "hutchinson", "noise", "pcgrad"]
