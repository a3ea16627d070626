"""State in blocks of eight bits: the format against fractions, what a step leaves, files, errors; and that it moves."""

from fractions import Fraction

import numpy as np
import pytest

import isostep
from isostep import StepError, blocks, low_precision, rounding
from isostep.blocks import BLOCK, FORMATS, packed, unpacked

REFERENCE = isostep.backend("numpy:reference")
KINDS = sorted(FORMATS)
#: Bits of the mantissa, the exponent of the smallest normal number, the largest number.
TABLE = {"mxfp8_e4m3": (3, -6, 448), "mxfp8_e5m2": (2, -14, 57344)}
#: What is neither, by the byte without its sign.
SPECIAL = {
    "mxfp8_e4m3": {0x7F: np.nan},
    "mxfp8_e5m2": {0x7C: np.inf, **dict.fromkeys((0x7D, 0x7E, 0x7F), np.nan)},
}


def value_of(code, kind):
    """The number of a byte, as the formats' tables have it."""
    bits, lowest, _ = TABLE[kind]
    size = code & 0x7F
    if size in SPECIAL[kind]:
        found = SPECIAL[kind][size]
    else:
        exponent, mantissa = size >> bits, size & (1 << bits) - 1
        whole = mantissa + (1 << bits if exponent else 0)
        found = Fraction(whole) * Fraction(2) ** (max(exponent, 1) - 1 + lowest - bits)
    return -found if code & 0x80 else found


def scale_of(x, kind):
    """The exponent of a block's scale: the smallest at which its largest finite number fits."""
    bits, lowest, largest = TABLE[kind]
    top = max((abs(Fraction(v)) for v in x.tolist() if np.isfinite(v)), default=Fraction(0))
    found = -126 - (
        lowest - bits
    )  # so that the smallest number of the block is a normal one of float32
    while top > largest * Fraction(2) ** found:
        found += 1
    return found


def sizes_of(x, kind, scale, noise):
    """The size of a number's byte, derived with fractions."""
    bits, lowest, _ = TABLE[kind]
    y = abs(Fraction(float(x))) / Fraction(2) ** scale
    spacing, below = Fraction(2) ** (lowest - bits), 0
    while y >= spacing * 2 ** (bits + 1):
        spacing, below = spacing * 2, below + (1 << bits)
    steps = 1 << 16
    units = y / spacing
    if (
        y < Fraction(2) ** lowest
    ):  # there a float32 is added, which has so many bits below the spacing
        fine = 2 ** (23 - bits)
        units = Fraction(round(units * fine), fine)
    found = int(units * steps + noise % steps) // steps + below
    return max(found, 1) if x else 0


def numbers(seed, count):
    random = np.random.default_rng(seed)
    return (random.standard_normal(count) * 10.0 ** random.uniform(-9, 2, count)).astype(np.float32)


def noise(seed, count):
    return np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_byte_is_the_number_of_the_format(kind):
    codes = np.arange(256, dtype=np.uint8)
    wanted = np.array([float(value_of(c, kind)) for c in codes.tolist()], np.float32)
    for scale in (17, 126, 127, 200):
        found = unpacked(np, codes, np.full(8, scale, np.uint8), kind)
        np.testing.assert_array_equal(found, wanted * np.float32(2.0 ** (scale - 127)))
        np.testing.assert_array_equal(np.signbit(found), codes >= 128)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 200])
def test_packing_is_that_of_fractions(kind, count):
    x = numbers(count, count)
    edges = [0.0, -0.0, 1e-45, -1e-38, 448.0, 449.0, 57344.0, -57345.0, 3e38, 2.0**-20]
    x[: min(count, 10)] = edges[: min(count, 10)]
    own = noise(1, count)
    codes, scales = packed(np, x, kind, own)
    assert (codes.dtype, codes.shape, scales.dtype) == (np.uint8, x.shape, np.uint8)
    assert scales.shape == (blocks.count(x.shape),) == (-(-count // 32),)
    for k, scale in enumerate(scales.tolist()):
        part = slice(32 * k, 32 * k + 32)
        assert scale - 127 == scale_of(x[part], kind)
        pairs = zip(x[part], own[part].tolist(), strict=True)
        wanted = [sizes_of(v, kind, scale - 127, n) + 128 * bool(np.signbit(v)) for v, n in pairs]
        assert codes[part].tolist() == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_stays_so_and_leaves_the_scale_to_others(kind):
    x = numbers(3, 32)
    plain = packed(np, x, kind, noise(0, 32))
    x[[3, 5, 7]] = np.nan, np.inf, -np.inf
    codes, scales = packed(np, x, kind, noise(0, 32))
    found = unpacked(np, codes, scales, kind)
    assert np.isnan(found[3])
    if kind == "mxfp8_e5m2":
        assert found[[5, 7]].tolist() == [np.inf, -np.inf]
    else:
        assert np.isnan(found[[5, 7]]).all()
    others = [k for k in range(32) if k not in (3, 5, 7)]
    assert scale_of(x, kind) == int(scales[0]) - 127
    assert int(plain[1][0]) >= int(scales[0])
    assert np.isfinite(found[others]).all()
    codes, _ = packed(np, np.full(3, np.nan, np.float32), kind, noise(0, 3))
    assert np.isnan(unpacked(np, codes, np.full(1, 127, np.uint8), kind)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_stays_and_what_is_not_zero_stays_so(kind):
    x = numbers(5, 1000)
    once = unpacked(np, *packed(np, x, kind, noise(0, 1000)), kind)
    assert (np.sign(once) == np.sign(x)).all()
    again = unpacked(np, *packed(np, once, kind, noise(1, 1000)), kind)
    np.testing.assert_array_equal(again, once)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_is_the_number_itself(kind):
    draws, x = 40_000, np.array([1.0, *np.linspace(0.01, 0.99, 31)], np.float32)
    every = np.tile(x, (draws, 1))
    codes, scales = packed(np, every, kind, noise(2, every.shape), batch=1)
    found = unpacked(np, codes, scales, kind, batch=1).astype(np.float64)
    low, high = found.min(axis=0), found.max(axis=0)
    sigma = np.sqrt(np.maximum((high - x) * (x - low), 0) / draws)
    assert (np.abs(found.mean(axis=0) - x) <= 5 * sigma + 1e-5 * x).all()
    assert (high > low).sum() > 20


def test_arrays_of_a_stack_have_blocks_of_their_own():
    x, own = numbers(0, 3 * 50).reshape(3, 5, 10), noise(0, 150).reshape(3, 5, 10)
    codes, scales = packed(np, x, "mxfp8_e4m3", own, batch=1)
    assert scales.shape == (3, 2)
    for k in range(3):
        one = packed(np, x[k], "mxfp8_e4m3", own[k])
        np.testing.assert_array_equal(codes[k], one[0])
        np.testing.assert_array_equal(scales[k], one[1])
        alone = unpacked(np, *one, "mxfp8_e4m3")
        np.testing.assert_array_equal(unpacked(np, codes, scales, "mxfp8_e4m3", batch=1)[k], alone)


# Steps


def arrays(seed, dtype="float32"):
    random = np.random.default_rng(seed)
    shapes = [(5, 13), (), (0,), (3,), (4, 1, 17)]
    return [np.asarray(random.standard_normal(s)).astype(dtype) for s in shapes]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_of_the_reference_is_one_of_what_it_has_kept_rounded_once_more(kind, dtype):
    """What the option adds to a step, written down here anew: unpack, step in full precision, pack with the noise."""
    rule = isostep.rule("adamw", lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    params = arrays(0, dtype)
    state = REFERENCE.init(rule, params, storage=low_precision(state_dtype=kind), seed=5)
    assert state.storage.packed == ("exp_avg", "exp_avg_sq")
    for k in range(1, 4):
        grads, plain = arrays(k, dtype), [p.copy() for p in params]
        before = [
            {
                n: unpacked(np, own[n], own[n + "_scale"], kind).astype(dtype)
                for n in ("exp_avg", "exp_avg_sq")
            }
            for own in state.arrays
        ]
        full = REFERENCE.init(rule, plain)
        full.arrays, full.t = before, list(state.t)
        REFERENCE.step(rule, plain, grads, full)
        REFERENCE.step(rule, params, grads, state)
        for i, (p, q) in enumerate(zip(params, plain, strict=True)):
            np.testing.assert_array_equal(p, q)
            for number, n in enumerate(("exp_avg", "exp_avg_sq")):
                new = before[i][n].astype(np.float32)
                low, high = rounding.numbered(new.shape)
                with np.errstate(all="ignore"):
                    key = rounding.key_of(np, 5, k, i)
                    drawn = rounding.noise_of(np, key, 1024 + number, low, high)
                codes, scales = packed(np, new, kind, drawn)
                np.testing.assert_array_equal(state.arrays[i][n], codes)
                np.testing.assert_array_equal(state.arrays[i][n + "_scale"], scales)


def test_an_average_that_moves_little_moves():
    """By a thousandth a step: to nearest it would stay where it begins for ever, which is half of where it goes."""
    rule = isostep.rule("adam", betas=(0.0, 0.999), lr=0.0)
    params = [np.zeros(4096, np.float32)]
    state = REFERENCE.init(rule, params, storage=low_precision(state_dtype="mxfp8_e4m3"))
    for _ in range(700):
        REFERENCE.step(rule, params, [np.ones(4096, np.float32)], state)
    (own,) = state.arrays
    found = unpacked(np, own["exp_avg_sq"], own["exp_avg_sq_scale"], "mxfp8_e4m3")
    assert abs(found.mean() / (1 - 0.999**700) - 1) < 0.01


@pytest.mark.whole
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["adamw", "lion", "signum"])
def test_the_compiled_pass_leaves_the_reference_s_bits(name, dtype, kind):
    pytest.importorskip("ml_dtypes", reason="isostep[halves] is not installed")
    kept = isostep.backends.numpy.numpy_dtype(dtype)
    fused, rule = isostep.backend("numpy:fused"), isostep.rule(name, lr=0.1)
    random = np.random.default_rng(0)
    shapes = [(5, 13), (), (0,), (31,), (32,), (33,), (128,), (70_000,), (40, 20)]

    def draw():
        some = (random.standard_normal(s) * 10.0 ** random.uniform(-6, 2, s) for s in shapes)
        found = [np.asarray(a).astype(kept) for a in some]
        return [*found[:-1], np.asfortranarray(found[-1])]

    ours = draw()
    theirs = [a.copy(order="K") for a in ours]
    storage = low_precision(state_dtype=kind, stochastic_rounding=dtype == "float16")
    states = [
        b.init(rule, x, storage=storage, seed=7) for b, x in ((fused, ours), (REFERENCE, theirs))
    ]
    for k in range(3):
        grads = draw()
        grads[2] = grads[2] if k else None
        grads[7][:3] = np.nan, np.inf, 0.0
        grads[6][:64] = 0.0  # whole blocks of nothing, and of what is nearly that
        grads[6][32:64:2] = 1e-41
        with np.errstate(all="ignore"):
            fused.step(rule, ours, grads, states[0])
        REFERENCE.step(rule, theirs, grads, states[1])
        assert states[0].plan  # it was fused
        for x, y in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(x.astype(np.float64), y.astype(np.float64))
        for x, y in zip(states[0].arrays, states[1].arrays, strict=True):
            assert {*x} == {*y}
            for n in storage.of_rule(rule).packed:
                scales = x[n + "_scale"], y[n + "_scale"]
                np.testing.assert_array_equal(*scales)
                both = (unpacked(np, a[n], scales[0], kind) for a in (x, y))
                np.testing.assert_array_equal(*both)


@pytest.mark.whole
def test_units_are_no_blocks_and_such_rules_step_by_the_generic_path():
    fused = isostep.backend("numpy:fused")
    rule = isostep.compose(isostep.pieces.adaptive_clip(0.1, unit_axis=0), isostep.rule("adamw"))
    assert fused.takes_blocks(isostep.rule("lamb"))
    assert not fused.takes_blocks(rule)
    ours, theirs = arrays(0)[:1], arrays(0)[:1]
    storage = low_precision(state_dtype="mxfp8_e5m2")
    states = [b.init(rule, x, storage=storage) for b, x in ((fused, ours), (REFERENCE, theirs))]
    for b, x, state in zip((fused, REFERENCE), (ours, theirs), states, strict=True):
        b.step(rule, x, arrays(1)[:1], state)
    np.testing.assert_array_equal(ours[0], theirs[0])
    for n, a in states[0].arrays[0].items():
        np.testing.assert_array_equal(a, states[1].arrays[0][n])


@pytest.mark.whole
@pytest.mark.parametrize("name", ["lamb", "adam_hd"])
def test_passes_that_sum_read_blocks_too(name):
    """Sums are in another order there: numbers near one another, and codes of which few are others."""
    fused, rule = isostep.backend("numpy:fused"), isostep.rule(name, lr=0.1)
    ours, theirs = arrays(0), arrays(0)
    storage = low_precision(state_dtype="mxfp8_e4m3")
    states = [b.init(rule, x, storage=storage) for b, x in ((fused, ours), (REFERENCE, theirs))]
    for k in range(1, 4):
        for b, x, state in zip((fused, REFERENCE), (ours, theirs), states, strict=True):
            b.step(rule, x, arrays(k), state)
        assert states[0].plan
    for x, y in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    for x, y in zip(states[0].arrays, states[1].arrays, strict=True):
        assert all((x[n] != y[n]).sum() <= 1 + x[n].size / 50 for n in y)


# What is kept, and errors


def test_what_starts_as_zeros_is_kept_in_blocks_and_nothing_else():
    storage = low_precision(state_dtype="mxfp8_e4m3")
    rule = isostep.compose(isostep.rule("lion"), isostep.pieces.lookahead())
    params = arrays(0, "float64")
    state = REFERENCE.init(rule, params, storage=storage)
    assert state.storage.packed == ("exp_avg",)
    (slow,) = {*rule.state_names} - {"exp_avg"}
    for p, own in zip(params, state.arrays, strict=True):
        assert {n: (a.dtype.name, a.shape) for n, a in own.items()} == {
            "exp_avg": ("uint8", p.shape),
            "exp_avg_scale": ("uint8", (-(-p.size // BLOCK),)),
            slow: ("float64", p.shape),
        }


@pytest.mark.parametrize("name", ["dog", "asgd", "sgd"])
def test_a_rule_without_averages_is_told_so(name):
    """``asgd``'s array starts as the parameter, and is what the model is evaluated with."""
    with pytest.raises(
        StepError, match=rf"^{name}: state_dtype mxfp8_e4m3 is for state that starts"
    ):
        REFERENCE.init(
            isostep.rule(name), arrays(0), storage=low_precision(state_dtype="mxfp8_e4m3")
        )


@pytest.mark.parametrize(
    ("name", "hyper", "wanted"),
    [
        ("rmsprop", {"centered": True}, ["square_avg", "grad_avg"]),
        ("rmsprop", {"dialect": "tf1", "centered": True}, ["grad_avg"]),
        ("prodigy", {}, ["s", "exp_avg", "exp_avg_sq"]),
        ("soap", {}, ["exp_avg", "exp_avg_sq"]),
        ("adagrad", {}, ["sum"]),
    ],
)
def test_what_an_init_makes_is_kept_in_blocks_where_it_is_zeros(name, hyper, wanted):
    rule, storage = isostep.rule(name, **hyper), low_precision(state_dtype="mxfp8_e4m3")
    params = [np.ones((5, 13), np.float32), np.ones((6, 6), np.float32)]
    state = REFERENCE.init(rule, params, storage=storage)
    assert {*state.storage.packed} == {*wanted}
    for p, own in zip(params, state.arrays, strict=True):
        for n in rule.state_names:
            assert own[n].dtype == (np.uint8 if n in wanted else p.dtype)
    for _ in range(2):  # SOAP's first step only makes its bases
        REFERENCE.step(rule, params, [np.full(p.shape, 0.5, p.dtype) for p in params], state)
    assert all(own[n].any() for own in state.arrays for n in wanted)


def lose(own):
    del own["exp_avg_scale"]


def cut(own):
    own["exp_avg_scale"] = own["exp_avg_scale"][:1]


def widen(own):
    own["exp_avg"] = own["exp_avg"].astype(np.float32)


WRONG = {
    lose: r"adamw: (params\[0\] of float32 needs|state of params\[0\] has)",
    cut: r"adamw: state exp_avg_scale of params\[0\] must be a .*uint8 array of shape \(3,\), got uint8 \(1,\)",
    widen: r"adamw: state exp_avg of params\[0\] must be a .*uint8 array of shape \(5, 13\), got float32",
}


@pytest.mark.parametrize(
    "name", ["numpy:reference", pytest.param("numpy:fused", marks=pytest.mark.whole)]
)
@pytest.mark.parametrize("change", WRONG, ids=lambda f: f.__name__)
def test_an_array_that_does_not_fit_is_one_clear_line_and_changes_nothing(name, change):
    backend, rule, params = isostep.backend(name), isostep.rule("adamw"), arrays(0)
    state = backend.init(rule, params, storage=low_precision(state_dtype="mxfp8_e4m3"))
    backend.step(rule, params, arrays(1), state)
    change(state.arrays[0])
    before = [p.copy() for p in params], [a.copy() for own in state.arrays for a in own.values()]
    with pytest.raises(StepError, match=WRONG[change]):
        backend.step(rule, params, arrays(2), state)
    after = params, [a for own in state.arrays for a in own.values()]
    for x, y in zip(before, after, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(x, y, strict=True))


def test_a_saved_run_goes_on_to_the_bit(tmp_path):
    pytest.importorskip("safetensors.numpy", reason="isostep[files] is not installed")
    rule, params = isostep.rule("adamw", lr=0.01), arrays(0)
    state = REFERENCE.init(rule, params, storage=low_precision(state_dtype="mxfp8_e5m2"), seed=-5)
    for k in (1, 2):
        REFERENCE.step(rule, params, arrays(k), state)
    isostep.save(tmp_path / "x", rule, params, state)
    again, found, loaded = isostep.load(tmp_path / "x")
    assert loaded.storage == state.storage
    for x, y, r in ((params, state, rule), (found, loaded, again)):
        REFERENCE.step(r, x, arrays(3), y)
    assert all(map(np.array_equal, params, found))
    for x, y in zip(state.arrays, loaded.arrays, strict=True):
        assert all(np.array_equal(a, y[n]) for n, a in x.items())


@pytest.mark.whole
def test_bytes_of_a_step_are_counted():
    from isostep.lower.traffic import bytes_moved
    from isostep.program import trace

    rule = isostep.rule("adamw")
    storage = low_precision(state_dtype="mxfp8_e4m3").of_rule(rule)
    program = trace(rule, kept=storage)
    # p is read and written, g read; of each average a byte and a thirty-second of one, both ways
    assert bytes_moved(program, "float32", storage) == 12 + 4 * (1 + 1 / 32)
    assert bytes_moved(trace(rule), "float32") == 28


@pytest.mark.parametrize(
    "name", ["numpy:reference", pytest.param("numpy:fused", marks=pytest.mark.whole)]
)
def test_an_average_that_rests_keeps_its_bytes(name):
    """Of two that take turns: rounded once, a block's largest may fit a smaller scale than it came with."""
    backend, rule = isostep.backend(name), isostep.rule("pnm", lr=0.1)
    random = np.random.default_rng(0)
    params = [np.zeros(4000, np.float32)]
    state = backend.init(rule, params, storage=low_precision(state_dtype="mxfp8_e4m3"))
    for _ in range(4):
        before = {n: a.copy() for n, a in state.arrays[0].items()}
        grads = [(random.standard_normal(4000) * 2.0 ** random.integers(-9, 9, 4000)).astype("f")]
        backend.step(rule, params, grads, state)
        same = {n for n, a in state.arrays[0].items() if np.array_equal(a, before[n])}
        assert same in [{n, n + "_scale"} for n in state.storage.packed]


@pytest.mark.parametrize(
    "name", ["numpy:reference", pytest.param("numpy:fused", marks=pytest.mark.whole)]
)
def test_an_average_of_a_matrix_that_rests_keeps_its_bytes(name):
    """SOAP's first step makes bases only; passes over stacks write numbers where they were opened."""
    backend, rule = isostep.backend(name), isostep.rule("soap")
    params = [np.ones((6, 8), np.float32)]
    state = backend.init(rule, params, storage=low_precision(state_dtype="mxfp8_e4m3"))
    for step in range(2):
        backend.step(rule, params, [np.ones((6, 8), np.float32)], state)
        for n in state.storage.packed:
            assert state.arrays[0][n].any() == step
            assert state.arrays[0][n + "_scale"].any() == step


@pytest.mark.parametrize(
    ("dtype", "options"),
    [("float32", {"state_dtype": "mxfp8_e4m3"}), ("float16", {"stochastic_rounding": True})],
)
@pytest.mark.parametrize(
    "name", ["numpy:reference", pytest.param("numpy:fused", marks=pytest.mark.whole)]
)
def test_a_new_value_that_is_one_number_is_rounded_element_by_element(name, dtype, options):
    def update(p, g, m, n, t, /, *, lr):
        return -lr * g * (m + n), 0.7 * lr, n * 0 + 0.7 * lr

    rule = isostep.Rule(
        name="numbered",
        update=update,
        hyper={"lr": isostep.domains.Real(low=0)},
        state=("m", "n"),
    ).bind(lr=0.0573)
    backend, params = isostep.backend(name), [np.ones((40, 9), dtype)]
    state = backend.init(rule, params, storage=low_precision(**options), seed=3)
    backend.step(rule, params, [np.ones((40, 9), dtype)], state)
    (own,) = state.arrays
    for a in (own["m"], own["n"]):
        assert len(np.unique(a)) == 2
    assert not np.array_equal(own["m"], own["n"])  # each has noise of its own
