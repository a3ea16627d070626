"""Fused steps on the CPU run on torch's own threads: as many as torch takes, and whoever computes, the same bits."""

import os
import subprocess
import sys

import pytest
import torch

from isostep.lower.openmp import OpenMP
from isostep.lower.threads import POOL, Pool
from isostep_torch import fused_cpu

#: ``bits()`` of steps with sums, and ``cut``: who ran each pass, in how many shares.
STEP = """
import hashlib, os, sys
import torch
import isostep
from isostep.lower import threads
from isostep_torch.fused_cpu import TorchFused

team, cut = TorchFused.team, []
for kind in {type(team), threads.Pool}:
    def spy(self, kernel, cuts, arguments, prepared=kind.prepared, name=kind.__name__):
        run = prepared(self, kernel, cuts, arguments)
        return lambda: (cut.append((name, len(cuts) - 1)), run())
    kind.prepared = spy

backend, rule = isostep.backend("torch:fused"), isostep.rule("lamb", weight_decay=0.1)
torch.manual_seed(0)
params, *rounds = ([torch.randn(n) for n in (70_001, 33_000, 5)] for _ in range(4))
state = backend.init(rule, params)

def bits(rounds):
    for grads in rounds:
        backend.step(rule, params, grads, state)
    every = [*params, *(a for d in state.arrays for a in d.values())]
    return hashlib.sha256(b"".join(a.numpy().tobytes() for a in every)).hexdigest()
"""


def python(code, **environment):
    own = {
        k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "ISOSTEP_NUM_THREADS")
    }
    done = subprocess.run(
        [sys.executable, "-c", STEP + code],
        env=own | environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture(scope="module")
def alone():
    return python("torch.set_num_threads(1); print(bits(rounds)); assert not cut")[0]


def test_here_the_threads_are_torchs():
    assert isinstance(fused_cpu.TorchFused.team, OpenMP)
    assert fused_cpu.TorchFused.team.count() == torch.get_num_threads()


@pytest.mark.parametrize("count", [2, 3])
def test_as_many_as_torch_takes(alone, count):
    code = f"torch.set_num_threads({count}); print(bits(rounds), *set(cut))"
    assert python(code) == [alone, "('OpenMP',", f"{count})"]


def test_or_as_many_as_the_variable_says(alone):
    code = "torch.set_num_threads(1); print(bits(rounds), *set(cut))"
    assert python(code, ISOSTEP_NUM_THREADS="3") == [alone, "('OpenMP',", "3)"]


def test_a_smaller_team_does_all_shares(alone):
    code = "torch.set_num_threads(3); print(bits(rounds), *set(cut))"
    assert python(code, OMP_THREAD_LIMIT="2") == [alone, "('OpenMP',", "3)"]


def test_a_forked_child_steps_on_threads_of_its_own(alone):
    code = """
torch.set_num_threads(2)
bits(rounds[:2])
cut.clear()
child = os.fork()
if not child:  # torch's own kernels would hang here: it has a thread less than it knows
    print(bits(rounds[2:]), *{name for name, _ in cut}, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    same, *used = python(code, ISOSTEP_NUM_THREADS="2")
    assert same == alone
    assert "Pool" in used


class Without:
    """A runtime that lacks what OpenMP has."""

    def __init__(self, _path):
        pass


def test_where_torch_has_no_openmp_they_are_pythons(monkeypatch):
    monkeypatch.setattr(fused_cpu, "CDLL", Without)
    assert fused_cpu.team() is POOL
    assert isinstance(POOL, Pool)
