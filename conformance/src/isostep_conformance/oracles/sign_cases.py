"""The AddSign and PowerSign trajectories: settings, start values and gradient patterns.

Every trajectory has 25 steps, so that decays over 10 or 20 steps run past their end. The elements
of its one array follow seven patterns (shared anchors, tf-sign-facts, section 8).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .outcome import Array

STEPS = 25
PATTERNS = ("random", "flipped", "zeros", "denormal", "huge", "mixed scale", "late")


@dataclass(frozen=True)
class Decay:
    """A sign decay as data: its kind (linear, cosine, restart) and TensorFlow's three settings."""

    kind: str
    steps: int
    num_periods: float = 1.0
    zero_after: float | None = None

    def __str__(self) -> str:
        if self.kind == "linear":
            return f"linear {self.steps}"
        after = "" if self.zero_after is None else f" zero_after={self.zero_after:g}"
        return f"{self.kind} {self.steps} n={self.num_periods:g}{after}"


@dataclass(frozen=True)
class SignCase:
    """One setting of AddSign (``strength`` is alpha) or PowerSign (``strength`` is the base)."""

    rule: str
    lr: float
    beta: float
    strength: float
    decay: Decay | None = None

    @property
    def hyper(self) -> dict[str, float]:
        """The hyperparameters but the decay, under isostep's names."""
        name = "alpha" if self.rule == "addsign" else "base"
        return {"lr": self.lr, "beta": self.beta, name: self.strength}

    def __str__(self) -> str:
        decay = "" if self.decay is None else f", {self.decay}"
        return f"lr={self.lr:g} beta={self.beta:g} {self.strength:.3g}{decay}"


DECAYS = tuple(
    decay
    for steps in (10, 20)
    for decay in (
        Decay("linear", steps),
        Decay("cosine", steps, 0.5),
        Decay("cosine", steps, 2.5),
        Decay("cosine", steps, 5, 2),
        Decay("cosine", steps, 1, 0),
        Decay("restart", steps, 1),
        Decay("restart", steps, 2.5),
        Decay("restart", steps, 3),
        Decay("restart", steps, 5, 2),
        Decay("restart", steps, 1, 1),
        Decay("restart", steps, 10, 3),
        Decay("restart", steps, 3, 0),
    )
)
"""Every kind of decay, with whole and half periods, cut and uncut, over 10 and 20 steps."""

BETAS = (0.9, 0.8, 0.5, 0.0)
"""The momentum does not depend on anything else, so the golden file holds it once per beta."""

_RATES = (0.1, 0.01, 0.3)
_STRENGTHS = {"addsign": (1.0, 0.1, 2.5, 0.0), "powersign": (math.e, 10.0, 2.0, 0.5, 1.0)}


def _cases() -> tuple[SignCase, ...]:
    """Each decay and no decay with each rule, the other settings going round and round."""
    cases = []
    for rule, strengths in _STRENGTHS.items():
        for index, decay in enumerate((None, None, None, *DECAYS)):
            cases.append(
                SignCase(
                    rule,
                    lr=_RATES[index % len(_RATES)],
                    beta=BETAS[index % len(BETAS)],
                    strength=strengths[index % len(strengths)],
                    decay=decay,
                )
            )
    return tuple(cases)


CASES = _cases()

HALF_CASES = tuple(
    SignCase(rule, lr, beta, strength, decay)
    for rule, strength in (("addsign", 1.0), ("addsign", 0.5), ("powersign", 2.0))
    for lr, beta, decay in (
        (0.125, 0.875, None),
        (0.25, 0.5, Decay("linear", 10)),
        (0.125, 0.75, Decay("restart", 20, 2.5)),
    )
)
"""For sixteen-bit variables: hyperparameters that bfloat16 and float16 hold exactly."""


def rounded_to_float32(case: SignCase) -> SignCase:
    """The case as TensorFlow 1.x handed it to the kernel, its numbers rounded to float32.

    TensorFlow 1.x rounded the base's logarithm, so the base is the one that has that logarithm.
    """
    strength = case.strength
    if case.rule == "powersign":
        strength = math.exp(np.float32(math.log(strength)))
    return SignCase(
        case.rule,
        float(np.float32(case.lr)),
        float(np.float32(case.beta)),
        float(np.float32(strength)) if case.rule == "addsign" else strength,
        case.decay,
    )


@dataclass(frozen=True)
class Inputs:
    """A start value, the gradients of all steps, and the pattern that each element follows."""

    start: Array
    gradients: Array
    patterns: NDArray[np.int64]


def _sizes(dtype: np.dtype[np.generic]) -> tuple[float, float]:
    """Magnitudes that are subnormal and huge in this dtype (a 25-step sum stays finite)."""
    return {
        "float64": (1e-310, 1e200),
        "float32": (1e-40, 1e30),
        "bfloat16": (1e-40, 1e30),
        "float16": (1e-6, 1e2),
    }[dtype.name]


def inputs(dtype: DTypeLike, per_pattern: int = 2, seed: int = 0) -> Inputs:
    """The start and gradients of one trajectory: ``per_pattern`` elements of each pattern."""
    kind = np.dtype(dtype)
    rng = np.random.default_rng(seed)
    tiny, huge = _sizes(kind)
    shape = (STEPS, per_pattern)

    def normal() -> NDArray[np.float64]:
        return rng.standard_normal(shape)

    flip = np.where(np.arange(STEPS) < rng.integers(4, 20), 1.0, -1.0)[:, None]
    constant = rng.standard_normal(per_pattern)
    signed_zeros = rng.choice([0.0, -0.0, 0.0, -0.0, 1.0, -1.0], shape)
    scale_low, scale_high = (-6.0, 3.0) if kind.name != "float16" else (-3.0, 1.0)
    late = normal()
    late[: STEPS // 2] = 0.0
    columns = {
        "random": normal(),
        "flipped": flip * constant,
        "zeros": signed_zeros,
        "denormal": normal() * np.where(rng.random(shape) < 0.8, tiny, 1e-3),
        "huge": normal() * huge,
        "mixed scale": normal() * 10.0 ** rng.uniform(scale_low, scale_high, shape),
        "late": late,
    }
    start = rng.standard_normal((len(PATTERNS), per_pattern))
    start[PATTERNS.index("huge")] = 0.0
    start[PATTERNS.index("zeros"), 0] = -0.0
    start[PATTERNS.index("denormal"), 0] = tiny
    with np.errstate(over="ignore", under="ignore"):
        return Inputs(
            start.reshape(-1).astype(kind),
            np.concatenate([columns[name] for name in PATTERNS], axis=1).astype(kind),
            np.repeat(np.arange(len(PATTERNS)), per_pattern),
        )
