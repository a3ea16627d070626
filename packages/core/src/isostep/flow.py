"""The order in which a step calls a rule's functions, written once for arrays and for traced values.

Pieces that change the gradient run first, then the rule, then the pieces that change the update. A component
that needs sums over the group has them taken, over all parameters, before its own function runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isostep.calls import RuleError, call_part, check_sums, written
from isostep.nm import Overwrite, computing
from isostep.parts import filled
from isostep.rule import BoundRule, Component
from isostep.values import Domain, Value


@dataclass
class Item:
    """One parameter on its way through a step; ``u`` is None until the rule has run.

    ``written``: what has the dtype of the arithmetic has been changed where it lies.
    """

    t: Any
    p: Any
    g: Any
    inputs: dict[str, Any]
    state: dict[str, Any]
    hyper: Mapping[str, Any]
    phase: tuple[int, ...]
    u: Any = None
    seen: Any = None  # an observed rule's sums
    written: bool = False


@dataclass
class Group:
    """What the parameters of a group share during a step.

    ``total(name, ...)`` adds expressions over all of them, ``fit`` takes a value of the group to where one of them
    uses it, ``keep`` what ``advance`` returns, which may be a plain number, to what the group's state is made of.
    """

    t: Any
    state: dict[str, Any]
    hyper: Mapping[str, Any]
    total: Callable[[str, Sequence[Item], Sequence[Any]], Any]
    fit: Callable[[Any, Item], Any]
    keep: Callable[[Any], Any]


def flow(rule: BoundRule, items: Sequence[Item], group: Group) -> None:
    """Run one step's functions: sets every item's ``u`` and ``state``, and the group's state."""
    sums: dict[str, dict[str, Any]] = {}
    the_rule = next(c for c in rule.components if c.part is rule.rule)
    for c, before in _pieces(rule, "before"):
        _sum_over_group(rule, c, items, group, sums)
        for item in items:
            item.g = _spread(_run(rule, c, before, (item.p, item.g), item, group, sums), item.p)
    _sum_over_group(rule, the_rule, items, group, sums)
    for item in items:
        item.u = _run(rule, the_rule, rule.rule.update, (item.p, item.g), item, group, sums)
    for c, after in _pieces(rule, "after"):
        if c.prefix not in sums:
            _sum_over_group(rule, c, items, group, sums)
        for item in items:
            u = item.u.value - item.p if isinstance(item.u, Overwrite) else _spread(item.u, item.p)
            result = _run(rule, c, after, (item.p, item.g, u), item, group, sums)
            if result is not u:  # else a parameter that was overwritten stays so, to the bit
                item.u = result


def _spread(x: Any, p: Any) -> Any:
    """An update or gradient as a piece or rule expects it, an element for each of p's: it may be one number for all."""
    if isinstance(x, Value):
        same = x.domain is Domain.ELEMENT or (x.domain is Domain.TENSOR and x.shape == p.shape)
    else:
        same = hasattr(x, "shape") and tuple(x.shape) == tuple(p.shape)
    return x if same else filled(p, x)


def _pieces(rule: BoundRule, kind: str) -> list[tuple[Component, Callable[..., Any]]]:
    """The pieces with a function of this kind (``before``, ``after``, ``denominator``), in order, and the function."""
    found = [(c, getattr(c.part, kind, None)) for c in rule.components]
    return [(c, function) for c, function in found if function is not None]


def _given(
    rule: BoundRule, c: Component, item: Item, group: Group, sums: dict[str, dict[str, Any]]
) -> Any:
    """Every keyword that a function of component ``c`` may name for this parameter."""
    given: dict[str, Any] = {}
    for each in [d for d in rule.components if d.part is rule.rule] + [
        c
    ]:  # the rule's first, then its own
        given |= {n: item.hyper[each.prefix + n] for n in each.part.hyper}
        own = each.group_state(rule.values)
        given |= {n: group.fit(group.state[each.prefix + n], item) for n in own}
    given |= {n: group.fit(v, item) for n, v in sums.get(c.prefix, {}).items()}
    phased = [d for d in rule.components if d.part.phase is not None]
    if c in phased:
        given["phase"] = item.phase[phased.index(c)]
    if c.part is rule.rule:
        given |= _denominator(rule, item, group)
    return given


def _denominator(rule: BoundRule, item: Item, group: Group) -> dict[str, Any]:
    """The keyword by which a rule hands over what it divides by, where a piece changes that."""
    pieces = _pieces(rule, "denominator")

    def changed(d: Any) -> Any:
        for c, function in pieces:
            d = call_part(function, d, given=_given(rule, c, item, group, {}))
        return d

    return {"denominator": changed} if pieces else {}


def _run(
    rule: BoundRule,
    c: Component,
    function: Callable[..., Any],
    arrays: tuple[Any, ...],
    item: Item,
    group: Group,
    sums: dict[str, dict[str, Any]],
) -> Any:
    """Call one function for one parameter; its first result is returned, the others become state."""
    names = rule.state_of(c)
    if function is getattr(c.part, "after", None):
        names += rule.lent(c)
    extra = tuple(item.inputs[n] for n in c.part.inputs)
    state = tuple(item.state[n] for n in names)
    with computing(item.p):
        result = call_part(
            function, *arrays, *extra, *state, item.t, given=_given(rule, c, item, group, sums)
        )
    parts = result if isinstance(result, tuple) else (result,)
    if len(parts) != 1 + len(names):
        wanted = ", ".join(("u", *names))
        count = f"returned {len(parts)} values, expected {1 + len(names)}"
        message = f"{c.part.name}: {written(function).__name__} {count}: {wanted}"
        raise RuleError(message)
    item.state.update(zip(names, parts[1:], strict=True))
    return parts[0]


def _sum_over_group(
    rule: BoundRule,
    c: Component,
    items: Sequence[Item],
    group: Group,
    sums: dict[str, dict[str, Any]],
) -> None:
    """Take the component's sums and let it advance its group state."""
    part = c.part
    sums[c.prefix] = {}
    if part.measure is not None:
        per_item: list[Mapping[str, Any]] = []
        for item in items:
            extra = tuple(item.inputs[n] for n in part.inputs)
            state = tuple(item.state[n] for n in rule.state_of(c))
            given = _given(rule, c, item, group, {})
            with computing(item.p):
                per_item.append(
                    call_part(part.measure, item.p, item.g, *extra, *state, item.t, given=given)
                )
        check_sums(rule.name, per_item)
        sums[c.prefix] = {
            n: group.total(c.prefix + n, items, [m[n] for m in per_item]) for n in per_item[0]
        }
    own = {n: group.state[c.prefix + n] for n in c.group_state(rule.values)}
    if part.advance is not None and own:  # a static choice may leave nothing to advance
        hyper = {n: group.hyper[c.prefix + n] for n in part.hyper}
        with computing(next(iter(own.values()), items[0].p)):
            new = call_part(part.advance, sums[c.prefix], own, group.t, given=hyper)
        expected = set(own).difference(part.group_inputs)  # these are the caller's to change
        if set(new) != expected:
            message = f"{part.name}: advance returned {sorted(new)}, expected {sorted(expected)}"
            raise RuleError(message)
        group.state.update({c.prefix + n: group.keep(v) for n, v in new.items()})
