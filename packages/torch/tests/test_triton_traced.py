"""``capturable`` steps of ``torch:fused(cuda)``, in Triton's interpreter: counts and learning rates on the device."""

import numpy as np
import pytest
import torch

import isostep
from isostep import pieces
from isostep.program import trace
from isostep.rule import compose
from isostep.state import State

pytest.importorskip("triton", reason="needs triton, which runs the kernels")

from isostep.lower.device import kernels
from isostep_torch.fused_traced import TracedInterpreter
from isostep_torch.traced import Held
from isostep_torch.triton_source import source

pytestmark = pytest.mark.whole  # triton comes with every package together
PLAIN = isostep.backend("torch:triton(interpreter)")
RULES = {
    "adamw": isostep.rule("adamw", lr=0.1, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.1),
    "sgd_hd": isostep.rule("sgd_hd", lr=0.1, hypergrad_lr=1e-3),
    "deep": compose(
        pieces.centralize(),
        pieces.clip_by_global_norm(max_norm=2.0),
        isostep.rule("lamb", lr=0.1, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.1),
    ),
}
SHAPES = [(4, 3), (5,), (1024,)]


def tensors(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in SHAPES]


def on_device(backend, rule, params, done=0):
    """A state whose counts are tensors, as ``capturable`` has it."""
    made = backend.init(rule, params)
    counts = [torch.tensor(float(done)) for _ in params]
    return State(made.rule, counts, made.arrays, made.group, torch.tensor(float(done)))


def everything(params, state):
    arrays = [a for own in state.arrays for a in own.values()]
    return [*params, *arrays, *state.group.values()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_the_step_is_that_with_counts_on_the_host(rule, dtype):
    """Scalars are computed in float64 here and there, and round to the same numbers but for their last bit."""
    backend = TracedInterpreter()
    params, others = tensors(0, dtype), tensors(0, dtype)
    state, other = on_device(backend, rule, params), PLAIN.init(rule, others)
    for k in range(3):
        backend.step(rule, params, tensors(1 + k, dtype), state)
        PLAIN.step(rule, others, tensors(1 + k, dtype), other)
    assert [float(t) for t in state.t] == [3.0] * 3
    assert float(state.group_t) == 3.0
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    for a, b in zip(everything(params, state), everything(others, other), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_parameters_may_have_counts_of_their_own():
    backend, rule = TracedInterpreter(), RULES["adamw"]
    params, alone = tensors(0), tensors(0)
    state = on_device(backend, rule, params)
    grads = [tensors(k) for k in range(1, 4)]
    for k, given in enumerate(grads):  # the second parameter misses the first step
        backend.step(
            rule, params, [None if i == 1 and k == 0 else g for i, g in enumerate(given)], state
        )
    assert [float(t) for t in state.t] == [3.0, 2.0, 3.0]
    own = PLAIN.init(rule, [alone[1]])
    for given in grads[1:]:
        PLAIN.step(rule, [alone[1]], [given[1]], own)
    torch.testing.assert_close(params[1], alone[1], rtol=1e-6, atol=1e-6)


def test_a_learning_rate_that_is_a_tensor_is_read_by_the_kernel():
    backend = TracedInterpreter()
    lr = torch.tensor(0.1)
    rule = RULES["adamw"].replace(lr=Held(lr))
    params, others = tensors(0), tensors(0)
    state, other = on_device(backend, rule, params), PLAIN.init(RULES["adamw"], others)
    for k, value in enumerate((0.1, 0.3)):
        lr.fill_(value)
        backend.step(rule, params, tensors(1 + k), state)
        now = RULES["adamw"].replace(lr=float(lr))
        PLAIN.step(now, others, tensors(1 + k), other)
    for a, b in zip(params, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_a_step_with_something_not_finite_changes_nothing(rule):
    backend = TracedInterpreter()
    params = tensors(0)
    state = on_device(backend, rule, params)
    backend.step(rule, params, tensors(1), state)
    before = [a.clone() for a in everything(params, state)]
    backend.found_inf = torch.tensor(1.0)
    backend.step(rule, params, [torch.full_like(p, torch.inf) for p in params], state)
    assert all(map(torch.equal, everything(params, state), before))
    assert [float(t) for t in [*state.t, state.group_t]] == [1.0] * 4
    backend.found_inf = torch.tensor(0.0)
    backend.step(rule, params, tensors(2), state)
    assert not torch.equal(params[0], before[0])
    assert float(state.group_t) == 2.0


def test_figures_of_steps_that_are_taken_and_that_are_not():
    backend, rule = TracedInterpreter(), isostep.observe(RULES["adamw"])
    params, others = tensors(0), tensors(0)
    state, other = on_device(backend, rule, params), PLAIN.init(rule, others)
    backend.grad_scale = torch.tensor(512.0)
    backend.step(rule, params, [g * 512 for g in tensors(1)], state)
    PLAIN.step(rule, others, tensors(1), other)
    found, wanted = state.figures.rows(), other.figures.rows()
    for name, row in wanted.items():
        assert found[name] == pytest.approx(row, rel=1e-5)
    before = [a.clone() for a in everything(params, state)]
    backend.found_inf = torch.tensor(1.0)
    grads = tensors(2)
    grads[0][1, 1] = torch.inf
    backend.step(rule, params, grads, state)
    assert all(map(torch.equal, everything(params, state), before))
    assert state.figures.rows()["0"]["nonfinite_gradients"] == 1.0


def test_gradients_are_unscaled_as_they_are_loaded():
    backend, rule = TracedInterpreter(), RULES["deep"]
    params, others = tensors(0), tensors(0)
    state, other = on_device(backend, rule, params), on_device(backend, rule, others)
    backend.grad_scale = torch.tensor(1024.0)
    scaled = [g * 1024 for g in tensors(1)]
    kept = [g.clone() for g in scaled]
    backend.step(rule, params, scaled, state)
    backend.grad_scale = None
    backend.step(rule, others, tensors(1), other)
    assert all(map(torch.equal, everything(params, state), everything(others, other)))
    assert all(map(torch.equal, scaled, kept))


def test_schedules_take_foreach_and_the_path_says_so():
    backend = TracedInterpreter()
    rule = RULES["adamw"].replace(lr=lambda done: 0.1 / (1 + done))
    assert backend.path(rule) == "foreach: lr is a schedule"
    assert backend.path(isostep.rule("pnm")) == "foreach: it has several kinds of step"
    params = tensors(0)
    state = on_device(backend, rule, params)
    backend.step(rule, params, tensors(1), state)
    assert float(state.t[0]) == 1.0


def test_the_scalars_of_every_rule_have_a_text():
    for name in ("adam", "adamw", "lamb", "addsign", "adam_hd"):
        text = source(kernels(trace(isostep.rule(name, lr=0.1)), "float32"), traced=True)
        compile(text, name, "exec")
        assert "amp" in text


def test_a_plan_is_made_once_and_nothing_is_uploaded_twice(monkeypatch):
    backend, rule = TracedInterpreter(), RULES["adamw"]
    params, grads = tensors(0), tensors(1)
    state = on_device(backend, rule, params)
    backend.step(rule, params, grads, state)
    (plan,) = state.plan.values()
    uploads = []
    monkeypatch.setattr(plan.runner.on, "upload", lambda *a: uploads.append(a))
    for _ in range(2):
        backend.step(rule, params, grads, state)
    assert not uploads
    assert list(state.plan.values()) == [plan]
    assert np.isfinite(params[0].numpy()).all()
