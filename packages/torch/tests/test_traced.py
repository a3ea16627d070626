"""``capturable`` and ``differentiable``: scalars that stay tensors, a step that nothing is read from."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import isostep
from isostep.rule import Piece
from isostep.state import StepError
from isostep_torch import from_rule, load_optimizer

pytestmark = pytest.mark.whole  # not for want of a package: minutes of work, and once is enough

CAPTURED = [{"foreach": True}, {"foreach": False}]
RULES = isostep.rules()


class NoReads(TorchDispatchMode):
    """Fails where a tensor's value reaches the host, or a number the device by a copy."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero"), name
        assert name not in ("_to_copy", "lift_fresh") or args[0].numel() != 1 or args[0].ndim == 0
        return func(*args, **(kwargs or {}))


def make(name, options, dtype=torch.float64, **hyper):
    ndim = isostep.definition(name).ndim
    shapes = [s for s in [(4, 3), (6,), (), (2, 3, 2)] if ndim is None or len(s) in ndim]
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(s, dtype=dtype)) for s in shapes]
    return params, load_optimizer(name)(params, **{"lr": 0.05, **hyper}, **options)


def gradients(params, k):
    torch.manual_seed(100 + k)
    for p in params:
        p.grad = torch.randn_like(p)


@pytest.mark.parametrize("options", CAPTURED, ids=["foreach", "loop"])
def test_an_observed_step_reads_nothing(options):
    params, optimizer = make("adamw", {"capturable": True, **options})
    observer = optimizer.observe()
    for k in range(2):
        gradients(params, k)
        before = [p.detach().clone() for p in params]
        with NoReads() if k else contextlib.nullcontext():
            optimizer.step()
    for i, p in enumerate(params):
        found = observer.rows()[f"0.{i}"]
        assert found["gradient_norm"] == pytest.approx(float(p.grad.norm()), rel=1e-14)
        moved = float((p.detach() - before[i]).norm())
        assert found["update_norm"] == pytest.approx(moved, rel=1e-12)


#: What decides on the kind of a step, so that several come within six.
KINDS = {
    "k": 2,
    "update_period": 2,
    "window": 2,
    "precondition_frequency": 3,
    "preconditioner_update_every": 2,
    "balance_every": 2,
}


@pytest.mark.parametrize("options", CAPTURED, ids=["foreach", "loop"])
@pytest.mark.parametrize("name", RULES)
def test_capturable_takes_the_same_steps_and_reads_nothing(name, options):
    own = {n: v for n, v in KINDS.items() if n in isostep.definition(name).hyper}
    ours = isostep.rule(name, **own)
    assert {ours.phase(t) for t in range(1, 7)} == {ours.phase(t) for t in range(1, 61)}
    params, optimizer = make(name, {"capturable": True, **options}, **own)
    twins, plain = make(name, {"fused": False, "foreach": False}, **own)
    rate = torch.tensor(0.05, dtype=torch.float64)
    optimizer.param_groups[0]["lr"] = rate
    for k in range(6):
        for each in (params, twins):
            gradients(each, k)
            if k == 2:
                each[0].grad = None
        rate.fill_(0.05 / (k + 1))
        plain.param_groups[0]["lr"] = rate.item()
        given = _inputs(name, params)
        if k in (0, 2, 3):  # the first step makes the state
            optimizer.step(**given)
        else:
            with NoReads():
                optimizer.step(**given)
        plain.step(**_inputs(name, twins))
        for a, b in zip(params, twins, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
            for n, value in plain.state[b].items():
                found = optimizer.state[a][n]
                torch.testing.assert_close(found, value, rtol=1e-11, atol=1e-12)
    steps = [optimizer.state[p]["step"] for p in params]
    assert [s.item() for s in steps] == [5.0] + [6.0] * (len(params) - 1)
    assert len({id(s) for s in steps}) == len(steps)


def _inputs(name, params):
    own = isostep.definition(name)
    given = {p: p.grad.abs() + 0.1 for p in params if p.grad is not None}
    return dict.fromkeys(own.inputs, given) | dict.fromkeys(own.group_inputs, 0.7)


@pytest.mark.parametrize("options", CAPTURED, ids=["foreach", "loop"])
def test_capturable_takes_sums_over_a_group_whose_arrays_are_at_different_kinds_of_step(options):
    rule = isostep.compose(
        isostep.pieces.clip_by_global_norm(0.5),
        isostep.rule("adamw", lr=0.05),
        isostep.pieces.lookahead(3, 0.7),
    )
    runs = []
    for given in ({"capturable": True, **options}, {"fused": False, "foreach": False}):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in [(4, 3), (5,)]]
        runs.append((params, from_rule(rule, params, **given)))
    for k in range(8):
        for params, optimizer in runs:
            gradients(params, k)
            if k == 1:
                params[0].grad = None  # from here on it is a step behind
            optimizer.step()
        for a, b in zip(*(params for params, _ in runs), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_capturable_refuses_sums_that_differ_from_one_kind_of_step_to_the_next():
    doubled = Piece(
        name="doubled",
        before=lambda p, g, t, /, *, phase: 2 * g if phase else g,
        phase=lambda t, /: t % 2,
    ).bind()
    rule = isostep.compose(
        doubled, isostep.pieces.clip_by_global_norm(0.5), isostep.rule("sgd", lr=0.1)
    )
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = from_rule(rule, [p], capturable=True)
    p.grad = torch.ones(3)
    with pytest.raises(StepError, match="sums over the group that are the same in every kind"):
        optimizer.step()
    assert torch.equal(p, torch.ones(3))


@pytest.mark.parametrize("options", CAPTURED, ids=["foreach", "loop"])
def test_capturable_in_float32_stays_within_ulps(options):
    params, optimizer = make("adamw", {"capturable": True, **options}, torch.float32)
    twins, plain = make("adamw", {"foreach": True}, torch.float32)
    for k in range(20):
        for each, opt in ((params, optimizer), (twins, plain)):
            gradients(each, k)
            opt.step()
    for a, b in zip(params, twins, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_tensors_for_every_hyperparameter():
    def numbers(x):
        return torch.tensor(x, dtype=torch.float64)

    for options in ({"capturable": True}, {"fused": True}, {"foreach": True}, {}):
        hyper = {"lr": numbers(0.1), "betas": (numbers(0.8), numbers(0.95)), "eps": numbers(1e-3)}
        params, optimizer = make("adamw", options, **hyper, weight_decay=numbers(0.2))
        twins, plain = make("adamw", {}, lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.2)
        for k in range(4):
            for each, opt in ((params, optimizer), (twins, plain)):
                gradients(each, k)
                opt.step()
        for a, b in zip(params, twins, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("options", CAPTURED, ids=["foreach", "loop"])
def test_schedules_as_hyperparameters_are_called_with_the_tensor(options):
    seen = []

    def rate(done):
        seen.append(type(done))
        return 0.1 / (1 + done)

    params, twins = ([torch.nn.Parameter(torch.ones(3, dtype=torch.float64))] for _ in range(2))
    a = from_rule(isostep.rule("adam", lr=rate), params, capturable=True, **options)
    b = from_rule(isostep.rule("adam", lr=rate), twins)
    for k in range(4):
        for each, opt in ((params, a), (twins, b)):
            gradients(each, k)
            opt.step()
    torch.testing.assert_close(params[0], twins[0], rtol=1e-12, atol=0)
    assert torch.Tensor in seen


@pytest.mark.parametrize("options", CAPTURED, ids=["foreach", "loop"])
@pytest.mark.parametrize("name", ["adamw", "sgd_hd", "lamb"])
def test_found_inf_leaves_everything_as_it_was(name, options):
    params, optimizer = make(name, {"capturable": True, **options})
    assert optimizer._step_supports_amp_scaling
    gradients(params, 0)
    optimizer.step()
    before = [p.detach().clone() for p in params]
    kept = [{n: v.clone() for n, v in optimizer.state[p].items()} for p in params]
    shared = {n: v.clone() for n, v in optimizer.param_groups[0].get("shared", {}).items()}
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(1.0)
    gradients(params, 1)
    params[0].grad[0] = torch.inf
    with NoReads():
        optimizer.step()
    for p, b, k in zip(params, before, kept, strict=True):
        assert torch.equal(p, b)
        assert all(torch.equal(optimizer.state[p][n], v) for n, v in k.items())
    assert all(torch.equal(optimizer.param_groups[0]["shared"][n], v) for n, v in shared.items())
    optimizer.found_inf = torch.tensor(0.0)
    gradients(params, 1)
    for p in params:
        p.grad *= 4
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf
    twins, other = make(name, {"capturable": True, **options})
    for k in range(2):
        gradients(twins, k)
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))


@pytest.mark.parametrize("saved", [True, False])
def test_capturable_may_be_switched_when_a_state_is_loaded(saved):
    params, optimizer = make("adam", {"capturable": saved})
    for k in range(2):
        gradients(params, k)
        optimizer.step()
    twins, other = make("adam", {"capturable": not saved})
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        group["capturable"] = not saved
    other.load_state_dict(state)
    for p, q in zip(params, twins, strict=True):
        q.data.copy_(p.data)
    for k in range(2, 5):
        for each, opt in ((params, optimizer), (twins, other)):
            gradients(each, k)
            opt.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
        assert other.state[q]["step"] == optimizer.state[p]["step"] == 5


@pytest.mark.parametrize("options", CAPTURED, ids=["foreach", "loop"])
def test_what_a_group_hands_on_is_what_it_was_before_the_step(options):
    """avagrad's gamma goes on as the one that was used."""
    found = []
    for chosen in ({"capturable": True, **options}, {"fused": False, **options}):
        params, optimizer = make("avagrad", chosen)
        for k in range(3):
            gradients(params, k)
            optimizer.step()
        shared = optimizer.param_groups[0]["shared"]
        found.append([float(shared[n]) for n in ("gamma", "gamma_used")])
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0][0] != found[0][1]


# differentiable


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", RULES)
def test_differentiable_passes_gradcheck(name):
    """Through two steps, to the first parameters and gradients; where the step is smooth."""
    definition = isostep.definition(name)
    shape = (3, 2) if definition.ndim else (4,)
    torch.manual_seed(0)
    start = torch.randn(shape, dtype=torch.float64) + 3.0
    slopes = [torch.randn(shape, dtype=torch.float64).abs() + 0.5 for _ in range(2)]

    def run(p, *grads):
        p = p.clone()
        optimizer = load_optimizer(name)([p], lr=0.1, differentiable=True)
        for g in grads:
            p.grad = g
            given = {n: {p: g * g + 0.1} for n in definition.inputs}
            optimizer.step(**given, **dict.fromkeys(definition.group_inputs, 0.7))
        return p, *(v for n, v in optimizer.state[p].items() if n != "step")

    given = [x.requires_grad_() for x in (start, *slopes)]
    assert torch.autograd.gradcheck(run, given, rtol=1e-5, atol=1e-6)


def test_differentiable_reaches_tensors_given_as_hyperparameters():
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    decay = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    beta = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)

    def run(lr, decay, beta):
        p = torch.full((3,), 2.0, dtype=torch.float64, requires_grad=True).clone()
        optimizer = load_optimizer("adamw")(
            [p], lr=lr, weight_decay=decay, betas=(beta, 0.99), differentiable=True
        )
        for k in range(3):
            p.grad = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) * (k + 1)
            optimizer.step()
        return p

    assert torch.autograd.gradcheck(run, (lr, decay, beta))


def test_differentiable_and_capturable_exclude_what_they_cannot_have():
    p = torch.nn.Parameter(torch.ones(2))
    adam = load_optimizer("adam")
    for options, text in (
        ({"differentiable": True, "fused": True}, "differentiable takes the loop path"),
        ({"differentiable": True, "kahan": True}, "got kahan=True; leave kahan out"),
        ({"capturable": True, "fused": True}, "capturable takes the foreach or loop path"),
    ):
        with pytest.raises(ValueError, match=text):
            adam([p], **options)
    assert adam([p], differentiable=True).path.startswith("torch:loop: differentiable")
    assert adam([p], capturable=True).path.startswith("torch:foreach: capturable")
