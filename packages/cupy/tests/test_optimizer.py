"""Optimizer classes, on the host path: steps, state, arrays of other libraries, errors that change nothing."""

import copy
import importlib.util
import inspect
import pickle

import numpy as np
import pytest

import isostep
import isostep_cupy
from isostep import BackendError, StepError, pieces
from isostep.naming import camel_case
from isostep.storage import OPTIONS
from isostep_cupy import AddSign, Optimizer, from_rule, load_optimizer
from isostep_cupy.host import compiler

REFERENCE = isostep.backend("numpy:reference")
HOST = {"path": "raw(host)"}


@pytest.fixture(autouse=True)
def _with_a_compiler():
    try:
        compiler()
    except isostep.Unavailable as error:
        pytest.skip(str(error))


def arrays(seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=s)).astype(dtype) for s in ((5, 3), (7,), ())]


def test_every_rule_has_a_class_with_its_signature_and_docstring():
    for name in isostep.rules():
        made = getattr(isostep_cupy, camel_case(name))
        assert load_optimizer(name) is made
        definition = isostep.definition(name)
        assert made.__doc__ == definition.doc
        assert made.__name__ in dir(isostep_cupy)
        names = list(inspect.signature(made).parameters)
        assert names[0] == "params"
        options = ["path", *OPTIONS]
        assert names[-len(options) :] == options
        assert set(names[1 : -len(options)]) == set(definition.hyper)


@pytest.mark.parametrize("name", ["addsign", "adamw", "lamb", "sgd_hd", "muon", "adafactor"])
def test_steps_are_the_reference_s(name):
    rule = isostep.rule(name, lr=0.1)
    ndim = rule.rule.ndim
    take = [i for i, a in enumerate(arrays()) if ndim is None or a.ndim in ndim]
    pick = lambda some: [some[i] for i in take]  # noqa: E731
    wanted = pick(arrays(dtype="float64"))
    state = REFERENCE.init(rule, wanted)
    found = pick(arrays(dtype="float64"))
    opt = load_optimizer(name)(found, 0.1, **HOST)
    for k in (1, 2, 3):
        REFERENCE.step(rule, wanted, pick(arrays(k, "float64")), state)
        assert opt.step(pick(arrays(k, "float64"))) is None
    assert all(a is b for a, b in zip(opt.params, found, strict=True))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_dicts_single_arrays_and_parameters_without_a_gradient():
    params = {"w": np.ones(2, np.float32), "b": np.ones(3, np.float32)}
    opt = AddSign(params, lr=0.5, **HOST)
    opt.step({"b": np.ones(3, np.float32)})
    assert params["w"].tolist() == [1, 1]
    assert params["b"].tolist() == [0, 0, 0]
    assert opt.state.t == [0, 1]
    one = np.ones(2, np.float32)
    AddSign(one, lr=0.5, **HOST).step(np.ones(2, np.float32))
    assert one.tolist() == [0, 0]


def test_hyperparameters_change_from_step_to_step():
    p = np.zeros(2, np.float32)
    opt = isostep_cupy.SGD(p, 1.0, **HOST)
    opt.step(np.ones(2, np.float32))
    opt.set(lr=0.25)
    opt.step(np.ones(2, np.float32))
    assert p.tolist() == [-1.25, -1.25]
    with pytest.raises(isostep.DomainError, match=r"^sgd: lr must be >= 0, got -1$"):
        opt.set(lr=-1)


def test_any_rule_with_schedules_and_pieces():
    p = np.zeros(2, np.float32)
    opt = from_rule(
        isostep.compose(isostep.rule("sgd", lr=lambda done: 2.0**-done), pieces.lookahead(2)),
        p,
        **HOST,
    )
    assert isinstance(opt, Optimizer)
    for _ in range(2):
        opt.step(np.ones(2, np.float32))
    assert p.tolist() == [-0.75, -0.75]  # half of 1 + 1/2


def test_extra_inputs_come_by_name():
    p, ones = np.zeros(2, np.float32), np.ones(2, np.float32)
    isostep_cupy.AdaHessian(p, **HOST).step(ones, hessian_diag=ones)
    assert (p != 0).all()
    noisy = isostep.compose(pieces.gradient_noise(0.25), isostep.rule("sgd", lr=1.0))
    q = np.zeros(2, np.float32)
    noise = isostep.noise.normal([q], np.random.default_rng(0))
    from_rule(noisy, q, **HOST).step(ones, noise=noise[0])
    np.testing.assert_allclose(q, -1 - 0.5 * noise[0], rtol=1e-6)


# State


@pytest.mark.parametrize("numpy", [True, False])
@pytest.mark.parametrize("name", ["adamw", "sgd_hd"])
def test_a_run_goes_on_from_its_state(name, numpy):
    one, params = load_optimizer(name), arrays()
    opt = one(params, lr=0.1, **HOST)
    opt.step(arrays(1))
    saved = opt.state_dict(numpy=numpy)
    copies = [p.copy() for p in params]
    other = one(copies, lr=0.1, **HOST)
    other.load_state_dict(saved)
    if numpy:
        assert saved["state"][0].keys() == opt.state.arrays[0].keys()
        assert not any(
            np.shares_memory(a, opt.state.arrays[0][n]) for n, a in saved["state"][0].items()
        )
    for o in (opt, other):
        o.step(arrays(2))
        o.step(arrays(3))
    for a, b in zip(params, copies, strict=True):
        np.testing.assert_array_equal(a, b)
    assert opt.state.t == other.state.t == [3, 3, 3]
    assert opt.state.group == other.state.group


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda d: d.update(rule="adam"),
            "adamw: the state_dict is of 'adam'; load one of 'adamw'",
        ),
        (lambda d: d["t"].pop(), "adamw: the state_dict is for 2 parameters, not 3"),
        (
            lambda d: d["state"][1].pop("exp_avg"),
            "adamw: state of params[1] has ['exp_avg_sq'], expected ['exp_avg', 'exp_avg_sq']",
        ),
        (
            lambda d: d["state"][1].update(exp_avg=np.ones(8, np.float32)),
            "adamw: state exp_avg of params[1] must be float32 of shape (7,), got float32 (8,)",
        ),
        (
            lambda d: d["state"][0].update(exp_avg=np.ones((5, 3))),
            "adamw: state exp_avg of params[0] must be float32 of shape (5, 3), got float64 (5, 3)",
        ),
        (
            lambda d: d["group"].update(lr=1),
            "adamw: the state_dict's group has ['lr'], expected []",
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, text):
    opt = isostep_cupy.AdamW(arrays(), **HOST)
    opt.step(arrays(1))
    saved = opt.state_dict()
    for own in saved["state"]:
        own.update({n: a + 1 for n, a in own.items()})
    before = opt.state_dict()
    change(saved)
    with pytest.raises(StepError) as caught:
        opt.load_state_dict(saved)
    assert str(caught.value) == text
    after = opt.state_dict()
    assert after["t"] == before["t"]
    for a, b in zip(after["state"], before["state"], strict=True):
        assert all((a[n] == b[n]).all() for n in b)


# Low precision

WAYS = {
    "stochastic": {"stochastic_rounding": True, "rounding_seed": -7},
    "stochastic-float32": {"stochastic_rounding": True, "state_dtype": np.float32},
    "kahan": {"kahan": True},
    "master": {"master_weights": True},
    "float64": {"state_dtype": "float64"},
}


def halves(seed, dtype):
    return [*arrays(seed, dtype), *arrays(seed, "float32")[:1]]


@pytest.fixture(params=["float16", "bfloat16"])
def half(request):
    return np.dtype(
        np.float16 if request.param == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    )


@pytest.mark.parametrize("way", WAYS)
def test_options_keep_arrays_as_the_reference_does(way, half):
    """SGD with momentum has the same bits; AdamW but for the last one of a division, once or twice in all."""
    named = {n: np.dtype(v).name if n == "state_dtype" else v for n, v in WAYS[way].items()}
    seed = named.pop("rounding_seed", 0)
    storage = isostep.low_precision(**named)
    for name, hyper in (("sgd", {"momentum": 0.75}), ("adamw", {"eps": 1e-3})):
        rule, wanted, found = isostep.rule(name, lr=0.1, **hyper), halves(0, half), halves(0, half)
        state = REFERENCE.init(rule, wanted, storage=storage, seed=seed)
        opt = load_optimizer(name)(found, 0.1, **hyper, **WAYS[way], **HOST)
        assert opt.state.storage == storage
        for k in (1, 2, 3):
            REFERENCE.step(rule, wanted, halves(k, half), state)
            opt.step(halves(k, half))
        pairs = [*zip(found, wanted, strict=True)]
        for own, theirs in zip(opt.state.arrays, state.arrays, strict=True):
            assert {n: a.dtype for n, a in own.items()} == {n: a.dtype for n, a in theirs.items()}
            pairs += [(own[n], a) for n, a in theirs.items()]
        if name == "sgd":
            assert all(a.tobytes() == b.tobytes() for a, b in pairs)
        else:
            assert sum(int((a != b).sum()) for a, b in pairs if a.dtype == half) <= 2
            for a, b in pairs:
                np.testing.assert_allclose(
                    a.astype(float), b.astype(float), rtol=2.0**-7, atol=1e-6
                )


@pytest.mark.parametrize("numpy", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_of_low_precision_goes_on_from_its_state(way, numpy, half):
    params = halves(0, half)
    opt = isostep_cupy.AdamW(params, lr=0.1, **WAYS[way], **HOST)
    opt.step(halves(1, half))
    copies = [p.copy() for p in params]
    other = isostep_cupy.AdamW(copies, lr=0.1, **WAYS[way], **HOST)
    other.load_state_dict(opt.state_dict(numpy=numpy))
    for o in (opt, other):
        o.step(halves(2, half))
        o.step(halves(3, half))
    for a, b in zip(params, copies, strict=True):
        assert a.tobytes() == b.tobytes()
    for a, b in zip(opt.state.arrays, other.state.arrays, strict=True):
        assert {n: x.tobytes() for n, x in a.items()} == {n: x.tobytes() for n, x in b.items()}


def test_a_state_of_another_way_changes_nothing():
    opt = isostep_cupy.AdamW(arrays(0, "float16"), kahan=True, **HOST)
    plain = isostep_cupy.AdamW(arrays(0, "float16"), **HOST).state_dict()
    wide = isostep_cupy.AdamW(arrays(0, "float16"), kahan=True, state_dtype="float32", **HOST)
    text = r"^adamw: state of params\[0\] has .*, expected \['exp_avg', 'exp_avg_sq', 'kahan_compensation'\]$"
    with pytest.raises(StepError, match=text):
        opt.load_state_dict(plain)
    text = r"^adamw: state exp_avg of params\[0\] must be float16 of shape \(5, 3\), got float32 \(5, 3\)$"
    with pytest.raises(StepError, match=text):
        opt.load_state_dict(wide.state_dict())
    assert opt.state.t == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"kahan": True, "master_weights": True},
            ValueError,
            "adamw: kahan and master_weights do the same in different ways; set one of them",
        ),
        (
            {"state_dtype": np.int8},
            ValueError,
            "adamw: state_dtype must be None or one of float64, float32, bfloat16, float16, "
            "mxfp8_e4m3, mxfp8_e5m2, got 'int8'",
        ),
        (
            {"stochastic_rounding": True, "rounding_seed": 1.5},
            ValueError,
            "adamw: rounding_seed must be an integer, got 1.5",
        ),
    ],
)
def test_a_wrong_option_of_low_precision_is_one_clear_line(options, error, text):
    with pytest.raises(error) as caught:
        isostep_cupy.AdamW(arrays(0, "float16"), **options, **HOST)
    assert str(caught.value) == text


def test_any_rule_takes_the_options_and_no_others():
    rule = isostep.rule("sgd", lr=2.0**-12)
    p = np.ones(2, np.float16)
    opt = from_rule(rule, p, master_weights=True, **HOST)
    opt.step(np.ones(2, np.float16))
    assert opt.state.arrays[0]["master_weight"].tolist() == [1 - 2.0**-12] * 2
    text = (
        r"^sgd: unknown option 'kahn'; it has path, state_dtype, stochastic_rounding, rounding_seed"
    )
    with pytest.raises(TypeError, match=text):
        from_rule(rule, p, kahn=True, **HOST)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda d: d.pop("group_t"),
            "the state_dict has no 'group_t'; pass what state_dict() gave",
        ),
        (lambda d: d.pop("state"), "the state_dict has no 'state'; pass what state_dict() gave"),
        (lambda d: d.update(t=3), "the state_dict's t must be a list, got int"),
        (lambda d: d.update(group=[]), "the state_dict's group must be a dict, got list"),
        (
            lambda d: d["t"].__setitem__(1, "x"),
            "t of params[1] must be a number of steps, 0 or more, got 'x'",
        ),
        (
            lambda d: d["t"].__setitem__(2, -1),
            "t of params[2] must be a number of steps, 0 or more, got -1",
        ),
        (
            lambda d: d.update(group_t=1.5),
            "group_t must be a number of steps, 0 or more, got 1.5",
        ),
        (
            lambda d: d["group"].update(lr="x"),
            "the state_dict's group has no number as lr, got 'x'",
        ),
        (
            lambda d: d["group"].update(lr=np.ones(2)),
            "the state_dict's group has no number as lr, got array([1., 1.])",
        ),
        (
            lambda d: d["state"].__setitem__(2, None),
            "state of params[2] must be a dict, got NoneType",
        ),
        (
            lambda d: d["state"][2].update(old_gradient=1.0),
            "state of params[2] has ['momentum_buffer', 'old_gradient'], expected",
        ),
    ],
)
def test_a_broken_state_dict_changes_nothing(change, text):
    opt = isostep_cupy.SGDHD(arrays(), lr=0.1, momentum=0.5, **HOST)
    opt.step(arrays(1))
    saved = opt.state_dict()
    for own in saved["state"]:
        own.update({n: a + 1 for n, a in own.items()})
    before = opt.state_dict()
    change(saved)
    with pytest.raises(StepError) as caught:
        opt.load_state_dict(saved)
    assert str(caught.value).startswith(f"sgd_hd: {text}")
    after = opt.state_dict()
    assert (after["t"], after["group_t"], after["group"]) == (
        before["t"],
        before["group_t"],
        before["group"],
    )
    for a, b in zip(after["state"], before["state"], strict=True):
        assert all((a[n] == b[n]).all() for n in b)


def test_states_of_a_dict_go_by_its_keys():
    w, b = np.ones(3, np.float32), np.zeros(3, np.float32)
    opt = isostep_cupy.AdamW({"w": w, "b": b}, **HOST)
    opt.step({"w": np.ones(3, np.float32)})
    saved = opt.state_dict()
    other = isostep_cupy.AdamW({"b": b.copy(), "w": w.copy()}, **HOST)
    other.load_state_dict(saved)
    assert other.state.t == [0, 1]
    np.testing.assert_array_equal(other.state.arrays[1]["exp_avg"], opt.state.arrays[0]["exp_avg"])
    assert not other.state.arrays[0]["exp_avg"].any()
    third = isostep_cupy.AdamW({"v": w.copy(), "b": b.copy()}, **HOST)
    text = r"^adamw: the state_dict is for the keys \['w', 'b'\], params has \['v', 'b'\]$"
    with pytest.raises(StepError, match=text):
        third.load_state_dict(saved)
    del saved["keys"]  # as it was before there were keys
    third.load_state_dict(saved)
    assert third.state.t == [1, 0]


def test_an_optimizer_is_pickled_with_its_state():
    opt = isostep_cupy.AdamW(arrays(), lr=0.1, **HOST)
    opt.step(arrays(1))
    for other in (pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)):
        assert type(other) is isostep_cupy.AdamW
        other.step(arrays(2))
        assert other.state.t == [2, 2, 2]
        assert opt.state.t == [1, 1, 1]
    opt.step(arrays(2))
    for a, b in zip(opt.params, other.params, strict=True):
        np.testing.assert_array_equal(a, b)


# Launches, and arrays of other libraries


def test_a_prepared_step_can_be_done_later():
    p = np.zeros(2, np.float32)
    opt = isostep_cupy.SGD(p, 0.5, **HOST)
    launch = opt.prepare(np.ones(2, np.float32))
    assert p.tolist() == [0, 0]
    launch()
    assert p.tolist() == [-0.5, -0.5]
    assert opt.state.t == [1]


@pytest.mark.whole
def test_torch_tensors_are_stepped_where_they_are():
    import torch

    tensors = [torch.ones(3), torch.ones(2, 2, dtype=torch.float64)]
    opt = AddSign(tensors, lr=0.5, **HOST)
    opt.step([torch.full_like(t, 2) for t in tensors])
    assert tensors[0].tolist() == [-1, -1, -1]
    assert tensors[1].tolist() == [[-1, -1], [-1, -1]]
    back = torch.from_dlpack(opt.params[0])
    assert back.data_ptr() == tensors[0].data_ptr()


@pytest.mark.whole
def test_gradients_may_be_jax_s_but_parameters_of_jax_are_not_written():
    import jax.numpy as jnp

    p = np.ones(3, np.float32)
    AddSign(p, lr=0.5, **HOST).step(jnp.full(3, 2.0, jnp.float32))
    assert p.tolist() == [-1, -1, -1]
    with pytest.raises(
        StepError, match=r"^addsign: params\[0\] is read-only; pass a writable copy$"
    ):
        AddSign(jnp.ones(3, jnp.float32), **HOST)


# Errors


def test_a_parameter_over_itself_is_refused_before_anything_is_written():
    p, memory = np.ones(3), np.ones(4)
    windows = np.lib.stride_tricks.as_strided(memory, (3, 2), (8, 8))
    text = r"^sgd: params\[1\] has elements that share memory; pass a copy$"
    with pytest.raises(StepError, match=text):
        isostep_cupy.SGD([p, windows], lr=0.5, **HOST)
    backend, rule = isostep.backend("cupy:raw(host)"), isostep.rule("sgd", lr=0.5)
    state = backend.init(rule, [p, windows.copy()])
    with pytest.raises(StepError, match=text):
        backend.step(rule, [p, windows], [np.ones(3), np.ones((3, 2))], state)
    assert p.tolist() == [1.0] * 3
    assert memory.tolist() == [1.0] * 4


def test_a_wrong_argument_is_one_clear_line():
    with pytest.raises(isostep.DomainError, match=r"^addsign: lr must be >= 0, got -1$"):
        AddSign(arrays(), lr=-1, **HOST)
    with pytest.raises(
        BackendError, match=r"^cupy has no path 'x'; it has raw, generic, raw\(host\)$"
    ):
        AddSign(arrays(), path="x")
    with pytest.raises(StepError, match=r"must be a list like params, got dict$"):
        AddSign(arrays(), **HOST).step({})
    with pytest.raises(TypeError):
        AddSign(arrays(), 0.1, lr=0.2, **HOST)
    one = np.ones(1, np.float32)
    for call, text in (
        (lambda: isostep_cupy.SGD([[1.0, 2.0]], **HOST), "params[0] must be an array, got list"),
        (lambda: isostep_cupy.SGD([1.5], **HOST), "params[0] must be an array, got float"),
        (
            lambda: isostep_cupy.SGD("x", **HOST),
            "params must be a list, tuple or dict of arrays, got str",
        ),
        (lambda: isostep_cupy.SGD(one, **HOST).step([1.0]), "grads[0] must be an array, got float"),
        (lambda: isostep_cupy.SGD(one, **HOST).step(["x"]), "grads[0] must be an array, got str"),
        (
            lambda: isostep_cupy.SGD({"a": one}, **HOST).step({"a": 1}),
            "grads['a'] must be an array, got int",
        ),
        (
            lambda: isostep_cupy.SGD(one, **HOST).step(None),
            "grads must be a list, tuple or dict of arrays, got NoneType",
        ),
        (
            lambda: isostep_cupy.SGD(one, **HOST).step(one, foo=1),
            "sgd takes no input 'foo'; its extra inputs: none",
        ),
        (
            lambda: isostep_cupy.AdaHessian(one, **HOST).step(one, hessian_diag=[1.0]),
            "hessian_diag[0] must be an array, got float",
        ),
    ):
        with pytest.raises(StepError) as caught:
            call()
        assert text in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(
        AttributeError, match=r"has no attribute 'AddSigm'; optimizers: .*AddSign, "
    ):
        _ = isostep_cupy.AddSigm
    assert importlib.util.find_spec("cupy") or not hasattr(isostep_cupy, "cupy")
