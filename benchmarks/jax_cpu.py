"""Every rule that optax has, in JAX on the CPU: isostep beside optax, in one jit with donation.

    python benchmarks/jax_cpu.py
    python benchmarks/jax_cpu.py --rules lion adam --sizes 24x1000000 --out mine.json

Both are compiled as `jax.jit` does by default, ours beside that by `isostep_jax.step`, and optax's with the options
of `isostep_jax.in_place()`, which are anybody's to use. Contenders take turns; medians of one run.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from peers import Contender, jitted, transformation
from run import copy_bandwidth, machine, measure, results

import isostep
from isostep.lower.traffic import bytes_moved
from isostep.program import trace

#: rule -> settings of ours, and of optax's where it goes by other names or has other defaults.
RULES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "adabelief": ({}, "adabelief", {}),
    "adadelta": ({}, "adadelta", {}),
    "adagrad": ({"dialect": "optax"}, "adagrad", {}),
    "adam": ({}, "adam", {}),
    "adamax": ({}, "adamax", {}),
    "adamw": ({}, "adamw", {}),
    "lamb": ({}, "lamb", {}),
    "lars": ({"dialect": "optax"}, "lars", {}),
    "lion": ({}, "lion", {}),
    "nadam": ({"dialect": "optax"}, "nadam", {}),
    "novograd": ({}, "novograd", {}),
    "radam": ({"dialect": "optax"}, "radam", {}),
    "rmsprop": ({"dialect": "optax"}, "rmsprop", {}),
    "rprop": ({}, "rprop", {}),
    "sgd": ({"momentum": 0.9}, "sgd", {"momentum": 0.9}),
    "sm3": ({}, "sm3", {}),
    "yogi": ({}, "yogi", {}),
}


def contenders(name: str) -> list[Contender]:
    """Ours and optax's, each in two ways."""
    import isostep_jax

    own, other, theirs = RULES[name]
    mine = partial(_made, "isostep_jax", name, own)
    optax = partial(_made, "optax", other, theirs)
    in_place = partial(jitted, options=isostep_jax.in_place())
    return [
        transformation("isostep_jax.step", mine, isostep_jax.step),
        transformation("isostep, jit", mine),
        transformation("optax, jit", optax),
        transformation("optax, in_place", optax, in_place),
    ]


def _made(library: str, name: str, settings: dict[str, Any]) -> Any:
    return getattr(import_module(library), name)(1e-3, **settings)


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rules", nargs="+", default=list(RULES), choices=list(RULES))
    parser.add_argument("--sizes", nargs="+", default=["24x1000000"], help="ARRAYSxELEMENTS")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="where to write (benchmarks/results/DEVICE-jax)")
    arguments = parser.parse_args()
    rows = []
    for size in arguments.sizes:
        count, elements = map(int, size.split("x"))
        for name in arguments.rules:
            times = measure(contenders(name), count, elements, arguments.rounds)
            moved = bytes_moved(trace(isostep.rule(name, **RULES[name][0])))
            rows.append({"rule": name, "size": size, "bytes_per_element": moved, "times": times})
            cells = "   ".join(f"{n} {1e3 * t['median']:7.1f}" for n, t in times.items())
            share = times["optax, jit"]["median"] / times["isostep_jax.step"]["median"]
            print(f"{name:10} {size:>12} ms: {cells}   optax, jit / step {share:.2f}", flush=True)
    result = {"machine": machine(), "copy_bytes_per_second": copy_bandwidth(), "rows": rows}
    out = arguments.out or results(result["machine"], "-jax")
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
