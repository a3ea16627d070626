"""SAM's two steps, Hutchinson by double backward and PCGrad on torch models."""

import numpy as np
import pytest
import torch

import isostep
from isostep.state import StepError
from isostep_torch import SGD, AdaHessian, AdamW, from_rule, second


def problem():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)
    ).double()
    return net, torch.randn(16, 4, dtype=torch.float64), torch.randn(16, 1, dtype=torch.float64)


def loss_of(net, x, y):
    return (net(x) - y).square().mean()


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("by_hand", [False, True])
def test_sam_around_optimizers(adaptive, by_hand):
    net, x, y = problem()
    other, _, _ = problem()
    head, rest = list(net[2].parameters()), list(net[0].parameters())
    groups = [{"params": rest}, {"params": head, "lr": 0.02}]
    sam = second.SAM(AdamW(groups, lr=0.01, eps=1e-3), 0.1, adaptive=adaptive)
    groups = [{"params": other[0].parameters()}, {"params": other[2].parameters(), "lr": 0.02}]
    plain = torch.optim.AdamW(groups, lr=0.01, eps=1e-3)

    def closure():
        sam.zero_grad()
        loss = loss_of(net, x, y)
        loss.backward()
        return loss

    for _ in range(8):
        if by_hand:
            closure()
            sam.first_step(zero_grad=True)
            loss_of(net, x, y).backward()
            sam.second_step()
        else:
            first = closure().item()
            assert sam.step(closure).item() == first
        params = list(other.parameters())
        g = torch.autograd.grad(loss_of(other, x, y), params)
        T = [p.detach().abs() if adaptive else torch.ones_like(p) for p in params]
        norm = torch.stack([(a * b).square().sum() for a, b in zip(T, g, strict=True)]).sum().sqrt()
        saved = [p.detach().clone() for p in params]
        with torch.no_grad():
            for p, a, b in zip(params, T, g, strict=True):
                p += 0.1 * a * a * b / norm
        for p, b in zip(params, torch.autograd.grad(loss_of(other, x, y), params), strict=True):
            p.grad = b
        with torch.no_grad():
            for p, a in zip(params, saved, strict=True):
                p.copy_(a)
        plain.step()
        for p, q in zip(net.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("by_hand", [False, True])
def test_sam_hands_inputs_on(by_hand):
    p, q = (torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)) for _ in range(2))
    sam, alone = second.SAM(AdaHessian([p], lr=0.1), 0.5), AdaHessian([q], lr=0.1)
    curvature = torch.tensor([3.0, 0.5], dtype=torch.float64)

    def closure():
        sam.zero_grad()
        loss = (p**4).sum()
        loss.backward()
        return loss

    for _ in range(3):
        if by_hand:
            closure()
            sam.first_step()
            closure()
            sam.second_step(hessian_diag={p: curvature})
        else:
            sam.step(closure, hessian_diag={p: curvature})
        g = 4 * q.detach() ** 3
        q.grad = 4 * (q.detach() + 0.5 * g / g.norm()) ** 3
        alone.step(hessian_diag={q: curvature})
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-11)


def bits(net):
    return [p.detach().clone() for p in net.parameters()]


def same(net, before):
    return all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))


def test_sam_s_order_of_steps_and_what_is_left_after_errors():
    net, x, y = problem()
    sam = second.SAM(SGD(net.parameters(), lr=0.1))
    before = bits(net)
    with pytest.raises(StepError, match=r"^sam: second_step without first_step; call it after"):
        sam.second_step()
    with pytest.raises(StepError, match=r"^sam: first_step needs gradients; call backward first"):
        sam.first_step()
    with pytest.raises(StepError, match=r"^sam: step needs a closure"):
        sam.step()
    loss_of(net, x, y).backward()
    sam.first_step()
    assert not same(net, before)
    with pytest.raises(StepError, match=r"^sam: first_step after first_step; call second_step"):
        sam.first_step()
    sam.restore()
    assert same(net, before)
    sam.restore()
    with pytest.raises(StepError, match="second_step without first_step"):
        sam.second_step()

    calls = []

    def fails():
        calls.append(1)
        if len(calls) == 2:
            assert not same(net, before)
            message = "in the second pass"
            raise RuntimeError(message)
        loss_of(net, x, y).backward()

    with pytest.raises(RuntimeError, match="in the second pass"):
        sam.step(fails)
    assert same(net, before)


def test_sam_with_a_gradient_scaler():
    (a, x, y), (b, _, _) = problem(), problem()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled, plain = (second.SAM(SGD(n.parameters(), lr=0.1), 0.2) for n in (a, b))
    for _ in range(3):
        scaler.scale(loss_of(a, x, y)).backward()
        scaled.first_step(zero_grad=True)
        scaler.scale(loss_of(a, x, y)).backward()
        scaled.second_step(scaler, zero_grad=True)
        scaler.update()
        plain.step(lambda: (plain.zero_grad(), loss_of(b, x, y).backward()))
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)  # eps is not scaled
    # An overflow in the first pass makes the way NaN, and so the second gradient: the scaler skips the step.
    before = bits(a)
    (float("inf") * scaler.scale(loss_of(a, x, y))).backward()
    scaled.first_step(zero_grad=True)
    scaler.scale(loss_of(a, x, y)).backward()
    scaled.second_step(scaler)
    scaler.update()
    assert scaler.get_scale() == 512.0
    assert same(a, before)


def test_looksam():
    (a, x, y), (b, _, _) = problem(), problem()
    groups = [{"params": a[0].parameters()}, {"params": a[2].parameters(), "lr": 0.03}]
    unused = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    mine = second.LookSAM(SGD([*groups, {"params": [unused]}], lr=0.1), 0.2, k=3, alpha=0.6)
    groups = [{"params": b[0].parameters()}, {"params": b[2].parameters(), "lr": 0.03}]
    other = torch.optim.SGD(groups, lr=0.1)
    params, calls = list(b.parameters()), []

    def closure():
        mine.zero_grad()
        loss = loss_of(a, x, y)
        loss.backward()
        calls.append(loss.item())
        return loss

    def flat(grads):
        return torch.cat([g.reshape(-1) for g in grads])

    for t in range(8):
        if t == 5:  # resumed between two second gradients
            saved = mine.state_dict()
            mine = second.LookSAM(mine.optimizer, 0.2, k=3, alpha=0.6)
            mine.load_state_dict(saved)
        calls.clear()
        assert mine.step(closure).item() == calls[0]
        assert len(calls) == (2 if t % 3 == 0 else 1)
        g = flat(torch.autograd.grad(loss_of(b, x, y), params))
        if t % 3 == 0:
            start = torch.nn.utils.parameters_to_vector(params).detach()
            torch.nn.utils.vector_to_parameters(start + 0.2 * g / g.norm(), params)
            s = flat(torch.autograd.grad(loss_of(b, x, y), params))
            torch.nn.utils.vector_to_parameters(start, params)
            v = s - (s @ g) / (g @ g) * g
        else:
            s = g + 0.6 * g.norm() / v.norm() * v
        for p, part in zip(params, s.split([p.numel() for p in params]), strict=True):
            p.grad = part.reshape(p.shape).clone()
        other.step()
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)
    assert unused.grad is None
    before = bits(a)
    mine.look.count = 0

    def fails():
        if calls:
            raise KeyboardInterrupt
        return closure()

    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        mine.step(fails)
    assert same(a, before)


def test_sam_around_a_composed_rule_and_its_state():
    net, x, y = problem()
    rule = isostep.compose(isostep.pieces.centralize(), isostep.rule("adam", lr=0.01))
    sam = second.SAM(from_rule(rule, net.parameters()))
    sam.step(lambda: loss_of(net, x, y).backward())
    again = second.SAM(from_rule(rule, net.parameters()))
    again.load_state_dict(sam.state_dict())
    assert len(again.state_dict()["state"]) == 4


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_hutchinson_by_double_backward(distribution):
    p = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([[0.5]], dtype=torch.float64, requires_grad=True)
    unused = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    loss = (p**4).sum() + 5 * q.sum() ** 2 + 0 * unused.sum()
    grads = torch.autograd.grad(loss, [p, q, unused], create_graph=True)
    generator = torch.Generator().manual_seed(3)
    found = second.hutchinson(
        grads, [p, q, unused], samples=4000, distribution=distribution, generator=generator
    )
    # The Hessian is diagonal: signs are exact, normal numbers off by sqrt(2 / n) of it.
    slack = 1e-12 if distribution == "rademacher" else 4 * (2 / 4000) ** 0.5
    torch.testing.assert_close(found[p], 12 * p.detach() ** 2, rtol=slack, atol=0)
    torch.testing.assert_close(
        found[q], torch.full((1, 1), 10.0, dtype=torch.float64), rtol=slack, atol=0
    )
    assert torch.equal(found[unused], torch.zeros_like(unused))
    assert not found[p].requires_grad


def test_hutchinson_of_a_model_tends_to_its_diagonal_and_feeds_adahessian():
    net, x, y = problem()
    params = list(net.parameters())
    optimizer = AdaHessian(params, lr=0.1)
    grads = torch.autograd.grad(loss_of(net, x, y), params, create_graph=True)
    found = second.hutchinson(
        grads, params, samples=3000, generator=torch.Generator().manual_seed(0)
    )
    for p, g in zip(params, grads, strict=True):
        rows = [
            torch.autograd.grad(e, p, retain_graph=True)[0].reshape(-1)[i]
            for i, e in enumerate(g.reshape(-1))
        ]
        torch.testing.assert_close(found[p].reshape(-1), torch.stack(rows), rtol=0, atol=0.15)
    for p, g in zip(params, grads, strict=True):
        p.grad = g.detach()
    before = bits(net)
    optimizer.step(hessian_diag=found)
    assert not same(net, before)


def test_hutchinson_s_spatial_average_and_errors():
    w = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad((w**3).sum(), [w], create_graph=True)
    found = second.hutchinson([g], [w], spatial_axes=(2, 3))[w]
    wanted = (6 * w.detach()).abs().mean(dim=(2, 3), keepdim=True).expand_as(w)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    with pytest.raises(StepError, match=r"^hutchinson: the gradients have no graph; compute them"):
        second.hutchinson([torch.ones(3)], [w])


def test_noise_comes_from_a_generator_and_enters_by_name():
    net, x, y = problem()
    piece = isostep.pieces.gradient_noise(0.3, gamma=0.8)
    rule = isostep.compose(piece, isostep.rule("sgd", lr=0.1))
    optimizer = from_rule(rule, net.parameters())
    generator, again = (torch.Generator().manual_seed(3) for _ in range(2))
    for done in range(3):
        optimizer.zero_grad()
        loss_of(net, x, y).backward()
        params = list(net.parameters())
        wanted = [
            p.detach() - 0.1 * (p.grad + (0.3 / (1 + done) ** 0.8) ** 0.5 * z)
            for p, z in zip(params, second.noise(params, generator=again).values(), strict=True)
        ]
        optimizer.step(noise=second.noise(params, generator=generator))
        for p, w in zip(params, wanted, strict=True):
            torch.testing.assert_close(p.detach(), w, rtol=1e-13, atol=0)
    with pytest.raises(StepError, match="needs the input 'noise' beside the gradients"):
        optimizer.step()


def test_pcgrad_of_losses():
    net, x, _ = problem()
    params = [*net.parameters(), torch.zeros(2, dtype=torch.float64, requires_grad=True)]
    out = net(x)
    losses = [out.mean(), -(out.square().mean()), (net[2].weight).sum()]
    tasks = [torch.autograd.grad(e, params, retain_graph=True, allow_unused=True) for e in losses]
    arrays = [[None if g is None else g.numpy() for g in t] for t in tasks]
    for reduction in ("mean", "sum"):
        second.pcgrad(losses, params, reduction=reduction, rng=np.random.default_rng(1))
        wanted = isostep.multitask.pcgrad(arrays, reduction=reduction, rng=np.random.default_rng(1))
        for p, w in zip(params, wanted, strict=True):
            if w is None:
                assert p.grad is None
            else:
                np.testing.assert_allclose(p.grad.numpy(), w, rtol=1e-12, atol=1e-14)


def test_parameters_may_come_from_a_generator():
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 2), torch.randn(5, 3)
    second.pcgrad([model(x).sum(), -model(x).square().sum()], model.parameters())
    assert all(p.grad is not None for p in model.parameters())
    grads = torch.autograd.grad(
        model(x).square().sum(), list(model.parameters()), create_graph=True
    )
    assert list(second.hutchinson(grads, model.parameters())) == list(model.parameters())
    with pytest.raises(StepError, match=r"^hutchinson: needs a gradient for each of 2 parameters"):
        second.hutchinson(grads[:1], model.parameters())
    unused = torch.nn.Parameter(torch.ones(2))
    found = second.hutchinson([*grads, None], [*model.parameters(), unused])
    assert found[unused].tolist() == [0.0, 0.0]


def test_halves_do_not_overflow():
    torch.manual_seed(0)
    model, x = torch.nn.Linear(3, 2).half(), torch.randn(5, 3).half()
    second.pcgrad([model(x).sum() * 300, -model(x).sum() * 300], list(model.parameters()))
    assert model.weight.grad.dtype == torch.float16
    assert model.weight.grad.isfinite().all()
    look = second.LookSAM(SGD(model.parameters(), lr=1e-6), k=2)

    def closure():
        look.zero_grad()
        loss = model(x).sum() * 300 + model(x).square().sum() * 100
        loss.backward()
        return loss

    for _ in range(2):
        look.step(closure)
        assert model.weight.grad.dtype == torch.float16
        assert model.weight.grad.isfinite().all()


def test_looksam_s_mistakes():
    model = torch.nn.Linear(3, 2)
    optimizer = SGD(model.parameters(), lr=0.1)
    look = second.LookSAM(optimizer)
    with pytest.raises(StepError, match=r"^looksam: step needs a closure"):
        look.step()
    with pytest.raises(StepError, match=r"^looksam: the closure left no gradient"):
        look.step(lambda: model(torch.ones(3)).sum())
    with pytest.raises(ValueError, match=r"^looksam: the state dict has no 'across'"):
        look.load_state_dict(optimizer.state_dict())
