"""Traced values and programs: domains, sharing, stages, what is stored, and the listing."""

import math
import re
from collections import Counter

import numpy as np
import pytest

import isostep
from isostep import nm, pieces
from isostep.domains import Choice, Real
from isostep.listing import identifiers
from isostep.rule import Rule, compose
from isostep.values import Domain, Graph, TraceError

ADDSIGN = """\
program addsign
inputs
    host:     lr, beta, alpha
    element:  m, g
scalars of the hyperparameters, in float64
    v7 = 1 - beta
    v14 = -lr
stage 0
    element:  m_new = (beta * m) + (v7 * g)
    element:  s = sign(g) * sign(m_new)
    element:  factor = alpha + s
    element:  u = (v14 * factor) * g
outputs  u = u, m = m_new"""


def traced(update, *, state=(), **facts):
    hyper = {"lr": Real(0.5, low=0), "k": Real(2.0, zero_is_static=True)}
    return isostep.program(
        Rule(name="mine", update=update, state=state, hyper=hyper, **facts).bind()
    )


def ops(program):
    return Counter(n.op for n in program.live)


def an_input(graph, name, domain, scope=None, axis=None):
    return graph.node("input", attrs=(name, None), domain=domain, scope=scope, axis=axis, name=name)


# Values


def test_equal_expressions_are_one_node():
    graph = Graph()
    x, y = (an_input(graph, n, Domain.ELEMENT) for n in "xy")
    assert x * y + 1.0 is x * y + 1.0
    assert x * y is not y * x  # the order is the rule's
    assert nm.sum_units(x, 0) is nm.sum_units(x, 0)
    assert nm.sum_units(x, 0) is not nm.sum_units(x, 1)


def test_constants_that_are_equal_to_python_but_not_the_same():
    graph = Graph()
    assert graph.const(0.0) is graph.const(0.0)
    assert graph.const(0.0) is not graph.const(-0.0)
    assert graph.const(1) is not graph.const(1.0)
    assert graph.const(1) is not graph.const(True)
    assert math.copysign(1, graph.const(-0.0).attrs[0]) == -1


def test_a_negative_zero_in_a_rule_stays_one():
    def update(p, g, t, /, *, lr, k):
        return nm.where(g > 0, -0.0, nm.where(g < 0, 0.0, g))

    rule = Rule(name="mine", update=update, hyper={"lr": Real(0.5), "k": Real(2.0)}).bind()
    backend = isostep.backend("numpy:reference")
    params = [np.array([-0.0, -0.0])]
    backend.step(rule, params, [np.array([1.0, -1.0])], backend.init(rule, params))
    assert np.signbit(params[0]).tolist() == [True, False]
    consts = [n.attrs[0] for n in isostep.program(rule).live if n.op == "const"]
    assert sorted(math.copysign(1, c) for c in consts if c == 0)[0] == -1


def test_a_result_lives_on_the_widest_domain_of_its_operands():
    graph = Graph((4, 4))
    host = an_input(graph, "lr", Domain.HOST, "array")
    now = an_input(graph, "t", Domain.STEP, "array")
    group = an_input(graph, "d", Domain.GROUP)
    x = an_input(graph, "x", Domain.ELEMENT)
    assert (host * 2.0).domain is Domain.HOST
    assert (host * now).domain is Domain.STEP
    assert (group * 2.0).domain is Domain.GROUP
    assert (group * host).domain is Domain.ARRAY  # a parameter's own value beside the group's
    assert (host * x).domain is Domain.ELEMENT
    assert nm.sum(x).domain is Domain.ARRAY
    assert (nm.sum(x) * group).domain is Domain.ARRAY
    assert nm.sum_units(x).domain is Domain.UNIT
    assert (nm.sum_units(x) * nm.sum(x)).domain is Domain.UNIT
    assert (nm.sum_units(x, 0) * nm.sum_units(x, 1)).domain is Domain.ELEMENT
    assert (nm.sum_units(x, 1) + 1.0).axis == 1
    assert graph.apply("sum_group", (x,)).domain is Domain.GROUP
    for fact in (nm.size(x), nm.ndim(x), nm.unit_size(x, 1), nm.eps(x)):
        assert fact.domain is Domain.ARRAY
    assert nm.matmul(x, x).domain is Domain.TENSOR
    assert (nm.sum_axis(x, axis=0) * x).domain is Domain.TENSOR
    assert nm.max_axis(x, axis=0).domain is Domain.TENSOR


def test_a_parameter_s_own_t_and_the_group_s_are_kept_apart():
    graph = Graph()
    own = an_input(graph, "t", Domain.STEP, "array")
    shared = an_input(graph, "t", Domain.STEP, "group")
    assert own is not shared
    assert (own * 2).scope == "array"
    assert (shared * 2).scope == "group"
    both = own * shared
    assert both.domain is Domain.ARRAY
    assert both.scope is None


@pytest.mark.parametrize(
    "decide",
    [
        lambda p, t, lr: p > 0,
        lambda p, t, lr: t > 1,
        lambda p, t, lr: lr > 0,
        lambda p, t, lr: lr in (0.0, 1.0),
        lambda p, t, lr: max(p, 0.0),
    ],
)
def test_if_on_a_traced_value_is_an_error_that_says_what_to_do(decide):
    def update(p, g, t, /, *, lr, k):
        return g if decide(p, t, lr) else -g

    with pytest.raises(TraceError) as caught:
        traced(update)
    assert re.fullmatch(
        r"mine: <.*> is known only when the program runs, so it cannot decide an `if`; "
        r"use nm.where, or declare the hyperparameter static \(test_program\.py:\d+\)",
        str(caught.value),
    )


def test_arrays_of_others_cannot_be_mixed_in():
    table = np.ones(3)
    with pytest.raises(TraceError) as caught:
        traced(lambda p, g, t, /, *, lr, k: g * table)
    assert "a traced rule met ndarray" in str(caught.value)


def test_numpy_scalars_meet_values_from_either_side():
    program = traced(lambda p, g, t, /, *, lr, k: np.float64(2.0) * g + g * np.float64(3.0))
    assert ops(program)["mul"] == 2
    assert sorted(n.attrs[0] for n in program.live if n.op == "const") == [2.0, 3.0]


# Programs


def test_static_zero_removes_state_and_arithmetic():
    plain, heavy = (isostep.program(isostep.rule("sgd", momentum=m)) for m in (0.0, 0.9))
    assert plain.state_names == ()
    assert heavy.state_names == ("momentum_buffer",)
    assert ops(plain) == Counter(input=2, neg=1, mul=1)
    assert "momentum" not in str(plain)
    assert "weight_decay" not in str(isostep.program(isostep.rule("adam")))
    decayed = isostep.program(isostep.rule("adam", weight_decay=0.1))
    assert ops(decayed)["mul"] == ops(isostep.program(isostep.rule("adam")))["mul"] + 1


def test_a_value_that_may_be_zero_is_true_when_it_is_a_symbol():
    taken = []

    def update(p, g, t, /, *, lr, k):
        taken.append(bool(k))
        return -lr * g

    rule = Rule(
        name="mine", update=update, hyper={"lr": Real(0.5), "k": Real(2.0, zero_is_static=True)}
    )
    isostep.program(rule.bind())
    isostep.program(rule.bind(k=0))
    isostep.program(rule.bind(k=lambda done: 0.0))
    assert taken == [True, False, True]


def stages(rule):
    return isostep.program(rule).stages


def test_sums_cut_stages():
    assert stages(isostep.rule("adamw")) == 1
    assert stages(isostep.rule("lamb")) == 2
    assert stages(isostep.rule("sgd_hd")) == 2
    clip, unit = pieces.clip_by_global_norm(1.0), pieces.adaptive_clip()
    assert stages(compose(clip, isostep.rule("adamw"))) == 2
    assert stages(compose(clip, isostep.rule("lamb"))) == 3
    assert stages(compose(unit, isostep.rule("lamb"))) == 3
    assert stages(compose(pieces.centralize(), unit, clip, isostep.rule("lamb"))) == 5


def test_sums_of_one_pass_are_collected_together():
    program = isostep.program(isostep.rule("lamb"))
    assert [r.op for r in program.reductions(0)] == ["sum", "sum"]
    assert program.reductions(1) == []


def test_sums_that_nothing_needs_cost_no_pass():
    def update(p, g, t, /, *, lr, k):
        nm.sum(g)
        return -lr * g

    assert traced(update).stages == 1


def test_a_sum_of_sums_is_not_fused_and_says_so():
    program = traced(lambda p, g, t, /, *, lr, k: g * nm.sum(nm.sum_units(g * g)))
    assert program.generic
    assert not traced(lambda p, g, t, /, *, lr, k: g * nm.sum(g * g)).generic


def test_only_state_that_changes_is_stored():
    rule = compose(isostep.rule("addsign"), pieces.lookahead(3))
    off, on = (isostep.program(rule, t=t) for t in (1, 3))
    assert list(off.stored) == ["m"]
    assert list(on.stored) == ["m", "lookahead.slow"]
    assert "u" in off.outputs
    assert "p" in on.outputs
    swap = traced(lambda p, g, a, b, t, /, *, lr, k: (-lr * g, b, a), state=("a", "b"))
    assert list(swap.stored) == ["a", "b"]


def test_phases_are_programs_of_their_own_and_each_is_traced_once():
    rule = compose(isostep.rule("addsign"), pieces.lookahead(3))
    assert isostep.program(rule, t=1) is isostep.program(rule, t=2)
    assert isostep.program(rule, t=3) is isostep.program(rule, t=6)
    assert isostep.program(rule, t=3) is not isostep.program(rule, t=4)
    assert isostep.program(rule.replace(lr=0.25), t=5) is isostep.program(rule, t=1)
    assert isostep.program(rule.replace(**{"lookahead.k": 2}), t=2) is isostep.program(rule, t=3)


def test_programs_that_look_at_shapes_are_one_per_shape():
    muon = isostep.rule("muon")
    tall, wide = (isostep.program(muon, shape=s) for s in ((5, 2), (2, 5)))
    assert tall is not wide
    assert tall is isostep.program(muon.replace(lr=0.5), shape=(5, 2))
    assert (tall.shape, wide.shape) == ((5, 2), (2, 5))
    assert ops(tall)["transpose"] == ops(wide)["transpose"] + 2  # in and out again
    assert isostep.program(muon) is isostep.program(muon, shape=(4, 3))
    assert isostep.program(isostep.rule("adamw"), shape=(5, 2)) is isostep.program(
        isostep.rule("adamw")
    )
    factored = isostep.program(isostep.rule("adafactor"), shape=(5, 2))
    assert factored.inputs()["row_var"].shape == (5, 1)
    assert factored.inputs()["col_var"].shape == (1, 2)
    assert factored.inputs()["variance"].shape == ()
    assert isostep.program(isostep.rule("adafactor"), shape=(7,)).inputs()["variance"].shape == (7,)


def test_one_program_serves_all_shapes_where_a_rule_asks_for_facts():
    rule = compose(pieces.centralize(), isostep.rule("sgd"))
    assert isostep.program(rule, shape=(3,)) is isostep.program(rule, shape=(2, 3, 4))
    assert isostep.program(rule).shape is None


def test_what_does_not_depend_on_arrays_leaves_the_loops():
    program = isostep.program(isostep.rule("adamw"))
    element = Counter(n.op for n in program.live if n.domain is Domain.ELEMENT)
    assert element == Counter(input=4, mul=7, add=3, sub=1, div=2, sqrt=1)
    assert {n.op for n in program.live if n.domain is Domain.STEP} >= {"expm1"}
    assert not any(n.op in ("log", "expm1") for n in program.live if n.domain is Domain.ELEMENT)
    log = [n for n in program.live if n.op == "log"]
    assert {n.domain for n in log} == {Domain.HOST}


def test_the_parameter_is_read_only_where_the_rule_reads_it():
    assert "p" not in [n.name for n in isostep.program(isostep.rule("addsign")).live]
    assert "p" in [n.name for n in isostep.program(isostep.rule("adamw")).live]


# Listings


def test_listing_of_addsign_is_this():
    assert str(isostep.program(isostep.rule("addsign"))) == ADDSIGN


def test_listing_does_not_depend_on_values():
    rule = isostep.rule("addsign", lr=0.25, beta=0.5, alpha=3)
    assert str(isostep.program(rule)) == ADDSIGN


def test_names_in_listings_are_the_rule_s():
    lines = str(isostep.program(isostep.rule("lamb"))).splitlines()
    text = "\n".join(lines)
    for name in ("size_p", "size_r", "trust", "exp_avg_new", "r ="):
        assert name in text
    assert "    array:    size_p = sqrt(" in text
    assert text.index("reduce:") < text.index("stage 1") < text.index("trust =")
    group = str(isostep.program(isostep.rule("sgd_hd")))
    assert "group    lr = " in group
    assert "group_hypergrad_lr" in group
    assert "program muon for shape (4, 3)" in str(isostep.program(isostep.rule("muon")))
    assert "stage 0 (generic)" in str(isostep.program(isostep.rule("muon")))


def helper(x):
    y = x * x
    return y


def test_every_node_has_an_identifier_of_its_own():
    def update(p, g, a, b, t, /, *, lr, k):
        y_2 = g - 1.0
        _ = y_2 * lr
        m_new = g * 3.0
        lambda_, v5, a_new = p + g, p - g, a * g
        return -lr * helper(g) * y_2 + helper(p) * _ * m_new * lambda_ * v5, a_new, b + m_new

    program = traced(update, state=("a", "b"))
    names = identifiers(program, ("one", "lr"))
    assert len(set(names.values())) == len(names) == len(program.live)
    assert all(n.isidentifier() for n in names.values())
    assert not {"one", "lr"} & set(names.values())


def test_a_choice_is_part_of_the_program():
    def update(p, g, t, /, *, lr, kind):
        return -lr * (g if kind == "plain" else nm.sign(g))

    rule = Rule(
        name="mine",
        update=update,
        hyper={"lr": Real(0.5), "kind": Choice("plain", options=("plain", "sign"))},
    )
    assert "sign(g)" not in str(isostep.program(rule.bind()))
    assert "sign(g)" in str(isostep.program(rule.bind(kind="sign")))


def test_outputs_that_are_numbers_are_shown_as_such():
    program = traced(lambda p, g, n, t, /, *, lr, k: (0.0, 1.0 * t), state=("n",))
    assert str(program).endswith("outputs  u = 0.0, n = n_new")
