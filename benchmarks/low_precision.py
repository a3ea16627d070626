"""What low precision costs on the CPU: AdamW on bfloat16 weights, with each way to keep them learning.

    python benchmarks/low_precision.py
    python benchmarks/low_precision.py --sizes 24x1000000 --out mine.json

Beside our options stand the same ways elsewhere: torch's fused AdamW on bfloat16 (which stalls at small learning
rates), its float32 AdamW on copies that are rounded to the weights after each step (master weights as they are written
by hand), and torch-optimi's AdamW with Kahan's sum, if it is installed. Contenders take turns; medians of one run. The
bytes that a step must move are predicted from its program.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peers import Contender
from run import SIZES, machine, measure, results
from ways import WAYS, options_of

import isostep
from isostep.lower.threads import threads
from isostep.lower.traffic import bytes_moved
from isostep.program import trace


def halves(params: list[np.ndarray], grads: list[np.ndarray]) -> list[Any]:
    """The parameters in bfloat16, with their gradients."""
    import torch

    torch.set_num_threads(threads())
    found = [torch.nn.Parameter(torch.from_numpy(p).bfloat16()) for p in params]
    for p, g in zip(found, grads, strict=True):
        p.grad = torch.from_numpy(g).bfloat16()
    return found


def ours(way: str) -> Contender:
    """Our AdamW with one of the ways."""

    def prepare(params: list[np.ndarray], grads: list[np.ndarray]) -> Callable[[], Any]:
        from isostep_torch import AdamW

        return AdamW(halves(params, grads), lr=1e-3, fused=True, **options_of(way)).step

    return Contender(f"isostep, {way}", prepare)


def torch_fused(params: list[np.ndarray], grads: list[np.ndarray]) -> Callable[[], Any]:
    """torch's AdamW on the halves themselves."""
    import torch

    return torch.optim.AdamW(halves(params, grads), lr=1e-3, fused=True).step


def torch_copies(params: list[np.ndarray], grads: list[np.ndarray]) -> Callable[[], Any]:
    """torch's AdamW on float32 copies: gradients are widened to them, and they rounded to the weights."""
    import torch

    own = halves(params, grads)
    whole = [torch.nn.Parameter(p.detach().float()) for p in own]
    for w in whole:
        w.grad = torch.empty_like(w)
    optimizer = torch.optim.AdamW(whole, lr=1e-3, fused=True)

    def step() -> None:
        torch._foreach_copy_([w.grad for w in whole], [p.grad for p in own])
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(own, whole)

    return step


def optimi(params: list[np.ndarray], grads: list[np.ndarray]) -> Callable[[], Any]:
    """torch-optimi's AdamW, whose foreach form keeps Kahan's compensation."""
    from optimi import AdamW

    optimizer = AdamW(halves(params, grads), lr=1e-3, kahan_sum=True, foreach=True)
    return lambda: optimizer.step()


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), help="ARRAYSxELEMENTS")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="where to write (benchmarks/results/DEVICE-low)")
    arguments = parser.parse_args()
    contenders = [*map(ours, WAYS), Contender("torch fused", torch_fused)]
    contenders.append(Contender("torch fused, copies", torch_copies))
    result: dict[str, Any] = {"machine": machine(), "rows": []}
    if importlib.util.find_spec("optimi") is None:
        print("low_precision.py: not installed, so not measured: torch-optimi")
    else:
        contenders.append(Contender("torch-optimi, kahan", optimi))
        result["machine"]["torch-optimi"] = version("torch-optimi")
    rule = isostep.rule("adamw", lr=1e-3)
    moved = {
        f"isostep, {way}": bytes_moved(trace(rule, kept=s.of("bfloat16")), "bfloat16", s)
        for way, s in ((way, s.of_rule(rule)) for way, (_, s) in WAYS.items())
    }
    out = arguments.out or results(result["machine"], "-low")
    for size in arguments.sizes:
        count, elements = map(int, size.split("x"))
        times = measure(contenders, count, elements, arguments.rounds)
        result["rows"].append({"size": size, "bytes_per_element": moved, "times": times})
        base = times["isostep, plain"]["median"]
        for name, t in times.items():
            rate = (moved.get(name) or 0) * count * elements / t["median"] / 1e9
            text = f"{rate:6.1f} GB/s" if rate else ""
            print(
                f"{size:>12}  {name:28} {t['median'] * 1e3:9.3f} ms {t['median'] / base:7.2f} {text}"
            )
    out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
