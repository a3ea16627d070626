"""Figures of observed steps, against NumPy computations of their own, and that they cost no pass."""

import copy
import csv
import math
import pickle
import sys
import types

import numpy as np
import pytest

import isostep
from isostep import pieces
from isostep.domains import REQUIRED
from isostep.extras import MissingExtra
from isostep.program import trace
from isostep.telemetry import CSV, TensorBoard

SHAPES = [(4, 3), (7,), (0,), (), (2, 3, 4), (3, 1100)]
#: name: the rule, the state that is its momentum
RULES = {
    "no momentum": (isostep.rule("sgd", lr=0.3), None),
    "two stages": (isostep.rule("lamb", lr=0.1, weight_decay=0.1), "exp_avg"),
    "pieces and phases": (
        isostep.compose(
            pieces.clip_by_global_norm(2.0),
            pieces.centralize(-1),
            isostep.rule("addsign", lr=0.1),
            pieces.lookahead(2),
        ),
        "m",
    ),
    "one after another": (
        isostep.rule("adam_hd", lr=0.1, hypergrad_lr=1e-4, dialect="original"),
        "exp_avg",
    ),
}
NARROW = (isostep.rule("adamw", lr=0.1, weight_decay=0.2), "exp_avg")
MATRICES = (isostep.rule("muon", lr=0.1), "momentum_buffer")


def sizes(p, g, u, m):
    """The figures by their definitions, of float64 arrays."""
    gradient, update, parameter = (np.sqrt(np.sum(x * x)) for x in (g, u, p))
    found = {
        "gradient_norm": gradient,
        "update_norm": update,
        "parameter_norm": parameter,
        "update_ratio": update / parameter,
        "effective_lr": update / gradient,
    }
    if m is not None:
        found["cosine"] = np.sum(m * g) / (np.sqrt(np.sum(m * m)) * gradient)
        same = ((m > 0) & (g > 0)) | ((m < 0) & (g < 0))
        found["sign_agreement"] = np.sum(same) / same.size if same.size else math.nan
    found["nonfinite_gradients"] = float(np.sum(~np.isfinite(g)))
    found["nonfinite_updates"] = float(np.sum(~np.isfinite(u)))
    return found


def close(found, wanted, figure, dtype):
    """In float32 the update is known here from the parameters' difference alone, which cancels."""
    cancels = "update" in figure or figure == "effective_lr"
    tolerance = 1e-12 if dtype == "float64" else 1e-3 if cancels else 5e-6
    np.testing.assert_allclose(found, wanted, rtol=tolerance, err_msg=figure)


def check(path, rule, momentum, dtype, shapes=SHAPES):
    """Four steps: figures of each parameter and of the group, the second step without one of the gradients."""
    backend = isostep.backend(path)
    rng = np.random.default_rng(0)
    params = {f"p{i}": np.asarray(rng.normal(size=s)).astype(dtype) for i, s in enumerate(shapes)}
    observed = isostep.observe(rule)
    state, rows = backend.init(rule, params), None
    for k in range(4):
        before = {n: p.astype("f8") for n, p in params.items()}
        grads = {n: np.asarray(rng.normal(size=p.shape)).astype(dtype) for n, p in params.items()}
        if k == 1:
            grads["p1"] = None
        if k == 3:
            grads["p0"][0, 0], grads["p0"][1, 1] = math.nan, math.inf
        backend.step(observed, params, grads, state)
        rows = state.figures.rows()
        every = []
        for i, (n, g) in enumerate(grads.items()):
            if g is None:
                assert all(map(math.isnan, rows[n].values()))
                continue
            m = None if momentum is None else state.arrays[i][momentum].astype("f8")
            every.append((before[n], g.astype("f8"), params[n].astype("f8") - before[n], m))
            with np.errstate(all="ignore"):
                wanted = sizes(*every[-1])
            assert list(rows[n]) == list(wanted)
            for figure, value in wanted.items():
                close(rows[n][figure], value, figure, dtype)
        whole = [
            None if x[0] is None else np.concatenate([a.ravel() for a in x])
            for x in zip(*every, strict=True)
        ]
        with np.errstate(all="ignore"):
            wanted = sizes(*whole)
        for figure, value in wanted.items():
            close(rows["group"][figure], value, figure, dtype)
    assert math.isnan(rows["p0"]["gradient_norm"])
    assert rows["p0"]["nonfinite_gradients"] == 2


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", RULES)
def test_the_reference_s_figures(name, dtype):
    check("numpy:reference", *RULES[name], dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_figures_of_matrix_rules(dtype):
    check("numpy:reference", *MATRICES, dtype, [(4, 3), (7, 2), (3, 3)])


@pytest.mark.parametrize(
    ("rule", "dtype"), [(RULES[n], "float64") for n in RULES] + [(NARROW, "float32")]
)
def test_figures_of_fused_steps(rule, dtype):
    pytest.importorskip("numba", reason="needs the extra `fused`")
    check("numpy:fused", *rule, dtype)


def bound(name):
    hyper = isostep.definition(name).hyper
    return isostep.rule(name, **{n: 0.1 for n, d in hyper.items() if d.default is REQUIRED})


@pytest.mark.parametrize("name", isostep.rules())
def test_an_observed_program_has_the_stages_and_sums_of_the_plain_one(name):
    rule = bound(name)
    plain, seen = trace(rule), trace(isostep.observe(rule))
    assert seen.stages == plain.stages
    assert list(seen.stored) == list(plain.stored)
    for stage in range(plain.stages):
        assert len(seen.reductions(stage)) == len(plain.reductions(stage))
    assert len(seen.figures) == (8 if isostep.observe(rule).momentum else 5)
    assert plain.figures == ()


def test_the_state_is_the_same_and_steps_are_to_the_bit():
    rule = isostep.rule("nadam", lr=0.1)
    backend = isostep.backend("numpy:reference")
    runs = []
    for own in (rule, isostep.observe(rule)):
        params = [np.linspace(-1, 1, 5)]
        state = backend.init(rule, params)
        backend.step(own, params, [np.ones(5)], state)
        backend.step(rule, params, [np.ones(5)], state)
        assert state.figures is None  # of the last step, which was not observed
        runs.append((params[0], *state.arrays[0].values()))
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_observed_rules_stay_observed():
    rule = isostep.observe(isostep.rule("adam", lr=0.1))
    composed = isostep.compose(pieces.clip_by_value(1.0), rule)
    for own in (
        rule.replace(lr=0.2),
        composed,
        copy.deepcopy(rule),
        pickle.loads(pickle.dumps(rule)),
    ):
        assert own.observed
        assert own.momentum == "exp_avg"
    other = isostep.observe(isostep.rule("schedule_free_sgd", lr=0.1), momentum="z")
    assert other.momentum == "z"
    params, backend = [np.ones(3)], isostep.backend("numpy:reference")
    state = backend.init(other, params)
    backend.step(other, params, [np.ones(3)], state)
    assert "cosine" in state.figures.rows()["0"]
    assert copy.deepcopy(state).figures is None  # they are this process's arrays


def test_no_gradient_at_all_makes_no_figures():
    rule, params = isostep.observe(isostep.rule("sgd", lr=0.1)), [np.ones(3)]
    backend = isostep.backend("numpy:reference")
    state = backend.init(rule, params)
    backend.step(rule, params, [None], state)
    assert state.figures is None


def observed(steps=1):
    rule, backend = (
        isostep.observe(isostep.rule("adam", lr=0.1)),
        isostep.backend("numpy:reference"),
    )
    params = {"w": np.arange(6.0).reshape(2, 3), "b": np.ones(2)}
    state = backend.init(rule, params)
    for _ in range(steps):
        backend.step(rule, params, {"w": np.full((2, 3), 0.5), "b": np.array([3.0, 4.0])}, state)
    return state.figures


def test_errors():
    with pytest.raises(isostep.StepError, match="expected a rule such as"):
        isostep.observe("adam")
    with pytest.raises(isostep.RuleError) as caught:
        isostep.observe(isostep.rule("sgd", lr=0.1, momentum=0.9), momentum="exp_avg")
    text = "observe: momentum must be a state of sgd of its parameter's shape, got 'exp_avg'; "
    assert str(caught.value) == f"{text}it has momentum_buffer"
    with pytest.raises(isostep.RuleError, match="got 'row_var'; it has none"):
        isostep.observe(isostep.rule("adafactor"), momentum="row_var")
    for names in (["w"], ["w", "group"], ["w", "w"]):
        with pytest.raises(ValueError, match="figures: names must be 2 different words"):
            observed().rows(names)


def test_a_csv_file_grows_by_the_figures_of_a_step(tmp_path):
    path = tmp_path / "new" / "figures.csv"
    found = observed()
    CSV(path).log(3, found)
    CSV(path).log(4, found.rows(["weight", "bias"]))
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(r["step"], r["parameter"]) for r in rows] == [
        ("3", "w"), ("3", "b"), ("3", "group"), ("4", "weight"), ("4", "bias"), ("4", "group"),
    ]  # fmt: skip
    assert float(rows[1]["gradient_norm"]) == 5.0
    assert float(rows[2]["gradient_norm"]) == found.rows()["group"]["gradient_norm"]
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match=r"has other columns: a, b; choose another file"):
        CSV(path).log(5, found)
    assert path.read_text() == "a,b\n"


def test_a_csv_file_goes_on_from_its_last_whole_line(tmp_path):
    path, found = tmp_path / "figures.csv", observed()
    CSV(path).log(0, {})  # as torch's observer before the first step
    CSV(path).log(0, None)  # as of a step that no parameter took
    assert not path.exists()
    CSV(path).log(1, found)
    whole = path.read_bytes()
    for kept in (len(whole) - 15, 20):  # in the last line, in the head
        path.write_bytes(whole[:kept])
        CSV(path).log(2, found)
        rows = list(csv.DictReader(path.read_text().splitlines()))
        assert [r["step"] for r in rows] == (["1"] * 2 if kept > 20 else []) + ["2"] * 3
        assert all(None not in r and None not in r.values() for r in rows)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"figures\.csv has other columns: .*; choose another"):
        CSV(path).log(3, found)
    assert path.read_bytes() == b"\xff\xfe\x00"


def test_tensorboard_gets_scalars_and_an_error_names_the_command(monkeypatch, tmp_path):
    written = {}

    class Writer:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, tag, value, step):
            written[tag, step] = value

    TensorBoard(Writer("a")).log(7, observed())
    assert written["gradient_norm/b", 7] == 5.0
    assert written["nonfinite_gradients/group", 7] == 0.0
    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    assert TensorBoard(tmp_path).writer.folder == str(tmp_path)
    for name in ("tensorboardX", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingExtra, match=r"needs the package 'tensorboardX'.*; pip install tensorboardX"
    ):
        TensorBoard(tmp_path)
