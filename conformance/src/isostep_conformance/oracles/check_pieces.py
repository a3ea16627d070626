"""Pieces against torch and optax: clipping, decays, noise, the trust ratio, averages of updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import torch

import isostep

from . import optax_rules, torch_optim
from .check import Check
from .optax_rules import Make
from .problems import CONV_SHAPES, MIXED_SHAPES, Problem, mild, wild, with_noise

B1, B2 = BETAS = (0.85, 0.96)
EPS = 1e-3


def checks() -> Iterator[Check]:
    """All of them."""
    yield from clipping()
    yield from decays()
    yield from trust_ratio()
    yield from averages()
    yield noise()


def clipping() -> Iterator[Check]:
    """By value and by each array's norm, in front of SGD with momentum."""
    rule, problem = isostep.rule("sgd", momentum=0.85), mild(CONV_SHAPES)

    def in_torch(change: Callable[[Sequence[torch.Tensor]], object]) -> Any:
        make = partial(torch.optim.SGD, lr=1.0, momentum=0.85, foreach=False)
        return partial(torch_optim.run, make, before=change)

    def in_optax(change: optax.GradientTransformation) -> Any:
        return partial(
            optax_rules.run, lambda lr: optax.chain(change, optax.sgd(lr, momentum=0.85))
        )

    for bound in (0.3, 1.1):
        rule_of_value = isostep.compose(isostep.pieces.clip_by_value(max_value=bound), rule)
        setting = f"bound {bound:g}"
        theirs = in_torch(partial(torch.nn.utils.clip_grad_value_, clip_value=bound, foreach=False))
        yield Check(rule_of_value, "torch.nn.utils.clip_grad_value_", setting, problem, theirs)
        yield Check(rule_of_value, "optax.clip", setting, problem, in_optax(optax.clip(bound)))
        clip = partial(torch.nn.utils.clip_grad_norm_, max_norm=3 * bound, foreach=False)
        yield Check(
            isostep.compose(isostep.pieces.clip_by_norm(max_norm=3 * bound), rule),
            "torch.nn.utils.clip_grad_norm_",
            f"one array at a time, bound {3 * bound:g}",
            problem,
            in_torch(lambda ps, clip=clip: [clip(p) for p in ps]),  # type: ignore[misc]
        )
        yield Check(
            isostep.compose(isostep.pieces.clip_by_norm(max_norm=3 * bound, dialect="optax"), rule),
            "optax.clip_by_global_norm",
            f"one array at a time, bound {3 * bound:g}",
            problem,
            in_optax(_each(optax.clip_by_global_norm(3 * bound))),
        )


def _each(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """A stateless transformation of the whole tree, applied to every leaf as a tree of its own."""
    empty = optax.EmptyState()
    return optax.stateless(lambda u, _: [transform.update([x], empty)[0][0] for x in u])


def decays() -> Iterator[Check]:
    """The kinds of decay behind Adam, as AdamW with a decay that follows the learning rate."""
    problem, adam = wild(MIXED_SHAPES), isostep.rule("adam", betas=BETAS, eps=EPS)
    pieces = isostep.pieces

    def theirs(decay: Callable[[float], float]) -> Callable[[Problem], Any]:
        make = partial(torch.optim.AdamW, lr=1.0, betas=BETAS, eps=EPS, foreach=False)
        return partial(torch_optim.run, make, weight_decay=decay)

    yield Check(
        isostep.compose(adam, pieces.independent_weight_decay(weight_decay=0.03)),
        "torch.optim.AdamW",
        "weight_decay = 0.03 / lr",
        problem,
        theirs(lambda lr: 0.03 / lr),
    )
    top = max(problem.lrs)
    yield Check(
        isostep.compose(adam, pieces.corrected_weight_decay(weight_decay=2.0, max_lr=top)),
        "torch.optim.AdamW",
        "weight_decay = 2 lr / max lr",
        problem,
        theirs(lambda lr: 2.0 * lr / top),
    )
    masked = {"b1": B1, "b2": B2, "eps": EPS, "weight_decay": 2.0}
    yield Check(
        isostep.compose(
            isostep.rule("adam", betas=BETAS, eps=EPS, dialect="optax"),
            pieces.weight_decay(weight_decay=2.0, min_ndim=2),
        ),
        "optax.adamw",
        "mask: two axes or more",
        problem,
        partial(
            optax_rules.run,
            lambda lr: optax.adamw(lr, mask=lambda ps: [p.ndim > 1 for p in ps], **masked),
        ),
    )


def trust_ratio() -> Iterator[Check]:
    """Behind Adam, with and without decay in front of it, a parameter of zeros among others."""
    problem = mild(MIXED_SHAPES)
    problem = Problem((0.0 * problem.start[0], *problem.start[1:]), problem.gradients, problem.lrs)
    adam = isostep.rule("adam", betas=BETAS, eps=EPS, dialect="optax")
    for decay, coefficient, eps in ((0.0, 1.0, 0.0), (0.0, 0.4, 0.7), (0.3, 0.4, 0.0)):
        ratio = isostep.pieces.trust_ratio(trust_coefficient=coefficient, eps=eps)
        decays = [isostep.pieces.weight_decay(weight_decay=decay)] if decay else []

        def make(lr: Any, c: float = coefficient, e: float = eps, d: float = decay) -> Any:
            return optax.chain(
                optax.scale_by_adam(B1, B2, EPS),
                optax.add_decayed_weights(d),
                optax.scale_by_trust_ratio(trust_coefficient=c, eps=e),
                optax.scale_by_learning_rate(lr),
            )

        yield Check(
            isostep.compose(adam, *decays, ratio),
            "optax.scale_by_trust_ratio",
            f"coefficient {coefficient:g}, eps {eps:g}, decay {decay:g} in front",
            problem,
            partial(optax_rules.run, make),
        )


def averages() -> Iterator[Check]:
    """An average of Adam's updates."""
    adam = isostep.rule("adam", betas=BETAS, eps=EPS, dialect="optax")
    for decay, debias in ((0.8, True), (0.9, False)):

        def make(lr: Make, d: float = decay, b: bool = debias) -> Any:
            return optax.chain(optax.adam(lr, b1=B1, b2=B2, eps=EPS), optax.ema(d, debias=b))

        yield Check(
            isostep.compose(adam, isostep.pieces.ema_update(decay=decay, debias=debias)),
            "optax.ema",
            f"decay {decay:g}{', debiased' if debias else ''}",
            wild(MIXED_SHAPES),
            partial(optax_rules.run, make, states={"ema_update.ema": "ema"}),
            ("ema_update.ema",),
        )


def noise() -> Check:
    """In front of SGD, with the normal numbers that optax draws from its key."""
    problem, key, drawn = mild(MIXED_SHAPES), jax.random.key(7), []
    with jax.enable_x64(True):
        for gradients in problem.gradients:
            key, now = jax.random.split(key)
            like = [jax.numpy.asarray(g) for g in gradients]
            drawn.append(tuple(np.asarray(z) for z in optax.tree.random_like(now, like)))
    change = optax.add_noise(eta=0.3, gamma=0.8, key=jax.random.key(7))
    return Check(
        isostep.compose(
            isostep.pieces.gradient_noise(0.3, gamma=0.8), isostep.rule("sgd", momentum=0.85)
        ),
        "optax.add_noise",
        "eta 0.3, gamma 0.8",
        with_noise(problem, tuple(drawn)),
        partial(optax_rules.run, lambda lr: optax.chain(change, optax.sgd(lr, momentum=0.85))),
    )
