"""Rules from formulas: an expression of Neural Optimizer Search's grammar, traced and fused like any other rule.

>>> import isostep
>>> rule = isostep.from_formula("exp(sign(g)*sign(m)) * g", lr=0.1)     # PowerSign
>>> rule.state_names, list(rule.domains)
(('m',), ['lr', 'beta1'])

    u = -lr * formula

Follows: Bello, Zoph, Vasudevan, Le, "Neural Optimizer Search with Reinforcement Learning", arXiv 1709.07417, section 3.
Departs:
    - Any number may stand where the paper has 1, 2 and the factors 10^-1 to 10^-4 of w, any depth where it has four.
    - m, v, gamma are plain running averages of g, g^2, g^3, and m_hat, v_hat, gamma_hat the bias-corrected ones; adam
      and rmsprop are those of torch.optim, of the same m and v.
    - Nothing is added to a divisor: write eps, which is then a hyperparameter.
    - drop and the noises are left out: a rule is a pure function of its inputs.
In a product lr goes with the first factor, (lr * factor) * g, as in TensorFlow's sign kernels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from isostep import parts
from isostep.domains import Domain, Real
from isostep.formulas.grammar import FormulaError, Parser, states, uses
from isostep.formulas.tree import Adam, Node, Step
from isostep.formulas.vocabulary import HYPER, MOMENTS
from isostep.rule import BoundRule, Rule

#: A rule that is made from a formula is called by it, in these.
BEFORE, AFTER = "formula(", ")"
_ELEMENTS = ("g", "w", "m", "v", "gamma", "m_hat", "v_hat", "gamma_hat")


class FormulaRule(Rule):
    """A rule whose declaration is its name: what is pickled or written to a file is that text."""

    @property
    def doc(self) -> str:
        """As the docstring of a rule's file."""
        text = self.name.removeprefix(BEFORE).removesuffix(AFTER)
        names = [n for n in MOMENTS if n in self.state]  # type: ignore[operator]
        lines = [
            f"    {n:<5} <- {b} * {n} + (1 - {b}) * g{'' if power == 1 else f'^{power}'}"
            for n in names
            for power, b in (MOMENTS[n],)
        ]
        update = f"    u     = -lr * ({text})"
        follows = "Follows: the grammar of Neural Optimizer Search, arXiv 1709.07417; see isostep.formulas."
        return "\n".join([f"{self.name}.", "", *lines, update, "", follows])

    def __reduce__(self) -> Any:
        from isostep import definition

        return definition, (self.name,)


def from_formula(formula: str, /, **hyper: Any) -> BoundRule:
    """The rule whose update is -lr times a formula, with its hyperparameters.

    Args:
        formula: operands g, w (the parameter), m, v, gamma (running averages of g, g^2, g^3), m_hat, v_hat, gamma_hat
            (bias-corrected), adam, rmsprop, eps and numbers; + - * / ^; exp, log, sqrt, sign, abs or bars, clip(x, c),
            keep_left(x, y); decays of the steps done, ld(T), cd(T, n), rd(T, n).
        hyper: lr, and those that the formula brings with it: beta1 for m, beta2 for v, beta3 for gamma, eps, and the
            decays under their names.

    Raises:
        FormulaError: the formula cannot be read; the text shows where, what is allowed and the nearest known name.
        RuleError: a hyperparameter is unknown.
        DomainError: a value is outside its domain.
    """
    return definition(formula).bind(**hyper)


def named(name: str) -> Rule | None:
    """The rule of a name such as ``formula(sign(m))``; None if this is no such name."""
    if not isinstance(name, str) or not name.startswith(BEFORE):  # a file's path need be no text
        return None
    text = name.removeprefix(BEFORE)
    if not text.endswith(AFTER):
        definition(text)  # what is wrong in the formula itself comes first
        message = f"formula: a rule's name {BEFORE}...{AFTER} must end in {AFTER!r}, got the end"
        raise FormulaError(message, text, len(text))
    return definition(text.removesuffix(AFTER))


def definition(formula: str) -> Rule:
    """The declaration of a formula's rule; the same formula is the same rule."""
    if not isinstance(formula, str):
        message = f"formula: must be a text such as 'sign(g) * m', got {formula!r}"
        raise FormulaError(message)
    return _definition(" ".join(formula.split()))


@cache
def _definition(text: str) -> Rule:
    parser = Parser(text)
    tree = parser.tree()
    state = tuple(n for n in MOMENTS if n in states(tree))
    if not state and not any(uses(tree, n) for n in _ELEMENTS):
        message = (
            f"formula: {text!r} is the same for every element; use one of {', '.join(_ELEMENTS)}"
        )
        raise FormulaError(message)
    wanted = {"lr", *(MOMENTS[n][1] for n in state)}
    if uses(tree, "eps") or any(isinstance(part, Adam) for part in tree.parts()):
        wanted.add("eps")
    hyper: dict[str, Domain] = {n: d for n, d in HYPER.items() if n in wanted}
    for name, decay in parser.decays.items():
        hyper[name] = Real(decay, low=0, high=1, doc=f"decay by the steps already done: {decay!r}")
    return FormulaRule(
        name=f"{BEFORE}{text}{AFTER}",
        update=_update(tree, state),
        state=state,
        hyper=hyper,
        family="formula",
        year=2017,
        paper="Bello et al., Neural Optimizer Search with Reinforcement Learning",
        arxiv="1709.07417",
    )


def _update(tree: Node, state: tuple[str, ...]) -> Any:
    """The function of a rule: the averages of the state first, then the tree."""

    def update(p: Any, g: Any, /, *state_t: Any, **hyper: Any) -> tuple[Any, ...]:
        *old, t = state_t
        powers = {1: g, 2: g * g, 3: g * g * g}
        new = []
        for name, before in zip(state, old, strict=True):
            power, beta = MOMENTS[name]
            new.append(parts.average(before, powers[power], hyper[beta]))
        values = {"g": g, "w": p, **dict(zip(state, new, strict=True))}
        return tree.update(Step(values, hyper, t)), *new

    return update


__all__ = ["FormulaError", "FormulaRule", "definition", "from_formula", "named"]
