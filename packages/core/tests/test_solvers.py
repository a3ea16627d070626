"""L-BFGS against the matrix it stands for, the line search against its conditions, and what is refused.

That iterates, counts and state are torch.optim.LBFGS's is tested in packages/torch/tests/test_lbfgs.py.
"""

import pickle

import numpy as np
import pytest

import isostep
from isostep.domains import DomainError
from isostep.line_search import Point, strong_wolfe
from isostep.rule import RuleError
from isostep.state import StepError

SCALES = np.array([1.0, 4.0, 0.5, 9.0, 2.0])


def bowl(params):
    """A quadratic with a quartic on top."""
    x = np.concatenate([np.reshape(p, -1) for p in params])
    g = SCALES * x + x**3
    return 0.5 * np.sum(SCALES * x * x) + 0.25 * np.sum(x**4), [
        g[:1].reshape(()),
        g[1:].reshape(2, 2),
    ]


START = [np.array(2.0), np.array([[1.0, -1.5], [0.5, 3.0]])]


def flat(params):
    return np.concatenate([np.reshape(p, -1) for p in params])


@pytest.mark.parametrize("history", [2, 100])
def test_the_direction_is_that_of_the_matrix(history):
    solver = isostep.solvers.lbfgs(lr=0.3, max_iter=1, history_size=history)
    params, state, xs, gs = START, None, [], []
    for _ in range(6):
        xs.append(flat(params))
        gs.append(flat(bowl(params)[1]))
        loss, params, state = solver.step(bowl, params, state)
        assert loss == bowl([xs[-1][:1].reshape(()), xs[-1][1:].reshape(2, 2)])[0]
        pairs = list(zip(np.diff(xs, axis=0), np.diff(gs, axis=0), strict=True))[-history:]
        H = np.eye(5)
        if pairs:
            s, y = pairs[-1]
            H *= (s @ y) / (y @ y)
        for s, y in pairs:  # Nocedal and Wright, equation 7.16
            V = np.eye(5) - np.outer(y, s) / (y @ s)
            H = V.T @ H @ V + np.outer(s, s) / (y @ s)
        np.testing.assert_allclose(state.d, -H @ gs[-1], rtol=1e-9)
        length = 0.3 if pairs else 0.3 * min(1, 1 / np.abs(gs[-1]).sum())
        np.testing.assert_allclose(flat(params), xs[-1] + length * state.d, rtol=1e-12)
    assert len(state.ro) == min(5, history)
    assert (state.func_evals, state.n_iter) == (6, 6)


@pytest.mark.parametrize("first", [1e-3, 0.4, 40.0])
@pytest.mark.parametrize(
    ("f", "df"),
    [
        (lambda t: -t / (t * t + 2), lambda t: (t * t - 2) / (t * t + 2) ** 2),
        (lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4, lambda t: 5 * (t + 0.004) ** 4 - 8 * (t + 0.004) ** 3),
        (lambda t: np.cosh(t - 3.0), lambda t: np.sinh(t - 3.0)),
    ],
    ids=["rational", "quintic", "cosh"],
)  # fmt: skip
def test_the_search_ends_where_both_conditions_hold(f, df, first):
    tried = []

    def along(t):
        tried.append(t)
        return Point(t, f(t), None, np.float64(df(t)))

    start = Point(0, f(0.0), None, np.float64(df(0.0)))
    for c2 in (0.9, 0.1):
        tried.clear()
        point, evals = strong_wolfe(along, start, first, 1.0, most=25, c2=c2)
        assert evals == len(tried)
        assert point.f <= start.f + 1e-4 * point.t * start.slope
        assert abs(point.slope) <= -c2 * start.slope
    tried.clear()
    assert strong_wolfe(along, start, 1e-6, 1.0, most=3)[1] == 4 == len(tried)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", ["array_api_strict", "dict"])
def test_it_runs_on_any_array_library_and_structure(name, dtype):
    hyper = {"line_search_fn": "strong_wolfe", "max_iter": 6, "history_size": 3}
    solver, params, state = isostep.solvers.lbfgs(**hyper), [p.astype(dtype) for p in START], None
    other, own = params, None
    if name == "dict":
        to, back = lambda a: dict(zip("ab", a, strict=True)), lambda d: [d["a"], d["b"]]
    else:
        xp = pytest.importorskip(name, reason="the strict namespace of the array API")
        to, back = (
            lambda a: [xp.asarray(np.array(x)) for x in a],
            lambda a: [np.array(x) for x in a],
        )

    def cast(params):
        loss, grads = bowl(params)
        return float(loss), [np.asarray(g, dtype) for g in grads]

    for _ in range(3):
        loss, params, state = solver.step(cast, params, state)
        again, found, own = solver.step(
            lambda p: (cast(back(p))[0], to(cast(back(p))[1])), to(other), own
        )
        other = back(found)
        assert again == loss
        assert all(map(np.array_equal, params, other))
    assert state.func_evals == own.func_evals > 5
    assert params[0].dtype == dtype


def test_a_trial_may_be_infinite_and_the_function_keeps_its_warnings():
    def wall(params):
        (x,) = params
        with np.errstate(over="ignore"):
            e = np.exp(x * x)
        return float(np.sum(e) + np.sum((x - 3) ** 4)), [2 * x * e + 4 * (x - 3) ** 3]

    solver = isostep.solvers.lbfgs(lr=1e4, line_search_fn="strong_wolfe")
    _, (x,), state = solver.step(wall, [np.array([1.0, -2.0, 0.5])])
    _, (x,), _ = solver.step(wall, [x], state)
    assert np.isfinite(x).all()
    assert wall([x])[0] < wall([np.array([1.0, -2.0, 0.5])])[0]
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        solver.step(lambda p: (float(np.exp(p[0][0] * 1e4)), p), [np.ones(3)])


def test_a_step_that_fails_changes_nothing():
    solver = isostep.solvers.lbfgs(max_iter=3, lr=0.1)
    _, params, state = solver.step(bowl, START)
    before = pickle.dumps(state), [p.copy() for p in params]

    calls = []

    def broken(params):
        calls.append(1)
        if len(calls) > 2:
            raise KeyError
        return bowl(params)

    with pytest.raises(KeyError):
        solver.step(broken, params, state)
    for wrong, words in [
        (lambda p: (np.nan, bowl(p)[1]), "must be finite at the start, got the loss nan"),
        (lambda p: (1.0, [g * np.inf for g in bowl(p)[1]]), "must be finite at the start"),
        (lambda p: (bowl(p)[0], bowl(p)[1][:1]), "expected 2 gradients, got 1"),
        (lambda p: (1.0, [g[..., None] for g in bowl(p)[1]]), r"gradient of params\[0\] must be float64 of"),
        (lambda p: ([1, 2], bowl(p)[1]), "the loss must be one number"),
        (None, "loss_and_grad must be a function of the parameters, got None"),
    ]:  # fmt: skip
        with pytest.raises(StepError, match=words):
            solver.step(wrong, params, state)
    assert pickle.dumps(state) == before[0]
    assert all(map(np.array_equal, params, before[1]))
    with pytest.raises(StepError, match="must be real floating arrays, got int64"):
        solver.step(bowl, [np.ones(2, np.int64)])
    with pytest.raises(StepError, match="at least one array"):
        solver.step(bowl, [])


def test_its_hyperparameters_are_checked_and_it_is_listed():
    assert isostep.solvers.names() == ["lbfgs"]
    assert "lbfgs" not in isostep.rules()
    for hyper, words in [
        ({"lr": -1}, "lbfgs: lr must be >= 0, got -1"),
        ({"lr": lambda t: 0.1}, "a solver takes no schedule"),
        ({"max_eval": 0}, "lbfgs: max_eval must be None or an integer >= 1, got 0"),
        ({"line_search_fn": "armijo"}, "must be one of None, 'strong_wolfe', got 'armijo'"),
    ]:
        with pytest.raises(DomainError, match=words):
            isostep.solvers.lbfgs(**hyper)
    with pytest.raises(RuleError, match="lbfgs has no hyperparameter 'betas'; it has lr, max_iter"):
        isostep.solvers.lbfgs(betas=1)
    solver = isostep.solvers.lbfgs(max_eval=7)
    assert pickle.loads(pickle.dumps(solver)) == solver
    assert repr(solver).startswith("lbfgs(lr=1.0, max_iter=20, max_eval=7")


def test_states_and_functions_that_do_not_fit_are_told():
    quartic = lambda params: (float(np.sum(params[0] ** 4)), [4 * params[0] ** 3])  # noqa: E731
    solver = isostep.solvers.lbfgs(max_iter=3)
    _, _, state = solver.step(quartic, [np.full(1, 2.0)])
    with pytest.raises(StepError, match=r"^lbfgs: state is of 1 elements, params have 3; "):
        solver.step(quartic, [np.full(3, 2.0)], state)  # of one it would be spread over all
    with pytest.raises(StepError, match=r"^lbfgs: state must be what the step before returned"):
        solver.step(quartic, [np.ones(3)], {"n_iter": 3})
    with pytest.raises(StepError, match=r"^lbfgs: loss_and_grad must return \(loss, gradients\)"):
        solver.step(lambda params: 1.0, [np.ones(3)])
    with pytest.raises(StepError, match=r"^lbfgs: gradient of params\[0\] must be an array"):
        solver.step(lambda params: (1.0, [None]), [np.ones(3)])


def test_a_dict_s_vectors_go_by_names():
    def named(params):
        loss, grads = bowl([params["a"], params["b"]])
        return loss, dict(zip("ba", reversed(grads), strict=True))

    solver = isostep.solvers.lbfgs(max_iter=3, lr=0.1)
    params, state = dict(zip("ab", START, strict=True)), None
    listed, other = START, None
    for _ in range(3):
        loss, found, state = solver.step(named, params, state)
        params = dict(reversed(found.items()))
        again, listed, other = solver.step(bowl, listed, other)
        assert loss == again
        np.testing.assert_array_equal(np.ravel(params["a"]), np.ravel(listed[0]))
    with pytest.raises(StepError, match=r"^lbfgs: state is for params with the keys \['a', 'b'\]"):
        solver.step(named, {"a": START[0], "c": START[1]}, state)
