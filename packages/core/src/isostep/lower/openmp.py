"""Passes on the threads with which a framework computes, by way of its OpenMP runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from ctypes import CDLL, CFUNCTYPE, c_uint32, c_void_p, cast
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir

from isostep.lower.objects import Function, compiled
from isostep.lower.threads import POOL, named

WORD = ir.IntType(64)


class OpenMP:
    """Threads that after the framework's own work wait for more, awake: any others would share the cores with them."""

    def __init__(self, runtime: CDLL, count: Callable[[], int]) -> None:
        """``runtime`` leads to OpenMP's functions and to GCC's interface to it, which other runtimes have too.

        Raises:
            AttributeError: it does not.
        """
        self._parallel = CFUNCTYPE(None, c_void_p, c_void_p, c_uint32, c_uint32)(
            _address(runtime.GOMP_parallel)
        )
        self._number = _address(runtime.omp_get_thread_num)
        self._size = _address(runtime.omp_get_num_threads)
        self._count = count
        self._process = os.getpid()

    def count(self) -> int:
        return named() or self._count()

    def prepared(
        self, kernel: Function, cuts: Sequence[int], arguments: Sequence[int]
    ) -> Callable[[], None]:
        shares = len(cuts) - 1
        entry = _entry(self._number, self._size, len(arguments))
        data = np.array([shares, kernel.address, *arguments, *cuts], np.int64)
        given = (entry, data.ctypes.data, shares, 0)

        def run(_held: np.ndarray = data) -> None:
            if os.getpid() == self._process:
                self._parallel(*given)
            else:  # OpenMP's threads are not in a forked child, and its runtime there does not know that
                POOL.prepared(kernel, cuts, arguments)()

        return run


def _address(function: Any) -> int:
    return cast(function, c_void_p).value or 0


@cache
def _entry(number: int, size: int, arguments: int) -> int:
    """Where a compiled function begins that does the shares of one thread of a team.

    It gets the address of: how many shares there are, the kernel's address, its arguments without the share's first
    and last chunk, and where to cut. A team may be smaller than was asked for: each of n threads takes every nth share.
    ``number`` and ``size`` are the addresses of what tells a thread its number and the size of its team.
    """
    module = ir.Module("openmp")
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [WORD.as_pointer()]), "shares")
    start, test, body, end = (
        function.append_basic_block(n) for n in ("start", "test", "body", "end")
    )
    build = ir.IRBuilder(start)

    def given(index: Any) -> Any:
        return build.load(build.gep(function.args[0], [index]))

    def asked(address: int) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        found = build.call(build.inttoptr(WORD(address), kind.as_pointer()), [])
        return build.sext(found, WORD)

    mine, team = asked(number), asked(size)
    shares, kernel, chunks, *others = (given(WORD(k)) for k in range(2 + arguments))
    nothing = [build.alloca(WORD), build.alloca(WORD)]  # Numba's convention: see objects.py
    place = WORD.as_pointer()
    convention = ir.FunctionType(ir.IntType(32), [place, place, *[WORD] * (2 + arguments)])
    run = build.inttoptr(kernel, convention.as_pointer())
    build.branch(test)

    build.position_at_end(test)
    share = build.phi(WORD)
    share.add_incoming(mine, start)
    build.cbranch(build.icmp_signed("<", share, shares), body, end)

    build.position_at_end(body)
    cut = build.add(share, WORD(2 + arguments))
    first, last = given(cut), given(build.add(cut, WORD(1)))
    build.call(run, [*nothing, chunks, first, last, *others])
    share.add_incoming(build.add(share, team), body)
    build.branch(test)

    build.position_at_end(end)
    build.ret_void()
    return compiled(str(module), function.name)
