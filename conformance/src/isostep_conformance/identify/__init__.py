"""Which rule does an optimizer follow? Whatever its name and its documentation say, by the steps that it takes.

``python -m isostep_conformance.identify torch.optim.NAdam`` gives the optimizer numbers that are told apart, lets it
take eight steps in float64, and compares them with those of every rule here, in every dialect, with and without the
pieces that would explain a setting. Where no rule takes its steps, the nearest ones are tried with one or two slips
in their programs, such as conformance's mutants have; so that a wrong optimizer is not only found, but explained.
"""

from __future__ import annotations

from isostep_conformance.identify.answer import Answer, Finding
from isostep_conformance.identify.search import identify
from isostep_conformance.identify.states import Match
from isostep_conformance.identify.takeover import taken_over
from isostep_conformance.identify.targets import Target, TargetError, target
from isostep_conformance.identify.transformations import optax_taken_over

__all__ = [
    "Answer",
    "Finding",
    "Match",
    "Target",
    "TargetError",
    "identify",
    "optax_taken_over",
    "taken_over",
    "target",
]
