"""Rules beyond torch.optim against optax with 64-bit floats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import optax
import optax.contrib

import isostep

from . import optax_rules
from .check import Biased, Check, words
from .check_optax_rules import ADAM, B1, B2, BETAS, EPS, MOMENTS, OURS, Row, rows
from .problems import CONV_SHAPES, MIXED_SHAPES, mild, wild, with_curvature, with_losses

OPTIMISM = {"alpha": 0.7, "beta": 0.6}

RULES: tuple[Row, ...] = (
    *(
        (
            "lion",
            "lion",
            {"betas": BETAS, "weight_decay": decay},
            partial(optax.lion, b1=B1, b2=B2, weight_decay=decay),
            {"exp_avg": "mu"},
        )
        for decay in (0.0, 0.3)
    ),
    ("signsgd", "sign_sgd", {}, optax.sign_sgd, {}),
    ("signum", "signum", {"momentum": 0.85}, partial(optax.signum, beta=0.85), {}),
    *(
        (
            "lars",
            "lars",
            {
                "momentum": momentum,
                "nesterov": nesterov,
                "weight_decay": decay,
                "trust_coefficient": 0.1,
                "eps": EPS,
                "dialect": "optax",
            },
            partial(
                optax.lars,
                weight_decay=decay,
                trust_coefficient=0.1,
                eps=EPS,
                momentum=momentum,
                nesterov=nesterov,
            ),
            {},
        )
        for momentum, nesterov, decay in (
            (0.0, False, 0.1),
            (0.85, False, 0.0),
            (0.85, True, 0.1),
        )
    ),
    (
        "adabelief",
        "adabelief",
        OURS,
        partial(optax.adabelief, **ADAM, eps_root=EPS),
        {"exp_avg": "mu", "exp_avg_var": "nu"},
    ),
    ("yogi", "yogi", {**OURS, "initial_accumulator": 1e-6}, partial(optax.yogi, **ADAM), MOMENTS),
    (
        "adopt",
        "contrib.adopt",
        {**OURS, "clip_exp": 0.25},
        partial(optax.contrib.adopt, **ADAM),
        MOMENTS,
    ),
    *(
        (
            "ademamix",
            "contrib.ademamix",
            {"betas": (B1, B2, 0.99), "alpha": 3.0, "eps": EPS, "weight_decay": decay},
            partial(optax.contrib.ademamix, **ADAM, b3=0.99, alpha=3.0, weight_decay=decay),
            {"exp_avg_fast": "m1", "exp_avg_slow": "m2", "exp_avg_sq": "nu"},
        )
        for decay in (0.0, 0.1)
    ),
    *(
        (
            "simplified_ademamix",
            "contrib.simplified_ademamix",
            {**OURS, "alpha": 0.7, "weight_decay": decay},
            partial(optax.contrib.simplified_ademamix, **ADAM, alpha=0.7, weight_decay=decay),
            {"exp_avg": "m", "exp_avg_sq": "n"},
        )
        for decay in (0.0, 0.1)
    ),
    (
        "optimistic_sgd",
        "optimistic_gradient_descent",
        {**OPTIMISM, "dialect": "optax"},
        partial(optax.optimistic_gradient_descent, **OPTIMISM),
        {"previous_gradient": "previous_gradient"},
    ),
    *(
        (
            "optimistic_adam",
            "optimistic_adam_v2",
            {**OURS, **OPTIMISM, "nesterov": nesterov, "dialect": "optax"},
            partial(optax.optimistic_adam_v2, **ADAM, **OPTIMISM, nesterov=nesterov),
            {**MOMENTS, "previous_direction": "previous_gradient"},
        )
        for nesterov in (False, True)
    ),
    ("fromage", "fromage", {}, optax.fromage, {}),
)

#: Without scalars, for which optax's SM3 has no accumulator.
LAYERS: tuple[Row, ...] = (
    *(
        (
            "novograd",
            "novograd",
            {**OURS, "weight_decay": decay},
            partial(optax.novograd, **ADAM, weight_decay=decay),
            {"moments": "mu", "grads_ema": "nu"},
        )
        for decay in (0.0, 0.1)
    ),
    *(
        (
            "sm3",
            "scale_by_sm3",
            {"momentum": momentum, "eps": EPS},
            partial(optax_rules.sm3, momentum=momentum, eps=EPS),
            {"momentum_buffer": "nu"} if momentum else {},
        )
        for momentum in (0.0, 0.85)
    ),
)


WALK = mild(MIXED_SHAPES, lr=0.7)

#: Parameter-free ones, which want a learning rate near one; optax multiplies DoG's first rate by it.
WALKS: tuple[Row, ...] = (
    *(
        (
            name,
            f"contrib.{theirs.__name__}" + of,
            {"reps_rel": 0.01, "init_eta": first, "eps": EPS, "weight_decay": decay},
            partial(
                theirs,
                init_step=("learning_rate", first / WALK.lrs[0]) if first else ("heuristic", 0.01),
                eps=EPS,
                weight_decay=decay,
            ),
            kept,
        )
        for name, theirs, of, kept in (
            ("dog", optax.contrib.dog, "", {"init_buffer": "init_params"}),
            ("ldog", optax_rules.ldog, " of each array", {}),  # a state for each array
        )
        for first, decay in ((None, 0.0), (0.02, 0.1))
    ),
    *(
        (
            "dowg",
            "contrib.dowg",
            {"eps": EPS, "init_estim_sq_dist": first, "weight_decay": decay},
            partial(optax.contrib.dowg, init_estim_sq_dist=first, eps=EPS, weight_decay=decay),
            {"x0": "init_params"},
        )
        for first, decay in ((None, 0.0), (0.02, 0.1))
    ),
    *(
        (
            "cocob",
            "contrib.cocob",
            {"alpha": alpha, "eps": EPS, "weight_decay": decay},
            partial(optax.contrib.cocob, alpha=alpha, eps=EPS, weight_decay=decay),
            {
                "sum_negative_gradients": "cumulative_gradients",
                "grad_norm_sum": "subgradients",
                "L": "scale",
                "reward": "reward",
            },
        )
        for alpha, decay in ((100.0, 0.0), (3.0, 0.1))
    ),
)

#: MoMo without weight decay, where optax is not the authors'.
LOSSES: tuple[Row, ...] = (
    *(
        (
            "polyak_sgd",
            "polyak_sgd",
            {"c": 0.7, "fstar": least, "eps": EPS, "variant": variant},
            partial(optax_rules.polyak_sgd, c=0.7, f_min=least, eps=EPS, variant=variant),
            {},
        )
        for variant, least in (("sps", 3.0), ("sps+", 3.0), ("sps+", 0.0))
    ),
    *(
        row
        for estimate in (False, True)
        for row in (
            (
                "momo",
                "contrib.momo",
                {"beta": B1, "lb": 0.5, "use_fstar": estimate},
                partial(optax.contrib.momo, beta=B1, lower_bound=0.5, adapt_lower_bound=estimate),
                {"grad_avg": "exp_avg"},
            ),
            (
                "momo_adam",
                "contrib.momo_adam",
                {"betas": BETAS, "eps": EPS, "lb": 0.5, "use_fstar": estimate},
                partial(
                    optax.contrib.momo_adam, **ADAM, lower_bound=0.5, adapt_lower_bound=estimate
                ),
                {"grad_avg": "exp_avg", "grad_avg_sq": "exp_avg_sq"},
            ),
        )
    ),
)


def checks() -> Iterator[Check]:
    """All of them."""
    yield from rows(RULES)
    yield from rows(WALKS, WALK)
    yield from rows(LOSSES, with_losses(mild(MIXED_SHAPES, lr=0.3)))
    yield from rows(LAYERS, mild((*CONV_SHAPES, *(s for s in MIXED_SHAPES if s))))
    yield from sophia()
    yield from acprop()


def acprop() -> Iterator[Check]:
    """ACProp: optax's surprise is 1 / b1 times as large, its first divisor 1 + eps; numbers make up for both."""
    for decay in (0.0, 0.1):
        ours = {**OURS, "weight_decay": decay}
        yield Check(
            isostep.rule("acprop", **ours),
            "optax.contrib.acprop",
            words(ours),
            wild(MIXED_SHAPES),
            partial(optax_rules.run, partial(_acprop, decay=decay), states={"exp_avg": "mu"}),
            ("exp_avg",),
        )


def _acprop(lr: Callable[[Any], Any], *, decay: float) -> optax.GradientTransformation:
    def factor(count: Any) -> Any:
        return jnp.where(count > 0, 1.0 / B1, 1.0 + EPS / B1)

    parts = optax.contrib.scale_by_acprop(B1, B2, EPS / B1, EPS / B1**2)
    scaled = optax.scale_by_schedule(factor)
    decayed = optax.add_decayed_weights(decay)
    return optax.chain(parts, scaled, decayed, optax.scale_by_learning_rate(lr))


def sophia() -> Iterator[Check]:
    """Sophia: optax reads a Hessian after its step and corrects the bias of m, both of which can be made up for.

    With gamma and eps times the correction too, the bound's quotient is the same; the diagonals come a step early.
    """
    rate = Biased(0.5, B1, 1.0), Biased(EPS, B1, 1.0)
    for decay in (0.0, 0.1):
        ours = {"betas": BETAS, "gamma": rate[0], "eps": rate[1], "weight_decay": decay}
        late = with_curvature(wild(MIXED_SHAPES))
        first, *later = late.inputs["hessian_diag"]
        zeros = tuple(0.0 * h for h in first)
        problem = replace(late, inputs={"hessian_diag": (zeros, *later)})
        make = partial(
            optax.contrib.sophia, b1=B1, b2=B2, eps=EPS, gamma=0.5, weight_decay=decay,
            update_interval=1, hessian_diagonal_fn=optax_rules.given((*later, first)),
        )  # fmt: skip
        yield Check(
            isostep.rule("sophia", **ours, update_period=1),
            "optax.contrib.sophia",
            words(ours),
            problem,
            partial(optax_rules.run, make, states={"exp_avg": "mu"}),
            ("exp_avg",),
        )
