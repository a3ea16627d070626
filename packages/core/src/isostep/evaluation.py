"""Where a model is to be evaluated, for rules whose result is not the parameter that they step with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from isostep import nm
from isostep.calls import call_part
from isostep.rule import BoundRule
from isostep.state import State, as_list, check_rule, check_state

if TYPE_CHECKING:
    from isostep.execute import ArrayBackend


def points(backend: ArrayBackend, rule: BoundRule, params: Any, state: State) -> list[Any]:
    """The rule's ``evaluate`` on each parameter, in new arrays; copies for a rule without one.

    Schedules have the value of the last step done. A parameter that has not been stepped yet is its own point.
    """
    check_rule(rule)
    arrays = as_list(params)
    check_state(rule, state, len(arrays))
    component = next(c for c in rule.components if c.part is rule.rule)
    names = rule.state_of(component)
    found = []
    for p, own, t in zip(arrays, state.arrays, state.t, strict=True):
        wide = backend.compute_dtype(p)
        value = backend.cast(p, wide)
        if rule.rule.evaluate is not None and t > 0:
            opened = backend.opened(own, state.storage, wide)
            arguments = [opened[n] for n in names]
            hyper = component.own(rule.at(t))
            with nm.computing(value):
                value = call_part(rule.rule.evaluate, value, *arguments, t, given=hyper)
        found.append(backend.write(backend.zeros_like(p), value))
    return found
