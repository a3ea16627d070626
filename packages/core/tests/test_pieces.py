"""Pieces: what they are for, written out, and their edges; libraries are conformance's oracles."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import isostep
from isostep import pieces

REFERENCE = isostep.backend("numpy:reference")


def step(rule, params, grads):
    """The parameters after one step from a new state."""
    params = [np.array(p, np.float64) for p in params]
    REFERENCE.step(
        rule, params, [np.array(g, np.float64) for g in grads], REFERENCE.init(rule, params)
    )
    return params


def seen(piece, p, g):
    """The gradient that a rule behind the piece sees."""
    (new,) = step(isostep.compose(piece, isostep.rule("sgd", lr=1.0)), [p], [g])
    return np.asarray(p) - new


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_clip_by_value_keeps_nan():
    found = seen(pieces.clip_by_value(0.5), np.zeros(5), [0.1, -3, 3, np.inf, np.nan])
    np.testing.assert_array_equal(found, [0.1, -0.5, 0.5, 0.5, np.nan])


def test_clip_by_norm_takes_each_array_by_itself():
    g = [[3.0, 4.0], [0.3, 0.4]]
    rule = isostep.compose(pieces.clip_by_norm(1.0, dialect="optax"), isostep.rule("sgd", lr=1.0))
    a, b = step(rule, [np.zeros(2), np.zeros(2)], g)
    np.testing.assert_allclose(a, [-0.6, -0.8], rtol=1e-15)
    np.testing.assert_array_equal(b, [-0.3, -0.4])


@pytest.mark.parametrize("units", [False, True])
def test_normalized_gradients_have_a_deviation_of_one(units):
    g = 7.0 + 3.0 * normal(4, 5)
    found = seen(pieces.normalize_gradient(units=units, eps=0.0, unit_axis=-1), np.zeros((4, 5)), g)
    wanted = g / g.std(axis=0 if units else None, ddof=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert seen(pieces.normalize_gradient(), [1.0], [5.0]).tolist() == [5.0]


@pytest.mark.parametrize("unit_axis", [0, -1])
def test_coupled_norm_loss_is_the_gradient_of_the_loss(unit_axis):
    p, factor, h = normal(3, 4), 0.3, 1e-6
    others = 1 if unit_axis == 0 else 0

    def loss(x):
        return factor * np.sum((1 - np.sqrt(np.sum(x * x, axis=others))) ** 2)

    wanted = np.zeros_like(p)
    for i in np.ndindex(p.shape):
        e = np.zeros_like(p)
        e[i] = h
        wanted[i] = (loss(p + e) - loss(p - e)) / (2 * h)
    piece = pieces.norm_loss(factor, decoupled=False, eps=0.0, unit_axis=unit_axis)
    np.testing.assert_allclose(seen(piece, p, np.zeros((3, 4))), wanted, atol=1e-8)
    (new,) = step(
        isostep.compose(
            isostep.rule("sgd", lr=0.2), pieces.norm_loss(factor, eps=0.0, unit_axis=unit_axis)
        ),
        [p],
        [np.zeros((3, 4))],
    )
    np.testing.assert_allclose(p - new, 0.2 * wanted, atol=1e-8)


def test_an_orthogonal_gradient():
    p, g = normal(3, 4), normal(3, 4, seed=1)
    found = seen(pieces.orthogonal_gradient(), p, g)
    assert np.sum(found * p) == pytest.approx(0, abs=1e-13)
    assert np.sum(found * g) > 0
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(g), rel=1e-13)
    # along p there is nothing left: rounding must not become a gradient
    for scale in (1.0, -3.7, 1 / 3):
        assert not np.any(seen(pieces.orthogonal_gradient(), p, scale * p))
    # a thousandth across is enough, less than ``least`` is not
    across = found / np.linalg.norm(found) * np.linalg.norm(p)
    for part, bound, kept in ((1e-3, 1e-6, True), (1e-3, 1.01e-3, False), (1e-3, 0.99e-3, True)):
        left = seen(pieces.orthogonal_gradient(least=bound), p, p + part * across)
        assert np.any(left) == kept
    np.testing.assert_array_equal(
        seen(pieces.orthogonal_gradient(), np.zeros(3), [1.0, 2, 3]), [1, 2, 3]
    )


def test_stable_weight_decay_is_one_figure_for_the_group():
    rule = isostep.compose(
        isostep.rule("sgd", lr=0.1), pieces.stable_weight_decay(0.5, beta2=0.9, eps=0.0)
    )
    p = [normal(3, 2), normal(5, seed=1)]
    params = [x.copy() for x in p]
    state = REFERENCE.init(rule, params)
    v = [np.zeros((3, 2)), np.zeros(5)]
    for t in range(1, 6):
        g = [normal(3, 2, seed=2 * t), 10 * normal(5, seed=2 * t + 1)]
        REFERENCE.step(rule, params, g, state)
        v = [0.9 * a + 0.1 * b * b for a, b in zip(v, g, strict=True)]
        mean = np.mean(np.concatenate([a.ravel() for a in v])) / (1 - 0.9**t)
        p = [x - 0.1 * b - 0.1 * 0.5 / np.sqrt(mean) * x for x, b in zip(p, g, strict=True)]
        for a, b in zip(params, p, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13)


def test_decays_and_their_masks():
    p, g = [np.full((2, 2), 4.0), np.full(3, 4.0)], [np.zeros((2, 2)), np.zeros(3)]
    rule = isostep.rule("sgd", lr=0.5)
    for piece, fraction in (
        (pieces.weight_decay(0.1, min_ndim=2), 0.05),
        (pieces.weight_decay(0.1, decoupled=False, min_ndim=2), 0.05),
        (pieces.independent_weight_decay(0.1, min_ndim=2), 0.1),
        (pieces.corrected_weight_decay(0.1, max_lr=2.0, min_ndim=2), 0.0125),
    ):
        parts = (piece, rule) if piece.values.get("decoupled") is False else (rule, piece)
        a, b = step(isostep.compose(*parts), p, g)
        np.testing.assert_allclose(a, 4.0 * (1 - fraction), rtol=1e-15)
        np.testing.assert_array_equal(b, 4.0)


def test_the_trust_ratio_s_edges():
    p, g = normal(6), normal(6, seed=1)
    rule = isostep.compose(isostep.rule("sgd", lr=0.2), pieces.trust_ratio(0.3))
    (new,) = step(rule, [p], [g])
    assert np.linalg.norm(new - p) == pytest.approx(0.2 * 0.3 * np.linalg.norm(p), rel=1e-13)
    np.testing.assert_array_equal(step(rule, [p], [np.zeros(6)])[0], p)  # no update: no 0 / 0
    np.testing.assert_allclose(step(rule, [np.zeros(6)], [g])[0], -0.2 * g)
    np.testing.assert_array_equal(step(rule.replace(lr=0.0), [p], [g])[0], p)
    # a learning rate that has become negative goes on pointing where it points
    hd = isostep.compose(isostep.rule("sgd_hd", lr=0.1, hypergrad_lr=1.0), pieces.trust_ratio(0.3))
    params = [p.copy()]
    state = REFERENCE.init(hd, params)
    REFERENCE.step(hd, params, [g], state)
    before = params[0].copy()
    REFERENCE.step(hd, params, [-g], state)
    lr = float(state.group["lr"])
    assert lr < 0
    np.testing.assert_allclose(
        params[0] - before, lr * 0.3 * np.linalg.norm(before) / np.linalg.norm(g) * g, rtol=1e-12
    )


@pytest.mark.parametrize("piece", [pieces.cautious(), pieces.trust_ratio(0.3)])
def test_behind_a_rule_whose_first_step_is_none(piece):
    rule = isostep.compose(isostep.rule("avagrad", lr=0.1), piece)
    p = normal(4)
    np.testing.assert_array_equal(step(rule, [p], [normal(4, seed=1)])[0], p)


def test_an_average_of_updates():
    rule = isostep.compose(isostep.rule("sgd", lr=1.0), pieces.ema_update(0.75))
    params, total = [np.zeros(3)], np.zeros(3)
    state = REFERENCE.init(rule, params)
    for t in range(1, 6):
        before, g = params[0].copy(), normal(3, seed=t)
        REFERENCE.step(rule, params, [g], state)
        total = 0.75 * total - 0.25 * g
        np.testing.assert_allclose(params[0] - before, total / (1 - 0.75**t), rtol=1e-12)
        np.testing.assert_allclose(state.arrays[0]["ema_update.ema"], total, rtol=1e-12)


def check_lookahead(k, when, makes=None, momentum="none", dialect="paper"):
    """SGD with momentum inside of Lookahead, against both written out; step ``makes`` makes the slow weights."""
    given = {"dialect": dialect, "pullback_momentum": momentum}
    rule = isostep.compose(
        isostep.rule("sgd", lr=0.1, momentum=0.9), pieces.lookahead(k, 0.6, **given)
    )
    p = normal(5)
    params, slow, m, kept = [p.copy()], p.copy(), 0.0, 0.0
    state = REFERENCE.init(rule, params)
    for t in range(1, 11):
        g = normal(5, seed=t)
        REFERENCE.step(rule, params, [g], state)
        m = 0.9 * m + g
        p = p - 0.1 * m
        if when(t):
            p = slow = p if t == makes else slow + 0.6 * (p - slow)
            if momentum == "reset":
                m = 0.0 * g
            elif momentum == "pullback":
                m = kept = 0.6 * m + 0.4 * kept
        np.testing.assert_allclose(params[0], p, rtol=1e-13)
        np.testing.assert_allclose(state.arrays[0]["momentum_buffer"], m, rtol=1e-13)


@pytest.mark.parametrize("k", [1, 3])
def test_which_steps_of_lookahead_synchronise(k):
    check_lookahead(k, lambda t: t % k == 0)
    check_lookahead(k, lambda t: t % k == 0, makes=k, dialect="timm")
    check_lookahead(k, lambda t: (t - 1) % k == 0, makes=1, dialect="torch_optimizer")


@pytest.mark.parametrize("how", ["reset", "pullback"])
def test_what_becomes_of_the_momentum_when_lookahead_synchronises(how):
    check_lookahead(3, lambda t: t % 3 == 0, momentum=how)


def test_a_momentum_to_pull_back_must_be_there():
    with pytest.raises(isostep.RuleError, match="and sgd has none by the names of exp_avg, m, mom"):
        isostep.compose(isostep.rule("sgd"), pieces.lookahead(pullback_momentum="reset"))


@pytest.mark.parametrize("amsgrad", [False, True])
def test_softplus_in_front_of_adam_is_sadam(amsgrad):
    """Derived from Sadam.py: lr * sqrt(c2) / c1 * m / softplus(sqrt(v)), samsgrad with the largest v."""
    adam = isostep.rule(
        "adam", lr=0.03, betas=(0.8, 0.95), eps=0.0, amsgrad=amsgrad, dialect="keras"
    )
    rule = isostep.compose(pieces.softplus(7.0), adam)
    p = normal(6)
    params, m, v, top = [p.copy()], 0.0, 0.0, 0.0
    state = REFERENCE.init(rule, params)
    for t in range(1, 12):
        g = normal(6, seed=t) * 10.0 ** np.arange(-4, 2)
        REFERENCE.step(rule, params, [g], state)
        m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g * g
        top = np.maximum(top, v) if amsgrad else v
        size = 0.03 * np.sqrt(1 - 0.95**t) / (1 - 0.8**t)
        p = p - size * m / (np.logaddexp(0, 7.0 * np.sqrt(top)) / 7.0)
        np.testing.assert_allclose(params[0], p, rtol=1e-12)


def test_softplus_s_edges():
    rule = isostep.rule("rmsprop", lr=1.0, alpha=0.0, eps=0.0)
    soft = isostep.compose(pieces.softplus(2.0), rule)
    g = np.array([0.0, 1e-8, 1.0, 1e9, np.nan])
    p = REFERENCE.step(soft, [np.zeros(5)], [g], REFERENCE.init(soft, [np.zeros(5)]))[0][0]
    np.testing.assert_allclose(
        p, [0, -2e-8 / np.log(2), -1 / (np.log1p(np.exp(2)) / 2), -1, np.nan], rtol=1e-7
    )
    # two of them, in their order
    twice = isostep.compose(pieces.softplus(2.0), pieces.softplus(3.0), rule)
    soft = np.logaddexp(0, 3.0 * np.logaddexp(0, 2.0 * 0.5) / 2.0) / 3.0
    assert step(twice, [[0.0]], [[0.5]])[0] == pytest.approx(-0.5 / soft, rel=1e-14)
    with pytest.raises(
        isostep.RuleError, match=r"^softplus changes the denominator, which sgd does"
    ):
        isostep.compose(pieces.softplus(), isostep.rule("sgd"))
    with pytest.raises(isostep.RuleError, match=r"^softplus changes the denominator: put it in fr"):
        isostep.compose(rule, pieces.softplus())


def test_noise_is_an_input_and_its_variance_falls():
    rule = isostep.compose(pieces.gradient_noise(0.3, gamma=0.7), isostep.rule("sgd", lr=1.0))
    assert rule.input_names == ("noise",)
    params = [normal(3), normal(2, 2, seed=1)]
    wanted = [p.copy() for p in params]
    state = REFERENCE.init(rule, params)
    ours, theirs = np.random.default_rng(5), np.random.default_rng(5)
    for t in range(1, 6):
        g = [normal(3, seed=t), normal(2, 2, seed=10 + t)]
        noise = isostep.noise.normal(params, ours)
        REFERENCE.step(rule, params, g, state, noise=noise)
        for p, x, b in zip(params, wanted, g, strict=True):
            x -= b + np.sqrt(0.3 / (1 + (t - 1)) ** 0.7) * theirs.standard_normal(x.shape)
            np.testing.assert_allclose(p, x, rtol=1e-13)
    with pytest.raises(isostep.StepError, match=r"needs the input 'noise' beside the gradients"):
        REFERENCE.step(rule, params, g, state)
    named = {"a": np.zeros(2, np.float32)}
    drawn = isostep.noise.normal(named, np.random.default_rng(0))
    assert list(drawn) == ["a"]
    assert drawn["a"].dtype == np.float32
    REFERENCE.step(rule, named, {"a": named["a"]}, REFERENCE.init(rule, named), noise=drawn)


def test_a_piece_of_positive_negative_momentum_in_front_of_sgd_is_pnm():
    composed = isostep.compose(
        pieces.positive_negative_momentum(0.8, weight=0.6), isostep.rule("sgd", lr=0.3)
    )
    rule = isostep.rule("pnm", lr=0.3, betas=(0.8, 0.6))
    a, b = [normal(4, 2)], [normal(4, 2)]
    states = REFERENCE.init(composed, a), REFERENCE.init(rule, b)
    for t in range(1, 8):
        g = [normal(4, 2, seed=t)]
        REFERENCE.step(composed, a, g, states[0])
        REFERENCE.step(rule, b, g, states[1])
        np.testing.assert_array_equal(a[0], b[0])
    for x, y in zip(*(s.arrays[0].values() for s in states), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: pieces.softplus(0.0), "softplus: beta must be > 0, got 0.0"),
        (lambda: pieces.gradient_noise(-1.0), "gradient_noise: eta must be >= 0, got -1.0"),
        (lambda: pieces.clip_by_value(0.0), "clip_by_value: max_value must be > 0, got 0.0"),
        (
            lambda: pieces.weight_decay(0.1, min_ndim=-1),
            "weight_decay: min_ndim must be an integer >= 0",
        ),
        (
            lambda: pieces.corrected_weight_decay(0.1, max_lr=0.0),
            "corrected_weight_decay: max_lr must be > 0, got 0.0",
        ),
        (lambda: pieces.ema_update(1.0), "ema_update: decay must be in [0, 1), got 1.0"),
        (lambda: pieces.norm_loss(-1.0), "norm_loss: factor must be >= 0, got -1.0"),
    ],
)
def test_bad_hyperparameters(make, text):
    with pytest.raises(isostep.DomainError) as caught:
        make()
    assert str(caught.value).startswith(text)


BEFORE = [
    pieces.clip_by_value(0.7),
    pieces.clip_by_norm(0.9),
    pieces.clip_by_global_norm(1.5),
    pieces.normalize_gradient(eps=0.1),
    pieces.orthogonal_gradient(),
    pieces.centralize(),
    pieces.adaptive_clip(0.3),
    pieces.positive_negative_momentum(0.7),
    pieces.weight_decay(0.1, decoupled=False, min_ndim=2),
]
AFTER = [
    pieces.weight_decay(0.1),
    pieces.independent_weight_decay(0.1),
    pieces.corrected_weight_decay(0.1, max_lr=0.5),
    pieces.stable_weight_decay(0.1, eps=0.1),
    pieces.norm_loss(0.1),
    pieces.trust_ratio(0.2),
    pieces.ema_update(0.6),
    pieces.lookahead(2),
]


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(BEFORE), max_size=2, unique_by=id),
    st.sampled_from(["sgd", "adamw", "addsign"]),
    st.lists(st.sampled_from(AFTER), max_size=2, unique_by=id),
)
def test_any_composition_is_one_fused_program(first, name, last):
    pytest.importorskip("numba", reason="needs the extra `fused`")
    fused = isostep.backend("numpy:fused")
    rule = isostep.compose(*first, isostep.rule(name, lr=0.1), *last)
    assert fused.path(rule) == "fused"
    a, b = ([normal(4, 3), normal(7, seed=1)] for _ in range(2))
    states = REFERENCE.init(rule, a), fused.init(rule, b)
    for t in range(3):
        g = [normal(4, 3, seed=2 + t), normal(7, seed=9 + t)]
        REFERENCE.step(rule, a, g, states[0])
        fused.step(rule, b, g, states[1])
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-13)
