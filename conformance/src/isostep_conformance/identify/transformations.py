"""Going on with a run of optax's: its rule, its settings and its state in a transformation of ours.

As ``taken_over`` does with optimizers of torch: what is found out by steps is the rule and which leaves of the state
are its arrays; that the run goes on as it would have is then seen on copies, from where it stands.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from isostep.rule import BoundRule
from isostep.state import State, StepError
from isostep_conformance.identify import settings as names
from isostep_conformance.identify.answer import ROUNDED, Answer
from isostep_conformance.identify.states import STEP
from isostep_conformance.identify.takeover import PROOF, check_kept, known, rule_of
from isostep_conformance.identify.targets import Target, TargetError, in_a_line, target


def optax_taken_over(
    made: Callable[..., Any],
    params: Any,
    state: Any,
    settings: Mapping[str, Any] | None = None,
    *,
    rule: str | None = None,
    steps: int | None = None,
) -> tuple[Any, Any]:
    """``(tx, state)`` of ``isostep_jax``, which go on where a transformation of optax's stands.

    Both take eight steps on copies in float64 first, for which there must be memory.

    Args:
        made: what made the transformation: ``optax.adamw``, or a function of your own that puts several into a chain.
        params: a tree of arrays.
        state: the transformation's state for them.
        settings: what it was made with. A schedule of the learning rate is the new rule's schedule.
        rule: ask about this rule alone, which is a matter of a second.
        steps: how many it has taken, where it does not count them and its rule goes by them.

    Raises:
        TargetError: no rule here takes its steps, part of the rule's state is not in the transformation's, or copies
            part.
        RuleError: there is no such rule.
    """
    import isostep_jax

    unknown, chosen = target(made, "optax"), dict(settings or {})
    bound, answer = _found(unknown, chosen, rule)
    _go_on_alike(made(**chosen), bound, answer, params, state, steps)
    tx = isostep_jax.transform(bound)
    return tx, _moved(bound, answer, tx, params, state, steps)


def _found(unknown: Target, given: Mapping[str, Any], rule: str | None) -> tuple[BoundRule, Answer]:
    """The rule with its settings, of which schedules are told apart by numbers that stand for them."""
    hyper = names.known()
    scheduled = {
        n: v
        for n, v in given.items()
        if callable(v) and names.plain(n, unknown.defaults).partition("[")[0] in hyper
    }
    plain = {n: v for n, v in {**unknown.defaults, **given}.items() if n not in scheduled}
    required = [n for n, v in plain.items() if v is inspect.Parameter.empty]
    if required:
        message = f"{unknown.label}: settings must have {required[0]!r}, which it was made with"
        raise TargetError(message)
    answer = known(unknown, plain, rule)
    marks = {n: 0.5 + 0.01 * k for k, n in enumerate(scheduled, 1)}
    bound = rule_of(unknown, answer, plain | marks)
    schedules = {marks[n]: v for n, v in scheduled.items()}

    def put(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(put, value))
        return schedules.get(value, value) if isinstance(value, float) else value

    return bound.replace(**{n: put(v) for n, v in bound.values.items()}), answer


def _moved(
    rule: BoundRule, answer: Answer, tx: Any, params: Any, state: Any, steps: int | None
) -> Any:
    """The state of our transformation, made of the leaves of the other's."""
    import jax

    import isostep_jax

    leaves, tree = jax.tree.flatten(params)
    parts = _parts(state, tree)
    arrays: list[dict[str, Any]] = [{} for _ in leaves]
    # Not counted: past the first step. Whether more than that matters, the copies show.
    group, count = {}, 1 if steps is None else steps
    for match in answer.state:
        if match.name == STEP:
            if match.where in parts and steps is None:
                count = int(parts[match.where][0])
            continue
        check_kept(rule, match, answer.label)
        if match.where not in parts:
            message = f"{rule.name}: the state of {answer.label} has no {match.where!r} for these parameters"
            raise TargetError(message)
        if match.name in rule.group_names:
            group[match.name] = np.asarray(parts[match.where][0], np.float64)
        else:
            for own, value in zip(arrays, parts[match.where], strict=True):
                own[match.name] = value
    moved = State(rule.name, [count] * len(leaves), arrays, group, count)
    try:
        return isostep_jax.from_portable(tx, params, moved)
    except StepError as error:
        raise TargetError(str(error)) from error


def _parts(state: Any, tree: Any) -> dict[str, list[Any]]:
    """Where a state has an array for each parameter, or a number for all: under the names of ``Match.where``."""
    import jax
    from jax.tree_util import keystr, tree_flatten_with_path

    def whole(part: Any) -> bool:
        return bool(jax.tree.structure(part) == tree)

    found = {}
    for path, part in tree_flatten_with_path(state, is_leaf=whole)[0]:
        own = jax.tree.leaves(part) if whole(part) else [part] * tree.num_leaves
        found["state" + keystr(path)] = own
    return found


def _go_on_alike(
    theirs: Any, rule: BoundRule, answer: Answer, params: Any, state: Any, steps: int | None
) -> None:
    """Both take the same steps from here in float64, or an error says by how much they part."""
    import jax

    import isostep_jax

    def wide(leaf: Any) -> Any:
        floating = jax.numpy.issubdtype(jax.numpy.result_type(leaf), jax.numpy.floating)
        return jax.numpy.asarray(leaf, "float64" if floating else None)

    with jax.enable_x64(True):
        old, held = jax.tree.map(wide, (params, state))
        tx = isostep_jax.transform(rule)
        new, own = old, _moved(rule, answer, tx, old, held, steps)
        draw, moved = np.random.default_rng(0), [0.0] * len(jax.tree.leaves(old))
        for k in range(1, PROOF + 1):
            grads = jax.tree.map(lambda p: jax.numpy.asarray(draw.standard_normal(p.shape)), old)
            try:
                one, held = theirs.update(grads, held, old)
            except Exception as error:  # of somebody else's code: any
                message = (
                    f"{answer.label}: a copy of it in float64 does not step: {in_a_line(error)}"
                )
                raise TargetError(message) from error
            other, own = tx.update(grads, own, new)
            old, new = (jax.tree.map(jax.numpy.add, p, u) for p, u in ((old, one), (new, other)))
            for i, leaves in enumerate(zip(*map(jax.tree.leaves, (old, new, one)), strict=True)):
                a, b, u = map(np.asarray, leaves)
                moved[i] += float(np.linalg.norm(u))  # a schedule may end at 0
                off = float(np.linalg.norm(a - b))
                if not off <= ROUNDED * moved[i]:
                    message = (
                        f"{answer.label}: from here on it parts from {rule.name} in step {k}, by "
                        f"{off / (moved[i] or 1.0):.1e} of the way; where it does not count its steps, say how many "
                        "it has taken (steps=)"
                    )
                    raise TargetError(message)
