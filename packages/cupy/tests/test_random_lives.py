"""Lives of an optimizer, drawn from a seed: whatever may happen between two steps, each step is the reference's.

Arrays lie at any address that their elements may have, contiguous or not; parameters come, go and are replaced;
gradients are missing, seen before or not finite; rates change; states are saved and loaded. Every step starts, for the
reference, from what is there, so that a difference is that of one step.
"""

import pickle

import numpy as np
import pytest

import isostep
from isostep import pieces
from isostep.rule import compose
from isostep_cupy import from_rule
from isostep_cupy.host import compiler

ml_dtypes = pytest.importorskip("ml_dtypes")
pytestmark = pytest.mark.whole  # needs ml_dtypes

REFERENCE = isostep.backend("numpy:reference")
#: What one step may be off by, of the largest number that it is made from.
ROUNDING = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
HALVES = {"float16", "bfloat16"}
RULES = {
    "adamw": isostep.rule("adamw", lr=0.05, betas=(0.8, 0.7), eps=1e-3, weight_decay=0.1),
    "addsign": isostep.rule("addsign", lr=0.05, alpha=0.7),
    "lamb": isostep.rule("lamb", lr=0.05, weight_decay=0.1),
    "sgd": isostep.rule("sgd", lr=0.05, momentum=0.9, nesterov=True),
    "sgd_hd": isostep.rule("sgd_hd", lr=0.05, hypergrad_lr=1e-4),
    "deep": compose(
        pieces.centralize(),
        pieces.adaptive_clip(0.1),
        pieces.clip_by_global_norm(2.0),
        isostep.rule("adamw", lr=0.05),
        pieces.lookahead(3),
    ),
}
#: Those that sum over arrays, and over all of them, of whatever dtypes.
SUMS, SUMS_OVER_ALL = {"lamb", "sgd_hd", "deep"}, {"sgd_hd", "deep"}
WAYS = [
    {},
    {"state_dtype": "float32"},
    {"state_dtype": "bfloat16"},
    {"kahan": True},
    {"master_weights": True},
    {"stochastic_rounding": True, "rounding_seed": 7},
]
DTYPES = [["float32"], ["float32", "float64"], list(ROUNDING), ["bfloat16"]]
SHAPES = [(), (0,), (1,), (3, 0), (23,), (4099,), (5, 7), (2, 3, 4), (33, 129)]
PLACES = ["plain", "plain", "plain", "turned", "holes", "back"]
EVENTS = ["nothing"] * 5 + ["rate", "loaded", "pickled", "moved", "grown", "shrunk", "written"]


def placed(rng, values):
    """A copy that begins a few elements into its memory, and is contiguous, turned, reversed or full of holes."""
    lead = int(rng.integers(0, 9))
    way = rng.choice(PLACES) if values.ndim and values.size else "plain"
    size = (*values.shape[:-1], 2 * values.shape[-1]) if way == "holes" else values.shape
    memory = np.zeros(lead + int(np.prod(size)), values.dtype)[lead:]
    found = memory.reshape(size, order="F" if way == "turned" else "C")
    found = (
        {"holes": found[..., ::2], "back": found[::-1]}[way] if way in ("holes", "back") else found
    )
    found[...] = values
    return found


def numbers(rng, size, dtype, odd=0.0):
    x = np.asarray(rng.normal(size=size) * 10.0 ** rng.integers(-3, 2))
    if odd and x.size:
        some = rng.choice([0.0, -0.0, 1e-42, np.inf, np.nan], size=x.shape)
        x = np.where(rng.random(x.shape) < odd, some, x)
    return placed(rng, x.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))


def everything(params, state, i):
    return {"p": np.array(params[i]), **{n: np.array(a) for n, a in state.arrays[i].items()}}


class Life:
    """One optimizer, and what happens to it."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.name = self.pick(list(RULES))
        self.rule = RULES[self.name]
        self.dtypes = self.pick(DTYPES)
        self.way = self.pick(WAYS) if HALVES & {*self.dtypes} else {}
        self.given = []
        self.opt = self.made([self.parameter() for _ in range(self.rng.integers(1, 7))])

    def pick(self, values):
        return values[self.rng.integers(len(values))]

    def parameter(self):
        return numbers(self.rng, self.pick(SHAPES), self.pick(self.dtypes))

    def made(self, params):
        return from_rule(self.rule, params, path="raw(host)", **self.way)

    def live(self):
        """Something that happens between two steps."""
        opt, event = self.opt, self.pick(EVENTS)
        if event == "rate":
            name = next(n for n in self.rule.values if n == "lr" or n.endswith(".lr"))
            opt.set(**{name: float(self.rng.random() * 0.1)})
            self.rule = opt.rule
        elif event == "loaded":
            self.opt = self.made([placed(self.rng, p) for p in opt.params])
            self.opt.load_state_dict(opt.state_dict(numpy=bool(self.rng.integers(2))))
        elif event == "pickled":
            self.opt = pickle.loads(pickle.dumps(opt))
        elif event == "moved":
            i = self.rng.integers(len(opt.params))
            opt.params[i] = placed(self.rng, opt.params[i])
        elif event in ("grown", "shrunk"):
            self.resize(event)
        elif event == "written" and opt.params[0].size:
            opt.params[0][...] *= np.asarray(0.5, opt.params[0].dtype)
        return event

    def resize(self, event):
        old, saved = self.opt, self.opt.state_dict()
        kept = list(range(len(old.params)))
        if event == "shrunk" and len(kept) > 1:
            del kept[self.rng.integers(len(kept))]
        more = [self.parameter()] if event == "grown" else []
        self.opt = self.made([old.params[i] for i in kept] + more)
        fresh = self.opt.state_dict()
        for k, i in enumerate(kept):
            fresh["t"][k], fresh["state"][k] = saved["t"][i], saved["state"][i]
        self.opt.load_state_dict(fresh | {n: saved[n] for n in ("group_t", "group")})

    def gradients(self):
        rng, params = self.rng, self.opt.params
        own = [(p.shape, p.dtype) for p in params]
        known = [
            k if g is None else (g.shape, g.dtype) for g, k in zip(self.given, own, strict=False)
        ]
        if known == own and len(own) == len(self.given) and rng.random() < 0.3:
            return self.given  # the very same arrays once more
        odd, missing = rng.choice([0, 0, 0, 0.05]), rng.choice([0, 0, 0.2])
        self.given = [
            None if rng.random() < missing else numbers(rng, p.shape, p.dtype.name, odd)
            for p in params
        ]
        return self.given

    def step(self):
        opt, grads = self.opt, self.gradients()
        params, state = pickle.loads(pickle.dumps((list(opt.params), opt.state)))
        given = [None if g is None else g.copy() for g in grads]
        before = [everything(params, state, i) for i in range(len(params))]
        REFERENCE.step(self.rule, params, given, state)
        opt.step(grads)
        assert (opt.state.t, opt.state.group_t) == (state.t, state.group_t)
        for n, v in state.group.items():
            assert float(opt.state.group[n]) == pytest.approx(float(v), rel=1e-5, nan_ok=True)
        for i, was in enumerate(before):
            assert given[i] is None or grads[i].tobytes() == given[i].tobytes()
            found, wanted = everything(opt.params, opt.state, i), everything(params, state, i)
            assert found.keys() == wanted.keys()
            made_from = [x for x in (*was.values(), given[i]) if x is not None]
            for n, a in wanted.items():
                assert (found[n].dtype, found[n].shape) == (a.dtype, a.shape)
                self.compare(found[n], a, made_from, n)

    def compare(self, a, b, made_from, label):
        kinds = {b.dtype.name, made_from[0].dtype.name}
        kinds |= {"float32"} if self.name in SUMS_OVER_ALL else set()
        tolerance = max(ROUNDING[k] for k in kinds)
        x, y, *others = (z.astype(np.float64) for z in (a, b, *made_from))
        size = np.max([np.where(np.isfinite(z), np.abs(z), 0) for z in (y, *others)], axis=0)
        size = size.max(initial=0) if self.name in SUMS else size
        with np.errstate(invalid="ignore"):
            off = np.abs(x - y) > tolerance * size + 1e-7 * tolerance
        off |= np.isnan(x) != np.isnan(y)
        assert not off.any(), (label, a[off][:3], b[off][:3])


@pytest.mark.parametrize("seed", range(24))
def test_each_step_of_a_life_is_the_reference_s(seed):
    try:
        compiler()
    except isostep.Unavailable as error:
        pytest.skip(str(error))
    life, events = Life(seed), []
    for _ in range(14):
        events.append(life.live())
        try:
            life.step()
        except AssertionError as error:
            message = f"seed {seed}, {life.rule}, {life.dtypes}, {life.way}, {events}: {error}"
            raise AssertionError(message) from error
