"""What stands in the headers of Python objects, for many at once: compiled by Numba (``lower.addresses`` loads it)."""

from __future__ import annotations

from numba import njit

from isostep.lower.numba_support import KERNEL, storer, word

_put = storer("int64")


@njit("void(int64, int64, int64)", **KERNEL)
def follow(places: int, count: int, offset: int) -> None:
    """Each of ``count`` addresses, which stand at ``places``, becomes the word that lies ``offset`` bytes after it."""
    for k in range(count):
        _put(places, k, word(word(places, k) + offset, 0))
