"""Low precision: the rounding against integers, states kept so, errors, files, scaled gradients; and that it learns."""

import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest

import isostep
from isostep import StepError, Storage, low_precision, rounding
from isostep.storage import LOST, MASTER, PLAIN

REFERENCE = isostep.backend("numpy:reference")
BACKENDS = [
    "numpy:reference",
    *(
        pytest.param(name, marks=pytest.mark.whole)
        for name in (
            "numpy:fused",
            "torch:loop",
            "torch:foreach",
            "torch:fused",
            "jax:jit",
            "cupy:raw(host)",
        )
    ),
]
WAYS = {
    "stochastic": {"stochastic_rounding": True},
    "kahan": {"kahan": True},
    "master": {"master_weights": True},
    "float32": {"state_dtype": "float32"},
    "stochastic-float32": {"stochastic_rounding": True, "state_dtype": "float32"},
}


@pytest.fixture(params=["float16", "bfloat16"])
def half(request):
    """A half format's dtype; NumPy has bfloat16 from ml_dtypes."""
    if request.param == "float16":
        return np.dtype(np.float16)
    return np.dtype(pytest.importorskip("ml_dtypes", reason="isostep[halves]").bfloat16)


# The rounding, derived once more: with Python's integers and fractions, element by element.

M = (1 << 32) - 1
#: Bits of the mantissa, the exponent of the smallest normal number, the largest.
FORMATS = {
    "bfloat16": (7, -126, (2 - Fraction(1, 2**7)) * 2**127),
    "float16": (10, -14, Fraction(65504)),
}


def mix(x):
    x &= M
    x = (x ^ x >> 16) * 0x7FEB352D & M
    x = (x ^ x >> 15) * 0x846CA68B & M
    return x ^ x >> 16


def noise_of(seed, step, parameter, array, i):
    key = mix(mix(mix(seed) + step) + parameter)
    return mix(mix(i + key) + mix(key + array // 2) + i // 2**32) >> 16 * (array % 2)


def exponent_of(x):
    """The largest e with 2**e <= x."""
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e if Fraction(2) ** e <= x else e - 1


def between(x, name, noise):
    """The number of the format to which a finite ``x`` within its range goes, as a fraction."""
    bits, lowest, _ = FORMATS[name]
    size = abs(x)
    spacing = Fraction(2) ** (max(exponent_of(size), lowest) - bits) if size else Fraction(1)
    whole, rest = divmod(size / spacing, 1)
    steps = 1 << (23 - bits)  # that a float32 knows between two neighbours
    up = int(rest * steps) + noise % steps >= steps
    return (whole + up) * spacing * (-1 if x < 0 else 1)


def rounded(x, half, seed, step, parameter, array, elements):
    key = rounding.key_of(np, seed, step, parameter)
    low = np.array([i & M for i in elements], np.uint32)
    high = np.array([i >> 32 for i in elements], np.uint32)
    with np.errstate(all="ignore"):
        return rounding.rounded(np, x, half.name, key, array, low, high).astype(half)


def values(half):
    """Ordinary numbers over the format's range, its subnormal numbers, its largest, and what lies beyond."""
    random = np.random.default_rng(0)
    bits, lowest, largest = FORMATS[half.name]
    tiny = 2.0 ** (lowest - bits)
    near = [
        1.0,
        1 + 2.0 ** (-bits - 1),
        1 + 2.0 ** (-bits - 9),
        tiny,
        tiny / 2,
        tiny * 0.99,
        tiny * 3.25,
    ]
    near += [
        2.0**lowest,
        2.0**lowest * 0.9999,
        float(largest),
        float(largest) * (1 - 2.0**-20),
        0.0,
    ]
    ordinary = random.standard_normal(120) * 10.0 ** random.uniform(-4, 4, 120)
    small = random.uniform(0, 2, 80) * 2.0**lowest
    return np.array([*near, *(-v for v in near), *ordinary, *small], np.float32)


@pytest.mark.parametrize("array", [0, 1, 4, 5])
@pytest.mark.parametrize(
    ("seed", "step", "parameter"), [(0, 1, 0), (-1, 3, 5), (2**40 + 5, 2**25 + 1, 7)]
)
@pytest.mark.parametrize("start", [0, 2**32 - 40, 2**33 + 1])
def test_the_rounding_is_that_of_integers(half, array, seed, step, parameter, start):
    x = values(half)
    elements = [start + i for i in range(len(x))]
    found = rounded(x, half, seed, step, parameter, array, elements)
    for i, v, got in zip(elements, x.tolist(), found.tolist(), strict=True):
        exact = Fraction(v)
        assert got == between(exact, half.name, noise_of(seed, step, parameter, array, i)), v
    np.testing.assert_array_equal(np.signbit(found), np.signbit(x))


def test_a_number_goes_to_one_of_its_neighbours_and_both_are_reached(half):
    x = values(half)
    some = np.stack([rounded(x, half, s, 1, 0, 0, range(len(x))) for s in range(64)]).astype(
        np.float64
    )
    exact = x == x.astype(half).astype(np.float32)
    assert (some[:, exact] == x[exact]).all()  # these stay
    low, high = some.min(axis=0), some.max(axis=0)
    assert (np.array([len(set(column)) for column in some.T]) <= 2).all()
    inside = (low < x) & (
        x < high
    )  # what lies near a neighbour may not reach the other in 64 draws
    assert inside[~exact].mean() > 0.9
    for edge in (low, high):
        assert (edge[inside].astype(half).astype(np.float64) == edge[inside]).all()


def test_what_is_beyond_the_largest_number_rounds_to_nearest(half):
    bits, _, largest = FORMATS[half.name]
    largest = float(largest)
    tie = largest * (1 + 2.0 ** (-bits - 2))  # less than half a spacing above
    above = min(largest * (1 + 2.0**-bits), float(np.finfo(np.float32).max))
    x = np.array([largest, tie, above, np.inf, np.nan], np.float32)
    wanted = np.array([largest, largest, np.inf, np.inf, np.nan])
    for s in range(8):
        for sign in (1, -1):
            found = rounded(sign * x, half, s, 1, 0, 1, range(len(x)))
            np.testing.assert_array_equal(found.astype(np.float64), sign * wanted)


def test_elements_are_numbered_row_by_row_beyond_32_bits(monkeypatch):
    low, high = rounding.numbered((2, 3))
    assert (low.tolist(), high.tolist()) == ([[0, 1, 2], [3, 4, 5]], [[0, 0, 0], [0, 0, 0]])
    assert low.dtype == high.dtype == np.uint32
    assert [a.shape for a in rounding.numbered(())] == [(), ()]
    count = np.arange
    monkeypatch.setattr(np, "arange", lambda n, dtype: count(n, dtype=dtype) + dtype(2**33 - 2))
    low, high = rounding.numbered((4,))
    assert low.tolist() == [2**32 - 2, 2**32 - 1, 0, 1]
    assert high.tolist() == [1, 1, 2, 2]


@pytest.mark.parametrize("part", [0.03, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("array", [0, 1])
@pytest.mark.parametrize("base", ["normal", "subnormal"])
def test_the_mean_is_the_number_itself(half, array, part, base):
    bits, lowest, _ = FORMATS[half.name]
    low, spacing = (1.0, 2.0**-bits) if base == "normal" else (0.0, 2.0 ** (lowest - bits))
    n = 40_000
    x = np.full(n, low + part * spacing, np.float32)
    part = (float(x[0]) - low) / spacing
    up = (rounded(x, half, 3, 1, 0, array, range(n)).astype(np.float64) - low) / spacing
    assert set(up) <= {0.0, 1.0}
    five_sigma = 5 * (part * (1 - part) / n) ** 0.5
    assert abs(up.mean() - part) < five_sigma


def test_arrays_elements_parameters_and_steps_are_rounded_independently(half):
    """The two numbers of a hash are different ones; so are those of the next step, and of the next parameter."""
    bits, n = FORMATS[half.name][0], 20_000
    x = np.full(n, 1 + 2.0 ** (-bits - 1), np.float32)
    first = rounded(x, half, 0, 1, 0, 0, range(n)) > 1
    for other in ((0, 1, 0, 1), (0, 1, 0, 2), (0, 1, 1, 0), (0, 2, 0, 0), (1, 1, 0, 0)):
        again = rounded(x, half, *other, range(n)) > 1
        assert abs((first == again).mean() - 0.5) < 5 * 0.5 / n**0.5
    assert abs((first[1:] == first[:-1]).mean() - 0.5) < 5 * 0.5 / n**0.5


# Options, and states that are kept so


def test_the_options_make_a_storage():
    assert low_precision() == PLAIN
    assert low_precision(kahan=True) == Storage(beside=LOST)
    assert low_precision(master_weights=True, state_dtype="float32") == Storage("float32", MASTER)
    assert low_precision(stochastic_rounding=True) == Storage(stochastic=True)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"kahan": True, "master_weights": True},
            "low_precision: kahan and master_weights do the same in different ways; set one of them",
        ),
        (
            {"stochastic_rounding": True, "kahan": True},
            "low_precision: stochastic_rounding and kahan do the same in different ways; set one of them",
        ),
        (
            {"state_dtype": "int8"},
            "low_precision: state_dtype must be None or one of float64, float32, bfloat16, float16, mxfp8_e4m3, "
            "mxfp8_e5m2, got 'int8'",
        ),
        (
            {"state_dtype": np.float32},
            "low_precision: state_dtype must be None or one of float64, float32, bfloat16, float16, mxfp8_e4m3, "
            "mxfp8_e5m2, got <class 'numpy.float32'>",
        ),
    ],
)
def test_wrong_options_are_one_clear_line(options, text):
    with pytest.raises(ValueError) as caught:
        low_precision(**options)
    assert str(caught.value) == text


def draw(half, seed):
    random = np.random.default_rng(seed)
    shapes = {"w": ((4, 3), half), "b": ((), half), "f": ((7,), np.dtype(np.float32))}
    return {k: np.asarray(random.standard_normal(s)).astype(d) for k, (s, d) in shapes.items()}


def taken(backend, arrays):
    return {k: backend.asarray(a.copy()) for k, a in arrays.items()}


def everything(backend, params, state):
    arrays = [*params.values(), *(own[n] for own in state.arrays for n in sorted(own))]
    bits = [(backend.dtype(a), tuple(a.shape), backend.to_numpy(a).tobytes()) for a in arrays]
    return bits, list(state.t), [sorted(own) for own in state.arrays], state.storage, state.handling


def steps(backend, rule, params, state, ks, half):
    for k in ks:
        params, state = backend.step(rule, params, taken(backend, draw(half, k)), state)
    return params, state


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_first_state_is_kept_as_it_was_asked_for(name, way, half):
    backend, storage = isostep.backend(name), low_precision(**WAYS[way])
    params = taken(backend, draw(half, 0))
    state = backend.init(
        isostep.rule("adagrad", initial_accumulator_value=0.3), params, storage=storage, seed=3
    )
    assert (state.storage, state.handling.seed, list(state.handling.places)) == (
        storage,
        3,
        [0, 1, 2],
    )
    beside = {"kahan": LOST, "master": MASTER}.get(way)
    for (key, p), own in zip(params.items(), state.arrays, strict=True):
        small = key != "f"
        assert set(own) == {"sum"} | ({beside} if beside and small else set())
        kept = storage.state or backend.dtype(p)
        assert backend.dtype(own["sum"]) == kept
        start = np.full(p.shape, 0.3, {"float32": np.float32}.get(kept, half))
        np.testing.assert_array_equal(backend.to_numpy(own["sum"]), start)
        assert all(tuple(a.shape) == tuple(p.shape) for a in own.values())
        if way == "kahan" and small:
            assert backend.dtype(own[LOST]) == half.name
            assert not backend.to_numpy(own[LOST]).any()
        if way == "master" and small:
            assert backend.dtype(own[MASTER]) == "float32"
            np.testing.assert_array_equal(
                backend.to_numpy(own[MASTER]), backend.to_numpy(p).astype(np.float32)
            )


def test_a_state_that_a_backend_cannot_hold_is_refused():
    class Few(type(REFERENCE)):
        name, dtypes = "few", ("float32", "float16")

    with pytest.raises(
        StepError, match=r"^sgd: few has no state of bfloat16, only of float32, float16$"
    ):
        Few().init(
            isostep.rule("sgd"),
            [np.ones(2, np.float32)],
            storage=low_precision(state_dtype="bfloat16"),
        )


def lose(state, backend):
    del state.arrays[0][MASTER]


def find(state, backend):
    state.arrays[2][MASTER] = backend.asarray(np.ones(7, np.float32))


def forget(state, backend):
    state.storage = PLAIN


def narrow(state, backend):
    state.arrays[0][MASTER] = backend.asarray(np.ones((4, 3), np.float16))


def cut(state, backend):
    state.arrays[0][MASTER] = backend.asarray(np.ones((4, 2), np.float32))


def widen(state, backend):
    state.arrays[0]["exp_avg"] = backend.asarray(np.ones((4, 3), np.float32))


WRONG = {
    lose: r"^adamw: params\[0\] of float16 needs \['master_weight'\] beside its state, got \[\]$",
    find: r"^adamw: params\[2\] of float32 needs \[\] beside its state, got \['master_weight'\]$",
    forget: r"^adamw: state of params\[0\] has \['exp_avg', 'exp_avg_sq', 'master_weight'\], expected",
    narrow: r"^adamw: state master_weight of params\[0\] must be a (writable )?float32 array of shape .*, got",
    cut: r"^adamw: state master_weight of params\[0\] must be a (writable )?float32 array of shape .*, got",
    widen: r"^adamw: state exp_avg of params\[0\] must be a (writable )?float16 array of shape .*, got",
}


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("change", WRONG, ids=lambda f: f.__name__)
def test_what_is_beside_a_parameter_must_fit_and_an_error_changes_nothing(name, change):
    half, backend, rule = np.dtype(np.float16), isostep.backend(name), isostep.rule("adamw")
    params = taken(backend, draw(half, 0))
    state = backend.init(rule, params, storage=low_precision(master_weights=True))
    params, state = steps(backend, rule, params, state, [1], half)
    change(state, backend)
    before = everything(backend, params, state)
    with pytest.raises(StepError, match=WRONG[change]):
        backend.step(rule, params, taken(backend, draw(half, 2)), state)
    assert everything(backend, params, state) == before


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("way", ["kahan", "master"])
def test_a_parameter_that_was_written_to_since_is_stepped_as_it_is(name, way, half):
    """A checkpoint, an average: what is beside it is then of another parameter, element by element.

    Of Kahan's sums that can be seen where what was lost is more than the new number would lose.
    """
    backend, rule = isostep.backend(name), isostep.rule("sgd", lr=2.0**-12)
    params, ones = [backend.asarray(np.full(6, 1.5, half))], [backend.asarray(np.ones(6, half))]
    state = backend.init(rule, params, storage=low_precision(**WAYS[way]))
    params, state = backend.step(rule, params, ones, state)
    changed = backend.to_numpy(params[0]).copy()
    changed[:3] = 2.0**-6
    params = [backend.write(params[0], backend.asarray(changed))]
    params, state = backend.step(rule, params, ones, state)
    p, (own,) = backend.to_numpy(params[0]).astype(np.float64), state.arrays
    whole = p + backend.to_numpy(own[LOST]) if way == "kahan" else backend.to_numpy(own[MASTER])
    np.testing.assert_array_equal(whole, [*[2.0**-6 - 2.0**-12] * 3, *[1.5 - 2.0**-11] * 3])


# Files


def same_bits(one, other):
    assert one[0] == other[0]
    assert one[1:4] == other[1:4]
    assert one[4].seed == other[4].seed
    assert list(one[4].places) == list(other[4].places)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name", ["numpy:reference", pytest.param("jax:jit", marks=pytest.mark.whole)]
)
def test_a_saved_run_goes_on_to_the_bit(name, way, half, tmp_path):
    pytest.importorskip("safetensors.numpy", reason="isostep[files] is not installed")
    backend, rule = isostep.backend(name), isostep.rule("adamw", lr=0.01)
    params = taken(backend, draw(half, 0))
    state = backend.init(rule, params, storage=low_precision(**WAYS[way]), seed=-5)
    params, state = steps(backend, rule, params, state, range(1, 4), half)
    isostep.save(tmp_path / "x", rule, params, state)
    again, found, loaded = isostep.load(tmp_path / "x", backend=name)
    same_bits(everything(backend, found, loaded), everything(backend, params, state))
    one, two = (
        everything(backend, *steps(backend, r, p, s, range(4, 7), half))
        for r, p, s in ((rule, params, state), (again, found, loaded))
    )
    same_bits(one, two)


@pytest.mark.whole
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "other", ["numpy:fused", "torch:loop", "torch:foreach", "torch:fused", "cupy:raw(host)"]
)
def test_another_backend_goes_on_to_the_bit(other, way, half, tmp_path):
    """SGD with momentum, whose sums of two have one result only, on paths that contract nothing."""
    backend, rule = isostep.backend(other), isostep.rule("sgd", lr=0.01, momentum=0.75)
    params = taken(REFERENCE, draw(half, 0))
    state = REFERENCE.init(rule, params, storage=low_precision(**WAYS[way]), seed=2**60 + 3)
    params, state = steps(REFERENCE, rule, params, state, range(1, 4), half)
    isostep.save(tmp_path / "x", rule, params, state)
    _, found, loaded = isostep.load(tmp_path / "x", backend=other)
    same_bits(everything(backend, found, loaded), everything(REFERENCE, params, state))
    same_bits(
        everything(backend, *steps(backend, rule, found, loaded, range(4, 7), half)),
        everything(REFERENCE, *steps(REFERENCE, rule, params, state, range(4, 7), half)),
    )


def test_a_file_from_before_there_was_a_storage_is_plain(tmp_path):
    files = pytest.importorskip("safetensors.numpy", reason="isostep[files] is not installed")
    safe_open = pytest.importorskip("safetensors").safe_open
    rule, params = isostep.rule("adamw"), {"w": np.ones(3, np.float32)}
    isostep.save(tmp_path / "x", rule, params, REFERENCE.init(rule, params))
    with safe_open(tmp_path / "x", "np") as file:
        notes = json.loads(file.metadata()["isostep"])
    del notes["storage"], notes["seed"]
    files.save_file(files.load_file(tmp_path / "x"), tmp_path / "y", {"isostep": json.dumps(notes)})
    _, _, state = isostep.load(tmp_path / "y", "numpy:reference")
    assert (state.storage, state.handling.seed) == (PLAIN, 0)


# Gradients that are multiplied as they are loaded


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("rule", ["sgd", "adamw", "adafactor"])
def test_scaled_gradients_are_multiplied_ones(name, rule, half):
    """By a power of two, which is exact in every dtype."""
    rule, backend, found = isostep.rule(rule, lr=0.1), isostep.backend(name), []
    for factor in (1.0, 0.125):
        params = taken(backend, draw(half, 0))
        state = backend.init(rule, params, storage=Storage(scaled=factor != 1))
        for k in (1, 2):
            state.handling.factor = 1.0 if factor == 1 else 2.0**-k
            grads = {
                n: g * g.dtype.type(2.0**-k if factor == 1 else 1) for n, g in draw(half, k).items()
            }
            kept = taken(backend, grads)
            params, state = backend.step(rule, params, kept, state)
            for n, g in grads.items():  # a gradient is never written
                assert backend.to_numpy(kept[n]).tobytes() == g.tobytes()
        found.append(everything(backend, params, dataclasses.replace(state, storage=PLAIN))[:3])
    assert found[0] == found[1]


# What it is for


@pytest.mark.parametrize("way", [None, *WAYS])
@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_small_steps_add_up(way, rule):
    """A step of 1e-3 is a quarter of bfloat16's spacing below 1: rounded to nearest, nothing ever changes."""
    dtype = np.dtype(pytest.importorskip("ml_dtypes", reason="isostep[halves]").bfloat16)
    given = {"weight_decay": 0.0} if rule == "adamw" else {}
    rule = isostep.rule(rule, lr=1e-3, **given)
    params, n = [np.ones(1000, dtype)], 100
    state = REFERENCE.init(rule, params, storage=low_precision(**WAYS.get(way, {})), seed=1)
    for _ in range(n):
        REFERENCE.step(rule, params, [np.ones(1000, dtype)], state)
    mean = params[0].astype(np.float64).mean()
    if way in (None, "float32"):
        assert mean == 1.0
    else:
        assert mean == pytest.approx(1 - 1e-3 * n, abs=2.0**-8)
