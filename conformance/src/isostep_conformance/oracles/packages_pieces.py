"""Pieces against pytorch_optimizer, torch_optimizer, and the parts of the authors' Ranger21."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch

import isostep

from . import torch_optim, torch_packages
from .check import TOLERANCE, Check
from .problems import MIXED_SHAPES, mild, wild

package = importlib.import_module("pytorch_optimizer")
gradient = importlib.import_module("pytorch_optimizer.optimizer.utils.gradient")
ranger21 = importlib.import_module("ranger21.ranger21")

BETAS = (0.85, 0.96)
EPS = 1e-3
#: Units of more than two elements, and no array of three axes, whose units that package takes otherwise.
UNIT_SHAPES = ((4, 3), (7,), (3, 2, 2, 3), (5, 4))


def checks() -> Iterator[Check]:
    """All of them."""
    rule = isostep.rule("sgd", momentum=0.85)
    for units, where in product((False, True), (gradient, ranger21)):
        theirs = where.normalize_gradient
        yield Check(
            isostep.compose(isostep.pieces.normalize_gradient(units=units), rule),
            f"{_name(where)} normalize_gradient",
            "per unit" if units else "per array",
            mild(UNIT_SHAPES if units else MIXED_SHAPES),
            _sgd(lambda ps, f=theirs, units=units: [f(p.grad, units) for p in ps]),  # type: ignore[misc]
        )
    for where in (package, ranger21):
        yield Check(
            isostep.compose(isostep.pieces.centralize(unit_axis=0), rule),
            f"{_name(where)} centralize_gradient",
            "units on axis 0, as it always has them",
            mild(MIXED_SHAPES),
            _sgd(lambda ps, f=where.centralize_gradient: [f(p.grad) for p in ps]),  # type: ignore[misc]
        )
    yield from adaptive_clipping()
    yield Check(
        isostep.compose(isostep.pieces.orthogonal_gradient(least=0.0), rule),
        "pytorch_optimizer.OrthoGrad",
        "around SGD",
        mild(((4, 3), (7,), (2, 3, 5))),
        partial(
            torch_optim.run,
            lambda ps: package.OrthoGrad(torch.optim.SGD(ps, lr=1.0, momentum=0.85, foreach=False)),
        ),
    )
    adam = isostep.rule("adam", betas=BETAS, eps=EPS)
    for decay in (0.3, 2.0):
        yield Check(
            isostep.compose(
                adam,
                isostep.pieces.stable_weight_decay(weight_decay=decay, beta2=BETAS[1], eps=EPS),
            ),
            "pytorch_optimizer.AdamS",
            f"decay {decay:g}",
            wild(MIXED_SHAPES),
            partial(
                torch_optim.run,
                partial(package.AdamS, betas=BETAS, eps=EPS, weight_decay=decay, foreach=False),
            ),
        )
    yield from positive_negative_momentum()
    yield norm_loss("pytorch_optimizer.Ranger21", gradient.unit_norm)
    yield norm_loss("ranger21.Ranger21", _ranger21().unit_norm)
    yield from lookahead(rule)


def _sgd(before: Callable[[Sequence[torch.Tensor]], object]) -> Any:
    make = partial(torch.optim.SGD, lr=1.0, momentum=0.85, foreach=False)
    return partial(torch_optim.run, make, before=before)


def _name(module: Any) -> str:
    return str(module.__name__).partition(".")[0]


def _ranger21(**attributes: Any) -> Any:
    """The authors' optimizer without its start, which asks for the length of a run: for its methods."""
    made = object.__new__(ranger21.Ranger21)
    made.__dict__.update(attributes)
    return made


def positive_negative_momentum() -> Iterator[Check]:
    """As a piece, and with the softplus that Ranger21 puts around AdaPNM's denominator, all else of it off."""
    beta, weight = BETAS[0], 0.6
    yield Check(
        isostep.compose(
            isostep.pieces.positive_negative_momentum(beta, weight=weight), isostep.rule("sgd")
        ),
        "pytorch_optimizer.PNM",
        "the piece in front of SGD",
        mild(MIXED_SHAPES),
        partial(
            torch_optim.run,
            partial(package.PNM, betas=(beta, weight), weight_decay=0.0, foreach=False),
        ),
    )
    off: Any = {"disable_lr_scheduler": True, "agc_clipping_value": 1e30, "norm_loss_factor": 0.0}
    off |= {"centralize_gradients": False, "normalize_gradients": False, "weight_decay": 0.0}
    for smoothness in (1.5, 50.0):
        yield Check(
            isostep.compose(
                isostep.pieces.softplus(smoothness),
                isostep.rule("adapnm", betas=(*BETAS, weight), eps=EPS),
            ),
            "pytorch_optimizer.Ranger21",
            f"only its softplus around AdaPNM, beta {smoothness:g}",
            mild(MIXED_SHAPES),
            partial(
                torch_optim.run,
                partial(
                    package.Ranger21,
                    num_iterations=1000,
                    lookahead_merge_time=1000,
                    beta0=weight,
                    betas=BETAS,
                    eps=EPS,
                    beta_softplus=smoothness,
                    foreach=False,
                    **off,
                ),
            ),
            # log1p(exp(-20)) / 20, what torch leaves out at most
            tolerance=1.1e-10 if smoothness > 20 else TOLERANCE,
            note="torch's softplus is the identity above 20" if smoothness > 20 else "",
        )


def lookahead(rule: Any) -> Iterator[Check]:
    """Whose steps synchronise is another in each of the three; one of them pulls the momentum back."""
    kinds = {
        "timm": torch_packages.optimizer_class("timm.optim.lookahead", "Lookahead"),
        "torch_optimizer": torch_packages.optimizer_class("torch_optimizer", "Lookahead"),
    }
    whose: list[tuple[str, str, str, Any]] = [(n, n, "none", theirs) for n, theirs in kinds.items()]
    for how in ("none", "reset", "pullback"):
        theirs = partial(package.Lookahead, pullback_momentum=how)
        whose.append(("paper", "pytorch_optimizer", how, theirs))
    for (dialect, name, how, theirs), k in product(whose, (1, 4)):
        given = {"k": k, "alpha": 0.6, "dialect": dialect, "pullback_momentum": how}
        yield Check(
            isostep.compose(rule, isostep.pieces.lookahead(**given)),
            f"{name}.Lookahead",
            f"around SGD, k = {k}, momentum {how}",
            mild(MIXED_SHAPES),
            partial(
                torch_optim.run,
                lambda ps, theirs=theirs, k=k: theirs(  # type: ignore[misc]
                    torch.optim.SGD(ps, lr=1.0, momentum=0.85, foreach=False), k=k, alpha=0.6
                ),
            ),
        )


def adaptive_clipping() -> Iterator[Check]:
    """Both versions, their units on axis 0; arrays of three axes have other units there."""
    rule = isostep.rule("sgd", momentum=0.85)
    for clipping, eps in ((0.1, 1e-3), (0.4, 2.5)):

        def copied(ps: Sequence[torch.Tensor], c: float = clipping, e: float = eps) -> None:
            for p in ps:
                assert p.grad is not None
                p.grad.copy_(package.agc(p.detach(), p.grad, agc_eps=e, agc_clip_val=c))

        def in_place(ps: Sequence[torch.Tensor], c: float = clipping, e: float = eps) -> None:
            for p in ps:
                with torch.no_grad():
                    _ranger21(agc_eps=e, agc_clip_val=c).agc(p)

        for name, change in (
            ("pytorch_optimizer.agc", copied),
            ("ranger21.Ranger21.agc", in_place),
        ):
            yield Check(
                isostep.compose(
                    isostep.pieces.adaptive_clip(clipping=clipping, eps=eps, unit_axis=0), rule
                ),
                name,
                f"clipping {clipping:g}, units on axis 0",
                mild(UNIT_SHAPES),
                _sgd(change),
            )


def norm_loss(name: str, unit_norm: Callable[[torch.Tensor], torch.Tensor]) -> Check:
    """The line of a Ranger21, before a step of SGD, with its own unit norm."""

    class Pulled(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for p in group["params"]:
                    pull = 2.0 * 0.3 * (1.0 - 1.0 / unit_norm(p).add_(EPS))
                    p.mul_(1.0 - group["lr"] * pull)
            super().step(closure)

    make = partial(Pulled, lr=1.0, momentum=0.85, foreach=False)
    return Check(
        isostep.compose(
            isostep.rule("sgd", momentum=0.85), isostep.pieces.norm_loss(factor=0.3, eps=EPS)
        ),
        name,
        "its unit norm and its line",
        mild(UNIT_SHAPES),
        partial(torch_optim.run, make),
    )
