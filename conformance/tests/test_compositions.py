"""Any composition of pieces with any elementwise rule is one kernel a stage on every fused path, and conforms.

Many are drawn and traced, and their texts written, which compiles nothing; a few run, on the reference and compiled.
"""

from __future__ import annotations

import ast
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import isostep
from isostep.backends.numpy import NumpyReference
from isostep.lower import numba_source
from isostep.lower.device import kernels
from isostep.lower.layout import layout
from isostep.program import trace
from isostep.rule import BoundRule, Piece
from isostep_conformance import cases, hypers, runner
from isostep_conformance.cases import Case

pytestmark = pytest.mark.whole  # the device languages are torch's and cupy's

PIECES = isostep.pieces.registry
QUIET = settings(
    derandomize=True, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


@cache
def fused_settings(name: str) -> list[dict[str, Any]]:
    """The settings in which a rule is fused by itself: a choice may give it state with axes of its own."""
    settings = hypers.bound(isostep.definition(name), name)
    return [v for v in settings if fused(isostep.rule(name, **v))]


def fused(rule: BoundRule) -> bool:
    """Whether a rule is fused by itself."""
    return layout(trace(rule), "float32").obstacle is None


@cache
def fuses(name: str) -> bool:
    """Whether a piece leaves a rule fused: not if it keeps a number for each array."""
    piece, adam = PIECES[name], isostep.rule("adam")
    bound = piece.bind(**hypers.bound(piece, name)[0])
    return fused(isostep.compose(*((adam, bound) if piece.after else (bound, adam))))


FUSED = [
    name
    for name in isostep.rules()
    if fused(isostep.rule(name, **hypers.bound(isostep.definition(name), name)[0]))
]


@st.composite
def compositions(draw: st.DrawFn) -> BoundRule:
    """Up to three pieces in front of a rule and up to two behind it, in any order, with any of their settings."""
    axis = draw(st.sampled_from([0, -1]))  # of several axes a kernel has no room, and says so

    def values_of(settings: list[dict[str, Any]]) -> dict[str, Any]:
        values = draw(st.sampled_from(settings))
        return values | {"unit_axis": axis} if "unit_axis" in values else values

    def pieces(most: int, *where: str) -> list[isostep.BoundPiece]:
        own = [n for n in PIECES.names() if any(getattr(PIECES[n], w) for w in where)]
        names = [n for n in own if fuses(n)]
        chosen = draw(st.lists(st.sampled_from(names), max_size=most, unique=True))
        return [getattr(isostep.pieces, n)(**values_of(fitting(PIECES[n]))) for n in chosen]

    def fitting(piece: Piece) -> list[dict[str, Any]]:
        every = hypers.bound(piece, piece.name)
        return [v for v in every if rule.momentum is not None or not piece.needs_momentum(v)]

    name = draw(st.sampled_from(FUSED))
    rule = isostep.rule(name, **values_of(fused_settings(name)))
    front = ("before", "denominator") if rule.rule.adaptive else ("before",)
    return isostep.compose(*pieces(3, *front), rule, *pieces(2, "after"))


def test_nearly_all_pieces_leave_a_rule_fused() -> None:
    assert [n for n in PIECES.names() if not fuses(n)] == ["adagc"]


def phases(rule: BoundRule) -> set[tuple[int, ...]]:
    """Every kind of step among the first ones."""
    return {rule.phase(t) for t in range(1, 13)}


@settings(QUIET, max_examples=150)
@given(compositions(), st.booleans())
def test_any_composition_is_one_kernel_a_stage(rule: BoundRule, observed: bool) -> None:
    if observed:
        rule = isostep.observe(rule)
    for phase in phases(rule):
        program = trace(rule, phase)
        assert layout(program, "float32").obstacle is None, rule
        assert len(kernels(program, "float32").stages) == program.stages


@settings(QUIET, max_examples=12)
@given(compositions(), st.sampled_from(["float64", "float32", "bfloat16"]))
def test_every_text_has_one_kernel_a_stage(rule: BoundRule, dtype: str) -> None:
    from isostep_cupy import cuda_source
    from isostep_torch import triton_source

    for phase in phases(rule):
        program = trace(rule, phase)
        functions = [f"stage{k}" for k in range(program.stages)]
        numba = ast.parse(numba_source.source(program, dtype))
        assert [n.name for n in numba.body if isinstance(n, ast.FunctionDef)] == functions
        triton = ast.parse(triton_source.source(kernels(program, dtype)))
        launched = [
            n.name
            for n in triton.body
            if isinstance(n, ast.FunctionDef) and n.name.startswith("stage")
        ]
        assert launched == functions
        text = cuda_source.source(kernels(program, dtype))
        assert text.count("__global__") == len(functions)
        assert all(f"__global__ void {f}(" in text for f in functions)


def conforms(backend: object, name: str, rule: BoundRule, dtype: str) -> None:
    subject = cases.subject_of(rule.name, 0, rule)
    for scenario in ("exact", "corners"):
        tally = runner.check(backend, name, Case(subject, dtype), scenario)
        assert not tally.failures, tally.failures


@settings(QUIET, max_examples=6)
@given(compositions(), st.sampled_from(["float64", "float32"]))
def test_any_composition_conforms(rule: BoundRule, dtype: str) -> None:
    conforms(NumpyReference(), "numpy:reference", rule, dtype)


@settings(QUIET, max_examples=2)
@given(compositions())
def test_compiled_compositions_conform(rule: BoundRule) -> None:
    fused = isostep.backend("numpy:fused")
    assert fused.path(rule) == "fused"
    conforms(fused, "numpy:fused", rule, "float32")
