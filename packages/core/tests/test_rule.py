"""Rules, pieces, composition and the registry: names, structure, and what is refused."""

import gc
import weakref
from inspect import Parameter, signature
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

import isostep
from isostep import nm, pieces
from isostep.domains import Choice, DomainError, Flag, Real
from isostep.program import init_shapes
from isostep.registry import Folder
from isostep.rule import Piece, Rule, RuleError, compose

REFERENCE = isostep.backend("numpy:reference")


def descend(p, g, t, /, *, lr):
    return -lr * g


def remember(p, g, m, t, /, *, lr):
    m = m + g
    return -lr * m, m


def made(update=descend, **facts):
    return Rule(name="mine", update=update, hyper={"lr": Real(0.5, low=0)}, **facts)


def step(rule, p, g, steps=1, backend=REFERENCE, **inputs):
    """The parameter and the state after a few steps from p with the gradient g."""
    params, grads = [np.array(p, float)], [np.array(g, float)]
    state = backend.init(rule, params)
    for _ in range(steps):
        params, state = backend.step(rule, params, grads, state, **inputs)
    return params[0], state


def error(kind, call, *args, **kwargs):
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_unknown_hyperparameters_name_the_known_ones():
    assert (
        error(RuleError, isostep.rule, "addsign", gamma=1)
        == "addsign has no hyperparameter 'gamma'; it has lr, beta, alpha, sign_internal_decay"
    )
    assert error(RuleError, Rule(name="bare", update=descend).bind, lr=1) == (
        "bare has no hyperparameter 'lr'; it has none"
    )


def test_missing_hyperparameters_say_what_they_must_be():
    assert (
        error(RuleError, pieces.clip_by_global_norm)
        == "clip_by_global_norm: max_norm is required; it must be > 0"
    )


def test_unknown_rules_list_the_known_ones_and_the_nearest():
    known = ", ".join(isostep.rules())
    assert error(RuleError, isostep.rule, "zzz") == f"unknown rule 'zzz'; known: {known}"
    text = error(RuleError, isostep.rule, "add_sign")
    assert text == f"unknown rule 'add_sign'; did you mean 'addsign'? known: {known}"


def test_rules_are_the_files_of_the_folder_sorted():
    names = isostep.rules()
    assert names == sorted(names)
    assert {"addsign", "powersign", "sgd", "adam", "adamw", "lamb", "adafactor", "muon"} < set(
        names
    )
    for name in names:
        definition = isostep.definition(name)
        assert definition.name == name
        assert "Follows:" in definition.doc
        assert "lr unit:" in definition.doc
        assert next(iter(definition.hyper)) == "lr"


def test_a_file_that_declares_something_else_is_an_error(tmp_path, monkeypatch):
    package = tmp_path / "odd_rules"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_private.py").touch()
    (package / "empty.py").touch()
    (package / "misnamed.py").write_text(
        "from isostep.rule import Rule\nRULE = Rule(name='other', update=lambda p, g, t, /: g)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = Folder("odd_rules", "RULE", "rule")
    assert folder.names() == ["empty", "misnamed"]
    assert error(RuleError, folder.__getitem__, "empty") == (
        "odd_rules.empty must declare RULE = Rule(name='empty', ...), got nothing of that name"
    )
    assert error(RuleError, folder.__getitem__, "misnamed").startswith(
        "odd_rules.misnamed must declare RULE with name='misnamed', got name='other'"
    )
    (package / "late.py").write_text(
        "from isostep.rule import Rule\nRULE = Rule(name='late', update=lambda p, g, t, /: g)\n"
    )
    assert folder.names() == ["empty", "late", "misnamed"]
    assert folder["late"].name == "late"


def test_checks_run_at_bind_and_at_replace_and_name_the_rule():
    text = error(DomainError, isostep.rule, "sgd", nesterov=True)
    assert text == (
        "sgd: nesterov=True needs momentum > 0 and dampening 0, got momentum=0.0 and "
        "dampening=0.0; set those or leave nesterov out"
    )
    rule = isostep.rule("sgd", momentum=0.9, nesterov=True)
    assert error(DomainError, rule.replace, dampening=0.5).startswith("sgd: nesterov=True needs")
    assert error(DomainError, isostep.rule, "sgd_hd", nesterov=True).startswith("sgd_hd: nesterov")
    # What a run has come to is another matter, but where it would have no meaning.
    assert rule.midway(momentum=0.0).values["momentum"] == 0.0
    assert error(DomainError, rule.midway, momentum=-1.0).startswith("sgd: momentum must be >= 0")
    bounded = isostep.rule("sgd_hd", min_lr=0.1)
    assert error(DomainError, bounded.midway, max_lr=0.01).startswith("sgd_hd: max_lr must be")


def test_signatures_are_keyword_only_with_the_declared_defaults():
    found = isostep.definition("addsign").signature
    assert str(found) == "(*, lr=0.1, beta=0.9, alpha=1.0, sign_internal_decay=None)"
    (max_norm, _) = pieces.clip_by_global_norm.__signature__.parameters.values()
    assert max_norm.default is Parameter.empty


def test_pieces_take_positions_and_names_and_not_too_many():
    assert (
        repr(pieces.lookahead(3, alpha=0.25))
        == "lookahead(k=3, alpha=0.25, dialect='paper', pullback_momentum='none')"
    )
    assert (
        error(RuleError, pieces.lookahead, 3, 0.25, "paper", "none", 1)
        == "lookahead takes k, alpha, dialect, pullback_momentum; got 5 by position"
    )
    assert error(DomainError, pieces.lookahead, 0) == "lookahead: k must be an integer >= 1, got 0"
    assert pieces.centralize.__doc__.startswith("Gradient centralization")


def test_repr_can_be_read():
    rule = isostep.rule("sgd", lr=0.5)
    assert (
        repr(rule) == "sgd(lr=0.5, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False)"
    )
    both = compose(pieces.lookahead(2), isostep.rule("addsign"))
    assert repr(both) == (
        "compose(lookahead(k=2, alpha=0.5, dialect='paper', pullback_momentum='none'), "
        "addsign(lr=0.1, beta=0.9, alpha=1.0, sign_internal_decay=None))"
    )


def test_replace_keeps_the_rest_and_checks():
    rule = compose(pieces.clip_by_global_norm(2.0), isostep.rule("adam", betas=(0.5, 0.25)))
    other = rule.replace(lr=0.5, **{"clip_by_global_norm.max_norm": 3})
    assert other.values == {**rule.values, "lr": 0.5, "clip_by_global_norm.max_norm": 3.0}
    assert rule.values["lr"] == 1e-3
    assert other.structure() == rule.structure()
    assert error(DomainError, rule.replace, lr=-1) == "adam: lr must be >= 0, got -1"
    assert error(RuleError, rule.replace, max_norm=1).startswith(
        "clip_by_global_norm+adam has no hyperparameter 'max_norm'; it has clip_by_global_norm.max_norm, "
    )


def test_structure_is_what_a_program_depends_on():
    sgd = lambda **hyper: isostep.rule("sgd", **hyper).structure()  # noqa: E731
    assert sgd() == sgd(lr=0.5)
    assert hash(sgd()) == hash(sgd(lr=0.5))
    assert sgd() != sgd(momentum=0.9)
    assert sgd(momentum=0.5) == sgd(momentum=0.9)
    assert sgd(momentum=0.9) != sgd(momentum=0.9, nesterov=True)
    assert sgd() != isostep.rule("sgd_hd").structure()
    adam = lambda **hyper: isostep.rule("adam", **hyper).structure()  # noqa: E731
    assert adam(betas=(0.0, 0.5)) == adam(betas=(0.5, 0.0))
    assert adam(dialect="keras") != adam(dialect="torch")
    factor = lambda eps: isostep.rule("adafactor", eps=(eps, 1e-3)).structure()  # noqa: E731
    assert factor(None) != factor(1e-30)
    assert factor(1e-8) == factor(1e-30)
    one, two = (compose(pieces.lookahead(), isostep.rule("sgd")) for _ in range(2))
    assert one.structure() == two.structure() != isostep.rule("sgd").structure()


def test_a_schedule_is_another_structure_than_a_number():
    # One is known before the first step, the other only at each: programs say which is which.
    rule = isostep.rule("powersign", lr=lambda done: 0.5)
    assert rule.structure() != rule.replace(lr=0.5).structure()
    assert rule.structure() == rule.replace(lr=lambda done: 0.25).structure()
    assert "step:     lr" in str(isostep.program(rule))
    assert "host:     lr" in str(isostep.program(rule.replace(lr=0.5)))


def test_two_rules_of_one_name_never_share_a_program():
    # A structure that held ids would be that of the next rule at the same address.
    for k in range(20):
        rule = made(update=eval(f"lambda p, g, t, /, *, lr: -lr * g * {k}.5"))
        assert f"{k}.5" in str(isostep.program(rule.bind()))
        del rule


def test_structures_keep_their_parts_alive():
    part = made()
    seen = weakref.ref(part)
    held = part.bind().structure()
    del part
    gc.collect()
    assert seen() is not None
    del held


def trace_of(*names):
    """A gradient piece and an update piece that write down the order in which they run, on arrays."""
    order = []

    def note(text, g):
        if isinstance(g, np.ndarray):
            order.append(text.format(*g))

    def piece(name):
        def before(p, g, t, /):
            note(f"{name} before", g)
            return g + 1

        def after(p, g, u, t, /):
            note(f"{name} after {{}}", g)
            return u * 2

        return Piece(name=name, before=before, after=after).bind()

    def update(p, g, t, /, *, lr):
        note("rule {}", g)
        return -lr * g

    return order, [piece(n) for n in names], made(update).bind()


def test_pieces_run_in_the_order_given_around_the_rule():
    order, (a, b, c), rule = trace_of("a", "b", "c")
    p, _ = step(compose(a, b, rule, c), [1.0], [0.0])
    assert order == [
        "a before",
        "b before",
        "c before",
        "rule 3.0",
        *(f"{x} after 3.0" for x in "abc"),
    ]
    assert p[0] == 1 - 0.5 * 3 * 8


def test_coupled_and_decoupled_decay_act_at_their_own_place():
    rule = isostep.rule("sgd", lr=0.5, momentum=0.5)
    p, g, lr, decay = 4.0, 1.0, 0.5, 0.25
    coupled, state = step(compose(pieces.weight_decay(decay, decoupled=False), rule), [p], [g])
    assert coupled[0] == p - lr * (g + decay * p)
    assert state.arrays[0]["momentum_buffer"][0] == g + decay * p
    decoupled, state = step(compose(rule, pieces.weight_decay(decay)), [p], [g])
    assert decoupled[0] == p - lr * g - lr * decay * p
    assert state.arrays[0]["momentum_buffer"][0] == g


def test_duplicate_pieces_get_names_apart():
    rule = compose(
        pieces.lookahead(2), isostep.rule("addsign"), pieces.lookahead(3), pieces.lookahead(4)
    )
    assert rule.name == "lookahead+addsign+lookahead2+lookahead3"
    assert rule.state_names == ("lookahead.slow", "m", "lookahead2.slow", "lookahead3.slow")
    assert [rule.values[f"{n}.k"] for n in ("lookahead", "lookahead2", "lookahead3")] == [2, 3, 4]
    assert rule.phase(12) == (1, 1, 1)
    assert rule.phase(6) == (1, 1, 0)
    _, state = step(rule, [1.0], [1.0])
    assert list(state.arrays[0]) == list(rule.state_names)


def test_a_composed_rule_composes_again():
    inner = compose(pieces.lookahead(2), isostep.rule("addsign"))
    outer = compose(pieces.weight_decay(0.5), inner, pieces.lookahead(3))
    assert outer.name == "weight_decay+lookahead+addsign+lookahead2"
    assert outer.values["lookahead2.k"] == 3
    assert outer.values["lookahead.k"] == 2
    assert list(outer.domains) == list(outer.values)


def test_names_that_clash_in_two_calls_of_compose_are_an_error():
    inner = compose(isostep.rule("addsign"), pieces.lookahead(2))
    text = error(RuleError, compose, pieces.lookahead(3), inner)
    assert text.endswith("compose the pieces in one call")
    assert "'lookahead.'" in text


def test_what_compose_refuses():
    rule = isostep.rule("sgd")
    assert error(RuleError, compose, rule, pieces.centralize()) == (
        "centralize changes the gradient: put it in front of the rule, not behind it"
    )
    assert error(RuleError, compose, pieces.centralize()) == (
        "compose takes exactly one rule, got 0; wrap pieces around it"
    )
    assert error(RuleError, compose, rule, rule).startswith("compose takes exactly one rule, got 2")
    assert error(RuleError, compose, pieces.lookahead, rule).endswith(
        "call it first: isostep.pieces.NAME(...)"
    )


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (
            {"state": ("m", "m")},
            "mine: names of state, inputs or hyperparameters appear twice: ['m']",
        ),
        (
            {"state": ("lr",)},
            "mine: names of state, inputs or hyperparameters appear twice: ['lr']",
        ),
        (
            {"state": ("h",), "inputs": ("h",)},
            "mine: names of state, inputs or hyperparameters appear twice: ['h']",
        ),
        (
            {"state": ("lr",), "group": {"lr": lambda h: h.lr}},
            "mine: names of state, inputs or hyperparameters appear twice: ['lr']",
        ),
        (
            {"state": ("u", "t")},
            "mine: nothing of a rule can be named ['t', 'u']; these name the step's own",
        ),
        (
            {"inputs": ("g",)},
            "mine: nothing of a rule can be named ['g']; these name the step's own",
        ),
    ],
)
def test_names_that_would_be_taken_for_one_another_are_errors(facts, text):
    assert error(RuleError, lambda: made(**facts).bind()) == text


def test_an_input_is_one_part_s():
    noise = pieces.gradient_noise(0.1)
    text = error(RuleError, compose, noise, noise, isostep.rule("sgd", lr=0.1))
    assert text.endswith(
        "appear twice: ['noise']; inputs go by their own names, so only one part may take each"
    )


@pytest.mark.parametrize(
    ("update", "text"),
    [
        (lambda p, g, m, t, /, *, lr: -lr * g, "returned 1 values, expected 2: u, m"),
        (lambda p, g, m, t, /, *, lr: (-lr * g, m, m), "returned 3 values, expected 2: u, m"),
    ],
)
def test_a_rule_that_returns_the_wrong_number_of_values(update, text):
    rule = made(update, state=("m",)).bind()
    params, grads = [np.ones(2)], [np.ones(2)]
    state = REFERENCE.init(rule, params)
    wanted = f"mine: <lambda> {text}"
    assert error(RuleError, REFERENCE.step, rule, params, grads, state) == wanted
    assert params[0].tolist() == [1, 1]
    assert state.t == [0]
    assert error(RuleError, isostep.program, rule) == wanted


def test_an_init_that_returns_the_wrong_number_of_arrays():
    rule = made(remember, state=("m",), init=lambda p, /: (p, p)).bind()
    text = "mine: init returned 2 arrays, expected 1: ('m',)"
    assert error(RuleError, REFERENCE.init, rule, [np.ones(2)]) == text
    assert error(RuleError, isostep.program, rule) == text


def test_an_advance_that_returns_other_names():
    rule = made(group={"d": lambda h: 1.0}, advance=lambda sums, group, t, /: {"e": 1.0}).bind()
    text = error(RuleError, step, rule, [1.0], [1.0])
    assert text == "mine: advance returned ['e'], expected ['d']"


def test_state_may_depend_on_static_hyperparameters():
    part = Rule(
        name="mine",
        update=lambda p, g, /, *rest, lr, heavy: (-lr * g, *rest[:-1]),
        state=lambda h: ("a", "b") if h.heavy else (),
        hyper={"lr": Real(0.5), "heavy": Flag(False)},
    )
    assert part.bind().state_names == ()
    assert part.bind(heavy=True).state_names == ("a", "b")
    assert isostep.rule("adam", amsgrad=True).state_names[-1] == "max_exp_avg_sq"


def test_group_state_starts_from_its_function_of_the_first_step():
    rule = isostep.rule("sgd_hd", lr=lambda done: 0.25 + done)
    assert rule.group_names == ("lr",)
    assert rule.group_init() == {"lr": 0.25}


def test_functions_get_the_keywords_they_name_and_no_others():
    seen = {}

    def update(p, g, t, /, *, lr, **rest):
        seen.update(rest)
        return -lr * g

    step(
        Rule(name="mine", update=update, hyper={"lr": Real(0.5), "other": Real(2.0)}).bind(),
        [1.0],
        [1.0],
    )
    assert seen == {"other": 2.0}


def phased():
    """Every part that has kinds of step, with its defaults and with each of the values that decide on them."""
    known = [isostep.definition(n) for n in isostep.rules()] + [
        pieces.registry[n] for n in pieces.registry.names()
    ]
    for part in known:
        if part.phase is None:
            continue
        deciding = [n for n in signature(part.phase).parameters if n in part.hyper]
        domains = [part.hyper[n] for n in deciding]
        values = [
            d.options if isinstance(d, Choice) else (d.default, *d.cases, 1, 3) for d in domains
        ]
        for chosen in product(*values):
            yield pytest.param(part, dict(zip(deciding, chosen, strict=True)), id=f"{part.name}")


@pytest.mark.parametrize(("part", "hyper"), list(phased()))
def test_the_kind_of_a_step_is_arithmetic_in_t(part, hyper):
    """A device chooses by it: nothing may ask whether t is this or that."""
    bound = part.bind(**hyper)
    rule = bound if isinstance(part, Rule) else compose(bound, isostep.rule("adamw"))
    found = np.broadcast_to(np.asarray(rule.kind(np.arange(1, 61)), int), 60)
    assert [rule.kinds()[k] for k in found] == [rule.phase(t) for t in range(1, 61)]


def test_pieces_see_the_rule_s_lr_unless_they_have_their_own():
    def after(p, g, u, t, /, *, lr):
        return u * lr

    borrowed = compose(made().bind(), Piece(name="twice", after=after).bind())
    assert step(borrowed, [1.0], [1.0])[0][0] == 1 - 0.5 * 0.5
    own = compose(made().bind(), Piece(name="twice", after=after, hyper={"lr": Real(4.0)}).bind())
    assert step(own, [1.0], [1.0])[0][0] == 1 - 0.5 * 4.0


def test_an_update_piece_that_changes_nothing_leaves_an_overwritten_parameter_to_the_bit():
    # Far from its slow weights p + (slow - p) is not slow.
    last = pieces.weight_decay(0, decoupled=False)
    rule = compose(made().bind(), pieces.lookahead(2, 0.7), last)
    params = [np.array([1 / 3])]
    state = REFERENCE.init(rule, params)
    for g in (-1e16, 1e16):
        REFERENCE.step(rule, params, [np.array([g])], state)
    assert 0 < state.arrays[0]["lookahead.slow"][0] < 1
    np.testing.assert_array_equal(params[0], state.arrays[0]["lookahead.slow"])


def test_a_parameter_handed_out_as_state_is_the_old_one():
    def update(p, g, before, t, /, *, lr):
        return -lr * g, p

    p, state = step(made(update, state=("before",)).bind(), [4.0, 8.0], [2.0, 2.0], steps=2)
    assert p.tolist() == [2, 6]
    assert state.arrays[0]["before"].tolist() == [3, 7]


def test_state_arrays_may_be_handed_out_under_each_other_s_name():
    def update(p, g, a, b, t, /, *, lr):
        return -lr * g, b, a

    rule = made(update, state=("a", "b"), init=lambda p, /: (1.0 * p, 2.0 * p)).bind()
    _, state = step(rule, [1.0], [1.0])
    assert (state.arrays[0]["a"][0], state.arrays[0]["b"][0]) == (2, 1)
    _, state = step(rule, [1.0], [1.0], steps=2)
    assert (state.arrays[0]["a"][0], state.arrays[0]["b"][0]) == (1, 2)


def test_sums_over_the_group_may_be_of_numbers_and_of_norms():
    def measure(p, g, t, /):
        return {"count": nm.size(g), "norms": nm.sqrt(nm.sum(g * g))}

    def update(p, g, t, /, *, lr, count, norms):
        return -lr * norms / count * g

    rule = made(update, measure=measure).bind()
    assert rule.reduces_group
    params = [np.zeros(2), np.zeros((1, 2))]
    grads = [np.array([3.0, 4.0]), np.array([[6.0, 8.0]])]
    params, _ = REFERENCE.step(rule, params, grads, REFERENCE.init(rule, params))
    assert params[0].tolist() == [-0.5 * (5 + 10) / 4 * 3, -0.5 * (5 + 10) / 4 * 4]


def test_check_hooks_get_every_value():
    seen = []
    rule = Rule(
        name="mine",
        update=descend,
        hyper={"lr": Real(0.5), "flag": Flag(True)},
        check=lambda h: seen.append(h) or (None if h.flag else "flag is needed"),
    )
    rule.bind(lr=2)
    assert seen == [SimpleNamespace(lr=2.0, flag=True)]
    assert error(DomainError, rule.bind, flag=False) == "mine: flag is needed"


def test_group_state_may_depend_on_static_choices():
    rule = Rule(
        name="mine",
        hyper={"lr": Real(0.5, low=0), "estimate": Flag(False)},
        group=lambda h: {"d": lambda h: h.lr} if h.estimate else {},
        advance=lambda sums, group, t, /: {"d": 2.0 * group["d"]},
        update=lambda p, g, t, /, *, lr, d=1.0: -lr * d * g,
    )
    assert rule.bind().group_names == ()
    assert rule.bind(estimate=True).group_init() == {"d": 0.5}
    for estimate, wanted in ((False, 0.5), (True, 0.5)):
        bound = rule.bind(estimate=estimate)
        params = [np.ones(2)]
        params, state = REFERENCE.step(bound, params, [np.ones(2)], REFERENCE.init(bound, params))
        assert params[0].tolist() == [wanted, wanted]
        assert set(state.group) == ({"d"} if estimate else set())


def test_evaluation_point_is_the_rule_s_or_the_parameters():
    rule = made(
        state=("mean",),
        update=lambda p, g, mean, t, /: (-0.5 * g, p),
        evaluate=lambda p, mean, t, /: (p + mean) / t,
    ).bind()
    params = {"w": np.ones(2)}
    state = REFERENCE.init(rule, params)
    assert REFERENCE.evaluation_point(rule, params, state)["w"].tolist() == [1.0, 1.0]
    params, state = REFERENCE.step(rule, params, {"w": np.ones(2)}, state)
    found = REFERENCE.evaluation_point(rule, params, state)
    assert found["w"].tolist() == [1.5, 1.5]
    assert params["w"].tolist() == [0.5, 0.5]
    plain = isostep.rule("sgd", lr=0.5)
    copies = REFERENCE.evaluation_point(plain, params, REFERENCE.init(plain, params))
    assert copies["w"].tolist() == [0.5, 0.5]
    assert copies["w"] is not params["w"]


def test_what_is_made_first_does_not_depend_on_a_schedule_s_value():
    def schedule(done):
        message = "shapes need no value"
        raise AssertionError(message)

    for momentum in (schedule, lambda done: 0.0):
        rule = isostep.rule("madgrad", lr=schedule, momentum=momentum)
        shapes = init_shapes(rule, rule.components[0], (2, 3))
        assert shapes == [(2, 3)] * len(rule.state_names) == [(2, 3)] * 3
        assert rule.given_init(rule.components[0], {**rule.values, "momentum": 0.0})["momentum"]
    doubled = isostep.rule("adam", betas=(lambda done: 0.5, 0.75)).map_schedules(lambda s: 2 * s(0))
    assert (doubled["lr"], doubled["betas"]) == (1e-3, (1.0, 0.75))
    hyper = {**isostep.rule("sgd_hd").values, "lr": np.float32(0.5)}
    assert type(isostep.rule("sgd_hd").group_init(hyper)["lr"]) is np.float32


@pytest.mark.parametrize(
    "path", ["numpy:reference", pytest.param("numpy:fused", marks=pytest.mark.whole)]
)
def test_a_schedule_may_pass_through_a_zero_that_would_be_a_choice(path):
    """A constant momentum of 0 has no buffer; a schedule's has one, also in the step in which it is 0."""
    backend = isostep.backend(path)
    rule = isostep.rule("sgd", lr=0.5, momentum=lambda done: [0.0, 0.5, 0.0, 0.5][done])
    params = [np.zeros(2)]
    state, m, p = backend.init(rule, params), 0.0, 0.0
    for momentum in (0.0, 0.5, 0.0, 0.5):
        params, state = backend.step(rule, params, [np.ones(2)], state)
        m = momentum * m + 1.0
        p -= 0.5 * m
        np.testing.assert_array_equal(params[0], p)
        np.testing.assert_array_equal(state.arrays[0]["momentum_buffer"], m)
