"""What ``gpu.py`` measures: rules, sizes, and the bytes that a step of a rule must move."""

from __future__ import annotations

from typing import Any

from ways import WAYS

import isostep
from isostep.domains import REQUIRED
from isostep.lower.axes import Axes, axes, in_passes
from isostep.lower.device import kernels
from isostep.lower.layout import layout, obstacle
from isostep.lower.traffic import bytes_in_passes, bytes_moved
from isostep.program import shaped, trace
from isostep.storage import PLAIN, Storage

LARGE = (4, 26_214_400)  # 104,857,600 elements
SMALL = (1000, 1000)
MATRICES = (24, 2048)  # squares, 100,663,296 elements
STEPS, ROUNDS = 10, 7
#: Rules whose captured step must equal the eager one: elementwise, with sums, with state of the group.
CAPTURED = ("adamw", "lamb", "sgd_hd")
#: Rules that are measured in bfloat16, with each way to keep its weights learning.
LOW = ("adamw",)
#: Rules that are measured beside optax's.
JAX, JAX_SMALL = ("adam", "adamw", "lion", "lamb"), ("adam",)
#: Rules that are measured first, of every kind: where time is short, there is something of each framework.
FIRST = ("adam", "adamw", "lamb", "lion", "sgd", "sgd_hd", "adafactor", "novograd")
#: Kinds of rows, each with the module that measures it and its function there, in the order in which they are measured.
KINDS = {
    "copy": ("gpu_torch", "copy"),
    "large": ("gpu_torch", "steps"),
    "captured": ("gpu_torch", "captured"),
    "matrices": ("gpu_torch", "steps"),
    "small": ("gpu_torch", "steps"),
    "low": ("gpu_torch", "low"),
    "jax": ("gpu_jax", "steps"),
    "jax small": ("gpu_jax", "steps"),
    "cupy": ("gpu_cupy", "steps"),
}


def bound(name: str) -> isostep.BoundRule:
    """A rule with a small number for each hyperparameter that it requires."""
    hyper = isostep.definition(name).hyper
    return isostep.rule(name, **{n: 1e-3 for n, d in hyper.items() if d.default is REQUIRED})


def fused() -> list[str]:
    """The rules that have kernels for arrays of any rank."""
    every = {n: bound(n) for n in isostep.rules()}
    return [
        n
        for n, r in every.items()
        if not layout(trace(r), "float32").obstacle and r.rule.ndim is None
    ]


def in_passes_alone() -> list[str]:
    """The rules that passes do but for what has fewer elements: no products of matrices."""
    every = {n: bound(n) for n in isostep.rules()}
    return [n for n, r in every.items() if obstacle(r) and in_passes(r) and _of_a_matrix(r).alone]


def _of_a_matrix(rule: isostep.BoundRule) -> Axes:
    return axes(shaped(rule, rule.phase(2), (MATRICES[1],) * 2))


def known() -> list[str]:
    """The rules that can be measured."""
    return sorted([*fused(), *in_passes_alone()])


def plan(rules: list[str], kinds: list[str]) -> list[dict[str, Any]]:
    """What is measured, in order: kinds of rows, framework by framework; of the first rules all, then of the others."""
    every: dict[str, list[dict[str, Any]]] = {"copy": [{"what": "copy"}]}
    passes, own = set(in_passes_alone()), rules
    rules = [n for n in own if n not in passes]
    for what in ("large", "cupy"):
        every[what] = [{"what": what, "rule": n} | moved(n) for n in rules]
    every["matrices"] = [
        {"what": "matrices", "rule": n} | moved_in_passes(n) for n in own if n in passes
    ]
    every["small"] = [{"what": "small", "rule": n} for n in rules]
    every["low"] = [
        {"what": "low", "rule": n, "way": w} | moved(n, "bfloat16", storage)
        for n in LOW
        for w, (_, storage) in WAYS.items()
        if n in rules
    ]
    every["captured"] = [{"what": "captured", "rule": n} for n in CAPTURED if n in rules]
    every["jax"] = [{"what": "jax", "rule": n} for n in JAX if n in rules]
    every["jax small"] = [{"what": "jax small", "rule": n} for n in JAX_SMALL if n in rules]
    rows = [row for kind in KINDS if kind in kinds for row in every[kind]]
    return sorted(rows, key=lambda row: row.get("rule", FIRST[0]) not in FIRST)


def moved_in_passes(name: str) -> dict[str, int]:
    """How often a step on matrices goes over the elements, and the bytes that it must move."""
    found = _of_a_matrix(bound(name))
    count, side = MATRICES
    return {"stages": found.count, "bytes": bytes_in_passes(found) * count * side * side}


def moved(name: str, dtype: str = "float32", storage: Storage = PLAIN) -> dict[str, int]:
    """How often a large step goes over the elements, and the bytes that it must move."""
    rule = bound(name)
    storage = storage.of_rule(rule)
    program = trace(rule, kept=storage.of(dtype))
    per_element = bytes_moved(program, dtype, storage) or 0
    return {
        "stages": len(kernels(program, dtype, None, storage).stages),
        "bytes": round(per_element * LARGE[0] * LARGE[1]),
    }
