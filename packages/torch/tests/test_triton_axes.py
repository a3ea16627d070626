"""Passes of programs with axes as Triton kernels: in Triton's interpreter, and compiled for devices not here."""

import re
from collections import Counter

import numpy as np
import pytest
import torch

import isostep
from isostep import nm, pieces
from isostep.domains import REQUIRED
from isostep.lower import axes_device
from isostep.lower.axes import axes, in_passes
from isostep.lower.axes_device import columns, tiles
from isostep.lower.layout import layout
from isostep.program import examples, shaped, trace
from isostep.rule import Rule, compose
from isostep.values import is_bool

triton = pytest.importorskip("triton", reason="needs triton, which runs and compiles the kernels")
pytest.importorskip("numba", reason="of the extra `fused`")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from isostep.lower import axes_run  # noqa: E402
from isostep.lower.threads import POOL  # noqa: E402
from isostep_torch import triton_interpreted, triton_modules  # noqa: E402
from isostep_torch.fused_cuda import OPTIONS, TritonDevice, warps  # noqa: E402
from isostep_torch.triton_axes import SUPPORT, show, source  # noqa: E402

pytestmark = pytest.mark.whole  # triton comes with every package together
DEVICE = TritonDevice(torch.device("cpu"))
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def bound(name):
    """A rule with numbers for the hyperparameters that it requires."""
    hyper = isostep.definition(name).hyper
    return isostep.rule(name, **{n: 0.1 for n, d in hyper.items() if d.default is REQUIRED})


SGD = isostep.rule("sgd", lr=0.1, momentum=0.9)
COMPOSED = compose(pieces.centralize(0), pieces.adaptive_clip(unit_axis=-1), SGD)
GLOBAL = compose(pieces.clip_by_global_norm(max_norm=2.0), bound("adafactor"))


def odd(p, g, m, t, /):
    """What rules seldom do: conditions of every size, what is summed along two axes of four, numbers in `where`."""
    rank = len(p.shape)
    first, last = nm.sum_axis(p, axis=0), nm.max_axis(g, axis=-1)
    among = nm.max_axis(first + last, axis=tuple(range(rank - 1)))
    many = nm.sum_axis(nm.where(g > among, 1.0, 0.0), axis=tuple(range(1, rank)))
    every_other = nm.sum_axis(p * g, axis=tuple(range(0, rank, 2)))
    some = nm.logical_and(nm.logical_or(many > 3, t % 2 == 0), p > last)
    u = nm.where(nm.sum(g) > 0, nm.where(some, first * 3.0, -0.1 * last), every_other)
    return u * nm.where(nm.isfinite(g), 0.7, 0.2), nm.where(nm.abs(m) ** 1.5 > 0.3, m, every_other)


def rows(p, g, m, t, /):
    """An update and a state of which the last pass computes nothing for each element."""
    row = nm.sum_axis(g, axis=-1)
    return -0.1 * row, row


ODD, ROWS = (Rule(name=f.__name__, update=f, state=("m",)).bind() for f in (odd, rows))
#: Rules, shapes of 1 to 4 axes: less than a tile, whole ones, several along each axis, odd lengths.
CASES = [
    *(("adafactor", s) for s in ((40, 25), (64, 128), (37, 130), (2, 1, 20, 70), (3, 2), (2100,))),
    *(("sm3", s) for s in ((2100,), (35, 67), (3, 20, 70), (3, 2, 20, 66), (3, 2, 5, 2), (2, 2))),
    *((n, (35, 67)) for n in ("came", "nero", "muon", "shampoo", "soap", "psgd_kron", "adammini")),
    *((n, (5, 4, 6)) for n in ("novograd", "nero", "came", "adashift", "adammini")),
    *(("novograd", s) for s in ((2100,), (1024,))),
    *((r, s) for r in (COMPOSED, ODD) for s in ((35, 67), (3, 20, 70), (3, 5, 2, 70))),
    *((ROWS, s) for s in ((35, 67), (4, 8), (2, 3, 5))),
    (GLOBAL, (35, 67)),
]


def passes(rule, shape):
    rule = bound(rule) if isinstance(rule, str) else rule
    return axes(shaped(rule, rule.phase(2), shape))


class Arrays:
    """What a pass is given, of random numbers, for ``count`` arrays; each run has its own copy.

    Arrays begin ``moved`` elements after where a multiple of 16 bytes is.
    """

    def __init__(self, axes, one, dtype, count=2, seed=0, moved=0):
        self.axes, self.one, self.dtype, self.count = axes, one, dtype, count
        random, shape = np.random.default_rng(seed), axes.program.shape
        self.slots = {}
        for name in one.slots:
            found = [random.normal(size=shape) for _ in range(count)]
            if name not in ("p", "g"):  # moments: roots are taken of some
                found = [abs(a) for a in found]
            self.slots[name] = [self.placed(a, moved) for a in found]

        def numbers(node, shape):
            found = random.uniform(0.3, 0.9, shape)
            return found.round() if is_bool(node) else found

        self.scalars = [float(numbers(n, ())) for n in one.scalars]
        self.columns = np.zeros((count, len(one.columns)))
        for k, n in enumerate(one.columns):
            self.columns[:, k] = numbers(n, count)
        self.blocks = {
            n: self.placed(numbers(n, (count, *axes.shape_of(n))), moved) for n in one.stacks
        }
        nothing = np.full((count, *shape), np.nan)
        self.blocks |= {n: self.placed(nothing, moved) for n in one.kept}

    def placed(self, values, moved):
        room = np.empty(values.size + moved + 16, self.dtype)
        skip = -room.ctypes.data % 16 // room.itemsize + moved
        found = room[skip : skip + values.size].reshape(values.shape)
        found[...] = values
        return found

    def run(self, where):
        """What the pass makes of it, by Numba or by Triton: sums and maxima; and slots and blocks in place."""
        rows = range(self.count)
        table = np.array([[a[k].ctypes.data for a in self.slots.values()] for k in rows], np.int64)
        at = {n: b.ctypes.data for n, b in self.blocks.items()}
        given = {"table": table, "scalars": self.scalars, "at": at}
        common = (self.axes, self.one, self.dtype, self.count)
        with np.errstate(all="ignore"):
            if where == "numba":
                sums = axes_run.run(POOL, *common, columns=self.columns, **given)
            else:
                columns = self.columns.ctypes.data
                sums = axes_device.run(DEVICE, *common, columns=columns, **given)
        found = {n: np.asarray(v) for n, v in sums.items()}
        found |= {n: self.blocks[n] for n in self.one.kept}
        return found | {n: np.stack(a) for n, a in self.slots.items()}


def close(found, wanted, tolerance):
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        other = found[name].reshape(one.shape).astype(np.float64)
        known = ~np.isnan(one)
        np.testing.assert_array_equal(~np.isnan(other), known)
        assert known.mean() > 0.9  # else there is little to see
        scale = np.abs(one[known]).max(initial=1e-30)
        assert np.abs(other - one)[known].max(initial=0) <= tolerance * scale, name


@pytest.mark.sampled(3)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rule", "shape"), CASES, ids=lambda v: getattr(v, "name", str(v)))
def test_each_pass_does_what_numbas_does(rule, shape, dtype):
    found = passes(rule, shape)
    assert found.fits
    for one in found.passes:
        wanted = Arrays(found, one, dtype).run("numba")
        close(Arrays(found, one, dtype).run("triton"), wanted, TOLERANCE[dtype])


def run_pass(rule, shape, dtype="float32", index=0, **given):
    """A pass by Triton, and its arrays."""
    found = passes(rule, shape)
    arrays = Arrays(found, found.passes[index], dtype, **given)
    return arrays, arrays.run("triton")


@pytest.mark.parametrize("shape", [(33,), (35, 67), (3, 20, 70)])
def test_one_nan_makes_the_maxima_of_its_lines_nan(shape):
    found = passes("sm3", shape)
    arrays = Arrays(found, found.passes[0], "float32")
    place = tuple(n // 2 for n in shape)
    arrays.slots["g"][1][place] = np.nan
    sums = arrays.run("triton")
    for r in found.reduced:
        wanted = np.zeros((2, *found.shape_of(r)), bool)
        wanted[(1, *(i if own else 0 for i, own in zip(place, found.bits(r), strict=True)))] = True
        np.testing.assert_array_equal(np.isnan(sums[r]), wanted.reshape(2, -1))


def test_of_what_is_negative_everywhere_the_largest_is_too():
    """What lies beyond an array's end is no 0 there."""

    def update(p, g, t, /):
        return g - nm.max_axis(g, axis=-1)

    found = passes(Rule(name="made", update=update).bind(), (3, 5))
    arrays = Arrays(found, found.passes[0], "float32")
    for a in arrays.slots["g"]:
        a[...] = -abs(a)
    (sums,) = (v for n, v in arrays.run("triton").items() if not isinstance(n, str))
    np.testing.assert_array_equal(sums, np.stack(arrays.slots["g"]).max(-1))


@pytest.mark.parametrize(
    ("shape", "dtype", "moved", "whole"),
    [  # tiles of 16 times 64
        ((32, 128), "float32", 0, 4),
        ((33, 132), "float32", 0, 4),  # of 9
        ((32, 130), "float32", 0, 0),
        ((32, 130), "float64", 0, 4),
        ((32, 129), "float64", 0, 0),
        ((32, 128), "float32", 1, 0),
        ((32, 128), "float64", 1, 0),
        ((4, 2), "float64", 0, 1),
        ((4, 2), "float32", 0, 0),
    ],
)
def test_full_tiles_of_aligned_rows_take_the_form_without_masks(
    monkeypatch, shape, dtype, moved, whole
):
    module = triton_modules.passes(passes("sm3", shape), dtype, interpreted=True)
    forms, own = [], module.tile0

    def noted(*given):
        forms.append(given[-3])
        own(*given)

    monkeypatch.setattr(module, "tile0", noted)
    arrays, found = run_pass("sm3", shape, dtype, count=1, moved=moved)
    assert forms.count(True) == whole
    assert len(forms) == np.prod(tiles(arrays.axes.sizes).counts)
    close(found, run_pass("sm3", shape, dtype, count=1)[1], 1e-15)


@pytest.mark.parametrize("block", ["stacks", "kept"])
def test_blocks_that_do_not_lie_at_multiples_of_16_bytes_take_masks(monkeypatch, block):
    found = passes("muon", (32, 128))
    one = next(one for one in found.passes if getattr(one, block))
    module = triton_modules.passes(found, "float32", interpreted=True)
    forms = []
    monkeypatch.setattr(module, f"tile{one.index}", lambda *given: forms.append(given[-2]))
    for moved in (0, 1):
        arrays = Arrays(found, one, "float32", count=1)
        for n in getattr(one, block):
            arrays.blocks[n] = arrays.placed(arrays.blocks[n], moved)
        arrays.run("triton")
    half = len(forms) // 2
    assert forms == [True] * half + [False] * half


def test_what_has_not_the_last_axis_may_lie_anywhere():
    """A column of which an odd number of elements lies before: only whole rows are read 16 bytes at a time."""
    found = passes("sm3", (3, 16, 64))
    (one,), first = found.passes, columns(found, found.passes[0]).blocks
    text = source(found, "float32")
    anywhere = re.findall(r"pointer\(table, (\d+), tl.float32, False\)", text)
    short = [k for k, n in enumerate(one.stacks) if not found.bits(n)[-1]]
    assert short
    assert [int(k) - first for k in anywhere] == short


def test_tiles_that_are_neighbours_in_an_array_are_launched_one_after_the_other(monkeypatch):
    module = triton_modules.passes(passes("sm3", (32, 130)), "float32", interpreted=True)
    met = []

    def noted(table, *place):
        met.append([x.handle.data.item() for x in place[:3]])

    monkeypatch.setattr(module, "tile0", noted)
    run_pass("sm3", (32, 130))
    assert met == [[array, i, j] for array in range(2) for i in range(2) for j in range(3)]


@pytest.mark.parametrize("rule", ["sm3", COMPOSED, ODD], ids=lambda v: getattr(v, "name", v))
def test_nothing_is_read_beyond_an_arrays_end(rule):
    """On a device that would be an error where memory ends."""
    loads = source(passes(rule, (3, 20, 70)), "float32").split("tl.load(")[1:]
    assert loads
    assert all("mask=in" in load for load in loads)


@pytest.mark.parametrize("name", ["adafactor", "novograd", "sm3", "nero", "muon", "soap"])
def test_lengths_are_not_in_the_text(name):
    one, other = passes(name, (40, 25)), passes(name, (300, 7))
    assert source(one, "float32") == source(other, "float32")
    assert source(one, "float64") != source(one, "float32")
    modules = [triton_modules.passes(found, "float32", interpreted=True) for found in (one, other)]
    assert modules[0] is modules[1]


def test_names_of_a_rule_do_not_meet_those_of_the_kernels():
    def update(p, g, t, /):
        tile = nm.sum_axis(g, axis=-1)
        n0 = g * tile
        at = n0 + nm.sum_axis(g, axis=-2)
        inside = nm.sqrt(at * at + 1)
        return -0.1 * inside

    rule = Rule(name="made", update=update).bind()
    text = source(passes(rule, (3, 4)), "float32")
    for name in ("tile_2", "n0_2", "at_2", "inside_2"):
        assert re.search(rf"\b{name}\b", text)
    for where in passes(rule, (3, 4)).passes:
        arrays = [Arrays(passes(rule, (3, 4)), where, "float64") for _ in range(2)]
        close(arrays[0].run("triton"), arrays[1].run("numba"), 1e-12)


def test_the_text_is_shown():
    rule = isostep.rule("adafactor")
    text = show(shaped(rule, rule.phase(2), (40, 25)), "bfloat16")
    assert text.startswith('"""adafactor, float32: 3 pass(es).')
    compile(text, "shown", "exec")
    assert show(shaped(rule, rule.phase(2), ()), "float32") is None


def test_the_interpreter_has_every_function_that_passes_call():
    for name in SUPPORT:
        assert callable(getattr(triton_interpreted, name)), name


def test_no_two_warps_have_the_same_places():
    for lengths in ((1, 1), (2,), (4, 8), (1, 256), (16, 64), (1024,), (2, 2, 4, 64)):
        assert warps(lengths) == 1 or np.prod(lengths) >= 32 * warps(lengths)
    assert warps((16, 64)) == 4


# Compiled for devices.


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))  # so that everything is compiled


def compiled(found, arch, dtype="float32"):
    """Each pass, with its PTX; compiled all the way, for CUDA devices of one architecture."""
    module = triton_modules.passes(found, dtype)
    lengths = tiles(found.sizes).lengths
    signature = {"table": "*i64"} | {f"B{k}": "constexpr" for k, _ in enumerate(lengths)}
    given = {(1 + k,): n for k, n in enumerate(lengths)}
    for one in found.passes:
        made = triton.compile(
            ASTSource(getattr(module, f"pass{one.index}"), signature, given),
            target=GPUTarget("cuda", arch, 32),
            options=OPTIONS | {"num_warps": warps(lengths)},
        )
        assert len(made.asm["cubin"])
        yield one, made.asm["ptx"]


def in_pass_rules():
    """Those that take no kernels without axes."""
    every = {n: bound(n) for n in isostep.rules()}
    return [n for n, r in every.items() if layout(trace(r), "float32").obstacle and in_passes(r)]


def wide(text, dtype):
    """How many loads and stores of a thread are 16 bytes wide."""
    form = {"float32": "v4.b32", "float64": "v2.b64"}[dtype]
    return Counter(re.findall(rf"\b(ld|st)\.global(?:\.\w+)*\.{form}\b", text))


def check_width(found, one, text, dtype):
    """In the form for full tiles what has neighbours along the last axis is loaded and stored 16 bytes at a time."""
    lengths = tiles(found.sizes).lengths
    lanes = {"float32": 4, "float64": 2}[dtype]
    each = np.prod(lengths) // (32 * warps(lengths) * lanes)
    loads = {n.attrs[0] for n in one.inputs} | ({"p"} if one.last else set())
    stores = {*one.kept, *(found.stores if one.last else ())}
    full = [n for n in one.stacks if all(found.bits(n))]
    rows = [n for n in one.stacks if found.bits(n)[-1] and not all(found.bits(n))]
    of_rows = max(1, lengths[-1] // (32 * warps(lengths) * lanes))
    assert wide(text, dtype) == +Counter(
        ld=each * (len(loads) + len(full)) + of_rows * len(rows), st=each * len(stores)
    )


@pytest.mark.sampled(3)
@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("name", in_pass_rules())
def test_every_rule_compiles_with_wide_loads_and_exact_arithmetic(name, arch):
    found = passes(name, (1000, 1000))
    for one, text in compiled(found, arch):
        check_width(found, one, text, "float32")
        instructions = re.findall(r"^\s+(?:@\S+\s+)?([a-z][\w.]*\.f32)\b", text, re.M)
        flushing = [i for i in instructions if "ftz" in i and not i.startswith("abs")]
        assert not flushing
        assert not [i for i in instructions if i.startswith(("div.full", "sqrt.approx", "fma"))]


@pytest.mark.parametrize("name", ["adafactor", "sm3"])
def test_float64_compiles_with_wide_loads(name):
    found = passes(name, (1000, 1000))
    for one, text in compiled(found, 90, "float64"):
        check_width(found, one, text, "float64")


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("rule", "shape"),
    [
        *((COMPOSED, s) for s in ((35, 67), (17, 9, 70), (3, 9, 2, 70))),
        *((ODD, s) for s in ((35, 67), (3, 20, 70), (3, 5, 2, 70), (3, 2))),
        *(("sm3", s) for s in ((2,), (1, 7), (2, 2, 2), (2, 3, 4, 5))),
        *((n, examples(bound(n))[0]) for n in in_pass_rules()),
    ],
    ids=lambda v: getattr(v, "name", str(v)),
)
def test_tiles_of_every_form_compile(rule, shape):
    assert len(list(compiled(passes(rule, shape), 90))) == passes(rule, shape).count
