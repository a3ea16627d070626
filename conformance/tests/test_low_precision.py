"""Low precision on every path against ``numpy:reference``: step by step, each step from the reference's state."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import isostep
from isostep import blocks
from isostep.program import trace
from isostep.storage import LOST
from isostep_conformance import paths
from isostep_conformance.cases import of_rule

ml_dtypes = pytest.importorskip("ml_dtypes", reason="isostep[halves] is not installed")
pytestmark = pytest.mark.whole

HALVES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}
#: The options, and whether the parameters are float32 but for one; ``half`` stands for the dtype of the others.
WAYS = {
    "stochastic": ({"stochastic_rounding": True}, False),
    "stochastic-float32": ({"stochastic_rounding": True, "state_dtype": "float32"}, False),
    "stochastic-state": ({"stochastic_rounding": True, "state_dtype": "half"}, True),
    "kahan": ({"kahan": True}, False),
    "master": ({"master_weights": True}, False),
    "master-float32": ({"master_weights": True, "state_dtype": "float32"}, False),
    "float32": ({"state_dtype": "float32"}, False),
    "float64": ({"state_dtype": "float64"}, False),
    "blocks": ({"state_dtype": "mxfp8_e4m3"}, True),
    "blocks-stochastic": ({"state_dtype": "mxfp8_e5m2", "stochastic_rounding": True}, False),
    "blocks-master": ({"state_dtype": "mxfp8_e4m3", "master_weights": True}, False),
}
#: Rules of which every path meets every way in the sample: elementwise, by norms, generic, of a group, without sums.
WHOLE = ["adamw", "lamb", "adafactor", "prodigy", "sgd"]
STEPS, SEED = 3, -7
REFERENCE = isostep.backend("numpy:reference")
PATHS = {
    p.name: p.backend
    for p in paths.installed()
    if p.backend is not None and p.name != "numpy:reference" and set(HALVES) <= {*p.backend.dtypes}
}

if not PATHS:
    pytest.skip("no path beside the reference runs here", allow_module_level=True)


def shapes(rule):
    """Two that can be stacked, tails behind whole packs of lanes, and one without axes if the rule takes it."""
    every = [(5, 3), (5, 3), (70,), (), (9, 7)]
    allowed = rule.rule.ndim
    return [s for s in every if allowed is None or len(s) in allowed]


def draw(rule, dtypes, seed):
    random = np.random.default_rng(seed)
    own = zip(shapes(rule), dtypes, strict=False)
    return [np.asarray(random.standard_normal(s)).astype(d) for s, d in own]


def everything(backend, params, state):
    """Parameters and state as NumPy arrays, by name, and the group's values."""
    return [
        {"p": backend.to_numpy(p)} | {n: backend.to_numpy(a) for n, a in own.items()}
        for p, own in zip(params, state.arrays, strict=True)
    ], {n: np.asarray(backend.to_numpy(v)) for n, v in state.group.items()}


def restart(backend, params, state, arrays, group):
    """Give a backend's arrays these values, where they are if it steps in place."""
    for i, own in enumerate(arrays):
        params[i] = backend.write(params[i], backend.asarray(own["p"].copy()))
        for n, a in state.arrays[i].items():
            state.arrays[i][n] = backend.write(a, backend.asarray(own[n].copy()))
    for n, v in group.items():
        state.group[n] = backend.scalar(float(v), v.dtype.name, params[0])


def whole(own):
    return own["p"].astype(np.float64) + own[LOST].astype(np.float64)


def matrices(rule):
    """Whether a rule multiplies matrices, whose sums have no order; and its state that is a basis: there are many."""
    programs = [trace(rule, phase, (5, 3)) for phase in rule.kinds()]
    bases = {n for p in programs for n, v in p.outputs.items() if v.op.endswith("basis")}
    return any(v.op == "matmul" for p in programs for v in p.live), bases


class Agree:
    """Equal, but where the last bit of the arithmetic makes one in fifty halves, or eights, round the other way."""

    def __init__(self, rule, exact, storage):
        self.storage = storage
        self.exact, (loose, self.bases) = exact, matrices(rule)
        self.rtol, self.share = (2e-4, 5) if loose else (5e-6, 50)

    def __call__(self, label, ours, theirs):
        for i, (own, other) in enumerate(zip(ours, theirs, strict=True)):
            assert set(own) == set(other)
            names = set(other) - self.bases
            # Where p rounds the other way, so does what it lost: the sum counts.
            if LOST in own and not self.exact:
                near(f"{label} params[{i}]", whole(own), whole(other), max(self.rtol, 2e-5), 1e-6)
                names -= {"p", LOST}
            for n in self.storage.packed:
                self.unpack(f"{label} {n} of params[{i}]", own, other, n)
            for n in sorted(names - {*self.storage.packed, *self.storage.scales}):
                self.compare(f"{label} {n} of params[{i}]", own[n], other[n])

    def unpack(self, label, own, other, n):
        """Blocks of eight bits: all but one in fifty are the same numbers, and these are neighbours."""
        kind = self.storage.form
        for arrays in (own, other):
            shapes = {k: (arrays[k].dtype.name, arrays[k].shape) for k in (n, n + blocks.SCALE)}
            wanted = own["p"].shape, (blocks.count(own["p"].shape),)
            assert [*shapes.values()] == [("uint8", shape) for shape in wanted], label
        x, y = (blocks.unpacked(np, a[n], a[n + blocks.SCALE], kind) for a in (own, other))
        off = (x != y) & ~(np.isnan(x) & np.isnan(y))
        assert off.sum() <= 1 + x.size / self.share, f"{label}: {int(off.sum())} of {x.size} differ"
        spacing = 2.0 ** -blocks.FORMATS[kind].mantissa
        near(label, x, y, spacing, np.max(np.abs(y), initial=0) * 2.0**-17)

    def compare(self, label, x, y):
        assert (x.dtype, x.shape) == (y.dtype, y.shape), label
        if self.exact:
            assert x.tobytes() == y.tobytes(), label
        elif x.dtype not in HALVES.values():
            near(label, x, y, self.rtol, self.rtol / 10 * max(1, np.max(np.abs(y), initial=0)))
        else:
            off = (x != y) & ~(np.isnan(x) & np.isnan(y))
            assert off.sum() <= 1 + x.size / self.share, (
                f"{label}: {int(off.sum())} of {x.size} differ"
            )
            spacing = 2.0 ** (-7 if x.dtype == HALVES["bfloat16"] else -10)
            near(label, x.astype(np.float64), y.astype(np.float64), spacing, self.rtol / 5)


def near(label, x, y, rtol, atol):
    np.testing.assert_allclose(x, y, rtol=rtol, atol=atol, err_msg=label)


def steps(path, name, way, half, exact=False):
    """Some steps of a path, of which each starts from where the reference's last one ended."""
    rule, backend = of_rule(name)[0].rule, PATHS[path]  # whose hyperparameters are not neutral
    given, single = WAYS[way]
    options = {n: half if v == "half" else v for n, v in given.items()}
    storage = isostep.low_precision(**options).of_rule(rule)
    most, last = (np.float32, HALVES[half]) if single else (HALVES[half], np.float32)
    dtypes = [*[most] * (len(shapes(rule)) - 1), last]
    made = {}
    for b in (REFERENCE, backend):
        params = [b.asarray(p) for p in draw(rule, dtypes, 0)]
        made[b.name] = params, b.init(rule, params, storage=storage, seed=SEED)
        assert made[b.name][1].storage == storage
    agree = Agree(rule, exact, storage)
    agree("init", *(everything(b, *made[b.name])[0] for b in (backend, REFERENCE)))
    for k in range(STEPS):
        # Somebody writes to some of a parameter: what is beside it is no longer of these.
        if k == 2:
            changed = made[REFERENCE.name][0][1]
            changed[:2] = changed[:2] * changed.dtype.type(2)
        before = everything(REFERENCE, *made[REFERENCE.name])
        restart(backend, *made[backend.name], *before)
        for b in (REFERENCE, backend):
            params, state = made[b.name]
            grads = [b.asarray(g) for g in draw(rule, dtypes, 10 + k)]
            # An input may be a curvature, which is positive.
            positive = [abs(x) + np.asarray(0.125, x.dtype) for x in draw(rule, dtypes, 20 + k)]
            inputs = {n: list(map(b.asarray, positive)) for n in rule.input_names}
            inputs |= dict.fromkeys(rule.group_input_names, 0.7)
            if k == 0:
                grads[0] = None  # the steps after it have two counts
            made[b.name] = b.step(rule, params, grads, state, **inputs)
        (ours, group), (theirs, wanted) = (
            everything(b, *made[b.name]) for b in (backend, REFERENCE)
        )
        agree(f"step {k + 1}:", ours, theirs)
        assert made[backend.name][1].t == made[REFERENCE.name][1].t
        for n, v in wanted.items():
            near(f"step {k + 1}: {n}", group[n], v, 1e-4, 1e-6)  # sums whose terms may cancel


def has_averages(name):
    """Whether the rule has state that can be kept in blocks."""
    try:
        return bool(isostep.low_precision(state_dtype="mxfp8_e4m3").of_rule(of_rule(name)[0].rule))
    except ValueError:
        return False


def drawn():
    """Every rule on every path in every way, with both halves; some of those of ``WHOLE`` are in every sample.

    These are a Latin square: each path meets each way in one rule or another, JAX's, which compile for seconds, half as
    many.
    """
    rare = pytest.mark.sampled(400)
    for name, (i, path), (j, way) in itertools.product(
        isostep.rules(), enumerate(PATHS), enumerate(WAYS)
    ):
        if way.startswith("blocks") and not has_averages(name):
            continue
        every = 8 if path.startswith("jax:") else 4
        at = i + j + WHOLE.index(name) if name in WHOLE else 1
        for k, half in enumerate(HALVES):
            always = name in WHOLE and at % every == 0 and at // every % 2 == k
            label = f"{path}-{name}-{way}-{half}"
            yield pytest.param(path, name, way, half, id=label, marks=() if always else rare)


@pytest.mark.parametrize(("path", "name", "way", "half"), list(drawn()))
def test_a_step_leaves_what_the_reference_s_leaves(path, name, way, half):
    # SGD is products and sums of two: nothing that a path may round otherwise, if it contracts nothing
    steps(path, name, way, half, exact=name == "sgd" and not path.startswith("jax:"))


def test_every_path_that_has_halves_is_here():
    assert {
        "numpy:fused",
        "torch:loop",
        "torch:foreach",
        "torch:fused",
        "jax:jit",
        "jax:grouped",
    } <= {*PATHS}
