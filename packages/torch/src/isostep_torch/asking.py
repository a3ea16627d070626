"""Compiled loops that ask torch's C functions about tensors, as ``addresses`` and ``looks`` do.

The functions are those that AOTInductor's models are linked to (``torch/csrc/inductor/aoti_torch/c/shim.h``): each
takes a C++ tensor, ``at::Tensor``, and a place for what it says, and returns whether it failed. A tensor's Python
object holds its C++ tensor; where in the object is looked up on probes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from ctypes import CDLL, c_int64, c_void_p, cast
from typing import Any

import torch
from llvmlite import ir

WIDTH = 8
#: Fibonacci hashing: 2**64 divided by the golden ratio, and how far the high bits are folded back.
FACTOR, FOLD = 0x9E3779B97F4A7C15, 29
WORD, HALF = ir.IntType(8 * WIDTH), ir.IntType(32)
NONE = WORD(0)
#: ``at::native::is_neg``, as compilers of Linux and macOS name it: elements whose sign is not that in memory.
NEGATIVE = "_ZN2at6native6is_negERKNS_6TensorE"


def shim(*names: str) -> list[int] | None:
    """Where torch's C functions ``aoti_torch_get_NAME`` begin; None if it lacks one."""
    try:
        library = CDLL(torch._C.__file__)
        functions = [getattr(library, f"aoti_torch_get_{n}") for n in names]
    except (AttributeError, OSError):
        return None
    return [cast(f, c_void_p).value or 0 for f in functions]


def negative_bit() -> int | None:
    """Where ``at::native::is_neg`` begins; None if torch does not show it."""
    try:
        return cast(getattr(CDLL(torch._C.__file__), NEGATIVE), c_void_p).value
    except (AttributeError, OSError):
        return None


def place_of(word: Callable[[Any], int]) -> int | None:
    """How many bytes into a tensor's object this word of it lies; None if that cannot be told."""
    if sys.implementation.name != "cpython" or sys.maxsize != 2**63 - 1:
        return None
    found = set()
    for probe in (torch.zeros(3), torch.zeros(5)[2:], torch.nn.Parameter(torch.zeros(()))):
        words = range(0, torch.Tensor.__basicsize__ - WIDTH + 1, WIDTH)
        at = [k for k in words if c_int64.from_address(id(probe) + k).value == word(probe)]
        found.add(at[0] if len(at) == 1 else None)
    return found.pop() if len(found) == 1 else None


class Loop:
    """A function over words of 64 bits that is being built; ``build`` stands where the next instruction goes."""

    def __init__(self, name: str, arguments: int, result: ir.Type) -> None:
        self.name, self.module = name, ir.Module(name)
        kind = ir.FunctionType(result, [WORD] * arguments)
        self.function = ir.Function(self.module, kind, name)
        self.build = ir.IRBuilder(self.function.append_basic_block("start"))
        self._narrow, self._wide, self._errors = map(self.build.alloca, (HALF, WORD, HALF))

    def block(self, name: str) -> ir.Block:
        """A new one, which is branched to later."""
        block: ir.Block = self.function.append_basic_block(name)
        return block

    def load(self, base: ir.Value, offset: ir.Value | int) -> ir.Value:
        """The word this many bytes behind an address."""
        at = self.build.add(base, WORD(offset) if isinstance(offset, int) else offset)
        return self.build.load(self.build.inttoptr(at, WORD.as_pointer()))

    def store(self, value: ir.Value, base: ir.Value, index: ir.Value) -> None:
        """Write a word of an array of words."""
        at = self.build.add(base, self.build.mul(index, WORD(WIDTH)))
        self.build.store(value, self.build.inttoptr(at, WORD.as_pointer()))

    def call(self, address: int, result: ir.Type, arguments: list[ir.Value]) -> ir.Value:
        """Call what begins there."""
        kind = ir.FunctionType(result, [a.type for a in arguments]).as_pointer()
        return self.build.call(self.build.inttoptr(WORD(address), kind), arguments)

    def start_asking(self) -> None:
        """Forget which functions have failed."""
        self.build.store(HALF(0), self._errors)

    def ask(self, function: int, tensor: ir.Value, narrow: bool = False) -> ir.Value:
        """What one of torch's functions says of a tensor, a word or (``narrow``) half of one."""
        result = self._narrow if narrow else self._wide
        error = self.call(function, HALF, [tensor, result])
        self.build.store(self.build.or_(self.build.load(self._errors), error), self._errors)
        said = self.build.load(result)
        return self.build.sext(said, WORD) if narrow else said

    def negative(self, function: int, tensor: ir.Value) -> ir.Value:
        """1 where a tensor's elements are the negatives of what lies in memory, else 0."""
        said = self.call(function, ir.IntType(8), [tensor])
        return self.build.and_(self.build.zext(said, WORD), WORD(1))

    def none_failed(self) -> ir.Value:
        """Whether all functions could answer."""
        return self.build.icmp_signed("==", self.build.load(self._errors), HALF(0))

    def mixed(self, number: ir.Value, fact: ir.Value) -> ir.Value:
        """One more fact mixed into a number."""
        number = self.build.mul(self.build.xor(number, fact), WORD(FACTOR))
        return self.build.xor(number, self.build.lshr(number, WORD(FOLD)))

    def shape(
        self, number: ir.Value, tensor: ir.Value, functions: list[int], failed: ir.Block
    ) -> ir.Value:
        """A tensor's rank, sizes and strides mixed into a number; ``failed`` comes next where they cannot be told.

        ``functions`` are those that tell them, in that order.
        """
        build, axes, axis, last = self.build, *map(self.block, ("axes", "axis", "last"))
        rank, lengths, steps = (self.ask(f, tensor) for f in functions)
        build.cbranch(self.none_failed(), axes, failed)  # else there are no sizes to be read

        build.position_at_end(axes)
        number = self.mixed(number, rank)
        build.cbranch(build.icmp_signed("<", NONE, rank), axis, last)

        build.position_at_end(axis)
        k, so_far = build.phi(WORD), build.phi(WORD)
        at = build.mul(k, WORD(WIDTH))
        further = self.mixed(self.mixed(so_far, self.load(lengths, at)), self.load(steps, at))
        k_next = build.add(k, WORD(1))
        for phi, first, then in ((k, NONE, k_next), (so_far, number, further)):
            phi.add_incoming(first, axes)
            phi.add_incoming(then, axis)
        build.cbranch(build.icmp_signed("<", k_next, rank), axis, last)

        build.position_at_end(last)
        mixed = build.phi(WORD)
        mixed.add_incoming(number, axes)
        mixed.add_incoming(further, axis)
        return mixed

    def compiled(self) -> int:
        """Where the function begins, once it is built."""
        from isostep.lower.objects import compiled

        return compiled(str(self.module), self.name)
