"""Sums over the group: of all its parameters on every path, whichever of them use a sum; and its next values."""

import numpy as np
import pytest

import isostep
from isostep import nm
from isostep.domains import Real
from isostep.lower.layout import obstacle
from isostep.program import trace
from isostep.rule import Piece, Rule, RuleError, compose

SHAPES = ((3, 4), (5,), (2, 3, 2), (), (0,), (4, 3))


def measure(p, g, m, t, /, *, lr):
    return {"gg": g * g, "pp": p * p}


def mine(update, measure=measure, **facts):
    facts = {"state": ("m",), "hyper": {"lr": Real(0.1, low=0)}} | facts
    return Rule(name="mine", update=update, measure=measure, **facts).bind()


def steps(rule, path, dtype="float64", count=4, shapes=SHAPES, states=True):
    """Parameters, state and the group's values after each of a few steps; every third gradient is missing."""
    rng = np.random.default_rng(5)
    backend = isostep.backend(path)
    params = [backend.asarray(rng.normal(size=s).astype(dtype)) for s in shapes]
    state = backend.init(rule, params)
    found = []
    for k in range(count):
        given = [backend.asarray(rng.normal(size=s).astype(dtype)) for s in shapes]
        grads = [None if (k + i) % 3 == 2 else g for i, g in enumerate(given)]
        params, state = backend.step(rule, params, grads, state)
        named = [*state.arrays, state.group] if states else []
        arrays = [*params, *(own[n] for own in named for n in sorted(own))]
        found.append([backend.to_numpy(a).astype(np.float64) for a in arrays])
    return found


def compare(rule, path, dtype="float64", tolerance=1e-13, **how):
    for ours, reference in zip(
        steps(rule, path, dtype, **how),
        steps(rule, "numpy:reference", dtype, **how),
        strict=True,
    ):
        for x, y in zip(ours, reference, strict=True):
            np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def by_rank(one, other):
    def update(p, g, m, t, /, *, lr, gg, pp):
        m = 0.9 * m + g
        return -lr * m / nm.sqrt((one if len(p.shape) >= 2 else other)(gg, pp)), m

    return update


def first(gg, pp):
    return gg


def second(gg, pp):
    return 1.0 + pp


def neither(gg, pp):
    return 4.0


def by_phase(one, other):
    def update(p, g, m, t, /, *, lr, gg, pp, phase):
        m = 0.9 * m + g
        return -lr * m / nm.sqrt((one if phase else other)(gg, pp)), m

    return update


CHOICES = [(first, neither), (first, second), (neither, second), (neither, neither)]


@pytest.mark.parametrize(("one", "other"), CHOICES)
def test_sums_that_only_some_shapes_use(other_path, one, other):
    compare(mine(by_rank(one, other)), other_path)


@pytest.mark.parametrize(("one", "other"), CHOICES)
def test_sums_that_only_some_kinds_of_step_use(other_path, one, other):
    rule = mine(by_phase(one, other), phase=lambda t, /: t % 2)
    assert obstacle(rule) is None
    compare(rule, other_path)


def test_equal_sums_of_two_names_are_equal_for_some_only(other_path):
    """Where two names stand for one expression, and in another kind of step for two, each has its own total."""

    def odd(p, g, m, t, /, *, lr, phase):
        return {"gg": g * g, "pp": p * p if phase else g * g}

    compare(mine(by_phase(first, second), odd, phase=lambda t, /: t % 2), other_path)


def test_a_rule_that_looks_at_shapes_is_another_for_each(other_path):
    def update(p, g, t, /, *, lr):
        return (-lr if len(p.shape) >= 2 else -2.0 * lr) * g

    rule = mine(update, None, state=())
    assert obstacle(rule).startswith("it looks at the shapes of its arrays")
    compare(rule, other_path)


def test_what_only_some_kinds_of_step_look_at(other_path):
    def shape(p, g, m, t, /, *, lr, phase):
        return (-lr * g / max(len(p.shape), 1) if phase else -lr * g), m

    def axes(p, g, m, t, /, *, lr, phase):
        return (-lr * nm.sum_axis(g, axis=0) * p if phase else -lr * g), m

    for update, shapes in ((shape, SHAPES), (axes, SHAPES[:3])):
        rule = mine(update, None, phase=lambda t, /: (t + 1) % 2)
        assert obstacle(rule) is not None
        compare(rule, other_path, shapes=shapes)


def test_sums_of_other_passes_in_other_kinds_of_step(other_path):
    def odd(p, g, m, t, /, *, lr, phase):
        return {"gg": g * g, "pp": p * p / (1.0 + nm.sum(g * g)) if phase else p * p}

    rule = mine(by_phase(second, second), odd, phase=lambda t, /: t % 2)
    assert obstacle(rule) == "its kinds of step sum over the group in different passes"
    compare(rule, other_path)


def test_sums_that_only_some_have(each_path):
    def odd(p, g, m, t, /, *, lr):
        return {"gg": g * g} | ({"pp": p * p} if len(p.shape) > 1 else {})

    rule = mine(lambda p, g, m, t, /, *, lr, gg: (-lr * g / (1.0 + gg), m), odd)
    steps(rule, each_path, shapes=((5,), (2,)))
    with pytest.raises(RuleError) as caught:
        steps(rule, each_path)
    assert str(caught.value) == (
        "mine: measure must return the same sums for every parameter and step, got ['pp'] for some only"
    )


@pytest.mark.parametrize("name", ["soap", "shampoo", "sgd_hd", "lamb"])
def test_a_gradient_that_a_rule_does_not_use_at_first_is_clipped_with_the_others(other_path, name):
    rule = compose(isostep.pieces.clip_by_global_norm(max_norm=1.0), isostep.rule(name, lr=0.1))
    # Of SOAP's bases there are several that are as good.
    compare(rule, other_path, tolerance=1e-9, count=3, shapes=((3, 4), (5,)), states=name != "soap")


@pytest.mark.whole
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rank", [True, False])
def test_a_transformation_sums_over_all_leaves(dtype, rank):
    import jax

    import isostep_jax

    rule = mine(by_rank(first, second) if rank else by_phase(first, second))
    rule = rule if rank else mine(by_phase(first, second), phase=lambda t, /: t % 2)
    rng = np.random.default_rng(3)
    arrays = [rng.normal(size=s).astype(dtype) for s in SHAPES]
    reference = isostep.backend("numpy:reference")
    params = [a.copy() for a in arrays]
    state = reference.init(rule, params)
    with jax.enable_x64(dtype == "float64"):
        change = isostep_jax.transform(rule)
        leaves = [jax.numpy.asarray(a) for a in arrays]
        own = change.init(leaves)
        for _ in range(3):
            given = [rng.normal(size=s).astype(dtype) for s in SHAPES]
            params, state = reference.step(rule, params, given, state)
            updates, own = jax.jit(change.update)(
                [jax.numpy.asarray(g) for g in given], own, leaves
            )
            leaves = [p + u for p, u in zip(leaves, updates, strict=True)]
        for x, y in zip(leaves, params, strict=True):
            tolerance = 1e-13 if dtype == "float64" else 1e-6
            np.testing.assert_allclose(np.asarray(x), y, rtol=tolerance, atol=tolerance)


@pytest.mark.whole
def test_counts_on_the_device_take_sums_that_not_every_kind_of_step_uses():
    import torch

    import isostep_torch

    rule = mine(by_phase(first, second), phase=lambda t, /: t % 2)

    def run(**options):
        rng = np.random.default_rng(3)
        params = [torch.nn.Parameter(torch.tensor(rng.normal(size=s))) for s in SHAPES]
        stepped = isostep_torch.from_rule(rule, params, foreach=True, **options)
        for k in range(4):
            for i, p in enumerate(params):
                g = torch.tensor(rng.normal(size=p.shape))
                p.grad = None if (k + i) % 3 == 2 else g
            stepped.step()
        return [p.detach().numpy() for p in params]

    for ours, theirs in zip(run(capturable=True), run(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13)


def test_a_sum_is_one_of_its_program_used_or_not():
    program = trace(mine(by_rank(first, neither)), shape=(5,))
    assert list(program.group_sums) == ["gg", "pp"]
    assert set(program.group_sums.values()) <= set(program.live)
    piece = Piece(
        name="clipped",
        before=lambda p, g, t, /, *, gg: g / gg,
        measure=lambda p, g, t, /: {"gg": g * g},
    )
    rule = compose(piece.bind(), piece.bind(), mine(by_rank(first, second)))
    assert list(trace(rule).group_sums) == ["clipped.gg", "clipped2.gg", "gg", "pp"]


def rate(advance):
    """A rule whose update is by a number of the group's."""
    return mine(
        lambda p, g, m, t, /, *, lr, rate: (-rate * g, g),
        lambda p, g, m, t, /, *, lr: {"dot": g * m},
        advance=advance,
        group={"rate": lambda h: h.lr},
    )


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "advance",
    [
        lambda sums, group, t, /, *, lr: {
            "rate": nm.where(t > 1, group["rate"] + 0.01 * nm.tanh(sums["dot"]), lr)
        },
        lambda sums, group, t, /, *, lr: {"rate": lr / t},
        lambda sums, group, t, /, *, lr: {"rate": lr},
        lambda sums, group, t, /, *, lr: {"rate": 0.1},
        lambda sums, group, t, /, *, lr: {"rate": 1},
        lambda sums, group, t, /, *, lr: {"rate": nm.where(t > 2, group["rate"], 0.3)},
    ],
)
def test_a_number_may_be_the_groups_next_value(other_path, dtype, advance):
    compare(rate(advance), other_path, dtype, 1e-13 if dtype == "float64" else 1e-6)


def test_a_number_of_the_groups_is_one_of_its_arrays_on_the_reference():
    backend = isostep.backend("numpy:reference")
    rule = rate(lambda sums, group, t, /, *, lr: {"rate": lr / t})
    params = [np.ones(2, np.float32)]
    params, state = backend.step(rule, params, [np.ones(2, np.float32)], backend.init(rule, params))
    assert state.group["rate"].dtype == np.float32
    np.testing.assert_array_equal(params[0], np.float32(1) - np.float32(0.1))
