"""The words of formulas: operands, functions, decays, and what is left out with the reason.

Source: Bello, Zoph, Vasudevan, Le, "Neural Optimizer Search with Reinforcement Learning", arXiv 1709.07417, section 3:
its operands, unary and binary functions, and the decays.
"""

from __future__ import annotations

from isostep import parts
from isostep.domains import REQUIRED, Domain, Real
from isostep.schedules.sign_decays import (
    CosineInternalDecay,
    LinearInternalDecay,
    RestartCosineInternalDecay,
)

#: Running averages: state name -> (power of the gradient, its decay rate).
MOMENTS = {"m": (1, "beta1"), "v": (2, "beta2"), "gamma": (3, "beta3")}

#: Names in a formula -> the running averages that they need, by state name.
OPERANDS: dict[str, tuple[str, ...]] = {
    "g": (),
    "w": (),
    "eps": (),
    "m": ("m",),
    "v": ("v",),
    "gamma": ("gamma",),
    "m_hat": ("m",),
    "v_hat": ("v",),
    "gamma_hat": ("gamma",),
    "adam": ("m", "v"),
}

#: Operands that are formulas themselves.
MACROS = {"rmsprop": "g / (sqrt(v) + eps)"}

#: Functions of one argument -> the operation.
UNARY = {"exp": "exp", "log": "log", "sqrt": "sqrt", "sign": "sign", "abs": "abs"}

#: Decays of the steps already done, by the paper's names; their arguments are numbers.
DECAYS = {
    "ld": LinearInternalDecay,
    "cd": CosineInternalDecay,
    "rd": RestartCosineInternalDecay,
}

#: Functions of two arguments that are more than an operation.
FUNCTIONS = (*UNARY, "clip", "keep_left", *DECAYS)

_RANDOM = (
    "needs random numbers, and a rule is a pure function whose step every path repeats to the bit; "
    "leave it out, or perturb the gradient before the step"
)
#: Words of the paper's grammar that no formula can have, with the reason.
LEFT_OUT = {"drop": _RANDOM, "noise": _RANDOM}

#: The hyperparameters that a formula may have beside its decays.
HYPER: dict[str, Domain] = {
    "lr": Real(REQUIRED, low=0, doc="learning rate"),
    "beta1": parts.decay_rate(0.9, "decay rate of the running average of g"),
    "beta2": parts.decay_rate(0.999, "decay rate of the running average of g^2"),
    "beta3": parts.decay_rate(0.999, "decay rate of the running average of g^3"),
    "eps": parts.eps(1e-8, "what the formula calls eps"),
}
