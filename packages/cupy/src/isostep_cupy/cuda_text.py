"""What the writers of CUDA C share: headers, literals, where C's text differs from the listing's, and its words.

The texts name the headers of this package that they are built from; ``unit`` puts these in their place. Nothing here
needs CuPy or a device: the same text is compiled by NVRTC and, for tests, by a C++ compiler (``isostep_cupy.host``).
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import numpy as np

from isostep.values import MAPS, Value

#: The types of arrays' elements and of arithmetic.
TYPES = {
    "float64": "double", "float32": "float", "float16": "float16", "bfloat16": "bfloat16", "uint8": "unsigned char"
}  # fmt: skip
#: Where C's text differs from the listing's.
TEXT = {
    "where": "({} ? {} : {})",
    "and": "({} && {})",
    "or": "({} || {})",
    "not": "(!{})",
    "abs": "fabs({})",
    "pow": "power({}, {})",
    "isfinite": "is_finite({})",
    "isnan": "is_nan({})",
    "stored": "held({})",
}
INCLUDE = '#include "kernels.h"'
#: What no value of a rule's may be called: C's words, and what the headers and both kinds of kernels define.
WORDS = """
    alignas asm auto bool break case catch char class const constexpr continue default delete do double else enum
    explicit export extern false float for friend goto if inline int long mutable namespace new operator private
    protected public register return short signed sizeof static struct switch template this throw true try typedef
    typename union unsigned using virtual void volatile while and or not xor bitand bitor compl
    alignof and_eq char8_t char16_t char32_t concept consteval constinit const_cast co_await co_return co_yield decltype
    dynamic_cast noexcept not_eq nullptr or_eq reinterpret_cast requires static_assert static_cast thread_local typeid
    wchar_t xor_eq
    int64 real group_real stored float16 bfloat16 widen narrow infinity not_a_number is_nan is_finite sign maximum
    minimum sqrt cbrt exp expm1 log log1p sin cos tanh floor fabs pow power atan2 LANES Pack Share load store quotient
    unit_of element_of array_at lanes_left sum_of_block sum_of_lanes share_units reduce commit to_bits from_bits asm
    host held Word mix key_of hash_of noise_of rounded_bfloat16 rounded_float16 key hashed
    mxfp8_e4m3 mxfp8_e5m2 size_of largest_of_block scale_of packed unpacked turn
    threadIdx blockIdx blockDim gridDim row array start stop kind wide i n lane first share unit length r
    size ndim inner units base gamma j0 j1 jn y0 y1 yn
""".split()


def preamble(stored: str, real: str, group_real: str) -> list[str]:
    """The lines in front of all kernels: the dtypes of elements, of arithmetic and of the group, and the header."""
    names = ("STORED", "REAL", "GROUP_REAL")
    types = zip(names, (stored, real, group_real), strict=True)
    return [*(f"#define {name} {TYPES[dtype]}" for name, dtype in types), INCLUDE]


@cache
def header(name: str = "kernels.h") -> str:
    """The text of a header of this package."""
    return files("isostep_cupy").joinpath(name).read_text(encoding="utf-8")


def unit(text: str) -> str:
    """A source with its headers in place: what compilers are given."""
    return re.sub(
        r'^#include "(\w+\.h)"$', lambda found: header(found[1]), text, flags=re.MULTILINE
    )


def literal(number: float | bool, dtype: str) -> str:
    """A number as C writes it."""
    if isinstance(number, bool):
        return "true" if number else "false"
    with np.errstate(over="ignore"):
        x = np.dtype(dtype).type(number)
    if np.isnan(x):
        return "not_a_number()"
    if np.isinf(x):
        return "infinity()" if x > 0 else "(-infinity())"
    text = str(x) + ("f" if dtype == "float32" else "")
    return f"({text})" if np.signbit(x) else text


def applied(node: Value, operands: list[str]) -> str:
    """A map of its operands."""
    form = TEXT[node.op] if node.op in TEXT else MAPS[node.op].text
    return form.format(*operands)


def word(name: str) -> str:
    """A slot's name, as a part of one of C's."""
    return "".join(c if c.isalnum() else "_" for c in name)


def indent(block: list[str], levels: int = 1) -> list[str]:
    """Lines further to the right; what is the preprocessor's stays where it is."""
    return [line if line.startswith("#") else "    " * levels + line for line in block]
