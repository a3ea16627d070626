"""TensorFlow's trajectories on file, replayed on every path: the oracle where TensorFlow is not."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from isostep_conformance.oracles import golden
from isostep_conformance.oracles.drive import PATHS, sign_rule
from isostep_conformance.oracles.outcome import MOST_EXEMPT
from isostep_conformance.oracles.replay import TOLERANCES, Replay, replay
from isostep_conformance.oracles.sign_cases import DECAYS, PATTERNS, STEPS
from isostep_conformance.oracles.sign_formulas import decay_value, emulate, touched

OTHERS = pytest.mark.whole  # core alone has one path; the others are other packages or extras
EVERY_PATH = [
    pytest.param(path, marks=() if path == "numpy:reference" else OTHERS) for path in PATHS
]


def wide_floats(path: str) -> contextlib.AbstractContextManager[object]:
    """JAX has float64 only where it is enabled."""
    if not path.startswith("jax"):
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


@pytest.mark.parametrize("mode", golden.modes())
@pytest.mark.parametrize("path", EVERY_PATH)
def test_every_path_follows_tensorflow(path: str, mode: str) -> None:
    """Parameter and momentum at every step; decays are isostep's own but where TF rounded them."""
    own_decay = mode in ("float32", "float64")
    total, worst = Replay(), ""
    with wide_floats(path):
        for each in golden.load(mode):
            rule = sign_rule(each.case, None if own_decay else each.decays)
            found = replay(path, rule, each.case, each.decays, each.inputs, each.trajectory)
            if found.deviation.worst > total.deviation.worst:
                worst = str(each)
            total |= found
    deviation = total.deviation
    tolerance = TOLERANCES[mode.removesuffix("-tf1")]
    assert deviation.compared > 1000
    assert deviation.exempt <= MOST_EXEMPT * deviation.compared
    assert deviation.worst <= tolerance, worst


@pytest.mark.parametrize(
    ("hyper", "setting"), [("lr", 1.01), ("beta", 0.7), ("alpha", 1.01), ("base", 1.01)]
)
def test_a_wrong_setting_is_seen(hyper: str, setting: float) -> None:
    """The replay fails if a hyperparameter is off by one percent."""
    name = "powersign" if hyper == "base" else "addsign"
    worst = 0.0
    for each in golden.load("float64")[:40]:
        if each.case.rule == name or hyper in ("lr", "beta"):
            case = each.case
            rule = sign_rule(case)
            rule = (
                rule.replace(**{hyper: rule.values[hyper] * setting})
                if hyper in rule.values
                else rule
            )
            found = replay("numpy:reference", rule, case, each.decays, each.inputs, each.trajectory)
            worst = max(worst, found.deviation.worst)
    assert worst > 1e-4


def test_a_decay_one_step_late_is_seen() -> None:
    """The first step has decay(0), not decay(1)."""
    each = next(g for g in golden.load("float64") if g.case.decay is not None)
    late = [*each.decays[1:], each.decays[-1]]
    rule = sign_rule(each.case, late)
    found = replay("numpy:reference", rule, each.case, each.decays, each.inputs, each.trajectory)
    assert found.deviation.worst > 1e-4


def test_the_file_holds_what_it_should() -> None:
    """Small, every decay with both rules in both wide dtypes, every pattern, past the end of T."""
    assert golden.FILE.stat().st_size < 300_000
    for mode in ("float32", "float64"):
        cases = golden.load(mode)
        for rule in ("addsign", "powersign"):
            found = {each.case.decay for each in cases if each.case.rule == rule}
            assert found >= {None, *DECAYS}
        assert {len(each.decays) for each in cases} == {STEPS}
        patterns = cases[0].inputs.patterns
        assert sorted(set(patterns.tolist())) == list(range(len(PATTERNS)))
    assert max(decay.steps for decay in DECAYS) < STEPS


@pytest.mark.parametrize("mode", ["float32", "float64"])
def test_the_file_shows_tensorflow_flushing(mode: str) -> None:
    """The formulas with flushing give the file's momentum bit for bit; without, they do not."""
    each = golden.load(mode)[0]
    wiped = emulate(each.case, list(each.decays), each.inputs, flushing=True)
    kept = emulate(each.case, list(each.decays), each.inputs, flushing=False)
    np.testing.assert_array_equal(np.stack(wiped.m), np.stack(each.trajectory.m))
    where = touched(wiped, kept).any(axis=0)
    assert set(each.inputs.patterns[where].tolist()) == {PATTERNS.index("denormal")}


def test_the_decays_on_file_are_the_formulas() -> None:
    """The file's float64 decays are the formula's, its float32 ones within TensorFlow's rounding."""
    for mode, allowed in (("float64", 0.0), ("float32", 1e-6)):
        for each in golden.load(mode):
            if each.case.decay is not None:
                exact = [decay_value(each.case.decay, done) for done in range(STEPS)]
                assert np.max(np.abs(np.array(exact) - np.array(each.decays))) <= allowed
