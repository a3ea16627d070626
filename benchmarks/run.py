"""Step times of isostep's paths beside the libraries they are meant to replace, as ratios in one run.

    python benchmarks/run.py                      every rule that has a peer, both problem sizes
    python benchmarks/run.py --rules adamw lamb --sizes 24x1000000 --out results.json
    python benchmarks/run.py --rules adamw --sizes 24x1000000 --observed     what figures of every step cost

Contenders take turns, round by round, so that a busy machine slows all alike; the table shows medians. The
bytes that a fused step must move are predicted from its program before anything is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peers import PEERS, Contender

import isostep
from isostep.lower.threads import threads
from isostep.lower.traffic import bytes_moved
from isostep.program import trace

SIZES = ("24x1000000", "1000x1000")
OURS = ("numpy:fused", "numpy:reference")
FUSED = ("numpy:fused", "torch:fused")
#: Rounds stop when a contender has been measured this often, or for this many seconds.
ROUNDS, SECONDS = 25, 12.0


def ours(path: str, rule: isostep.BoundRule) -> Contender:
    """One of isostep's paths as a contender; an observed rule's steps leave figures that nobody reads."""

    def prepare(params: list[np.ndarray], grads: list[np.ndarray]) -> Callable[[], Any]:
        backend = isostep.backend(path)
        own = [backend.asarray(p) for p in params]
        given = [backend.asarray(g) for g in grads]
        state = backend.init(rule, own)
        return lambda: backend.step(rule, own, given, state)

    return Contender(f"{path}, observed" if rule.observed else path, prepare)


def measure(
    contenders: list[Contender],
    count: int,
    shape: int | tuple[int, ...],
    rounds: int = ROUNDS,
    before: Callable[[Any], None] = lambda step: None,
) -> dict[str, dict[str, float]]:
    """Median and least seconds per step of each contender; the first step (compilation) apart.

    ``before(step)`` is called before each step, and not timed.
    """
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]
    grads = [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]
    steps: dict[str, Callable[[], Any]] = {}
    first: dict[str, float] = {}
    for c in contenders:
        steps[c.name] = c.prepare(params, grads)
        start = time.perf_counter()
        steps[c.name]()
        first[c.name] = time.perf_counter() - start
    taken: dict[str, list[float]] = {n: [] for n in steps}
    begun = time.perf_counter()
    limit = begun + SECONDS * len(steps)
    while len(taken[contenders[0].name]) < rounds and time.perf_counter() < limit:
        for name, step in steps.items():
            before(step)
            step()  # bring this contender's arrays back into the cache, as in a run of its own
            before(step)
            start = time.perf_counter()
            step()
            taken[name].append(time.perf_counter() - start)
    return {
        n: {"median": statistics.median(t), "least": min(t), "first": first[n], "rounds": len(t)}
        for n, t in taken.items()
    }


def copy_bandwidth() -> float:
    """Bytes per second of NumPy's copy of 200 MB on one thread, read and write counted."""
    source, target = np.ones(25_000_000), np.zeros(25_000_000)
    taken = []
    for _ in range(7):
        start = time.perf_counter()
        np.copyto(target, source)
        taken.append(time.perf_counter() - start)
    return 2 * source.nbytes / statistics.median(taken)


def machine() -> dict[str, Any]:
    """What a result depends on: processor, threads, versions."""
    names = ("numpy", "numba", "torch", "jax", "optax")
    versions = {}
    for n in names:
        try:
            versions[n] = version(n)
        except ModuleNotFoundError:
            versions[n] = "not installed"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), ""
    )
    return {
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "threads": threads(),
        "python": platform.python_version(),
        "isostep": isostep.__version__,
        **versions,
    }


def results(machine: dict[str, Any], kind: str = "") -> Path:
    """Where the results of this machine go."""
    device = "".join(c if c.isalnum() else "-" for c in machine["processor"]).strip("-").lower()
    return Path(__file__).parent / "results" / f"{device}-{machine['threads']}t{kind}.json"


def table(rows: list[dict[str, Any]]) -> str:
    """The results as text: milliseconds, GB/s by the predicted bytes, and how often numpy:fused fits in."""
    out = [
        f"{'rule':10} {'arrays':>12}  {'contender':22} {'ms':>9} {'GB/s':>7} {'/ numpy:fused':>14} {'first s':>8}"
    ]
    for row in rows:
        base = row["times"]["numpy:fused"]["median"]
        for name, t in row["times"].items():
            rate = row["bytes"] / t["median"] / 1e9
            out.append(
                f"{row['rule']:10} {row['size']:>12}  {name:22} {t['median'] * 1e3:9.3f} {rate:7.1f} "
                f"{t['median'] / base:14.2f} {t['first']:8.2f}"
            )
    return "\n".join(out)


def main() -> int:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rules", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help="ARRAYSxELEMENTS")
    parser.add_argument(
        "--out", type=Path, help="where to write JSON (default: benchmarks/results/DEVICE.json)"
    )
    parser.add_argument(
        "--observed", action="store_true", help="fused paths with and without figures, no peers"
    )
    arguments = parser.parse_args()
    rows = []
    for size in arguments.sizes:
        count, elements = map(int, size.split("x"))
        for name in arguments.rules:
            rule, peers = PEERS[name]
            contenders = [ours(p, rule) for p in OURS] + peers
            if arguments.observed:
                both = rule, isostep.observe(rule)
                contenders = [ours(p, r) for p in FUSED for r in both]
            times = measure(contenders, count, elements)
            per_element = bytes_moved(trace(rule)) or 0  # every rule here is fused
            rows.append(
                {
                    "rule": name,
                    "hyper": repr(rule),
                    "size": size,
                    "bytes_per_element": per_element,
                    "bytes": per_element * count * elements,
                    "times": times,
                }
            )
            print(table(rows[-1:]), flush=True)
    result = {"machine": machine(), "copy_bytes_per_second": copy_bandwidth(), "rows": rows}
    out = arguments.out or results(result["machine"], "-observed" * arguments.observed)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(out)
    print(
        f"\ncopy {result['copy_bytes_per_second'] / 1e9:.1f} GB/s on one thread; written to {out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
