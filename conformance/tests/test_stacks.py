"""Rules with axes or matrices: on stacks of arrays of one shape, and by compiled passes, as array by array."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import isostep
from isostep import compose, nm, parts, pieces
from isostep.domains import Flag
from isostep.lower import stacked
from isostep.lower.stacked import Stacked
from isostep.rule import Rule
from isostep_conformance import paths

pytest.importorskip("numba", reason="of the extra `fused`: without it no path compiles anything")
#: Most of the paths are other packages'.
pytestmark = pytest.mark.whole

SHAPES = [
    (5,),
    (6, 4),
    (6, 4),
    (),
    (1,),
    (7,),
    (1, 5),
    (5, 1),
    (2, 3, 4),
    (3, 0),
    (6, 4),
    (7,),
    (2, 3, 2, 3, 2),
]
LARGE = [(70, 90)]  # several tiles along each axis
PATHS = [p.name for p in paths.installed() if not p.missing and isinstance(p.backend, Stacked)]


def turned(p, g, a, b, r, c, s, t, /, *, lr, small):
    """State that changes places, rows and columns, a maximum, a sum of sums, a choice for each row, a product."""
    rank = len(p.shape)
    row = nm.sum_axis(g * g, axis=-1) if rank else g * g
    column = nm.max_axis(a * g, axis=tuple(range(0, rank, 2))) if rank > 1 else nm.sum(a * g)
    level = nm.sum(row) / nm.maximum(nm.size(p), 1)
    u = nm.where(row > level, g - p, g + a) / (1 + nm.abs(column))
    if rank == 2:
        whole = nm.transpose(nm.matmul(nm.transpose(u), 0.1 * nm.matmul(u, nm.transpose(u))))
        u = nm.where(small, u, 0.01 * whole + u)
    u = u - nm.sum(u * u) / (1 + nm.sum(p * p))
    return -lr * u, u + 0.5 * b, a, 0.9 * c + 0.1 * level, r, 0.5 * s + nm.sum(u)


def turned_first(p, /):
    zeros = parts.zeros(p)
    none = nm.sum(zeros)
    return zeros, zeros, none, none, none


def viewed(p, g, r, c, t, /):
    """A view that is still needed where what it is a view of is used for the last time; state that looks at old p."""
    square = g * g
    view = nm.transpose(square)
    u = nm.matmul(g, nm.matmul(view, square + 1))
    return -0.01 * u, r + nm.matmul(p, nm.transpose(c)), 0.5 * c + nm.sum_axis(g, axis=0)


def twice(p, g, t, /):
    """A sum and rows' sums that the framework uses, and then two passes."""
    row, whole = nm.sum_axis(g * g, axis=-1), nm.sum(g * p)
    level = nm.sqrt(nm.abs(whole)) + nm.sum(row)
    u = g * whole / (1 + row + level)
    return -0.1 * u * nm.sqrt(1 + row) * whole / (1 + level + nm.sum(u * u))


def partly(p, g, t, /, *, norm):
    """Only matrices use what all parameters are measured for."""
    return -0.1 * g / (1 + norm) if len(p.shape) == 2 else -0.1 * g


def counted(p, g, t, /, *, lr, many, sizes, rate, level):
    """Sums over the group of what is a number, of the step, of a shape or of the group; a sum of such a number."""
    scaled = nm.sum(nm.size(p) * level)
    return (
        -0.01
        * (lr / rate + many / 100 + sizes / 1000 + scaled)
        * g
        / (1 + nm.sum_axis(g * g, axis=-1))
    )


def numbers(p, g, t, /, *, lr, level):
    return {"many": 1.0, "sizes": nm.size(p), "rate": lr / (1 + t), "levels": level}


RULES = {
    "counted": Rule(
        name="counted",
        update=counted,
        measure=numbers,
        advance=lambda sums, group, t, /: {"level": 0.3 + sums["levels"] / 100 + sums["rate"]},
        group={"level": lambda hyper: 0.1},
        hyper={"lr": parts.lr(0.3)},
        ndim=(1, 2, 3),
    ).bind(),
    "turned": Rule(
        name="turned",
        update=turned,
        init=turned_first,
        state=("a", "b", "r", "c", "s"),
        hyper={"lr": parts.lr(0.1), "small": Flag(False, doc="whether there is no product")},
    ).bind(),
    "clipped": compose(pieces.clip_by_global_norm(0.5), isostep.rule("adafactor", lr=0.1)),
    "two axes": compose(
        pieces.centralize(0),
        pieces.adaptive_clip(unit_axis=-1),
        isostep.rule("sgd", lr=0.1, momentum=0.9),
    ),
    "sm3": isostep.rule("sm3", lr=0.1, momentum=0.9),
    "viewed": Rule(
        name="viewed",
        update=viewed,
        state=("r", "c"),
        init=lambda p, /: (nm.sum_axis(p, axis=-1), nm.sum_axis(p, axis=-2)),
        ndim=(2,),
    ).bind(),
    "twice": Rule(name="twice", update=twice, ndim=(1, 2, 3)).bind(),
    "partly": Rule(
        name="partly", update=partly, measure=lambda p, g, t, /: {"norm": nm.sum(p * p)}
    ).bind(),
    "late": Rule(
        name="late",
        update=lambda p, g, r, t, /: (
            -0.1 * g,
            r + nm.matmul(p, nm.transpose(nm.sum_axis(g * g, axis=0))),
        ),
        state=("r",),
        init=lambda p, /: nm.sum_axis(p, axis=-1),
        ndim=(2,),
    ).bind(),
}


def lives(path, rule, dtype, steps=4, shapes=SHAPES):
    """The parameters and state after some steps; in one of them some parameters have no gradient."""
    backend = isostep.backend(path)
    ranks = rule.rule.ndim or range(6)
    rng = np.random.default_rng(5)

    def some():
        drawn = [rng.normal(size=s).astype(dtype) for s in shapes]
        return [backend.asarray(a) for a in drawn if a.ndim in ranks]

    params = some()
    state = backend.init(rule, params)
    for k in range(steps):
        grads = [None if k == 1 and i in (1, 5) else g for i, g in enumerate(some())]
        backend.step(rule, params, grads, state)
    every = ({"p": p, **own} for p, own in zip(params, state.arrays, strict=True))
    return {
        (i, n): backend.to_numpy(a) for i, all_of in enumerate(every) for n, a in all_of.items()
    }


def agree(found, wanted, rtol):
    for key, value in wanted.items():
        # A product of matrices is as exact as its largest terms, which differ from one library's order to another's.
        atol = rtol + 8 * np.finfo(value.dtype).eps * np.abs(value).max(initial=0)
        np.testing.assert_allclose(found[key], value, rtol=rtol, atol=atol, err_msg=str(key))


def test_all_paths_of_stacks_are_looked_at():
    assert {"numpy:fused", "torch:foreach", "torch:fused"} <= {*PATHS}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", RULES)
def test_as_array_by_array(name, path):
    shapes = SHAPES if "interpreter" in path else SHAPES + LARGE
    for dtype, rtol in (("float64", 1e-12), ("float32", 2e-5)):
        wanted = lives("numpy:reference", RULES[name], dtype, shapes=shapes)
        agree(lives(path, RULES[name], dtype, shapes=shapes), wanted, rtol)


@pytest.mark.parametrize("path", ["numpy:fused", "torch:foreach"])
def test_a_stack_of_many_is_cut_and_an_order_of_memory_is_not_lost(path, monkeypatch):
    """A room of a few elements: every shape has stacks of one and of several."""
    monkeypatch.setattr(stacked, "ROOM", 50)
    wanted = lives("numpy:reference", RULES["turned"], "float64")
    agree(lives(path, RULES["turned"], "float64"), wanted, 1e-12)


VIEWS = {"reshape": lambda a: nm.reshape(a, (-1,)), "transpose": nm.transpose}


@pytest.mark.parametrize("path", ["numpy:reference", "torch:loop", *PATHS])
@pytest.mark.parametrize("turn", VIEWS)
def test_a_view_of_what_is_written_over_is_read_before(path, turn):
    """Whether arrays are stacked, which makes copies, or not."""
    turned = VIEWS[turn]

    def update(p, g, a, b, t, /):
        return -0.1 * g / (1 + nm.sum_axis(g * g, axis=0)), 0.5 * a + g, turned(a)

    def first(p, /):
        zeros = parts.zeros(p)
        return zeros, turned(zeros)

    rule = Rule(name="view", update=update, state=("a", "b"), init=first, ndim=(2,)).bind()
    backend = isostep.backend(path)
    for count in (1, 2):
        ones = [backend.asarray(np.ones((4, 4))) for _ in range(2 * count)]
        params, grads = ones[:count], ones[count:]
        state = backend.init(rule, params)
        for _ in range(3):
            backend.step(rule, params, grads, state)
        found = [backend.to_numpy(own["b"]) for own in state.arrays]
        assert all((b == 1.5).all() for b in found)  # what a was after two steps


def two(backend, rule):
    """Parameters of two shapes, and their state."""
    params = [backend.asarray(np.arange(size * 4.0).reshape(size, 4)) for size in (6, 3)]
    return params, backend.init(rule, params)


def assert_untouched(backend, params, state):
    for p in params:
        found = backend.to_numpy(p)
        np.testing.assert_array_equal(found, np.arange(float(found.size)).reshape(found.shape))
    assert state.t == [0, 0]


@pytest.mark.parametrize("path", PATHS)
def test_memory_that_arrays_of_different_shapes_share_is_refused(path):
    backend, rule = isostep.backend(path), isostep.rule("adafactor")
    params, state = two(backend, rule)
    with pytest.raises(ValueError, match="shares memory with another array; pass copies"):
        backend.step(rule, params, [backend.asarray(np.ones((6, 4))), params[0][:3]], state)
    assert_untouched(backend, params, state)


@pytest.mark.parametrize("path", PATHS)
def test_memory_that_states_of_different_shapes_share_is_refused(path):
    backend, rule = isostep.backend(path), isostep.rule("novograd")
    params, state = two(backend, rule)
    state.arrays[1]["moments"] = state.arrays[0]["moments"][:3]
    grads = [backend.asarray(np.ones((size, 4))) for size in (6, 3)]
    with pytest.raises(ValueError, match="shares memory with another array; pass copies"):
        backend.step(rule, params, grads, state)
    assert_untouched(backend, params, state)


@pytest.mark.parametrize("path", [n for n in PATHS if isostep.backend(n).passes is not None])
def test_what_cannot_be_compiled_leaves_all_as_it_was(path, monkeypatch):
    backend, rule, ready = isostep.backend(path), isostep.rule("adafactor"), []

    def fails(axes, dtype, like):
        ready.append(axes)
        if len(ready) == 2:
            raise RuntimeError("no compiler")

    monkeypatch.setattr(backend, "made_ready", fails)
    params, state = two(backend, rule)
    grads = [backend.asarray(np.ones((size, 4))) for size in (6, 3)]
    with pytest.raises(RuntimeError, match="no compiler"):
        backend.step(rule, params, grads, state)
    assert_untouched(backend, params, state)


@pytest.mark.parametrize("path", ["numpy:reference", "numpy:fused", "cupy:raw(host)"])
@pytest.mark.parametrize("name", ["row_var", "moments", "exp_avg"])
def test_state_that_is_read_only_is_refused(name, path):
    if path not in {*PATHS, "numpy:reference"}:
        pytest.skip(f"{path} is not installed")
    rules = {"row_var": "adafactor", "moments": "novograd", "exp_avg": "adammini"}
    backend, rule = isostep.backend(path), isostep.rule(rules[name])
    params, state = two(backend, rule)
    state.arrays[1][name].flags.writeable = False
    with pytest.raises(ValueError, match=rf"state {name} of params\[1\] is read-only; pass a writ"):
        backend.step(rule, params, [np.ones((6, 4)), np.ones((3, 4))], state)
    assert_untouched(backend, params, state)


@pytest.mark.parametrize("name", ["muon", "late"])
@pytest.mark.parametrize("room", [1, 2 * 200**2])
def test_memory_does_not_grow_with_the_number_of_arrays(name, room, monkeypatch):
    """Values are let go of at their last use; the reference holds a result of every array until all are written."""
    monkeypatch.setattr(stacked, "ROOM", room)  # of stacks: an array each, or two
    backend, rule, peaks = isostep.backend("numpy:fused"), RULES.get(name), []
    rule = rule or isostep.rule(name)
    for count in (2, 10):
        params = [np.ones((200, 200)) for _ in range(count)]
        grads = [np.ones((200, 200)) for _ in range(count)]
        state = backend.init(rule, params)
        backend.step(rule, params, grads, state)
        tracemalloc.start()
        backend.step(rule, params, grads, state)
        peaks.append(tracemalloc.get_traced_memory()[1] / params[0].nbytes)
        tracemalloc.stop()
    assert peaks[0] < (
        5 if room == 1 else 13
    )  # two states of the iteration, a product; stacks of three
    assert peaks[1] < peaks[0] + 1
