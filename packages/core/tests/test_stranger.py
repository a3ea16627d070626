"""A rule that nobody here knows: one new file in the folder, and it is everywhere."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import isostep

RULE = '''
"""Tanh momentum: steps whose size is bounded by lr.

    m <- beta * m + (1 - beta) * g
    u  = -lr * tanh(m / scale)

Follows: nobody.
lr unit: parameter units per step.
"""

from isostep import nm
from isostep.domains import Real
from isostep.rule import Rule


def update(p, g, m, t, /, *, lr, beta, scale):
    """See the module's equations."""
    m = beta * m + (1 - beta) * g
    return -lr * nm.tanh(m / scale), m


RULE = Rule(
    name="tanh_momentum",
    update=update,
    state=("m",),
    hyper={
        "lr": Real(0.1, low=0, doc="learning rate"),
        "beta": Real(0.9, low=0, high=1, high_open=True),
        "scale": Real(0.01, low=0, low_open=True),
    },
    family="sign",
    year=2026,
)
'''

STEPS = """
import sys, numpy as np, isostep
assert isostep.__file__.startswith(sys.argv[1]), isostep.__file__
assert "tanh_momentum" in isostep.rules()
rule = isostep.rule("tanh_momentum", lr=0.3, beta=0.7, scale=0.5)
wanted = [np.linspace(-2, 2, 101), np.array(0.25)]
m = [np.zeros_like(p) for p in wanted]
backends = [isostep.backend(name) for name in sys.argv[2:]]
runs = [[p.copy() for p in wanted] for _ in backends]
states = [b.init(rule, p) for b, p in zip(backends, runs)]
for k in range(3):
    grads = [np.cos(p + k) for p in wanted]
    for i, g in enumerate(grads):
        m[i] = 0.7 * m[i] + (1 - 0.7) * g
        wanted[i] = wanted[i] - 0.3 * np.tanh(m[i] / 0.5)
    for b, p, s in zip(backends, runs, states):
        b.step(rule, p, grads, s)
        assert b.name != "numpy:fused" or b.path(rule) == "fused"
for found, state in zip(runs, states):
    for i in range(2):
        np.testing.assert_array_equal(state.arrays[i]["m"], m[i])
        np.testing.assert_allclose(found[i], wanted[i], rtol=1e-14, atol=1e-14)  # one tanh and another
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """The environment of a process that sees a copy of isostep with one more file."""
    folder = tmp_path_factory.mktemp("stranger")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(isostep.__file__).parent, folder / "isostep", ignore=skip)
    (folder / "isostep" / "rules" / "tanh_momentum.py").write_text(RULE.lstrip(), encoding="utf-8")
    return {**os.environ, "PYTHONPATH": str(folder)}


def run(environment, *words):
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_rule_runs_on_the_reference(environment):
    run(environment, "-c", STEPS, environment["PYTHONPATH"], "numpy:reference")


@pytest.mark.whole
def test_the_rule_is_fused_and_takes_the_same_step(environment):
    run(environment, "-c", STEPS, environment["PYTHONPATH"], "numpy:reference", "numpy:fused")


def test_the_command_line_lists_and_shows_it(environment):
    (listed,) = json.loads(run(environment, "-m", "isostep.cli", "list", "tanh*", "--json"))
    assert (listed["name"], listed["year"], listed["family"]) == ("tanh_momentum", 2026, "sign")
    assert listed["title"] == "Tanh momentum: steps whose size is bounded by lr"
    assert (listed["bytes_per_element"], listed["not_fused"]) == (20, None)
    shown = json.loads(run(environment, "-m", "isostep.cli", "show", "tanh_momentum", "--json"))
    assert shown["state"] == ["m"]
    assert [row["name"] for row in shown["hyper"]] == ["lr", "beta", "scale"]
    assert "tanh((m_new / scale))" in shown["program"]


def test_the_original_knows_nothing_of_it():
    assert "tanh_momentum" not in isostep.rules()
