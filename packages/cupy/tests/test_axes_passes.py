"""Passes of programs with axes as CUDA C, run on the CPU: pass by pass what Numba's do, for every kind of tile."""

import math

import numpy as np
import pytest

import isostep
from isostep import nm, pieces
from isostep.lower.axes import axes
from isostep.lower.axes_device import ROOM
from isostep.lower.axes_device import run as on_device
from isostep.program import shaped
from isostep.rule import Rule, compose
from isostep.values import is_bool
from isostep_cupy import host
from isostep_cupy.axes_source import source

pytest.importorskip("numba", reason="of the extra `fused`: what is compared with")

from isostep.lower.axes_run import run as on_cpu
from isostep.lower.threads import POOL


def made(update, **more):
    return Rule(name="made", update=update, **more).bind()


def every_other(p, g, t, /):
    """Sums and maxima along axes that do not lie together; and numbers that are not in the text."""
    rank = len(p.shape)
    odd, even = tuple(range(1, rank, 2)), tuple(range(0, rank, 2))
    total = nm.sum_axis(g * p, axis=odd) + 0.3 * nm.sum_axis(p, axis=even)
    top = nm.max_axis(abs(g), axis=odd) - nm.max_axis(p, axis=even)
    return nm.where(g > top, 0.7 * total, g) * -0.1


def many(p, g, t, /):
    """More at once than there is room for, of inputs too."""
    found = [
        f(x, axis=a) for a in (-1, -2) for x in (g, p, g * p) for f in (nm.sum_axis, nm.max_axis)
    ]
    return -0.1 * sum(found[1:], found[0])


def many_to_keep(p, g, r, t, /):
    """So many in the pass that stores, which has the parameter for some of them alone."""
    terms = (p, p * g, p * p, abs(p), p * p * g, p * g * g, g, g * g, 3 * g)
    found = [nm.sum_axis(x, axis=-1) for x in terms]
    return -0.1 * g, r + sum(found[1:], found[0])


def of_a_product(p, g, t, /):
    """A sum over what the framework has made, and over what it needs."""
    square = nm.matmul(g, nm.matmul(nm.transpose(g * 2.5), g))
    return -0.1 * (square + g) / nm.sqrt(nm.sum_axis(square, axis=-1) + nm.sum_axis(g, axis=-2))


NAMES = (
    "adafactor", "adammini", "adashift", "came", "muon", "nero", "novograd", "psgd_kron", "shampoo", "sm3", "soap",
)  # fmt: skip
RULES = {name: isostep.rule(name) for name in NAMES} | {
    "centralized": compose(
        pieces.centralize(0),
        pieces.adaptive_clip(unit_axis=-1),
        isostep.rule("sgd", lr=0.1, momentum=0.9),
    ),
    "of the group": compose(
        pieces.clip_by_global_norm(1.0), pieces.centralize(1), isostep.rule("lamb", lr=0.1)
    ),
    "every other": made(every_other),
    "many": made(many, ndim=(2, 3, 4)),
    "many to keep": made(
        many_to_keep, ndim=(2, 3, 4), state=("r",), init=lambda p, /: nm.sum_axis(p, axis=-1)
    ),
    "of a product": made(of_a_product, ndim=(2, 3, 4)),
}
#: One tile and several along each axis, lengths that are no powers of two, tiles that end where arrays do.
SHAPES = [
    (37,), (3 * ROOM + 5,), (40, 25), (5, 3), (300, 3), (2, 1030), (70, 200), (64, 64), (3, 5, 7), (9, 40, 70),
    (17, 1, 33), (65, 3, 2), (3, 2, 5, 4), (2, 3, 20, 130), (33, 5, 3, 2),
]  # fmt: skip
#: Rules that say nothing new on the others.
SHORT = (
    "adammini",
    "adashift",
    "came",
    "muon",
    "novograd",
    "psgd_kron",
    "shampoo",
    "soap",
    "of a product",
)
FEW = [(3 * ROOM + 5,), (70, 200), (64, 64), (17, 1, 33)]
CASES = [
    (name, shape)
    for name, rule in RULES.items()
    for shape in (FEW if name in SHORT else SHAPES)
    if rule.rule.ndim is None or len(shape) in rule.rule.ndim
]
TOLERANCE = {"float64": 1e-12, "float32": 2e-5}
COUNT = 3


@pytest.fixture(scope="module")
def device():
    try:
        return host.HostDevice()
    except isostep.Unavailable as error:
        pytest.skip(str(error))


def program(rule, shape):
    found = axes(shaped(rule, rule.phase(2), shape))
    return found if found.fits else None


class Given:
    """Random numbers for one pass."""

    def __init__(self, found, one, dtype, seed=0):
        rng = np.random.default_rng(seed)
        sizes = {n: math.prod(found.shape_of(n)) for n in one.blocks}

        def numbers(node, *shape):
            x = rng.uniform(0.1, 1, shape)
            return np.round(x) if is_bool(node) else x

        self.axes, self.one, self.dtype = found, one, dtype
        self.slots = [
            {s: rng.normal(size=found.shape).astype(dtype) for s in one.slots} for _ in range(COUNT)
        ]
        for own in self.slots:  # roots are taken of states
            own.update({s: abs(x) for s, x in own.items() if s not in ("p", "g")})
        self.scalars = [float(numbers(n)) for n in one.scalars]
        every = [numbers(n, COUNT, 1) for n in one.columns]
        self.columns = np.concatenate([np.empty((COUNT, 0)), *every], axis=1)
        self.blocks = {n: numbers(n, COUNT, sizes[n]).astype(dtype) for n in one.stacks}
        self.blocks |= {n: np.full((COUNT, sizes[n]), 7, dtype) for n in one.kept}

    def run(self, device=None):
        """What the pass stores, keeps and reduces to."""
        table = [[own[s].ctypes.data for s in self.one.slots] for own in self.slots]
        more = {
            "table": np.array(table, np.int64).reshape(COUNT, -1),
            "scalars": self.scalars,
            "at": {n: b.ctypes.data for n, b in self.blocks.items()},
        }
        head = (self.axes, self.one, self.dtype, COUNT)
        if device is None:
            reduced = on_cpu(POOL, *head, columns=self.columns, **more)
        else:
            reduced = on_device(device, *head, columns=self.columns.ctypes.data, **more)
        found = {f"{s} of {k}": x for k, own in enumerate(self.slots) for s, x in own.items()}
        return found | self.blocks | reduced


def assert_same(device, found, one, dtype, change=lambda given: None):
    results = []
    for where in (device, None):
        given = Given(found, one, dtype)
        change(given)
        results.append(given.run(where))
    assert list(results[0]) == list(results[1])
    for what, a in results[0].items():
        wide = [np.asarray(x, np.float64) for x in (a, results[1][what])]
        near = TOLERANCE[dtype] * max(
            1, np.nanmax(abs(wide[1]), initial=0, where=np.isfinite(wide[1]))
        )
        np.testing.assert_allclose(*wide, rtol=TOLERANCE[dtype], atol=near, err_msg=str(what))
    return results[0]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_every_pass_does_what_numba_s_does(device, name, shape, dtype):
    found = program(RULES[name], shape)
    for one in found.passes:
        result = assert_same(device, found, one, dtype)
        assert all(np.isfinite(x).mean() > 0.5 for x in result.values())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", [(40, 25), (70, 200), (2, 3, 20, 130)], ids=str)
def test_a_maximum_is_nan_where_any_element_is(device, shape, dtype):
    found = program(RULES["every other"], shape)
    one = found.passes[0]
    place = tuple(n // 2 for n in shape)

    def change(given):
        given.slots[1]["g"][place] = np.nan
        given.slots[0]["p"][place] = np.inf
        given.slots[2]["g"][...] = -np.inf  # what is beyond the end must not be larger
        given.slots[2]["p"][...] = -np.inf

    result = assert_same(device, found, one, dtype, change)
    for node in one.reduced:
        nan = np.isnan(result[node]).sum(axis=1)
        assert nan[1] == (node.args[0].op != "input")  # what is made of g: once
        assert nan[0] == 0


@pytest.mark.parametrize("name", ["adafactor", "sm3", "nero", "every other", "of a product"])
def test_lengths_are_not_in_the_text(name):
    first, second = (source(program(RULES[name], s), "float32") for s in ((40, 25), (300, 7)))
    assert first == second
    assert source(program(RULES[name], (40, 25)), "float64") != first


def test_programs_that_differ_in_lengths_share_kernels(device):
    first, second, third = (program(RULES["sm3"], s) for s in ((40, 25), (300, 7), (3, 4, 5)))
    assert device.passes(first, "float32") is device.passes(second, "float32")
    assert device.passes(first, "float32") is not device.passes(first, "float64")
    assert device.passes(first, "float32") is not device.passes(third, "float32")
