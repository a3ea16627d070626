"""SAM, ASAM, LookSAM, PCGrad and Hutchinson's estimate, against their formulas written out."""

import itertools
from importlib.util import find_spec

import numpy as np
import pytest

import isostep
from isostep.curvature import differences, hutchinson, spatial_mean
from isostep.multitask import pcgrad
from isostep.sharpness import SAM, LookSAM
from isostep.state import StepError

FUSED = pytest.param(
    "numpy:fused",
    marks=pytest.mark.skipif(find_spec("numba") is None, reason="needs the extra `fused`"),
)

PATHS = ["numpy:reference", FUSED]
A, B = (np.random.default_rng(k).standard_normal((4, 4)) for k in (1, 2))


def gradient(params):
    """Of a loss that is no quadratic, so that the second gradient is another."""
    x, y = params
    return [np.cos(A @ x) + 0.3 * y.sum() * x, np.sin(y) + 0.3 * np.sum(x * x) / 2 + y**3]


def start():
    rng = np.random.default_rng(0)
    return [rng.standard_normal(4), rng.standard_normal((2, 3))]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("adaptive", "eta"), [(False, 0.0), (True, 0.0), (True, 0.01)])
def test_the_second_gradient(path, adaptive, eta):
    params = start()
    before = [p.tobytes() for p in params]
    found = SAM(path, 0.2, adaptive=adaptive, eta=eta).gradient(gradient, params)
    assert [p.tobytes() for p in params] == before
    g = gradient(params)
    T = [np.abs(p) + eta if adaptive else np.ones_like(p) for p in params]
    norm = np.sqrt(sum(np.sum((a * b) ** 2) for a, b in zip(T, g, strict=True)))
    away = [p + 0.2 * a * a * b / norm for p, a, b in zip(params, T, g, strict=True)]
    for a, b in zip(found, gradient(away), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_a_run_with_the_second_gradient():
    params, other = start(), start()
    rule, backend = isostep.rule("sgd", lr=0.05, momentum=0.9), isostep.backend("numpy:reference")
    state, sam, m = backend.init(rule, params), SAM(backend, 0.1), [0.0, 0.0]
    for _ in range(10):
        backend.step(rule, params, sam.gradient(gradient, params), state)
        g = gradient(other)
        norm = np.sqrt(sum(np.sum(x * x) for x in g))
        s = gradient([p + 0.1 * x / norm for p, x in zip(other, g, strict=True)])
        m = [0.9 * a + b for a, b in zip(m, s, strict=True)]
        other = [p - 0.05 * a for p, a in zip(other, m, strict=True)]
        for a, b in zip(params, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", PATHS)
def test_weights_are_back_after_an_exception(path):
    params = [np.array([0.1, -0.0, np.nan, 1e-310]), np.ones((2, 3))]
    before = [p.tobytes() for p in params]
    sam = SAM(path)

    def fails():
        with sam.perturbed(params, [np.ones(4), np.ones((2, 3))]):
            assert [p.tobytes() for p in params] != before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert [p.tobytes() for p in params] == before
    with pytest.raises(StepError, match="gradient of params"):
        with sam.perturbed(params, [np.ones(4), np.ones((3, 2))]):
            pass
    assert [p.tobytes() for p in params] == before
    with sam.perturbed(params, [np.full(4, np.inf), np.ones((2, 3))]):
        assert np.isnan(params[0]).any()
    assert [p.tobytes() for p in params] == before


def test_a_gradient_of_zeros_and_one_that_is_missing():
    params = start()
    with SAM("numpy:reference").perturbed(params, [np.zeros(4), np.zeros((2, 3))]):
        np.testing.assert_array_equal(params[0], start()[0])
    with SAM("numpy:reference", 0.5).perturbed(params, [np.ones(4), None]):
        np.testing.assert_allclose(params[0], start()[0] + 0.25, rtol=1e-11)
        np.testing.assert_array_equal(params[1], start()[1])


def test_looksam_uses_the_part_across_again():
    calls = []

    def counted(params):
        calls.append(1)
        return gradient(params)

    params = start()
    look = LookSAM(SAM("numpy:reference", 0.2), k=3, alpha=0.6)
    sam = SAM("numpy:reference", 0.2)
    for t in range(7):
        flat = lambda x: np.concatenate([a.ravel() for a in x])  # noqa: E731
        g = flat(gradient(params))
        calls.clear()
        found = flat(look.gradient(counted, params))
        if t % 3 == 0:
            s = flat(sam.gradient(gradient, params))
            cosine = s @ g / np.linalg.norm(s) / np.linalg.norm(g)
            v = s - np.linalg.norm(s) * cosine * g / np.linalg.norm(g)
            assert v @ g == pytest.approx(0, abs=1e-12)
            assert len(calls) == 2
        else:
            s = g + 0.6 * np.linalg.norm(g) / np.linalg.norm(v) * v
            assert len(calls) == 1
        np.testing.assert_allclose(found, s, rtol=1e-10, atol=1e-12)
        params = [params[0] - 0.01 * (t + 1), params[1] + 0.02]


def test_looksam_s_errors():
    with pytest.raises(ValueError, match=r"^looksam: k must be an integer >= 1, got 0; "):
        LookSAM(SAM("numpy:reference"), k=0)
    with pytest.raises(isostep.DomainError, match=r"^sam: rho must be >= 0, got -1"):
        SAM("numpy:reference", -1.0)


def surgery(tasks, orders):
    """The paper's Algorithm 1 on flat vectors."""
    total = np.zeros_like(tasks[0])
    for g, order in zip(tasks, orders, strict=True):
        d = g.copy()
        for j in order:
            if d @ tasks[j] < 0:
                d -= d @ tasks[j] / (tasks[j] @ tasks[j]) * tasks[j]
        total += d
    return total


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("seed", [None, 5])
def test_pcgrad(reduction, seed):
    rng = np.random.default_rng(3)
    tasks = [[rng.standard_normal(3), rng.standard_normal((2, 2))] for _ in range(4)]
    flat = [np.concatenate([a.ravel() for a in t]) for t in tasks]
    assert any(a @ b < 0 for a, b in itertools.combinations(flat, 2))
    orders = [[j for j in range(4) if j != i] for i in range(4)]
    if seed is not None:
        again = np.random.default_rng(seed)
        for order in orders:
            again.shuffle(order)
    wanted = surgery(flat, orders) / (4 if reduction == "mean" else 1)
    given = None if seed is None else np.random.default_rng(seed)
    found = pcgrad(tasks, reduction=reduction, rng=given)
    np.testing.assert_allclose(np.concatenate([a.ravel() for a in found]), wanted, rtol=1e-12)
    named = [dict(zip("ab", t, strict=True)) for t in tasks]
    given = None if seed is None else np.random.default_rng(seed)
    found = pcgrad(named, reduction=reduction, rng=given)
    np.testing.assert_allclose(found["a"], wanted[:3], rtol=1e-12)


def test_pcgrad_of_two_that_conflict():
    a, b = np.array([1.0, 0.0]), np.array([-1.0, 1.0])
    (found,) = pcgrad([[a], [b]], reduction="sum")
    np.testing.assert_allclose(found, [0.5, 1.5])
    np.testing.assert_array_equal(pcgrad([[a], [-b]], reduction="sum")[0], a - b)
    np.testing.assert_array_equal(pcgrad([[a]])[0], a)
    np.testing.assert_array_equal(pcgrad([[a], [np.zeros(2)]], reduction="sum")[0], a)


def test_pcgrad_with_heads_of_their_own():
    # As if the missing ones were zeros; only what all tasks share is averaged.
    shared = [np.array([1.0, 2.0]), np.array([-2.0, 0.5])]
    head = [np.array([3.0]), np.array([4.0])]
    tasks = [[shared[0], head[0], None, None], [shared[1], None, head[1], None]]
    flat = [np.concatenate([shared[0], head[0], [0]]), np.concatenate([shared[1], [0], head[1]])]
    wanted = surgery(flat, [[1], [0]])
    found = pcgrad(tasks)
    assert found[3] is None
    np.testing.assert_allclose(found[0], wanted[:2] / 2, rtol=1e-13)
    np.testing.assert_allclose(np.concatenate(found[1:3]), wanted[2:], rtol=1e-13)
    # each head moves by what both tasks make of it
    both = pcgrad(tasks, reduction="sum")
    np.testing.assert_allclose(np.concatenate(both[:3]), wanted, rtol=1e-13)


def test_pcgrad_s_errors():
    with pytest.raises(
        ValueError, match=r"^pcgrad: reduction must be one of 'mean', 'sum', got 'max'"
    ):
        pcgrad([[np.ones(2)]], reduction="max")
    with pytest.raises(
        StepError, match=r"^pcgrad: the gradients of all tasks must be lists, or dicts"
    ):
        pcgrad([[np.ones(2)], [np.ones(2), np.ones(1)]])
    with pytest.raises(StepError, match=r"^pcgrad: needs the gradients of at least one task"):
        pcgrad([])


H = A @ A.T + np.diag([5.0, -3.0, 0.5, 2.0])


def test_random_signs_give_the_diagonal_in_the_mean():
    # The mean over all sign vectors is the diagonal, without error.
    class All:
        signs = iter(itertools.product([0, 1], repeat=4))

        def integers(self, low, high, shape):
            return np.array(next(self.signs))

    (found,) = hutchinson(lambda z: [H @ z[0]], [np.zeros(4)], All(), samples=16)
    np.testing.assert_allclose(found, np.diag(H), rtol=1e-13)
    # and a diagonal matrix needs one
    D = np.array([5.0, -3.0, 0.5, 2.0])
    (found,) = hutchinson(lambda z: [D * z[0]], [np.zeros(4)], np.random.default_rng(0))
    np.testing.assert_array_equal(found, D)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_estimates_tend_to_the_diagonal(distribution):
    n = 20000
    (found,) = hutchinson(
        lambda z: [H @ z[0]],
        [np.zeros(4)],
        np.random.default_rng(7),
        samples=n,
        distribution=distribution,
    )
    off = np.sum(H * H, axis=1) - np.diag(H) ** 2
    spread = np.sqrt((off + (2 * np.diag(H) ** 2 if distribution == "gaussian" else 0)) / n)
    assert np.all(np.abs(found - np.diag(H)) < 4 * spread)
    assert np.any(np.abs(found - np.diag(H)) > 0.05 * spread)


def test_products_by_differences():
    params = start()
    product = differences(gradient, params)
    z = [np.random.default_rng(4).standard_normal(p.shape) for p in params]
    found = product(z)
    x, y = params
    wanted_x = -np.sin(A @ x) * (A @ z[0]) + 0.3 * (z[1].sum() * x + y.sum() * z[0])
    wanted_y = np.cos(y) * z[1] + 0.3 * np.sum(x * z[0]) + 3 * y**2 * z[1]
    np.testing.assert_allclose(found[0], wanted_x, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(found[1], wanted_y, rtol=1e-7, atol=1e-8)
    np.testing.assert_array_equal(params[0], start()[0])


def test_an_estimate_feeds_adahessian():
    # D is diagonal, so that the estimate by differences is its own: the step is the formula's.
    D, p = np.array([2.0, 30.0]), [np.array([1.0, -1.0])]
    backend = isostep.backend("numpy:reference")
    rule = isostep.rule("adahessian", lr=0.1)
    state = backend.init(rule, p)
    h = hutchinson(differences(lambda q: [D * q[0]], p), p, np.random.default_rng(0))
    np.testing.assert_allclose(h[0], D, rtol=1e-9)
    backend.step(rule, p, [D * p[0]], state, hessian_diag=h)
    np.testing.assert_allclose(p[0], [0.9, -0.9], rtol=1e-4)


def test_spatial_averages_are_per_kernel():
    estimate = np.random.default_rng(0).standard_normal((3, 2, 4, 5))
    found = spatial_mean(estimate, (2, 3))
    assert found.shape == estimate.shape
    np.testing.assert_allclose(
        found[1, 1], np.full((4, 5), np.abs(estimate[1, 1]).mean()), rtol=1e-13
    )
    np.testing.assert_array_equal(spatial_mean(estimate[0], (2, 3)), np.abs(estimate[0]))
    (found,) = hutchinson(lambda z: z, [estimate], np.random.default_rng(0), spatial_axes=(0, 1))
    np.testing.assert_array_equal(found, np.ones_like(estimate))


def test_hutchinson_s_errors():
    with pytest.raises(ValueError, match=r"^hutchinson: samples must be an integer >= 1, got 0; "):
        hutchinson(lambda z: z, [np.ones(2)], np.random.default_rng(0), samples=0)
    with pytest.raises(
        ValueError, match=r"^hutchinson: distribution must be one of 'rademacher', 'gaussian', got"
    ):
        hutchinson(lambda z: z, [np.ones(2)], np.random.default_rng(0), distribution="normal")


def named(params):
    """Of a sum of squares, each time in the other order."""
    found = {k: (2.0 + len(k)) * v for k, v in params.items()}
    named.calls += 1
    return dict(reversed(found.items())) if named.calls % 2 else found


named.calls = 0


def test_looksam_s_gradients_are_matched_by_name_and_may_be_missing():
    params = {"a": np.array([1.0, 2.0]), "bb": np.array([3.0, 4.0])}
    listed = lambda p: [3.0 * p[0], 4.0 * p[1]]  # noqa: E731
    look = LookSAM(SAM("numpy:reference"), k=2)
    other = LookSAM(SAM("numpy:reference"), k=2)
    for _ in range(2):
        found = look.gradient(named, params)
        wanted = other.gradient(listed, tuple(params.values()))
        np.testing.assert_array_equal([found["a"], found["bb"]], wanted)
    assert isinstance(wanted, tuple)
    some = LookSAM(SAM("numpy:reference"), k=2)
    partly = lambda p: [p[0] ** 3, None]  # noqa: E731
    for _ in range(2):
        first, second = some.gradient(partly, [np.array([1.0, 2.0]), np.ones(3)])
        assert first.shape == (2,)
        assert second is None
    with pytest.raises(StepError, match=r"^looksam: gradient of params\[0\] must have shape"):
        [some.gradient(partly, [np.ones(n), np.ones(3)]) for n in (2, 3)]
    assert LookSAM(SAM("numpy:reference")).gradient(lambda p: [], []) == []


def test_weights_that_cannot_be_written_are_told_before_any_is():
    params = [np.ones(2), np.ones(2), np.ones(2)]
    params[1].flags.writeable = False
    with pytest.raises(StepError, match=r"^sam: cannot swap weights that are read-only"):
        SAM("numpy:reference").gradient(lambda p: [2 * x for x in p], params)
    np.testing.assert_array_equal(params, np.ones((3, 2)))


def test_products_of_halves_are_taken_in_float32():
    one, other = np.full(70000, 2, np.float16), np.full(70000, -2, np.float16)
    (found,) = pcgrad([[one], [other]], reduction="sum")
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, np.zeros(70000))
    look = LookSAM(SAM("numpy:reference"), k=2)
    for _ in range(2):
        (found,) = look.gradient(lambda p: [100 * p[0]], [one])
        assert found.dtype == np.float16
        assert np.isfinite(found).all()


def test_gradients_in_any_order_and_none_in_differences():
    params = {"a": np.ones(2), "bb": np.ones(2)}
    rng = np.random.default_rng(0)
    found = hutchinson(differences(named, params), params, rng)
    np.testing.assert_allclose(found["a"], 3.0)
    np.testing.assert_allclose(found["bb"], 4.0)
    places = [np.ones(2), np.ones(3)]
    found = hutchinson(differences(lambda p: [2 * p[0], None], places), places, rng)
    np.testing.assert_allclose(found[0], 2.0)
    np.testing.assert_array_equal(found[1], np.zeros(3))


def test_more_errors_in_one_line():
    ones = [np.ones(2)]
    with pytest.raises(StepError, match=r"^pcgrad: the gradients of params\[0\] must have one"):
        pcgrad([ones, [-np.ones((3, 2))]])
    with pytest.raises(TypeError, match=r"^pcgrad: rng must be a numpy\.random\.Generator"):
        pcgrad([ones], rng=3)
    with pytest.raises(TypeError, match=r"^hutchinson: rng must be a numpy\.random\.Generator"):
        hutchinson(lambda z: z, ones, 3)
    for hvp in (lambda z: z[:1], lambda z: [*z, *z]):
        with pytest.raises(StepError, match=r"^hutchinson: hvp must give an array like each"):
            hutchinson(hvp, [*ones, *ones], np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"^differences: step must be None or a finite"):
        differences(lambda p: p, ones, step=0)


def test_what_looksam_keeps_goes_by_names():
    gradient = lambda p: {k: (i + 2.0) * p[k] ** 3 for i, k in enumerate("ab")}  # noqa: E731
    params = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, -4.0])}
    one, other = (LookSAM(SAM("numpy:reference", 0.1), k=2) for _ in range(2))
    one.gradient(gradient, params)
    other.gradient(gradient, params)
    wanted = one.gradient(gradient, params)
    found = other.gradient(gradient, dict(reversed(params.items())))
    for k in params:
        np.testing.assert_array_equal(found[k], wanted[k])
