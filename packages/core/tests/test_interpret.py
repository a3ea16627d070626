"""The interpreter of programs (what JAX jits) takes the reference's step, bit for bit on NumPy."""

import numpy as np
import pytest

import isostep
from isostep import pieces, scalars
from isostep.backends.numpy import NumpyReference
from isostep.domains import REQUIRED, Choice, Flag
from isostep.interpret import Interpreter, Task
from isostep.program import trace
from isostep.rule import Rule, compose
from isostep.values import Domain

REFERENCE = isostep.backend("numpy:reference")
BUSY = {
    "weight_decay": 0.1,
    "momentum": 0.75,
    "eps": 1e-3,
    "hypergrad_lr": 1e-3,
    "hessian_power": 0.5,
    "dampening": 0.25,
}


def variants(name):
    """A rule with every structural choice that it has, other numbers off their neutral values."""
    definition = isostep.definition(name)
    busy = {n: v for n, v in BUSY.items() if n in definition.hyper}
    busy = {n: v for n, v in busy.items() if not isinstance(definition.hyper[n].default, tuple)}
    yield isostep.rule(name)
    yield isostep.rule(name, **busy)
    for n, d in definition.hyper.items():
        if isinstance(d, Choice):
            yield from (isostep.rule(name, **{**busy, n: o}) for o in d.options if o != d.default)
        if isinstance(d, Flag):
            yield isostep.rule(
                name,
                **{**busy, "dampening": 0.0, n: True} if "dampening" in busy else {**busy, n: True},
            )


def composed():
    clip, decay = pieces.clip_by_global_norm(0.5), pieces.weight_decay
    adam = isostep.rule("adam", amsgrad=True)
    yield compose(pieces.centralize(), adam, pieces.lookahead(2))
    yield compose(pieces.adaptive_clip(0.1, unit_axis=-1), isostep.rule("lamb"), decay(0.1))
    yield compose(clip, decay(0.1, decoupled=False), isostep.rule("sgd_hd", momentum=0.5))
    yield compose(pieces.clip_by_global_norm(0.5, "optax"), isostep.rule("powersign"))
    yield compose(pieces.centralize(-1), isostep.rule("adafactor"), pieces.lookahead(3, 0.25))
    yield compose(clip, isostep.rule("adam_hd"), pieces.lookahead(2), decay(0.1, decoupled=False))


CASES = [*(r for n in isostep.rules() for r in variants(n)), *composed()]


class Interpreted(NumpyReference):
    """A step through the traced programs, with the scalars taken on the host."""

    def step(self, rule, params, grads, state, **inputs):
        work = self.prepare(rule, params, grads, state, inputs)
        active = [i for i, item in enumerate(work) if item is not None]
        group_t = state.group_t + 1
        state.group.update(self.group_values(rule, state, inputs))
        with np.errstate(all="ignore"):
            for run in [[i] for i in active] if rule.sequential else [active]:
                self.run(rule, [(i, work[i]) for i in run], params, state, group_t)
        state.group_t += bool(active)
        for i in active:
            state.t[i] += 1
        return params, state

    def run(self, rule, items, params, state, group_t):
        known, tasks, shared = {}, [], {}
        for i, item in items:
            program = trace(rule, item.phase, params[i].shape)
            key = (program, item.t)
            known.setdefault(key, scalars.evaluate(program, item.hyper, item.t))
            of_group = scalars.evaluate(program, rule.at(group_t), group_t, scope="group")
            shared |= {n: v for n, v in of_group.items() if n.scope == "group"}
            arrays = {"p": item.p, "g": item.g, **item.inputs, **item.state}
            tasks.append(Task(program, arrays, dict(known[key]), self.dtype(item.p)))
        dtype = self._group_dtype([p for p in params])
        run = Interpreter(tasks, state.group, shared, dtype, self.cast)
        # An array that goes out under another name (adashift's window) must be read before it is written.
        found = [{n: np.array(v) for n, v in run.outputs(task).items()} for task in tasks]
        group = run.group_outputs()
        for (i, _), new in zip(items, found, strict=True):
            params[i][...] = new.pop("p")
            for name, value in new.items():
                state.arrays[i][name][...] = value
        state.group.update(group)


def shapes_of(rule):
    return (
        [(4, 3), (3, 4), (1, 5)] if rule.rule.ndim else [(4, 3), (5,), (), (2, 3, 2), (0,), (3, 4)]
    )


def problem(rule, dtype, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda s: (rng.normal(size=s) * 10.0 ** rng.uniform(-3, 2, s)).astype(dtype)  # noqa: E731
    shapes = shapes_of(rule)
    params = [np.asarray(draw(s), dtype) for s in shapes]
    rounds = [
        (
            [np.asarray(draw(s), dtype) for s in shapes],
            {n: [np.asarray(np.abs(draw(s)), dtype) for s in shapes] for n in rule.input_names}
            | {n: float(rng.uniform(0.5, 2)) for n in rule.group_input_names},
        )
        for _ in range(4)
    ]
    return params, rounds


def run(backend, rule, params, rounds):
    params = [p.copy() for p in params]
    state = backend.init(rule, params)
    for k, (grads, inputs) in enumerate(rounds):
        some = [None if (k, i) == (1, 1) else g for i, g in enumerate(grads)]
        params, state = backend.step(rule, params, some, state, **inputs)
    return params, state


def assert_same(a, b):
    np.testing.assert_array_equal(a, b, strict=True)
    np.testing.assert_array_equal(np.signbit(a), np.signbit(b))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rule", CASES, ids=repr)
def test_equals_the_reference(rule, dtype):
    params, rounds = problem(rule, dtype)
    wanted, wanted_state = run(REFERENCE, rule, params, rounds)
    found, state = run(Interpreted(), rule, params, rounds)
    assert state.t == wanted_state.t == [4, 3, *[4] * (len(params) - 2)]
    assert set(state.group) == set(wanted_state.group)
    for name, value in wanted_state.group.items():
        assert_same(np.asarray(state.group[name]), np.asarray(value))
    for i, p in enumerate(wanted):
        assert_same(found[i], p)
        for name, array in wanted_state.arrays[i].items():
            assert_same(state.arrays[i][name], array)


def test_every_rule_is_here():
    assert {r.rule.name for r in CASES} == set(isostep.rules())
    assert all(
        d.default is not REQUIRED
        for n in isostep.rules()
        for d in isostep.definition(n).hyper.values()
    )


def test_sums_over_the_group_take_in_all_programs():
    # Matrices and vectors of Adafactor have programs of their own, yet one norm.
    rule = compose(pieces.clip_by_global_norm(5.0), isostep.rule("adafactor"))
    programs = [trace(rule, (), s) for s in ((1, 2), (2,))]
    assert programs[0] is not programs[1]
    arrays = [np.array([[3.0, 0.0]]), np.array([0.0, 4.0])]
    tasks = [
        Task(q, {"p": a, "g": a}, scalars.evaluate(q, rule.at(1), 1), "float64")
        for q, a in zip(programs, arrays, strict=True)
    ]
    run = Interpreter(tasks, {}, {}, "float64", REFERENCE.cast)
    for program, task in zip(programs, tasks, strict=True):
        (total,) = (n for n in program.live if n.op == "sum_group")
        assert run._value(total, task) == 25


def test_a_node_of_the_group_is_computed_once():
    rule = isostep.rule("sgd_hd")
    program = trace(rule)
    seen = []

    class Counting(Interpreter):
        def _compute(self, node, task):
            if node.domain is Domain.GROUP:
                seen.append(node)
            return super()._compute(node, task)

    one = {"p": np.ones(2), "g": np.ones(2), "grad_prev": np.ones(2)}
    tasks = [
        Task(program, one, scalars.evaluate(program, rule.at(1), 1), "float64") for _ in range(3)
    ]
    shared = scalars.evaluate(program, rule.at(1), 1, scope="group")
    shared = {n: v for n, v in shared.items() if n.scope == "group"}
    run = Counting(tasks, {"lr": np.array(0.5)}, shared, "float64", REFERENCE.cast)
    for task in tasks:
        run.outputs(task)
    assert len(seen) == len(set(seen)) > 0
    assert run.group_outputs()["lr"] == 0.5 + rule.values["hypergrad_lr"] * 6


def test_updates_that_are_numbers_reach_every_element():
    part = Rule(name="mine", update=lambda p, g, n, t, /: (-0.5, 1.0 * t), state=("n",))
    params, state = run(
        Interpreted(),
        part.bind(),
        [np.ones((2, 3)), np.ones(2)],
        [([np.ones((2, 3)), np.ones(2)], {})],
    )
    np.testing.assert_array_equal(params[0], np.full((2, 3), 0.5))
    np.testing.assert_array_equal(state.arrays[0]["n"], np.ones((2, 3)))
