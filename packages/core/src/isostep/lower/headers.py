"""What stands in the headers of Python objects, for many at once: compiled by Numba (``lower.addresses`` loads it)."""

from __future__ import annotations

from numba import njit

from isostep.lower.numba_support import KERNEL, storer, word

_put = storer("int64")


@njit("void(int64, int64, int64)", **KERNEL)
def follow(objects: int, count: int, offset: int) -> None:
    """The ``count`` objects of an int64 array each become the word that lies ``offset`` bytes into the object.

    The array is given as an object too: its data pointer lies there.
    """
    places = word(objects + offset, 0)
    for k in range(count):
        _put(places, k, word(word(places, k) + offset, 0))
