"""Figures of steps on torch's paths, and of optimizers: against the reference's and against torch's own norms."""

import numpy as np
import pytest
import torch

import isostep
import isostep_torch
from isostep import pieces
from isostep.telemetry import CSV

REFERENCE = isostep.backend("numpy:reference")
SHAPES = [(4, 3), (7,), (0,), (), (2, 1500)]
LAMB = isostep.rule("lamb", lr=0.1, weight_decay=0.1)
DEEP = isostep.compose(
    pieces.clip_by_norm(0.3),
    pieces.centralize(-1),
    isostep.rule("addsign", lr=0.1),
    pieces.lookahead(2),
)
PATHS = ["torch:loop", "torch:foreach", "torch:fused", "torch:triton(interpreter)"]
#: numba compiles each rule, dtype and phase; in core every rule is tried on that path
CASES = [(p, r, d) for p in PATHS for r in (LAMB, DEEP) for d in ("float64", "float32")]
CASES = [c for c in CASES if c[0] != "torch:fused" or c[1:] == (LAMB, "float32")]
WHOLE = {"torch:triton(interpreter)": [pytest.mark.whole]}  # for triton
CASES = [pytest.param(*c, marks=WHOLE.get(c[0], [])) for c in CASES]


@pytest.mark.parametrize(("path", "rule", "dtype"), CASES, ids=lambda x: getattr(x, "name", x))
def test_figures_are_the_reference_s(path, rule, dtype):
    backend, observed = isostep.backend(path), isostep.observe(rule)
    rng = np.random.default_rng(0)
    others = [np.asarray(rng.normal(size=s)).astype(dtype) for s in SHAPES]
    params = [backend.asarray(p) for p in others]
    state, other = backend.init(rule, params), REFERENCE.init(rule, others)
    for k in range(3):
        grads = [np.asarray(rng.normal(size=s)).astype(dtype) for s in SHAPES]
        if k == 1:
            grads[1] = None
        if k == 2:
            grads[0][0, 0] = np.nan
        given = [None if g is None else backend.asarray(g) for g in grads]
        backend.step(observed, params, given, state)
        REFERENCE.step(observed, others, grads, other)
        found, wanted = state.figures.rows(), other.figures.rows()
        for name, row in wanted.items():
            for figure, value in row.items():
                np.testing.assert_allclose(
                    found[name][figure],
                    value,
                    rtol=1e-12 if dtype == "float64" else 5e-6,
                    err_msg=f"{name} {figure} of step {k + 1}",
                )
    vector = state.figures.parameters()["gradient_norm"]
    assert isinstance(vector, torch.Tensor)
    assert (vector.dtype, tuple(vector.shape)) == (torch.float64, (len(SHAPES),))


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"fused": False}, torch.float32),
        ({"foreach": True}, torch.complex64),
        ({"fused": False, "master_weights": True}, torch.bfloat16),
        ({"capturable": True}, torch.float64),
    ],
)
def test_an_optimizer_s_figures(options, dtype):
    torch.manual_seed(0)
    params = [torch.randn(s).to(dtype).requires_grad_() for s in ((4, 3), (7,), (2,))]
    groups = [{"params": params[:2]}, {"params": params[2:], "lr": 0.5}]
    optimizer = isostep_torch.AdamW(groups, lr=0.1, **options)
    observer = optimizer.observe()
    assert observer.groups == [None, None]
    for k in range(2):
        for p in params:
            p.grad = None if k and p is params[0] else torch.randn_like(p)
        before = [p.detach().clone() for p in params]
        optimizer.step()
    rows = observer.rows()
    assert list(rows) == ["0.0", "0.1", "group0", "1.0", "group1"]
    assert all(np.isnan(x) for x in rows["0.0"].values())
    size = lambda x: float(torch.linalg.vector_norm(x.detach().to(torch.complex128)))  # noqa: E731
    near = 1e-2 if dtype is torch.bfloat16 else 1e-5
    for i, name in ((1, "0.1"), (2, "1.0")):
        p, g = params[i], params[i].grad
        assert rows[name]["gradient_norm"] == pytest.approx(size(g), rel=1e-6)
        assert rows[name]["parameter_norm"] == pytest.approx(size(before[i]), rel=near)
        assert rows[name]["update_norm"] == pytest.approx(size(p - before[i]), rel=near)
        m = optimizer.state[p]["exp_avg"]
        dot = float(
            (torch.view_as_real(m) * torch.view_as_real(g)).sum()
            if m.is_complex()
            else (m * g).sum()
        )
        assert rows[name]["cosine"] == pytest.approx(dot / size(m) / size(g), rel=near)
    assert rows["group1"] == rows["1.0"]


def test_names_loggers_and_the_end(tmp_path):
    net = model()
    optimizer = isostep_torch.SGD(net.parameters(), lr=0.1, fused=False)
    with optimizer.observe() as observer:
        net(torch.ones(2, 3)).square().sum().backward()
        optimizer.step()
        rows = observer.rows(net)
        assert list(rows) == ["0.weight", "0.bias", "1.weight", "1.bias", "group0"]
        assert "cosine" not in rows["group0"]  # no momentum
        assert rows["group0"]["effective_lr"] == pytest.approx(0.1, rel=1e-6)
        path = tmp_path / "figures.csv"
        observer.log(CSV(path), 1, net)
        assert len(path.read_text().splitlines()) == 6
    optimizer.step()
    assert observer.groups == [None]
    named = isostep_torch.SGD(net.named_parameters(), lr=0.1, fused=False)
    observer = named.observe()
    named.step()
    assert list(observer.rows()) == list(rows)
    message = (
        "observe: momentum must be a state of sgd of its parameter's shape, got 'm'; it has none"
    )
    with pytest.raises(isostep.RuleError, match=message):
        named.observe(momentum="m")


def test_sparse_rows_and_what_a_scaler_leaves_out():
    p = torch.nn.Parameter(torch.ones(5, 2))
    optimizer = isostep_torch.SGD([p], lr=0.5, fused=False)
    observer = optimizer.observe()
    p.grad = torch.sparse_coo_tensor(
        [[1, 3]], [[3.0, 0.0], [0.0, 4.0]], (5, 2), check_invariants=True
    )
    optimizer.step()
    row = observer.rows()["0.0"]
    assert (row["gradient_norm"], row["update_norm"], row["parameter_norm"]) == (5.0, 2.5, 2.0)
    optimizer.found_inf = torch.tensor(1.0)
    p.grad = torch.full((5, 2), torch.inf)
    optimizer.step()
    assert observer.rows()["0.0"] == row
