"""The parser of formulas: text to a tree, or an error with a caret under the fault. Nothing is ever evaluated.

+ -  below  * /  below  the sign -  below  ^ (or **, from the right);  ( ) [ ] { } group;  |x| is abs(x), and
log|x| and sqrt|x| are written as in the paper;  e^x is exp(x)
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from isostep.formulas.tree import Adam, Name, Node, Number, apply
from isostep.formulas.vocabulary import DECAYS, FUNCTIONS, LEFT_OUT, MACROS, OPERANDS, UNARY
from isostep.rule import RuleError

#: No formula of the paper comes near; a deeper or longer one would run into Python's own limit.
DEEPEST, LONGEST = 60, 300
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<sign>\*\*|[-+*/^(),|\[\]{}]))",
    re.ASCII,
)
_CLOSING = {"(": ")", "[": "]", "{": "}", "|": "|"}
_BINARY = {
    "+": ("add", 1), "-": ("sub", 1), "*": ("mul", 2), "/": ("div", 2), "^": ("pow", 4), "**": ("pow", 4),
}  # fmt: skip
_MINUS = 3
ALLOWED = (
    f"operands: {', '.join((*OPERANDS, *MACROS))} and numbers; functions: {', '.join(FUNCTIONS)}"
)


class FormulaError(RuleError):
    """A formula that cannot be read: what is wrong, then the formula with a caret under the fault.

    ``line`` says the same in one line.
    """

    def __init__(self, message: str, formula: str | None = None, at: int = 0) -> None:
        self.line = message if formula is None else f"{message}; at {at + 1} in {formula!r}"
        shown = "" if formula is None else f"\n    {formula}\n    {' ' * at}^"
        super().__init__(f"{message}{shown}")


@dataclass(frozen=True)
class Token:
    """A word of a formula and its place; the last one has the kind ``end``."""

    kind: str
    text: str
    at: int


@dataclass
class Parser:
    """One formula on its way to a tree; ``decays`` are the schedules it names, by hyperparameter."""

    text: str
    decays: dict[str, Any] = field(default_factory=dict)

    def tree(self) -> Node:
        """The whole formula.

        Raises:
            FormulaError: it is not one.
        """
        self._tokens, self._next, self._depth = self._split(), 0, 0
        found = self._expression(0)
        if self._peek.kind != "end":
            self._fail(f"expected an operator, got {self._peek.text!r}; allowed: + - * / ^")
        return found

    def _split(self) -> list[Token]:
        found, at = [], 0
        while self.text[at:].strip():
            match = _TOKEN.match(self.text, at)
            if match is None:
                at += len(self.text[at:]) - len(self.text[at:].lstrip())
                self._fail(f"unknown character {self.text[at]!r}; {ALLOWED}", at)
            kind = match.lastgroup or ""
            found.append(Token(kind, match[kind], match.start(kind)))
            at = match.end()
            if len(found) > LONGEST:
                self._fail(f"more than {LONGEST} words; write it shorter", at)
        return [*found, Token("end", "the end", len(self.text.rstrip()))]

    @property
    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        self._next += 1
        return self._tokens[self._next - 1]

    def _fail(self, message: str, at: int | None = None) -> NoReturn:
        at = self._peek.at if at is None else at
        text = f"formula: {message}"
        raise FormulaError(text, self.text, at)

    def _expression(self, floor: int) -> Node:
        """Operands joined by operators that bind tighter than ``floor``."""
        self._depth += 1
        if self._depth > DEEPEST:
            self._fail(f"nested more than {DEEPEST} deep; write it with fewer brackets")
        left = self._operand()
        while (token := self._peek).text in _BINARY and _BINARY[token.text][1] > floor:
            self._take()
            op, strength = _BINARY[token.text]
            right = self._expression(strength - (op == "pow"))
            made = apply("exp", right) if left == Name("e") else apply(op, left, right)
            left = self._checked(made, token)
        self._depth -= 1
        return left

    def _checked(self, node: Node, token: Token) -> Node:
        if isinstance(node, Number) and not math.isfinite(node.number):
            self._fail(f"this is {node.number}; constants must be finite", token.at)
        return node

    def _operand(self) -> Node:
        token = self._take()
        if token.text == "-":
            return apply("neg", self._expression(_MINUS))
        if token.text == "|":
            return apply("abs", self._inside(token))
        if token.text in _CLOSING:
            return self._inside(token)
        if token.kind == "number":
            return self._checked(Number(float(token.text)), token)
        if token.kind == "name":
            return self._named(token)
        self._fail(f"expected an operand, got {_shown(token)}; {ALLOWED}", token.at)

    def _inside(self, opening: Token) -> Node:
        """What stands in brackets or bars; the opening one is taken."""
        found = self._expression(0)
        closing = _CLOSING[opening.text]
        if self._peek.text != closing:
            self._fail(f"expected {closing!r} for the {opening.text!r}, got {_shown(self._peek)}")
        self._take()
        return found

    def _named(self, token: Token) -> Node:
        lower = token.text.lower()
        name = lower if lower in ("adam", *MACROS) else token.text
        if name in LEFT_OUT:
            self._fail(f"{name} {LEFT_OUT[name]}", token.at)
        if name == "e":  # e^x is exp(x), and alone it is a number
            return Name("e") if self._peek.text in ("^", "**") else Number(math.e)
        if name in FUNCTIONS:
            return self._called(name, token)
        if name not in OPERANDS and name not in MACROS:
            known = [*OPERANDS, *MACROS, *FUNCTIONS]
            near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            self._fail(f"unknown name {name!r}; {hint}{ALLOWED}", token.at)
        if self._peek.text == "(":
            self._fail(f"{name} is no function, it takes no arguments; write {name} * (...)")
        if name in MACROS:
            return Parser(MACROS[name]).tree()
        return Adam() if name == "adam" else Name(name)

    def _called(self, name: str, token: Token) -> Node:
        if name in UNARY and self._peek.text == "|":
            return apply(UNARY[name], apply("abs", self._inside(self._take())))
        if self._peek.text != "(":
            self._fail(f"{name} is a function; write {name}(...)", token.at)
        self._take()
        places, args = [self._peek.at], [self._expression(0)]
        while self._peek.text == ",":
            self._take()
            places.append(self._peek.at)
            args.append(self._expression(0))
        if self._peek.text != ")":
            self._fail(f"expected ')' or ',' in {name}(...), got {_shown(self._peek)}")
        self._take()
        if name in DECAYS:
            return self._decay(name, args, places, token)
        wanted = 1 if name in UNARY else 2
        if len(args) != wanted:
            self._fail(
                f"{name} takes {wanted} argument{'s'[: wanted - 1]}, got {len(args)}", token.at
            )
        if name in UNARY:
            return self._checked(apply(UNARY[name], *args), token)
        if name == "keep_left":
            return args[0]
        bound = args[1]
        if not isinstance(bound, Number) or not bound.number > 0:
            self._fail("clip(x, c) is min(max(x, -c), c); c must be a number > 0", places[1])
        return apply("minimum", apply("maximum", args[0], Number(-bound.number)), bound)

    def _decay(self, name: str, args: list[Node], places: list[int], token: Token) -> Node:
        numbers = [a.number for a in args if isinstance(a, Number)]
        if len(numbers) < len(args):
            at = next(p for a, p in zip(args, places, strict=True) if not isinstance(a, Number))
            self._fail(f"{name}(T, ...) takes numbers", at)
        try:
            made = DECAYS[name](*numbers)
        except (TypeError, ValueError) as error:
            self._fail(f"{name}: {error}", token.at)
        same = [n for n, known in self.decays.items() if known == made]
        count = sum(n.partition("_")[0] == name for n in self.decays)
        own = same[0] if same else name if not count else f"{name}_{count + 1}"
        self.decays[own] = made
        return Name(own)


def _shown(token: Token) -> str:
    return token.text if token.kind == "end" else repr(token.text)


def uses(tree: Node, name: str) -> bool:
    """Whether an operand is in the tree."""
    return any(part == Name(name) for part in tree.parts())


def states(tree: Node) -> set[str]:
    """The running averages that a tree needs."""
    found: set[str] = set()
    for part in tree.parts():
        name = "adam" if isinstance(part, Adam) else part.name if isinstance(part, Name) else ""
        found.update(OPERANDS.get(name, ()))
    return found
