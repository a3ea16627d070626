"""The optimizer classes: against torch.optim, and what users of torch.optim rely on."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch

import isostep
import isostep_torch
from isostep_torch import PowerSign, from_rule, load_optimizer
from isostep_torch.classes import camel_case

PATHS = [{"fused": True}, {"foreach": True}, {"fused": False, "foreach": False}]
SHAPES = [(5, 3), (7,), (), (0,), (2, 3, 4)]


def tensors(dtype=torch.float64, shapes=SHAPES, seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, dtype=dtype)) for s in shapes]


def gradients(params, k):
    torch.manual_seed(100 + k)
    for p in params:
        p.grad = torch.randn_like(p) * 10.0 ** (k % 5 - 2)


def test_closure_maximize_and_zero_grad():
    params = tensors()
    up, down = load_optimizer("sgd")(params, lr=0.1, maximize=True), None
    twins = tensors()
    down = load_optimizer("sgd")(twins, lr=0.1)
    gradients(params, 0)
    before = [p.grad.clone() for p in params]
    assert up.step(lambda: torch.tensor(3.0)) == 3.0
    assert all(torch.equal(p.grad, g) for p, g in zip(params, before, strict=True))
    for p, g in zip(twins, before, strict=True):
        p.grad = -g
    assert down.step() is None
    assert all(torch.equal(a, b) for a, b in zip(params, twins, strict=True))
    up.zero_grad()
    assert all(p.grad is None for p in params)


def test_a_parameter_without_a_gradient_is_left_alone():
    params = tensors(shapes=[(3,), (4,)])
    optimizer = load_optimizer("adam")(params, lr=0.1)
    gradients(params, 0)
    optimizer.step()
    gradients(params, 1)
    params[0].grad = None
    before = params[0].detach().clone()
    optimizer.step()
    assert torch.equal(before, params[0])
    assert [optimizer.state[p]["step"].item() for p in params] == [1.0, 2.0]


def test_schedulers_of_betas_and_momentum():
    def run(build, **extra):
        params = tensors()
        optimizer = build(params, lr=0.1, betas=(0.9, 0.99), **extra)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=12)
        for k in range(12):
            gradients(params, k)
            optimizer.step()
            schedule.step()
        return params

    for a, b in zip(run(load_optimizer("adam")), run(torch.optim.Adam), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [*PATHS, {"kahan": True}], ids=str)
@pytest.mark.parametrize("raised", [{3: 0.9}, {4: 0.9, 5: 0.0, 6: 0.5}, {1: 0.0, 4: 0.9}])
def test_a_momentum_raised_in_mid_run_has_an_undamped_first_buffer(raised, options):
    """As in torch, for each parameter, when it has its first."""
    params, twins = tensors(shapes=[(4,), (3, 2)]), tensors(shapes=[(4,), (3, 2)])
    ours = load_optimizer("sgd")(params, lr=0.1, dampening=0.5, **options)
    theirs = torch.optim.SGD(twins, lr=0.1, dampening=0.5)
    for k in range(8):
        gradients(params, k)
        gradients(twins, k)
        if k == 3:
            params[1].grad = twins[1].grad = None
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["momentum"] = raised.get(
                k, optimizer.param_groups[0]["momentum"]
            )
            optimizer.step()
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "options", [{"fused": True}, {"foreach": True}, {"fused": False, "foreach": False}]
)
def test_a_buffer_that_waits_for_its_momentum_is_taken_over_from_torch(options):
    """torch's state dicts hold what the settings of the moment do not use."""
    (p,), (q,) = tensors(shapes=[(4,)]), tensors(shapes=[(4,)])
    ours = load_optimizer("sgd")([p], lr=0.1, momentum=0.9, **options)
    theirs = torch.optim.SGD([q], lr=0.1, momentum=0.9)
    for k in range(6):
        if k == 3:  # the first steps are torch's
            ours.load_state_dict(theirs.state_dict())
            p.data = q.detach().clone()
        for optimizer, each in ((ours, p), (theirs, q)):
            gradients([each], k)
            optimizer.param_groups[0]["momentum"] = 0.0 if k in (2, 3) else 0.9
            if optimizer is theirs or k >= 3:
                optimizer.step()
    torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_grad_scaler_on_the_cpu_skips_infinite_steps():
    (p,) = tensors(torch.float32, [(4,)])
    optimizer = load_optimizer("adamw")([p], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((p * float("inf")).sum()).backward()
    before = p.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(p, before)
    optimizer.zero_grad()
    scaler.scale((p * 2.0).sum()).backward()
    scaler.step(optimizer)
    assert not torch.equal(p, before)


def test_groups_are_checked_when_they_are_added():
    params = tensors(shapes=[(2,), (3,)])
    optimizer = load_optimizer("adam")(params[:1])
    with pytest.raises(isostep.DomainError, match=r"adam: betas\[0\] must be in \[0, 1\), got 1.5"):
        optimizer.add_param_group({"params": params[1:], "betas": (1.5, 0.9)})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": params[1:], "lr": 0.5})
    assert optimizer.param_groups[1]["lr"] == 0.5


def test_a_state_of_another_rule_or_model_is_refused_and_nothing_changes():
    params = tensors(shapes=[(3,)])
    optimizer, other = load_optimizer("adam")(params), load_optimizer("addsign")(params)
    gradients(params, 0)
    optimizer.step()
    other.step()
    before = optimizer.state[params[0]]["exp_avg"]
    with pytest.raises(ValueError, match="adam: the state dict was saved by 'addsign'; load it"):
        optimizer.load_state_dict(other.state_dict())
    anonymous = copy.deepcopy(other.state_dict())
    del anonymous["param_groups"][0]["rule"]  # as torch.optim's
    with pytest.raises(ValueError, match=r"no 'betas', which torch\.optim\.Adam has"):
        optimizer.load_state_dict(anonymous)
    anonymous["param_groups"][0] |= {"betas": (0.8, 0.9), "eps": 1e-8, "weight_decay": 0.0}
    with pytest.raises(ValueError, match=r"state of parameter 0 has \['m'\], expected \['exp_avg'"):
        optimizer.load_state_dict(anonymous)
    wrong = copy.deepcopy(optimizer.state_dict())
    wrong["state"][0]["exp_avg"] = torch.zeros(4, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"shape \(4,\), expected \(3,\)"):
        optimizer.load_state_dict(wrong)
    assert optimizer.state[params[0]]["exp_avg"] is before


def test_composed_rules_and_the_learned_rate_survive_a_round_trip():
    rule = isostep.compose(
        isostep.pieces.clip_by_global_norm(max_norm=1.0),
        isostep.rule("sgd_hd", lr=0.1, hypergrad_lr=0.01),
        isostep.pieces.lookahead(k=2, alpha=0.5),
    )
    params = tensors()
    optimizer = from_rule(rule, params)
    reference = isostep.backend("numpy:reference")
    arrays = [p.detach().numpy().copy() for p in params]
    state = reference.init(rule, arrays)
    for k in range(6):
        if k == 3:
            params, optimizer = pickle.loads(pickle.dumps((params, optimizer)))
        gradients(params, k)
        optimizer.step()
        reference.step(rule, arrays, [p.grad.numpy() for p in params], state)
    for p, a in zip(params, arrays, strict=True):
        torch.testing.assert_close(p.detach(), torch.from_numpy(a), rtol=1e-13, atol=1e-13)
    learned = optimizer.param_groups[0]["shared"]["lr"]
    assert learned.item() == pytest.approx(float(state.group["lr"]), rel=1e-13)
    assert learned.item() != 0.1


def test_names_signatures_and_paths():
    assert isostep_torch.AddSign.__name__ == "AddSign"
    assert isostep_torch.SGDHD is load_optimizer("sgd_hd")
    assert load_optimizer("AdamW") is isostep_torch.AdamW
    with pytest.raises(AttributeError, match=r"no attribute 'AdamX'; optimizers: .*AdamW"):
        isostep_torch.AdamX  # noqa: B018
    with pytest.raises(isostep.RuleError, match="unknown rule 'adamx'"):
        load_optimizer("adamx")
    params = tensors(shapes=[(2,)])
    assert "torch:fused: CPU tensors" in isostep_torch.AdamW(params).path
    assert (
        "torch:loop: fused and foreach are ruled out"
        in isostep_torch.AdamW(params, fused=False, foreach=False).path
    )
    with pytest.raises(ValueError, match="cannot both be True"):
        isostep_torch.AdamW(params, fused=True, foreach=True)
    with pytest.raises(TypeError, match=r"^adamw: got an unexpected keyword argument 'beta'"):
        isostep_torch.AdamW(params, beta=1)


@pytest.mark.parametrize(
    "name", [n for n in isostep.rules() if hasattr(torch.optim, camel_case(n))]
)
def test_what_torch_takes_by_position_is_taken_there(name):
    """An argument behind the hyperparameters, ``Adagrad(params, lr, ..., eps, foreach)``, is what it is in torch."""
    made = load_optimizer(name)
    ours, theirs = (
        inspect.signature(c).parameters.values()
        for c in (made, getattr(torch.optim, made.__name__))
    )
    places = [p.name for p in theirs if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD] == places
    assert {p.name for p in theirs} <= {p.name for p in ours}
    values = [p.default for p in ours if p.name in places[1:]]
    (group,) = made(tensors(shapes=[(2, 2)]), *values).param_groups
    assert [group[n] for n in places[1:]] == values


def test_a_tensor_learning_rate_is_followed():
    params, twins = tensors(), tensors()
    lr = torch.tensor(0.1, dtype=torch.float64)
    a, b = isostep_torch.Adam(params, lr=lr), isostep_torch.Adam(twins, lr=0.1)
    for k, rate in enumerate((0.1, 0.05)):
        lr.fill_(rate)
        b.param_groups[0]["lr"] = rate
        for each in (params, twins):
            gradients(each, k)
        a.step()
        b.step()
    assert all(torch.equal(x, y) for x, y in zip(params, twins, strict=True))


def test_a_formula_is_an_optimizer_like_any_rule():
    rule = isostep.from_formula("exp(sign(g)*sign(m)) * g", lr=0.05, beta1=0.8)
    ours, other = (torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64)) for _ in "ab")
    pair = from_rule(rule, [ours], foreach=True), PowerSign([other], 0.05, 0.8, foreach=True)
    for k in range(4):
        for p, optimizer in zip((ours, other), pair, strict=True):
            p.grad = torch.cos(p.detach() * 3 + k)
            optimizer.step()
        if k == 1:
            saved = pair[0].state_dict()
            pair = from_rule(rule, [ours], foreach=True), pair[1]
            pair[0].load_state_dict(saved)
    assert torch.equal(ours, other)
    assert torch.equal(pair[0].state[ours]["m"], pair[1].state[other]["m"])
