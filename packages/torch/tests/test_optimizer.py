"""The optimizer classes: against torch.optim, and what users of torch.optim rely on."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import isostep
import isostep_torch
from isostep_torch import from_rule, load_optimizer

PATHS = [{"fused": True}, {"foreach": True}, {"fused": False, "foreach": False}]
SHAPES = [(5, 3), (7,), (), (0,), (2, 3, 4)]


def tensors(dtype=torch.float64, shapes=SHAPES, seed=0):
    torch.manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(s, dtype=dtype)) for s in shapes]


def gradients(params, k):
    torch.manual_seed(100 + k)
    for p in params:
        p.grad = torch.randn_like(p) * 10.0 ** (k % 5 - 2)


PEERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.7, "dampening": 0.2, "weight_decay": 0.1}),
    "sgd-nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.7, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "adam-amsgrad": (torch.optim.Adam, {"lr": 0.1, "betas": (0.8, 0.95), "amsgrad": True}),
    "adamw": (
        torch.optim.AdamW,
        {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.2},
    ),
    "adafactor": (
        torch.optim.Adafactor,
        {"lr": 0.1, "eps": (1e-3, 1e-2), "d": 1.2, "weight_decay": 0.1},
    ),
}


def pair(name, options, dtype, shapes=SHAPES):
    """Ours and torch's, each with two groups of which the second has its own learning rate."""
    theirs_class, hyper = PEERS[name]
    made = []
    for build in (load_optimizer(name.partition("-")[0]), theirs_class):
        params = tensors(dtype, shapes)
        groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.03}]
        extra = options if build is not theirs_class else {}
        made += [params, build(groups, **hyper, **extra)]
    return made


@pytest.mark.parametrize("options", PATHS, ids=["fused", "foreach", "loop"])
@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_thirty_steps_as_torch_optim(name, options, dtype, bound):
    shapes = [s for s in SHAPES if s != (0,)] if name == "adafactor" else SHAPES
    ours, mine, theirs, other = pair(name, options, dtype, shapes)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.97) for o in (mine, other)]
    for k in range(30):
        gradients(ours, k)
        gradients(theirs, k)
        mine.step()
        other.step()
        for s in schedules:
            s.step()
        for a, b in zip(ours, theirs, strict=True):
            assert a.numel() == 0 or ((a - b).abs() / b.abs().clamp(min=1.0)).max() < bound
        for a, b in zip(ours, theirs, strict=True):
            for key in set(mine.state[a]) & set(other.state[b]) - {"momentum_buffer"}:
                torch.testing.assert_close(
                    mine.state[a][key], other.state[b][key], rtol=bound, atol=bound
                )


@pytest.mark.parametrize("name", ["sgd", "adam", "adam-amsgrad", "adamw", "adafactor"])
def test_state_dicts_are_torchs(name):
    shapes = [(5, 3), (7,)]
    ours, mine, theirs, other = pair(name, {}, torch.float64, shapes)
    for k in range(3):
        gradients(theirs, k)
        other.step()
    mine.load_state_dict(copy.deepcopy(other.state_dict()))
    for a, b in zip(ours, theirs, strict=True):
        a.data.copy_(b.data)
    fresh = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    back = PEERS[name][0]([{"params": fresh[:2]}, {"params": fresh[2:]}], **PEERS[name][1])
    back.load_state_dict(copy.deepcopy(mine.state_dict()))
    for each, opt in ((ours, mine), (theirs, other), (fresh, back)):
        gradients(each, 7)
        opt.step()
    for a, b, c in zip(ours, theirs, fresh, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(c, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", isostep.rules())
def test_every_rule_saves_pickles_and_copies(name):
    """The three ways of continuing give the bits of going on."""
    ndim = isostep.definition(name).ndim
    shapes = [s for s in [(4, 3), (6,), ()] if ndim is None or len(s) in ndim]
    params = tensors(torch.float32, shapes)
    optimizer = load_optimizer(name)(params, lr=0.01)

    def step(opt, ps, k):
        gradients(ps, k)
        inputs = isostep.definition(name).inputs
        opt.step(**{n: {p: p.grad.abs() + 0.1 for p in ps} for n in inputs})

    for k in range(3):
        step(optimizer, params, k)
    copies = []
    twin, other = copy.deepcopy((params, optimizer))
    copies.append((twin, other))
    copies.append(pickle.loads(pickle.dumps((params, optimizer))))
    fresh = [torch.nn.Parameter(p.detach().clone()) for p in params]
    loaded = load_optimizer(name)(fresh, lr=0.01)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    copies.append((fresh, loaded))
    for k in range(3, 6):
        step(optimizer, params, k)
        for ps, opt in copies:
            step(opt, ps, k)
    for ps, opt in copies:
        for a, b in zip(params, ps, strict=True):
            assert torch.equal(a, b)
            for key, value in optimizer.state[a].items():
                assert torch.equal(value, opt.state[b][key])


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
    with pytest.raises(TypeError, match="unexpected keyword argument 'beta'"):
        isostep_torch.AdamW(params, beta=1)


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
