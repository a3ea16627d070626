"""Arrays that share memory, and arrays that lie between one another and do not, against a count of their bytes."""

from __future__ import annotations

import time

import numpy as np
import pytest

from isostep.lower.overlap import Spread, Written, spread


def written(arrays):
    flat = [a for a in arrays if a.flags.c_contiguous]
    others = [spread(a, a.ctypes.data) for a in arrays if not a.flags.c_contiguous]
    return Written(*places(flat), others)


def places(arrays):
    found = [(a.ctypes.data, a.nbytes) for a in arrays]
    return np.array(found, np.int64).reshape(-1, 2).T


def elements(a):
    offsets = np.zeros((), np.int64)
    for n, step in zip(a.shape, a.strides, strict=True):
        offsets = np.add.outer(offsets, step * np.arange(n))
    return set((a.ctypes.data + offsets.ravel()).tolist())


def view(base, rng):
    rows = [(len(base),), (-1, 12), (-1, 6, 4)][rng.integers(3)]
    a = base.reshape(rows)
    a = a.transpose(rng.permutation(a.ndim))
    starts = [int(rng.integers(n)) for n in a.shape]
    cuts = [
        slice(k, int(rng.integers(k, n + 1)), int(rng.integers(1, 4)))
        for k, n in zip(starts, a.shape, strict=True)
    ]
    return a[tuple(cuts)][:: rng.choice([1, -1])]


def test_views_of_one_array_by_all_their_elements():
    rng, seen = np.random.default_rng(0), []
    for k in range(1500):
        base = np.zeros(96, [np.float32, np.uint16][k % 2])
        views = [view(base, rng) for _ in range(2 + k % 2)]
        owned = [elements(a) for a in views]
        shared = any(a & b for i, a in enumerate(owned) for b in owned[:i])
        assert written(views).overlap == shared
        first = next((a for a in views if a.flags.c_contiguous), np.zeros(1))
        others = written([a for a in views if a is not first])
        if not others.overlap:
            meets = any(elements(first) & elements(a) for a in views if a is not first)
            assert others.meets(*places([first])) == meets
        seen.append(shared)
    assert 100 < sum(seen) < 1400


@pytest.mark.parametrize(
    ("cut", "shared"),
    [
        (lambda x: [x[::2], x[1::2]], False),
        (lambda x: [x[0:6:2], x[2:8:2]], True),
        (lambda x: [x[:6], x[1:9:2]], True),
        (lambda x: [x[:2], x[3::2]], False),
        (lambda x: [*x.reshape(8, 8).T], False),
        (lambda x: [x.reshape(8, 8).T, x[:0]], False),
        (lambda x: [x.reshape(8, 8)[:, :3], x.reshape(8, 8)[:, 3:]], False),
        (lambda x: [x.reshape(8, 8)[:, :4], x.reshape(8, 8)[:, 3:]], True),
    ],
)
def test_cuts(cut, shared):
    assert written(cut(np.zeros(64))).overlap == shared


def test_a_thousand_columns_are_not_compared_in_pairs():
    x, start = np.zeros((1000, 1000), np.float32), time.perf_counter()
    assert not written([x[:, k] for k in range(1000)]).overlap
    assert time.perf_counter() - start < 1.0


def test_a_pair_that_is_too_hard_is_let_pass(monkeypatch):
    monkeypatch.setattr("isostep.lower.overlap.WORK", 1)
    one = Spread(8, (20, 20, 20), (1001, 1003, 1007), 1)
    other = Spread(50_009, (20, 20, 20), (1009, 1013, 1019), 1)
    with pytest.raises(np.exceptions.TooHardError):
        np.shares_memory(one.places, other.places, max_work=1)
    assert not one.meets(other)
