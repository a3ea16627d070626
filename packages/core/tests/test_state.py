"""Arrays that a step cannot take: one-line errors, after which parameters and state are what they were."""

import copy
import pickle

import numpy as np
import pytest

import isostep
from isostep import pieces
from isostep.rule import compose
from isostep.state import State, StepError

PATHS = ["numpy:reference", pytest.param("numpy:fused", marks=pytest.mark.whole)]
DTYPES = "float64, float32, bfloat16, float16"


@pytest.fixture(params=PATHS)
def backend(request):
    return isostep.backend(request.param)


def addsign():
    return isostep.rule("addsign", lr=0.5)


def fresh(backend, rule, stepped):
    """Two parameters with their state, before or after a first step (with it there is a plan)."""
    params = [np.array([1.0, 2.0, 3.0]), np.array([[1.0], [2.0]])]
    state = backend.init(rule, params)
    if stepped:
        inputs = {n: [np.ones_like(p) for p in params] for n in rule.input_names}
        inputs |= dict.fromkeys(rule.group_input_names, 0.7)
        backend.step(rule, params, [np.ones_like(p) for p in params], state, **inputs)
    return params, state


def snapshot(state):
    arrays = [{n: a.tobytes() for n, a in own.items()} for own in state.arrays]
    return arrays, list(state.t), state.group_t, {n: float(v) for n, v in state.group.items()}


def refused(backend, rule, params, grads, state, **inputs):
    """The text of the error of a step, after which nothing is different."""
    values = list(params.values()) if isinstance(params, dict) else params
    before, state_before = copy.deepcopy(values), isinstance(state, State) and snapshot(state)
    with pytest.raises(StepError) as caught:
        backend.step(rule, params, grads, state, **inputs)
    for a, b in zip(values, before, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)
    assert not isinstance(state, State) or snapshot(state) == state_before
    assert "\n" not in str(caught.value)
    return str(caught.value)


ONES = [np.ones(3), np.ones((2, 1))]


@pytest.mark.parametrize("stepped", [False, True])
@pytest.mark.parametrize(
    ("grads", "text"),
    [
        ([np.ones(3), np.ones((1, 2))], "gradient of params[1] must have shape (2, 1), got (1, 2)"),
        ([np.ones(3), np.ones(())], "gradient of params[1] must have shape (2, 1), got ()"),
        (
            [np.ones(3), np.ones((2, 1), int)],
            "gradient of params[1] must have dtype float64, got int64; cast it first",
        ),
        (
            [np.ones(3), np.ones((2, 1), np.float32)],
            "gradient of params[1] must have dtype float64, got float32; cast it first",
        ),
        ([np.ones(3), 1.0], "gradient of params[1] must be an array, got float"),
        ([np.ones(3)], "grads must have one entry per parameter (2), got 1"),
        ({"a": np.ones(3)}, "grads must be a list like params, got dict"),
        (np.ones((2, 3)), "grads must be a list like params, got ndarray"),
        (None, "grads must be a list like params, got NoneType"),
    ],
)
def test_gradients_that_do_not_fit(backend, grads, text, stepped):
    params, state = fresh(backend, addsign(), stepped)
    assert refused(backend, addsign(), params, grads, state) == f"addsign: {text}"


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (np.arange(3), f"params[0] must be one of {DTYPES}, got int64; cast it first"),
        (np.ones(3, bool), f"params[0] must be one of {DTYPES}, got bool; cast it first"),
        (np.ones(3, complex), f"params[0] must be one of {DTYPES}, got complex128; cast it first"),
        (np.ones(3, ">f4"), f"params[0] must be one of {DTYPES}, got >f4; cast it first"),
        ([1.0, 2.0, 3.0], "params[0] must be an array, got list"),
        (None, "params[0] must be an array, got NoneType"),
        (np.float64(1.0), "params[0] is read-only; pass a writable copy"),
    ],
)
def test_parameters_that_no_rule_takes(backend, bad, text):
    rule = addsign()
    with pytest.raises(StepError) as caught:
        backend.init(rule, [bad])
    assert str(caught.value) == f"addsign: {text}"
    params, state = fresh(backend, rule, False)
    swapped = [bad, params[1]]
    with pytest.raises(StepError) as caught:
        backend.step(rule, swapped, ONES, state)
    assert str(caught.value) == f"addsign: {text}"
    assert snapshot(state) == snapshot(fresh(backend, rule, False)[1])
    assert params[1].tolist() == [[1], [2]]


FOLDED = {
    "windows": (4, (3, 2), (8, 8)),
    "rows over one another": (6, (2, 4), (16, 8)),
    "backwards": (4, (3, 2), (8, -8)),
    "broadcast": (1, (3,), (0,)),
    "interleaved, and two meet": (13, (3, 4), (24, 16)),
    "half an element apart": (2, (2,), (4,)),
}
APART = {
    "rows": (6, (2, 3), (24, 8)),
    "columns": (6, (2, 3), (8, 16)),
    "every other": (6, (3,), (16,)),
    "backwards": (3, (3,), (-8,)),
    "interleaved": (8, (2, 3), (24, 16)),
    "one of a stride of none": (2, (1, 2), (0, 8)),
    "nothing": (1, (0, 3), (0, 0)),
    "no axes": (1, (), ()),
}


def viewed(count, shape, strides):
    memory = np.ones(count + 1)
    start = memory[sum(-s // 8 * (n - 1) for s, n in zip(strides, shape, strict=True) if s < 0) :]
    return memory, np.lib.stride_tricks.as_strided(start, shape, strides)


@pytest.mark.parametrize("name", FOLDED)
def test_a_parameter_over_itself_is_refused_before_anything_is_written(backend, name):
    memory, p = viewed(*FOLDED[name])
    params, grads = [np.ones(3), p], [np.ones(3), np.ones(p.shape)]
    state = backend.init(addsign(), [np.ones(3), np.ones(p.shape)])
    text = "addsign: params[1] has elements that share memory; pass a copy"
    assert refused(backend, addsign(), params, grads, state) == text
    with pytest.raises(StepError, match="has elements that share memory; pass a copy"):
        backend.init(addsign(), params)
    assert params[0].tolist() == [1.0] * 3
    assert memory.tolist() == [1.0] * len(memory)
    backend.step(addsign(), [params[0], p.copy()], grads, state)
    assert refused(backend, addsign(), params, grads, state) == text  # after a step of others


@pytest.mark.parametrize("name", APART)
def test_strides_that_leave_elements_apart_are_taken(backend, name):
    _, p = viewed(*APART[name])
    state = backend.init(addsign(), [p])
    backend.step(addsign(), [p], [np.ones(p.shape)], state)
    np.testing.assert_array_equal(p, np.zeros(p.shape))  # 1 - lr * 2


@pytest.mark.parametrize("params", [np.ones((2, 3)), "params", 3, {1.0}])
def test_what_is_no_list_of_parameters(backend, params):
    with pytest.raises(StepError) as caught:
        backend.init(addsign(), params)
    kind = type(params).__name__
    assert str(caught.value) == f"params must be a list, tuple or dict of arrays, got {kind}"


def test_what_is_no_rule(backend):
    named = backend.init(isostep.rule("addsign", lr=0.1), {"a": np.ones(2)})
    for rule in ("addsign", isostep.definition("addsign"), pieces.centralize()):
        for call in (
            lambda rule=rule: backend.init(rule, [np.ones(2)]),
            lambda rule=rule: backend.step(rule, [np.ones(2)], [np.ones(2)], None),
            lambda rule=rule: backend.step(rule, {"b": np.ones(2)}, {"b": np.ones(2)}, named),
            lambda rule=rule: backend.evaluation_point(rule, {"b": np.ones(2)}, named),
        ):
            with pytest.raises(
                StepError, match=r"^expected a rule such as isostep.rule\('adamw', lr=1e-3\), got "
            ):
                call()


@pytest.mark.parametrize("stepped", [False, True])
def test_the_state_of_another_rule(backend, stepped):
    params, state = fresh(backend, isostep.rule("sgd", momentum=0.5), stepped)
    text = "addsign: state belongs to 'sgd'; make one with backend.init(rule, params)"
    assert refused(backend, addsign(), params, ONES, state) == text
    composed = compose(isostep.rule("sgd", momentum=0.5), pieces.lookahead())
    text = "sgd+lookahead: state belongs to 'sgd'; make one with backend.init(rule, params)"
    assert refused(backend, composed, params, ONES, state) == text


def test_what_is_no_state(backend):
    params, state = fresh(backend, addsign(), False)
    for other in (None, {}, state.arrays):
        text = refused(backend, addsign(), params, ONES, other)
        kind = type(other).__name__
        assert text == f"addsign: state must come from backend.init(rule, params), got {kind}"


def test_a_state_of_another_static_choice(backend):
    params, state = fresh(backend, isostep.rule("adam"), True)
    assert refused(backend, isostep.rule("adam", amsgrad=True), params, ONES, state) == (
        "adam: state of params[0] has ['exp_avg', 'exp_avg_sq'], expected ['exp_avg', 'exp_avg_sq', "
        "'max_exp_avg_sq']; a static hyperparameter has changed: make a new state"
    )
    params, state = fresh(backend, isostep.rule("sgd_hd"), True)
    del state.group["lr"]
    text = "sgd_hd: group state has [], expected ['lr']"
    assert refused(backend, isostep.rule("sgd_hd"), params, ONES, state) == text


@pytest.mark.parametrize("stepped", [False, True])
def test_a_state_of_other_parameters(backend, stepped):
    rule = addsign()
    params, state = fresh(backend, rule, stepped)
    assert refused(backend, rule, params[:1], ONES[:1], state) == (
        "addsign: state is for 2 parameters, got 1"
    )
    # A smaller state array would broadcast, and fail only when the first parameter has been written.
    for bad in (np.zeros((1, 1)), np.zeros((2, 2)), np.zeros((2, 1), np.float32)):
        state.arrays[1]["m"] = bad
        text = refused(backend, rule, params, ONES, state)
        assert text.startswith("addsign: state m of params[1] must be a ")
        assert text.endswith(
            f"float64 array of shape (2, 1), got {bad.dtype} {bad.shape}; make a new state"
        )


@pytest.mark.parametrize("stepped", [False, True])
def test_extra_inputs_are_named_exactly(backend, stepped):
    rule = isostep.rule("adahessian")
    params, state = fresh(backend, rule, stepped)
    needs = "adahessian needs the input 'hessian_diag' beside the gradients: step(..., hessian_diag=[...])"
    assert refused(backend, rule, params, ONES, state) == needs
    unknown = "adahessian takes no input 'hessian'; its extra inputs: hessian_diag"
    assert refused(backend, rule, params, ONES, state, hessian=ONES, hessian_diag=ONES) == unknown
    for given, text in [
        (ONES[:1], "hessian_diag must have one entry per parameter (2), got 1"),
        ([ONES[0], None], "hessian_diag of params[1] must be an array, got NoneType"),
        ([np.ones(4), ONES[1]], "hessian_diag of params[0] must have shape (3,), got (4,)"),
        (
            [ONES[0].astype("f4"), ONES[1]],
            "hessian_diag of params[0] must have dtype float64, got float32; cast it first",
        ),
    ]:
        found = refused(backend, rule, params, ONES, state, hessian_diag=given)
        assert found == f"adahessian: {text}"
    params, state = fresh(backend, addsign(), stepped)
    none = "addsign takes no input 'hessian_diag'; its extra inputs: none"
    assert refused(backend, addsign(), params, ONES, state, hessian_diag=ONES) == none


def test_an_input_of_a_parameter_without_a_gradient_is_not_needed(backend):
    rule = isostep.rule("adahessian")
    params, state = fresh(backend, rule, False)
    backend.step(rule, params, [ONES[0], None], state, hessian_diag=[ONES[0], None])
    assert state.t == [1, 0]
    assert params[1].tolist() == [[1], [2]]


def test_ranks_that_a_rule_does_not_take(backend):
    rule = isostep.rule("muon")
    with pytest.raises(StepError) as caught:
        backend.init(rule, {"w": np.ones((2, 2)), "b": np.ones(2)})
    text = "muon: params['b'] must have 2 axes, got shape (2,); give it to another rule"
    assert str(caught.value) == text


def test_dicts_with_other_keys(backend):
    rule = addsign()
    params = {"w": np.ones(2), "b": np.ones(1)}
    state = backend.init(rule, params)
    text = "addsign: grads must be a dict with the keys of params, got ['v', 'w']"
    assert refused(backend, rule, params, {"w": np.ones(2), "v": np.ones(1)}, state) == text
    text = "addsign: grads must be a dict with the keys of params, got list"
    assert refused(backend, rule, params, [np.ones(2), np.ones(1)], state) == text
    text = "addsign: gradient of params['b'] must have shape (1,), got (2,)"
    assert refused(backend, rule, params, {"b": np.ones(2)}, state) == text
    found, same = backend.step(rule, params, {"b": np.ones(1)}, state)
    assert found is params
    assert same is state
    assert state.t == [0, 1]
    assert params["w"].tolist() == [1, 1]
    assert params["b"].tolist() == [0]


def test_group_state_needs_a_parameter(backend):
    with pytest.raises(StepError) as caught:
        backend.init(isostep.rule("sgd_hd"), [])
    text = "sgd_hd: needs at least one parameter to place its group state, got none"
    assert str(caught.value) == text
    state = backend.init(addsign(), [])
    assert backend.step(addsign(), [], [], state) == ([], state)
    assert state.group_t == 0


def test_hyperparameters_are_checked_before_anything_moves(backend):
    rule = isostep.rule("addsign", lr=lambda done: 0.5 if done == 0 else -1.0)
    params, state = fresh(backend, rule, True)
    before, kept = snapshot(state), copy.deepcopy(params)
    with pytest.raises(isostep.DomainError, match=r"^addsign: lr\(1\) must be >= 0, got -1.0$"):
        backend.step(rule, params, ONES, state)
    assert snapshot(state) == before
    for a, b in zip(params, kept, strict=True):
        np.testing.assert_array_equal(a, b)


def test_states_start_as_declared(backend):
    params = [np.ones((2, 3), np.float32), np.ones(4, np.float16)]
    state = backend.init(isostep.rule("adafactor"), params)
    assert [list(own) for own in state.arrays] == [["row_var", "col_var", "variance"]] * 2
    assert [a.shape for a in state.arrays[0].values()] == [(2, 1), (1, 3), ()]
    assert [a.shape for a in state.arrays[1].values()] == [(), (), (4,)]
    assert {a.dtype.name for a in state.arrays[0].values()} == {"float32"}
    assert {a.dtype.name for a in state.arrays[1].values()} == {"float16"}
    slow = backend.init(compose(isostep.rule("sgd"), pieces.lookahead()), params).arrays
    for own, p in zip(slow, params, strict=True):
        np.testing.assert_array_equal(own["lookahead.slow"], p, strict=True)
        assert not np.shares_memory(own["lookahead.slow"], p)
    group = backend.init(isostep.rule("sgd_hd", lr=0.25), params)
    assert group.group["lr"].dtype == np.float32
    assert float(group.group["lr"]) == 0.25
    assert group.group_t == 0


def test_group_state_keeps_its_dtype_when_only_narrow_parameters_step(backend):
    rule = isostep.rule("sgd_hd", lr=0.1, hypergrad_lr=0.1)
    params = [np.ones(2, np.float32), np.ones(2)]
    state = backend.init(rule, params)
    narrow = [np.ones(2, np.float32), None]
    for _ in range(3):
        backend.step(rule, params, narrow, state)
    # Sums of ones are exact: lr is 0.1 + 0.1 * 2 + 0.1 * 2 in float64.
    assert state.group["lr"].dtype == np.float64
    assert float(state.group["lr"]) == 0.1 + 0.1 * 2 + 0.1 * 2
    assert state.t == [3, 0]
    assert state.group_t == 3


def test_a_dict_s_state_goes_by_names(each_path):
    """JAX's jit returns dicts sorted, checkpoints in any order: equal shapes would mix silently."""
    backend = isostep.backend(each_path)
    rule = isostep.rule("adamw", lr=0.1)
    values = {"w": [1.0, 2.0], "b": [3.0, -4.0]}
    gradients = [{"w": [0.5, -1.0], "b": [-2.0, 3.0]}, {"w": [1.5, 1.0], "b": [0.25, 0.125]}]

    def run(turned):
        params = {k: backend.asarray(np.asarray(v)) for k, v in values.items()}
        state = backend.init(rule, params)
        for step in gradients:
            grads = {k: backend.asarray(np.asarray(v)) for k, v in step.items()}
            if turned:
                params = dict(reversed(params.items()))
            params, state = backend.step(rule, params, grads, state)
        points = backend.evaluation_point(rule, dict(reversed(params.items())), state)
        return {k: backend.to_numpy(v) for k, v in params.items()}, points

    (straight, _), (turned, points) = run(False), run(True)
    assert set(turned) == set(straight)
    for key, array in straight.items():
        np.testing.assert_array_equal(turned[key], array)
        np.testing.assert_array_equal(backend.to_numpy(points[key]), array)


def test_a_dict_of_other_names_is_not_taken():
    backend, rule = isostep.backend("numpy"), isostep.rule("adamw", lr=0.1)
    params = {"w": np.ones(2), "b": np.ones(2)}
    state = backend.init(rule, params)
    other = {"w": np.ones(2), "c": np.ones(2)}
    with pytest.raises(StepError, match=r"keys \['b', 'w'\], got \['c', 'w'\]"):
        backend.step(rule, other, other, state)
    with pytest.raises(StepError, match="keys"):
        backend.evaluation_point(rule, other, state)
    assert state.t == [0, 0]
    # a copy and a state that was pickled go by names too
    for same in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert same.keys == ("w", "b")
