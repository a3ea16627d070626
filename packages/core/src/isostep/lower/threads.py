"""Who runs a pass: this thread and others, each with a contiguous share of the chunks.

The shares never change a result, only who computes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Protocol

from isostep.lower.objects import Function

#: Below this many elements in all, waking a second thread costs more than it saves.
SERIAL = 60_000


def threads() -> int:
    """How many threads a step may use: ``ISOSTEP_NUM_THREADS``, else every core this process may run on."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    return named() or (len(allowed(0)) if allowed else os.cpu_count() or 1)


def named() -> int | None:
    """``ISOSTEP_NUM_THREADS``, if it is set."""
    text = os.environ.get("ISOSTEP_NUM_THREADS")
    return max(1, int(text)) if text else None


class Team(Protocol):
    """Some threads."""

    def count(self) -> int:
        """How many there are at most, with the one that asks."""

    def prepared(
        self, kernel: Function, cuts: Sequence[int], arguments: Sequence[int]
    ) -> Callable[[], None]:
        """What runs a pass, any number of times.

        Share k of it is chunks ``cuts[k]`` to ``cuts[k + 1]``; ``arguments[0]`` is where all chunks lie.
        """


class Pool:
    """Threads of Python's, which sleep between passes."""

    def __init__(self) -> None:
        self._pool: tuple[int, int, ThreadPoolExecutor] | None = None

    def count(self) -> int:
        return threads()

    def prepared(
        self, kernel: Function, cuts: Sequence[int], arguments: Sequence[int]
    ) -> Callable[[], None]:
        chunks, *others = arguments
        own, *more = pairwise(cuts)

        def run() -> None:
            pool = self._workers(len(more))
            waiting = [pool.submit(kernel, chunks, *share, *others) for share in more]
            kernel(chunks, *own, *others)
            for each in waiting:
                each.result()

        return run

    def _workers(self, count: int) -> ThreadPoolExecutor:
        """A pool of ``count`` threads of this process (a forked child has none of its parent's)."""
        if self._pool is None or self._pool[:2] != (os.getpid(), count):
            made = ThreadPoolExecutor(count, thread_name_prefix="isostep")
            self._pool = (os.getpid(), count, made)
        return self._pool[2]


POOL = Pool()
