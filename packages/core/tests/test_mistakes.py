"""What the author of a rule may get wrong: an error of one line, the same on every path, and never another step."""

import functools
import re
import signal
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import isostep
from isostep import cli, nm, parts
from isostep.domains import Choice, Real
from isostep.lower.js_source import step_function
from isostep.program import init_shapes
from isostep.registry import Folder
from isostep.rule import PROBED, Piece, Rule, RuleError, compose
from isostep.values import Graph, TraceError

LR = {"lr": Real(0.5, low=0)}
REFERENCE = isostep.backend("numpy:reference")
PATHS = [
    "numpy:reference",
    *(
        pytest.param(name, marks=pytest.mark.whole)
        for name in (
            *(
                "numpy:fused",
                "torch:loop",
                "torch:foreach",
                "torch:fused",
                "torch:triton(interpreter)",
            ),
            *("jax:jit", "jax:grouped", "cupy:raw(host)"),
        )
    ),
]


def mine(update, **facts):
    return Rule(name="mine", update=update, **({"hyper": LR} | facts))


def step(part, path="numpy:reference", steps=1, shape=(3,)):
    """The parameter after a few steps from zero with a gradient of ones."""
    backend, rule = isostep.backend(path), part.bind()
    params = [backend.asarray(np.zeros(shape))]
    state = backend.init(rule, params)
    for _ in range(steps):
        params, state = backend.step(rule, params, [backend.asarray(np.ones(shape))], state)
    return backend.to_numpy(params[0])


def error(kind, call, *args):
    with pytest.raises(kind) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


# What is true or false.


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "update",
    [
        lambda p, g, t, /, *, lr: -lr * nm.sum(g > 0) * g,
        lambda p, g, t, /, *, lr: -lr * nm.sum_units(g > 0) * g,
        lambda p, g, t, /, *, lr: -lr * ((g > 0) + (g > 1)) * g,
        lambda p, g, t, /, *, lr: -lr * (g > 0),
        lambda p, g, t, /, *, lr: nm.isfinite(g),
        lambda p, g, t, /, *, lr: -lr * g * (t > 1),
        lambda p, g, t, /, *, lr: -lr * nm.where(g > 0, nm.isnan(g), g),
    ],
)
def test_a_comparison_is_no_number_on_any_path(path, update):
    text = error(TraceError, step, mine(update), path)
    where = r"( \(test_mistakes\.py:\d+\))?"
    assert re.fullmatch(
        r"(mine: )?<\w+ on \w+> is true or false, not a number; "
        rf"write nm\.where\(c, 1\.0, 0\.0\) to count it as one{where}",
        text,
    )


@pytest.mark.parametrize("path", PATHS)
def test_a_comparison_is_counted_by_where(path):
    def update(p, g, t, /, *, lr):
        both = nm.logical_and(g > 0, nm.where(g > 1, g < 2, nm.isfinite(g)))
        return -lr * nm.sum(nm.where(both, 1.0, 0.0)) * g

    np.testing.assert_array_equal(step(mine(update), path), [-1.5] * 3)


def test_a_bool_of_python_is_the_number_it_is_there():
    graph = Graph()
    found = graph.apply("add", (graph.const(1.0), True))
    assert [a.attrs[0] for a in found.args] == [1.0, 1]
    assert not isinstance(found.args[1].attrs[0], bool)


@pytest.mark.parametrize("call", [nm.sum, nm.sum_units, functools.partial(nm.sum_axis, axis=0)])
def test_a_sum_of_a_boolean_array_is_an_error(call):
    assert error(TraceError, call, np.array([True, True])) == (
        "a sum takes numbers, got an array of bool; write nm.where(c, 1.0, 0.0) to count"
    )


# Kinds of steps.


def phased(phase, **facts):
    return mine(lambda p, g, t, /, *, lr, phase: -lr * g * (phase + 1), phase=phase, **facts)


@pytest.mark.parametrize("found", [2, -1, 0.5])
def test_a_kind_of_step_that_is_not_declared(found):
    part = phased(lambda t, /: found)
    text = error(RuleError, step, part)
    assert text == (
        f"mine: phase(1) must be a whole number in [0, 2), got {found}; "
        "declare phases=, how many kinds of step there are"
    )
    assert error(RuleError, part.bind().kinds) == text


@pytest.mark.parametrize("at", [2, PROBED])
def test_kinds_of_later_steps_are_looked_at_beforehand(at):
    part = phased(lambda t, /: 2 if t == at else 0)
    step(part)
    assert error(RuleError, part.bind().kinds).startswith(f"mine: phase({at}) must be")
    np.testing.assert_array_equal(step(phased(lambda t, /: t % 3, phases=3), steps=3), [-3.0] * 3)


@pytest.mark.whole
def test_where_the_device_alone_knows_the_step_its_kind_is_no_other():
    import jax
    import torch

    import isostep_jax
    import isostep_torch

    rule = phased(lambda t, /: t % 3).bind()
    params = [jax.numpy.zeros(1)]
    change = isostep_jax.transform(rule)
    assert "declare phases=" in error(
        RuleError, lambda: jax.jit(change.update)(params, change.init(params), params)
    )
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    stepped = isostep_torch.from_rule(rule, [weight], capturable=True)
    assert "declare phases=" in error(RuleError, stepped.step)


# Units.


@pytest.mark.parametrize("path", PATHS)
def test_the_size_of_units_that_nothing_is_summed_over(path):
    def alone(p, g, t, /, *, lr):
        return lr * nm.unit_size(g) + 0 * g

    def another_axis(p, g, t, /, *, lr):
        return lr * nm.unit_size(g, -1) + 0 * nm.sum_units(g, 0) + 0 * g

    def two_axes(p, g, t, /, *, lr):
        return lr * nm.unit_size(g, -1) + nm.unit_size(g, 0) + 0 * g

    for update, size in ((alone, 2.5), (another_axis, 3.5), (two_axes, 8.5)):
        assert step(mine(update), path, shape=(7, 5))[0, 0] == size


# Names.


@pytest.mark.parametrize("name", ["t", "p", "g", "u", "rounding_seed", "master_weight"])
def test_the_steps_own_names_are_nobodys(name):
    text = f"mine: nothing of a rule can be named ['{name}']; these name the step's own"
    for facts in ({"hyper": {name: Real(1.0)}}, {"state": (name,)}, {"inputs": (name,)}):
        assert error(RuleError, lambda facts=facts: mine(lambda *_: 0, **facts)) == text


@pytest.mark.parametrize("name", ["a b", "1m", "", "lambda", "m\n"])
def test_names_are_identifiers(name):
    text = f"mine: names must be identifiers, got {name!r}"
    assert error(RuleError, lambda: mine(lambda *_: 0, state=(name,))) == text
    assert error(RuleError, mine(lambda *_: 0, state=lambda h: (name,)).bind) == text


@pytest.mark.parametrize("name", ["", "a\nb", "a\tb"])
def test_a_rules_name_is_one_line(name):
    assert error(RuleError, lambda: Rule(name=name, update=lambda p, g, t, /: g)) == (
        f"a rule's or piece's name must be one printable line, got {name!r}"
    )


@pytest.mark.parametrize("name", ['a"""b', "it's", "a\\nb", "`a`"])
def test_a_rules_name_stands_in_texts(name):
    text = f"a rule's or piece's name must have no quotes and backslashes, got {name!r}"
    assert error(RuleError, lambda: Rule(name=name, update=lambda p, g, t, /: g)) == text
    assert error(RuleError, lambda: Piece(name=name, before=lambda p, g, t, /: g)) == text


@pytest.mark.parametrize("path", PATHS)
def test_a_rules_name_may_be_any_other_line(path):
    name = "evil*/ {x} %s // <b> $(a) #é ?"
    part = Rule(name=name, update=lambda p, g, t, /, *, lr: -lr * g, hyper=LR)
    np.testing.assert_array_equal(step(part, path), [-0.5] * 3)


def test_a_rule_is_shown_in_a_few_words():
    assert repr(isostep.definition("adam")) == "Rule(name='adam', ...)"
    assert repr(isostep.pieces.registry["lookahead"]) == "Piece(name='lookahead', ...)"
    assert repr(isostep.solvers.registry["lbfgs"]) == "Solver(name='lbfgs', ...)"


# Signatures.


def few(p, g, /, *, lr):
    return -lr * g


def misspelled(p, g, t, /, *, lt):
    return -lt * g


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"update": few}, "few(p, g, /, *, lr) is called with (p, g, t) and may name lr: too many"),
        (
            {"update": misspelled},
            "misspelled(p, g, t, /, *, lt) is called with (p, g, t) and may name lr: missing",
        ),
        ({"update": few, "state": ("m",)}, "few(p, g, /, *, lr) is called with (p, g, m, t) and"),
        ({"init": lambda p, q, /: p, "state": ("m",)}, "<lambda>(p, q, /) is called with (p) and"),
        ({"phase": lambda: 0}, "<lambda>() is called with (t) and may name lr: too many"),
        ({"evaluate": lambda p, /: p}, "<lambda>(p, /) is called with (p, t) and may name lr: too"),
        ({"measure": lambda p, g, /: {}}, "<lambda>(p, g, /) is called with (p, g, t) and may"),
        ({"advance": lambda t, /: {}}, "<lambda>(t, /) is called with (sums, group, t) and may"),
    ],
)
def test_signatures_are_checked_when_a_rule_is_bound(facts, text):
    names = len(facts.get("state", ()))
    update = facts.pop("update", None) or (lambda p, g, *rest, lr: (-lr * g, *rest[:names]))
    assert error(RuleError, mine(update, **facts).bind).startswith(f"mine: {text}")


def test_pieces_are_checked_with_the_rule_that_they_are_put_around():
    piece = Piece(name="odd", before=lambda p, g, t, /, *, momentum: g * momentum)
    compose(piece.bind(), isostep.rule("sgd", lr=0.1))
    text = error(RuleError, compose, piece.bind(), isostep.rule("addsign", lr=0.1))
    assert text.startswith("odd: <lambda>(p, g, t, /, *, momentum) is called with (p, g, t) and")


def test_a_sum_that_nobody_takes_is_missed_when_the_rule_is_traced():
    part = mine(
        lambda p, g, t, /, *, lr, gone: -lr * gone * g,
        measure=lambda p, g, t, /: {"there": g},
    )
    assert "missing a required" in error(RuleError, step, part)


def test_a_type_error_of_a_rules_own_names_the_line():
    def update(p, g, t, /, *, lr):
        return -lr * np.sqrt(g)

    for act in (lambda: isostep.program(mine(update).bind()), lambda: step(mine(update))):
        text = error(RuleError, act)
        assert re.match(
            r"mine: TypeError in test_mistakes\.py:\d+, where the rule is traced: ", text
        )
        assert text.endswith("; use operators and isostep.nm on its arrays")


@dataclass
class Unhashable:
    factor: float = 2.0

    def __call__(self, p, g, t, /, *, lr):
        return -lr * self.factor * g


class Callable:
    def __call__(self, p, g, t, /, *, lr):
        return -lr * 2.0 * g


def scaled(p, g, t, /, *, lr, factor):
    return -lr * factor * g


@functools.lru_cache
def remembered(p, g, t, /, *, lr):
    return -lr * 2.0 * g


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("update", [functools.partial(scaled, factor=2.0), Callable()])
def test_what_is_called_need_not_be_a_function(path, update):
    np.testing.assert_array_equal(step(mine(update), path), [-1.0] * 3)
    assert mine(update).bind().rule.doc.startswith("What the author of a rule may get wrong")


def test_a_remembered_function_can_be_traced():
    assert "* 2.0" in str(isostep.program(mine(remembered).bind()))


@pytest.mark.parametrize("update", [Unhashable(), 3])
def test_what_cannot_be_called(update):
    assert error(RuleError, lambda: mine(update)) == (
        f"mine: update must be a function, got {type(update).__name__}"
    )


# Numbers.


@pytest.mark.parametrize("path", PATHS)
def test_a_number_is_no_state(path):
    def update(p, g, v, t, /, *, lr):
        return -lr * g / v, v

    part = mine(update, state=("v",), init=lambda p, /: 0.1)
    text = "mine: init must return an array as v, got 0.1; write isostep.parts.filled(p, 0.1)"
    assert error(RuleError, step, part, path) == text
    assert error(RuleError, init_shapes, part.bind(), part.bind().components[0], (2,)) == text
    filled = mine(update, state=("v",), init=lambda p, /: parts.filled(p, 0.25))
    np.testing.assert_array_equal(step(filled, path), [-2.0] * 3)


def test_plain_numbers_that_are_divided_by_zero_name_the_line():
    def careless(p, g, t, /, *, lr):
        return -lr * nm.where(t > 1, 1 / (t - 1), 1.0) * g

    def careful(p, g, t, /, *, lr):
        return -lr * nm.where(t > 1, 1 / nm.maximum(t - 1, 1), 1.0) * g

    text = error(RuleError, step, mine(careless))
    assert re.match(r"division by zero of plain numbers in test_mistakes\.py:\d+, and arrays", text)
    np.testing.assert_array_equal(step(mine(careful), steps=2), [-1.0] * 3)


def test_numbers_of_numpy_are_written_as_pythons():
    factor = np.sqrt(np.float64(2.0))
    program = isostep.program(mine(lambda p, g, t, /, *, lr: -lr * factor * g).bind())
    text = step_function(program)
    assert "np." not in text
    assert repr(float(factor)) in text


# Files.


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder whose files are rules too."""
    package = sys.modules["isostep.rules"]
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    yield tmp_path
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(f"isostep.rules.{file.stem}", None)
        if hasattr(package, file.stem):
            delattr(package, file.stem)


HEAD = "from isostep.domains import Real\nfrom isostep.rule import Rule\n"
BRANCHY = (
    f"{HEAD}def update(p, g, t, /, *, lr):\n    return -lr * g if lr > 0.5 else -g\n"
    "RULE = Rule(name='branchy', update=update, hyper={'lr': Real(0.1)})\n"
)
FEW = f"{HEAD}RULE = Rule(name='few', update=lambda p, g, /: -g)\n"


def complained(capsys, *words):
    assert cli.main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_files_that_are_wrong_are_one_line(folder, capsys):
    (folder / "half.py").write_text("def update(")
    (folder / "branchy.py").write_text(BRANCHY)
    (folder / "few.py").write_text(FEW)
    for name, words in {
        "half": "isostep.rules.half cannot be imported: SyntaxError: '(' was never closed",
        "branchy": "branchy: <gt on host> is known only when the program runs",
        "few": "few: <lambda>(p, g, /) is called with (p, g, t): too many positional arguments",
    }.items():
        for command in (("show", name), ("diff", "adam", name)):
            assert complained(capsys, *command).startswith(f"isostep: {words}")
    assert "(branchy.py:4)" in complained(capsys, "show", "branchy")
    assert "did you mean 'adam'" in complained(capsys, "show", "adamm")
    assert cli.main(["show", "momentum"]) == 0  # a name that other files are asked for
    capsys.readouterr()
    assert cli.main(["list"]) == 0
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in err.splitlines()] == ["isostep"] * 3
    assert [line.partition(" ")[0] for line in out.splitlines()].count("adam") == 1
    (folder / "half.py").write_text(
        f"{HEAD}RULE = Rule(name='half', update=lambda p, g, t, /: -g)\n"
    )
    assert isostep.rule("half").name == "half"


def test_what_a_file_declares_is_told_in_a_few_words(folder):
    (folder / "odd.py").write_text(
        f"{HEAD}RULE = Rule(name='even', update=lambda p, g, t, /: -g)\n"
    )
    (folder / "bare.py").write_text("RULE = 3\n")
    assert error(RuleError, isostep.rule, "odd") == (
        "isostep.rules.odd must declare RULE with name='odd', got name='even'"
    )
    assert error(RuleError, isostep.rule, "bare") == (
        "isostep.rules.bare must declare RULE = Rule(name='bare', ...), got int"
    )


def test_half_a_file_does_not_stand_in_the_way_of_others(tmp_path, monkeypatch):
    package = tmp_path / "some_rules"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "half.py").write_text("1 / 0")
    (package / "whole.py").write_text(
        f"{HEAD}RULE = Rule(name='whole', update=lambda p, g, t, /: -g, known_as={{'other': {{}}}})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    rules = Folder("some_rules", "RULE", "rule")
    assert [r.name for r in rules.sound()] == ["whole"]
    assert rules.named("other")[0].name == "whole"


# An interrupt.

INTERRUPTED = """
import signal, sys
import numpy as np
import isostep, isostep.lower.kernels, isostep.lower.numba_support
from isostep.lower import cache

def stop(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, stop)
rule, backend = isostep.rule("adamw", lr=0.1), isostep.backend("numpy:fused")
params = [np.ones(3)]
state = backend.init(rule, params)
real = cache.importlib.util.module_from_spec
def slow(spec):
    signal.setitimer(signal.ITIMER_REAL, 0.01)  # the compiler needs much longer
    return real(spec)
cache.importlib.util.module_from_spec = slow
try:
    backend.step(rule, params, [np.ones(3)], state)
except KeyboardInterrupt:
    print("interrupted", state.t)
cache.importlib.util.module_from_spec = real
backend.step(rule, params, [np.ones(3)], state)
print(state.t, params[0] < 1)
"""


def test_an_interrupted_compiler_is_asked_again(tmp_path, monkeypatch):
    pytest.importorskip("numba", reason="isostep[numba] is not installed")
    assert hasattr(signal, "setitimer")
    monkeypatch.setenv("ISOSTEP_CACHE_DIR", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:2] == ["interrupted [0]", "[1] [ True  True  True]"]


# Formulas by name.


def test_a_surface_takes_a_formula(tmp_path, capsys):
    out = str(tmp_path / "a.html")
    for rules in ("formula(sign(g)*m)", "sgd,formula(sign(g) * m)(lr=0.1)"):
        assert cli.main(["plot", "surface", "--rules", rules, "--steps", "1", "-o", out]) == 0
    capsys.readouterr()
    assert "unknown name 'q'" in complained(
        capsys, "plot", "surface", "--rules", "formula(q)", "-o", out
    )


def test_a_static_choice_is_still_for_an_if():
    part = mine(
        lambda p, g, t, /, *, lr, kind: -lr * g if kind == "down" else lr * g,
        hyper={**LR, "kind": Choice("down", options=("down", "up"))},
    )
    np.testing.assert_array_equal(step(part), [-0.5] * 3)


def test_a_name_is_no_rule_and_a_rule_no_name():
    with pytest.raises(isostep.StepError, match=r"expected a rule such as .*, got 'adam'"):
        isostep.program("adam")
    for ask in (isostep.rule, isostep.definition):
        with pytest.raises(RuleError, match="unknown rule 3; known: "):
            ask(3)
