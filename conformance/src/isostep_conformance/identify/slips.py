"""One slip away: the steps of a rule whose program was changed in one place, as conformance's mutants are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from isostep.backends.numpy import NumpyReference
from isostep.calls import COUNT
from isostep.program import PARAMETER, Program, trace
from isostep.rule import BoundRule
from isostep.values import Domain, Graph, Value
from isostep_conformance import exact
from isostep_conformance.bounds import Plain
from isostep_conformance.formats import FORMATS
from isostep_conformance.mutants import OFF, Mutant, edited, mutants, text

Arrays = list[np.ndarray]
#: What a wrong program may raise when it is run: nobody could step with it.
UNFIT = (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError, exact.ExactError)


@dataclass(frozen=True, eq=False)
class Slip:
    """A rule with one mistake, made in each of its programs that has the place."""

    made: tuple[str, ...]
    rule: BoundRule
    wrong: dict[Program, Program]

    @property
    def text(self) -> str:
        """What was done to which expressions."""
        return "; ".join(self.made)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What was done, without the places."""
        return tuple(text.partition(":")[0] for text in self.made)

    def steps(self, start: Arrays, gradients: Sequence[Arrays]) -> Iterator[Arrays]:
        """The parameters after each step, from the rule's first state."""
        arith = Plain(FORMATS["float64"])
        state = NumpyReference().init(self.rule, [p.copy() for p in start])

        def tracer(rule: BoundRule, phase: tuple[int, ...], shape: tuple[int, ...]) -> Program:
            found = trace(rule, phase, shape)
            return self.wrong.get(found, found)

        arrays: list[dict[str, Any]] = [
            {PARAMETER: arith.array(p), **{n: arith.array(np.asarray(a)) for n, a in own.items()}}
            for p, own in zip(start, state.arrays, strict=True)
        ]
        group: dict[str, Any] = {n: arith.array(np.asarray(v)) for n, v in state.group.items()}
        for t, step in enumerate(gradients):
            items = [
                exact.Before(
                    own[PARAMETER], arith.array(g), {n: own[n] for n in self.rule.state_names}, t
                )
                for own, g in zip(arrays, step, strict=True)
            ]
            after, group = exact.step(self.rule, items, group, t, arith, tracer)
            arrays = [a.arrays for a in after]
            yield [np.asarray(own[PARAMETER], np.float64) for own in arrays]


def right(rule: BoundRule, shapes: Sequence[tuple[int, ...]], steps: int) -> Slip:
    """The rule as it is: what slips start from. Its programs are those of a run over arrays of these shapes."""
    programs = dict.fromkeys(
        trace(rule, rule.phase(t), s) for t in range(1, steps + 1) for s in shapes
    )
    return Slip((), rule, {program: program for program in programs})


def slips(before: Slip) -> Iterator[Slip]:
    """Every slip that can be made on top of one, the same in each program that has the place."""
    made: dict[str, dict[Program, Program]] = {}
    for program, wrong in before.wrong.items():
        for mutant in itertools.chain(mutants(wrong), () if before.made else _twice(wrong)):
            if not mutant.id.startswith(f"x {OFF}"):  # numbers are off by anything
                made.setdefault(mutant.id, {})[program] = mutant.program
    for what, more in made.items():
        yield Slip((*before.made, what), before.rule, before.wrong | more)


def _twice(program: Program) -> Iterator[Mutant]:
    """A product or quotient with a number of the group for which the number is taken once more."""
    for node in program.live:
        factors = {"mul": node.args, "div": node.args[:1], "neg": node.args}.get(node.op, ())
        for i, factor in enumerate(factors):
            number = factor.op == "input" and factor.domain <= Domain.STEP
            if number and factor.attrs[0] != COUNT:
                name = f"{factor.attrs[0]} twice: {text(node)}"
                yield Mutant(name, edited(program, node, partial(_once_more, place=i)))


def _once_more(graph: Graph, node: Value, args: tuple[Value, ...], place: int) -> Value:
    return graph.apply("mul", (graph.apply(node.op, args), args[place]))
