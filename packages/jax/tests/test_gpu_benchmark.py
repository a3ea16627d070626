"""JAX's part of ``benchmarks/gpu.py``, on the CPU and few elements: that every way can be measured."""

import importlib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[3] / "benchmarks"
if not HERE.exists():
    pytest.skip("the benchmarks are not here: not the whole repository", allow_module_level=True)


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    module = importlib.import_module("gpu_jax")
    monkeypatch.setattr(module, "LARGE", (2, 30))
    monkeypatch.setattr(module, "SMALL", (5, 4))
    monkeypatch.setattr(module, "STEPS", 2)
    return module


@pytest.mark.parametrize("rule", ["adam", "adamw", "lion", "lamb"])
def test_large_leaves(measured, rule):
    found = measured.steps({"what": "jax", "rule": rule})
    assert set(found["seconds"]) == set(found["first"]) == {"isostep", "optax"}
    assert set(measured.PAIRS) == set(importlib.import_module("gpu_rows").JAX)


def test_small_leaves_also_grouped_and_flat(measured):
    found = measured.steps({"what": "jax small", "rule": "adam"})
    assert set(found["seconds"]) == {"isostep", "isostep, grouped", "optax"}
