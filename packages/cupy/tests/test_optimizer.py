"""Optimizer classes, on the host path: steps, state, arrays of other libraries, errors that change nothing."""

import importlib.util
import inspect

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
    with pytest.raises(AttributeError, match=r"has no attribute 'AddSigm'; optimizers: Ada"):
        _ = isostep_cupy.AddSigm
    assert importlib.util.find_spec("cupy") or not hasattr(isostep_cupy, "cupy")
