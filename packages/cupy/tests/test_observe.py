"""Figures by the CUDA text: the last pass collects them, and a read adds them up."""

import numpy as np
import pytest

import isostep
from isostep import pieces
from isostep.lower.device import kernels
from isostep_cupy import AdamW, cuda_source

REFERENCE = isostep.backend("numpy:reference")
DEEP = isostep.compose(
    pieces.clip_by_global_norm(1.0),
    pieces.centralize(0),
    isostep.rule("lamb", lr=0.1),
    pieces.lookahead(2),
)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_figures_are_the_reference_s(raw, dtype):
    observed = isostep.observe(DEEP)
    rng = np.random.default_rng(0)
    shapes = [(4, 3), (7,), (0,), (), (3, 4099)]
    params = [np.asarray(rng.normal(size=s)).astype(dtype) for s in shapes]
    others = [p.copy() for p in params]
    state, other = raw.init(observed, params), REFERENCE.init(observed, others)
    for k in range(3):
        grads = [np.asarray(rng.normal(size=s)).astype(dtype) for s in shapes]
        if k == 1:
            grads[1] = None
        if k == 2:
            grads[0][0, 0] = np.inf
        raw.step(observed, params, grads, state)
        REFERENCE.step(observed, others, grads, other)
        found, wanted = state.figures.rows(), other.figures.rows()
        for name, row in wanted.items():
            for figure, value in row.items():
                np.testing.assert_allclose(
                    found[name][figure],
                    value,
                    rtol=1e-11 if dtype == "float64" else 2e-5,
                    err_msg=f"{name} {figure} of step {k + 1}",
                )


def test_the_text_of_a_plain_rule_is_what_it_was_and_an_observed_one_s_has_as_many_kernels():
    rule = isostep.rule("lamb", lr=0.1)
    plain, seen = (kernels(isostep.program(r), "float32") for r in (rule, isostep.observe(rule)))
    assert "seen" not in cuda_source.source(plain)
    text = cuda_source.source(seen)
    assert text.count("__global__") == cuda_source.source(plain).count("__global__") == 2
    assert [k.arguments for k in seen.stages[:-1]] == [k.arguments for k in plain.stages[:-1]]
    assert set(seen.stages[-1].arguments) - set(plain.stages[-1].arguments) == {"seen"}


def test_an_optimizer_s_figures(raw):
    params = [np.ones(3)]
    optimizer = AdamW(params, lr=0.1, path="raw(host)")
    optimizer.step([np.ones(3)])
    assert optimizer.figures is None
    optimizer.observe()
    optimizer.step([np.full(3, 2.0)])
    assert optimizer.figures.rows()["0"]["gradient_norm"] == pytest.approx(12**0.5)
