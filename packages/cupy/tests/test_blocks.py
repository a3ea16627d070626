"""State in blocks of eight bits in the CUDA kernels, their text compiled for the CPU: the reference's bits."""

import numpy as np
import pytest

import isostep
import isostep_cupy
from isostep import blocks, nm, pieces
from isostep.domains import Real
from isostep.lower import device, executor
from isostep.program import trace
from isostep.rule import Rule, compose
from isostep_cupy import cuda_source, host

ml_dtypes = pytest.importorskip("ml_dtypes")
pytestmark = pytest.mark.whole  # needs ml_dtypes

REFERENCE = isostep.backend("numpy:reference")
DTYPES = {
    "float64": np.dtype("float64"),
    "float32": np.dtype("float32"),
    "float16": np.dtype("float16"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
#: Less than a block and more, whole rows of a kernel and a bit of another, more than one row.
SHAPES = [(0,), (), (31,), (4, 8), (33,), (4095,), (4097,), (7, 10000)]


def peaked(p, g, m, t, /, *, lr):
    """What a thread beyond an array's end computes from zeros is larger than all that is in the array."""
    m = 0.5 * m + 0.25 * g + nm.where(g == 0.0, 1e6, 0.0)
    return -lr * m, m


#: One array in blocks, and three, whose noise is of two pairs; without sums and elementary functions.
EXACT = {
    "lion": isostep.rule("lion", lr=0.1, weight_decay=0.1),
    "signum": isostep.rule("signum", lr=0.1, momentum=0.9),
    "amsgrad": isostep.rule("adamw", lr=0.1, betas=(0.8, 0.7), amsgrad=True),
    "peaked": Rule(name="peaked", update=peaked, state=("m",), hyper={"lr": Real(0.1)}).bind(),
}
#: Sums over an array and the group, of which some read state in blocks; arrays that are not in blocks; extra inputs.
OTHERS = {
    "lamb": isostep.rule("lamb", lr=0.1, weight_decay=0.1),
    "sgd_hd": isostep.rule("sgd_hd", hypergrad_lr=1e-3),
    "clip": compose(pieces.clip_by_global_norm(1.0), isostep.rule("adam", lr=0.1)),
    "lookahead": compose(isostep.rule("adamw", lr=0.1), pieces.lookahead(2)),
    "diffgrad": isostep.rule("diffgrad", lr=0.1),
    "adahessian": isostep.rule("adahessian", lr=0.1),
}


def arrays(dtype, seed, shapes=SHAPES):
    """Numbers of every size, some of them zero."""
    rng = np.random.default_rng(seed)
    found = [
        rng.normal(size=s) * 10.0 ** rng.integers(-9, 3, s) * (rng.random(s) < 0.9) for s in shapes
    ]
    return [np.asarray(a).astype(DTYPES[dtype]) for a in found]


def one_off(a):
    """The same values at an address that is no multiple of 16."""
    room = np.empty(a.nbytes + 32, np.uint8)
    first = -host.address(room) % 16 + a.itemsize
    place = room[first : first + a.nbytes].view(a.dtype).reshape(a.shape)
    place[...] = a
    return place


def run(backend, rule, form, dtype, steps=3, shapes=SHAPES, place=np.copy, **options):
    params = [place(p) for p in arrays(dtype, 0, shapes)]
    storage = isostep.low_precision(state_dtype=form, **options)
    state = backend.init(rule, params, storage=storage, seed=5)
    for k in range(steps):
        grads = [place(g) for g in arrays(dtype, 1 + k, shapes)]
        grads[k] = None  # so that some are ahead of others
        backend.step(rule, params, grads, state, **{n: grads for n in rule.input_names})
    assert backend is REFERENCE or state.plan  # kernels took it
    return params, state


def same(found, wanted):
    """Bit for bit, but for the signs of NaN."""
    for a, b in zip(found[0], wanted[0], strict=True):
        np.testing.assert_array_equal(a.astype(np.float64), b.astype(np.float64))
    for own, other in zip(found[1].arrays, wanted[1].arrays, strict=True):
        assert own.keys() == other.keys()
        for n, a in own.items():
            assert a.dtype == other[n].dtype
            np.testing.assert_array_equal(a.astype(np.float64), other[n].astype(np.float64))


@pytest.mark.parametrize("form", blocks.FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", EXACT.values(), ids=EXACT)
def test_bits_of_the_reference(raw, rule, dtype, form):
    assert raw.takes_blocks(rule)
    wanted = run(REFERENCE, rule, form, dtype)
    assert {str(a.dtype) for own in wanted[1].arrays for a in own.values()} == {"uint8"}
    same(run(raw, rule, form, dtype), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_an_array_begins_does_not_change_a_bit(raw, dtype):
    rule = EXACT["amsgrad"]
    moved = run(raw, rule, "mxfp8_e4m3", dtype, place=one_off)
    assert all(host.address(p) % 16 for p in moved[0] if p.size)
    same(moved, run(REFERENCE, rule, "mxfp8_e4m3", dtype))


@pytest.mark.parametrize("form", blocks.FORMATS)
@pytest.mark.parametrize("rule", OTHERS.values(), ids=OTHERS)
def test_rules_that_sum_and_others_take_the_reference_s_step(raw, rule, form):
    found, wanted = (run(b, rule, form, "float64") for b in (raw, REFERENCE))
    assert found[1].storage.packed
    values = [opened(*one) for one in (found, wanted)]
    for a, b in zip(*values, strict=True):
        # A number that a sum has moved by its last bit may be rounded to the next one.
        far = np.abs(a - b) > 1e-9 * (1 + np.abs(b))
        assert far.sum() <= 1e-3 * a.size
        np.testing.assert_allclose(a, b, rtol=0.3, atol=1e-6)


def opened(params, state):
    """Parameters and state as float64."""
    own = [REFERENCE.opened(a, state.storage, "float64") for a in state.arrays]
    return [*params, *(a for one in own for a in one.values())]


@pytest.mark.parametrize(
    "options",
    [{}, {"stochastic_rounding": True}, {"kahan": True}, {"master_weights": True}],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_beside_what_else_halves_are_kept_with(raw, dtype, options):
    """The noise of parameters has numbers of its own."""
    rule = EXACT["amsgrad"]
    found, wanted = (run(b, rule, "mxfp8_e5m2", dtype, **options) for b in (raw, REFERENCE))
    same(found, wanted)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_written_beside_an_array(raw, dtype):
    rule, rooms = EXACT["amsgrad"], []
    params, grads = ([np.ones(n, DTYPES[dtype]) for n in (1, 40, 64, 4097)] for _ in range(2))
    state = raw.init(rule, params, storage=isostep.low_precision(state_dtype="mxfp8_e4m3"))
    for own in state.arrays:
        for n, a in own.items():
            rooms.append(np.full(a.size + 4096, 0xAB, np.uint8))
            own[n] = rooms[-1][2048 : 2048 + a.size]
            own[n][:] = 0
    raw.step(rule, params, grads, state)
    for room in rooms:
        assert (room[:2048] == 0xAB).all()
        assert (room[-2048:] == 0xAB).all()
        assert (room[2048:-2048] != 0).all()


def test_a_list_of_several_dtypes(raw):
    results = []
    for backend in (raw, REFERENCE):
        params = [a for d in DTYPES for a in arrays(d, 0, [(5,), (40, 3)])]
        storage = isostep.low_precision(state_dtype="mxfp8_e4m3", kahan=True)
        rule = EXACT["lion"]
        state = backend.init(rule, params, storage=storage)
        for k in (1, 2):
            grads = [a for d in DTYPES for a in arrays(d, k, [(5,), (40, 3)])]
            backend.step(rule, params, grads, state)
        results.append((params, state))
    same(*results)


@pytest.mark.parametrize("form", blocks.FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_not_finite_and_what_is_nothing(raw, dtype, form):
    rule, results = EXACT["amsgrad"], []
    for backend in (raw, REFERENCE):
        params = arrays(dtype, 0, [(100,), (64,), (32,)])
        storage = isostep.low_precision(state_dtype=form)
        state = backend.init(rule, params, storage=storage)
        for k in range(3):
            grads = arrays(dtype, k, [(100,), (64,), (32,)])
            grads[1][:32] = 0
            if k == 0:  # from then on it is the state that is not finite
                grads[0][[3, 40, 99]] = [np.nan, np.inf, -np.inf]
                grads[2][:] = np.inf
            with np.errstate(all="ignore"):
                backend.step(rule, params, grads, state)
        results.append((params, state))
    codes = results[0][1].arrays[0]["exp_avg_sq"]
    assert codes[3] & 0x7F == 0x7F
    assert codes[40] & 0x7F == blocks.FORMATS[form].infinity
    for own, other in zip(*(s.arrays for _, s in results), strict=True):
        for n in own:  # a NaN has either sign
            nan = own[n] & 0x7F == 0x7F
            np.testing.assert_array_equal(
                own[n] & np.where(nan, 0x7F, 0xFF), other[n] & np.where(nan, 0x7F, 0xFF)
            )
    for a, b in zip(*(p for p, _ in results), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_observed_step_is_the_plain_one(raw):
    rule = EXACT["amsgrad"]
    found = run(raw, isostep.observe(rule), "mxfp8_e4m3", "float32")
    same(found, run(REFERENCE, rule, "mxfp8_e4m3", "float32"))
    _, wanted = run(REFERENCE, isostep.observe(rule), "mxfp8_e4m3", "float32")
    rows = found[1].figures.rows()
    for name, row in wanted.figures.rows().items():
        for figure, value in row.items():
            np.testing.assert_allclose(rows[name][figure], value, rtol=1e-5, err_msg=figure)


def test_rules_that_look_at_units_take_the_generic_way(raw):
    rule = compose(pieces.centralize(0), isostep.rule("adam", lr=0.1))
    assert not raw.takes_blocks(rule)
    shapes, results = [(6, 5), (40, 3), (9,), (2, 2)], []
    for backend in (raw, REFERENCE):
        params = arrays("float64", 0, shapes)
        state = backend.init(rule, params, storage=isostep.low_precision(state_dtype="mxfp8_e4m3"))
        backend.step(rule, params, arrays("float64", 1, shapes), state)
        results.append(opened(params, state))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_where_scales_begin_is_no_reason_for_narrow_loads(raw, monkeypatch):
    asked = []
    real = executor._with_alignment
    monkeypatch.setattr(
        executor,
        "_with_alignment",
        lambda table, n: asked.append((table.shape[1], n)) or real(table, n),
    )
    run(raw, EXACT["amsgrad"], "mxfp8_e4m3", "float32", steps=1)
    assert asked == [(9, 5)]  # p, g and three codes; not three scales and the parameter's number


def test_the_text_says_what_it_does():
    rule = isostep.rule("adamw", lr=0.1)
    storage = isostep.low_precision(state_dtype="mxfp8_e4m3").of_rule(rule)
    program = trace(rule, kept=storage)
    text = cuda_source.source(device.kernels(program, "float32", None, storage))
    assert "load(exp_avg_lanes, at_exp_avg + i, at_exp_avg_scale, i, n, wide);" in text
    assert (
        "store(at_exp_avg_sq + i, at_exp_avg_sq_scale, exp_avg_sq_lanes, noise_512, 16, i, n, wide);"
        in text
    )
    assert "for (int64 turn = start; turn < stop; turn += LANES * blockDim.x) {" in text


# The optimizers

HOST = {"path": "raw(host)"}


@pytest.mark.usefixtures("raw")
@pytest.mark.parametrize("form", blocks.FORMATS)
@pytest.mark.parametrize("numpy", [True, False])
def test_a_state_dict_goes_on(form, numpy):
    params, grads = arrays("float32", 0, [(70,), (3, 4)]), arrays("float32", 1, [(70,), (3, 4)])
    opt = isostep_cupy.AdamW(params, state_dtype=form, **HOST)
    opt.step(grads)
    saved = opt.state_dict(numpy=numpy)
    assert saved["state_dtype"] == form
    assert saved["state"][0]["exp_avg_scale"].shape == (3,)
    copies = [p.copy() for p in params]
    other = isostep_cupy.AdamW(copies, state_dtype=form, **HOST)
    other.load_state_dict(saved)
    for one in (opt, other):
        one.step(grads)
    same((copies, other.state), (params, opt.state))


@pytest.mark.usefixtures("raw")
@pytest.mark.parametrize(
    ("mine", "text"),
    [
        ({}, "the state_dict's state is in mxfp8_e4m3, this optimizer's in no blocks"),
        (
            {"state_dtype": "mxfp8_e5m2"},
            "the state_dict's state is in mxfp8_e4m3, this optimizer's in mxfp8_e5m2",
        ),
    ],
)
def test_state_of_another_form_is_refused(mine, text):
    packed = isostep_cupy.AdamW(arrays("float32", 0, [(5,)]), state_dtype="mxfp8_e4m3", **HOST)
    other = isostep_cupy.AdamW(arrays("float32", 0, [(5,)]), **mine, **HOST)
    with pytest.raises(isostep.StepError) as caught:
        other.load_state_dict(packed.state_dict())
    assert str(caught.value) == f"adamw: {text}; load one of the same state_dtype"
    with pytest.raises(isostep.StepError, match="this optimizer's in mxfp8_e4m3"):
        packed.load_state_dict(other.state_dict())
