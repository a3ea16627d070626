"""Schedules: scalar functions of the steps already done, for learning rates and any other hyperparameter.

Give one in place of a number: ``isostep.rule("adamw", lr=CosineAnnealing(1e-3, T_max=1000))``. The first update
sees ``schedule(0)``. They are frozen data and pure functions, work on host numbers and on traced scalars, and know
no framework.
"""

from isostep.schedules.base import Schedule
from isostep.schedules.chebyshev import Chebyshev
from isostep.schedules.combine import Chained, Scaled, Sequential, chained, scale, sequential
from isostep.schedules.cycles import (
    CosineAnnealing,
    CosineAnnealingWarmRestarts,
    Cyclic,
    OneCycle,
    SWAAnneal,
)
from isostep.schedules.factors import (
    Constant,
    Exponential,
    Lambda,
    Linear,
    Multiplicative,
    MultiStep,
    Polynomial,
    Step,
)
from isostep.schedules.plateau import PlateauState, ReduceLROnPlateau
from isostep.schedules.sign_decays import (
    CosineInternalDecay,
    LinearInternalDecay,
    RestartCosineInternalDecay,
    RestartCosineInternalDecayTorchPort,
)
from isostep.schedules.warmups import (
    REX,
    InverseSquareRoot,
    LinearWarmup,
    UntunedLinearWarmup,
    WarmupStableDecay,
    knee,
    trapezoid,
)

__all__ = [
    "REX",
    "Chained",
    "Chebyshev",
    "Constant",
    "CosineAnnealing",
    "CosineAnnealingWarmRestarts",
    "CosineInternalDecay",
    "Cyclic",
    "Exponential",
    "InverseSquareRoot",
    "Lambda",
    "Linear",
    "LinearInternalDecay",
    "LinearWarmup",
    "MultiStep",
    "Multiplicative",
    "OneCycle",
    "PlateauState",
    "Polynomial",
    "ReduceLROnPlateau",
    "RestartCosineInternalDecay",
    "RestartCosineInternalDecayTorchPort",
    "SWAAnneal",
    "Scaled",
    "Schedule",
    "Sequential",
    "Step",
    "UntunedLinearWarmup",
    "WarmupStableDecay",
    "chained",
    "knee",
    "scale",
    "sequential",
    "trapezoid",
]
