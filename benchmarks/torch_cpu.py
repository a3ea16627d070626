"""Step times of our torch optimizers on the CPU beside those that they replace, as ratios in one run.

    python benchmarks/torch_cpu.py                  every row, and the first step with and without a cache
    python benchmarks/torch_cpu.py --rows adamw lamb --out mine.json
    python benchmarks/torch_cpu.py --new-gradients  gradients that are other tensors in every step, as in training

A row is a rule, its hyperparameters, and its peers: torch's fused and foreach forms, and classes of packages on PyPI
as far as they are installed (`pip install --no-deps`, dependency group `catalogue`). AddSign and PowerSign are in
none of them: their peer is the formula in eager torch, operation by operation. Contenders take turns; medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from os import environ
from pathlib import Path
from typing import Any

import numpy as np
from peers import Contender, torch_class, torch_optim
from run import SIZES, machine, measure, results

import isostep
from isostep_torch import load_optimizer

#: Of the rules that have other programs for matrices than for vectors.
MATRICES = ("24x1000x1000", "1000x40x25")
#: Packages whose classes are peers, by the name to import: the name on PyPI.
PACKAGES = {
    "pytorch_optimizer": "pytorch-optimizer",
    "torch_optimizer": "torch-optimizer",
    "timm.optim.adabelief": "timm",
    "timm.optim.lamb": "timm",
    "timm.optim.lion": "timm",
    "lion_pytorch": "lion-pytorch",
    "optimi": "torch-optimi",
}
#: A first step, in a process of its own; torch's own first optimizer imports half of torch, and is not counted.
FIRST = """
import sys, time, torch, isostep_torch
params = [torch.nn.Parameter(torch.ones(1000)) for _ in range(4)]
for p in params:
    p.grad = torch.ones(1000)
torch.optim.AdamW(params, fused=True).step()
begin = time.perf_counter()
isostep_torch.load_optimizer(sys.argv[1])(params, lr=1e-3, fused=True).step()
print(time.perf_counter() - begin)
"""


def eager(power: bool) -> Contender:
    """AddSign or PowerSign as one would write it with torch, without a line that the formula does not ask for."""

    def prepare(params: list[np.ndarray], grads: list[np.ndarray]) -> Any:
        import torch

        own = [torch.from_numpy(p.copy()) for p in params]
        given = [torch.from_numpy(g.copy()) for g in grads]
        averages = [torch.zeros_like(p) for p in own]

        def step() -> None:
            for p, g, m in zip(own, given, averages, strict=True):
                m.mul_(0.9).add_(g, alpha=0.1)
                factor = torch.sign(g).mul_(torch.sign(m))
                factor = factor.exp_() if power else factor.add_(1.0)
                p.addcmul_(factor, g, value=-1e-3)

        return step

    return Contender("eager torch", prepare)


def torchs(name: str, *kinds: str, **hyper: Any) -> list[Contender]:
    """Forms of one of torch's classes."""
    return [torch_optim(name, kind, lr=1e-3, **hyper) for kind in kinds]


def packaged(name: str, *sources: str) -> list[Contender]:
    """A class of the same name in several packages."""
    return [torch_class(s, name, PACKAGES[s], lr=1e-3) for s in sources]


#: rule -> (hyperparameters beside lr, peers); of matrices those that have rows and columns
ROWS: dict[str, tuple[dict[str, Any], list[Contender]]] = {
    "adamw": ({}, torchs("AdamW", "fused", "foreach")),
    "sgd": ({"momentum": 0.9}, torchs("SGD", "fused", "foreach", momentum=0.9)),
    "nadam": ({}, torchs("NAdam", "foreach")),
    "radam": ({}, torchs("RAdam", "foreach")),
    "adamax": ({}, torchs("Adamax", "foreach")),
    "addsign": ({}, [eager(power=False)]),
    "powersign": ({}, [eager(power=True)]),
    "adabelief": (
        {},
        packaged("AdaBelief", "pytorch_optimizer", "torch_optimizer", "timm.optim.adabelief"),
    ),
    "lion": (
        {},
        packaged("Lion", "pytorch_optimizer", "timm.optim.lion", "lion_pytorch", "optimi"),
    ),
    "lamb": ({}, packaged("Lamb", "pytorch_optimizer", "torch_optimizer", "timm.optim.lamb")),
    "adafactor": (
        {},
        [*torchs("Adafactor", "foreach"), *packaged("AdaFactor", "pytorch_optimizer")],
    ),
    "novograd": ({}, packaged("NovoGrad", "pytorch_optimizer", "torch_optimizer")),
    "came": ({}, packaged("CAME", "pytorch_optimizer")),
    "sm3": ({}, packaged("SM3", "pytorch_optimizer")),
    "adamp": ({}, packaged("AdamP", "pytorch_optimizer", "torch_optimizer")),
    "padam": ({}, packaged("PAdam", "pytorch_optimizer")),
}
#: The rows that are measured on matrices.
ON_MATRICES = ("adafactor", "novograd", "came", "sm3", "adamp")


def ours(rule: str, hyper: dict[str, Any]) -> Contender:
    """Our class on its fused path."""
    name = load_optimizer(rule).__name__
    return torch_class("isostep_torch", name, "isostep", lr=1e-3, fused=True, **hyper)


def new_gradients(step: Any) -> None:
    """Other tensors with the same elements, for the contenders that are optimizers: what ``backward`` leaves."""
    for group in getattr(getattr(step, "__self__", None), "param_groups", ()):
        for p in group["params"]:
            p.grad = p.grad.clone()


def first_steps(rule: str) -> dict[str, float]:
    """Seconds of the first step of a process, with an empty cache of kernels and then with a full one."""
    with tempfile.TemporaryDirectory() as folder:
        there = environ | {"ISOSTEP_CACHE_DIR": folder}
        command = [sys.executable, "-c", FIRST, rule]
        runs = [
            subprocess.run(command, env=there, capture_output=True, text=True, check=True)
            for _ in range(2)
        ]
    return dict(zip(("without", "with"), (float(r.stdout) for r in runs), strict=True))


def table(row: dict[str, Any]) -> str:
    """A row as text: milliseconds, and how often our step fits in."""
    base = row["times"]["isostep"]["median"]
    return "\n".join(
        f"{row['rule']:10} {row['size']:>12}  {name:18} {t['median'] * 1e3:9.3f} ms {t['median'] / base:7.2f}"
        for name, t in row["times"].items()
    )


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--sizes", nargs="+", help="ARRAYSxELEMENTS, or ARRAYSxROWSxCOLUMNS")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--new-gradients", action="store_true", help="other tensors in every step")
    parser.add_argument("--out", type=Path, help="where to write (benchmarks/results/DEVICE-torch)")
    arguments = parser.parse_args()
    absent = [n for n in PACKAGES if importlib.util.find_spec(n.partition(".")[0]) is None]
    if absent:
        print(f"torch_cpu.py: not installed, so not measured: {', '.join(absent)}")
    result: dict[str, Any] = {"machine": machine(), "rows": [], "first": {}}
    result["machine"] |= {p: version(p) for s, p in PACKAGES.items() if s not in absent}
    out = arguments.out or results(result["machine"], "-torch")
    for rule in arguments.rows:
        hyper, peers = ROWS[rule]
        held = [p for p in peers if p.name not in {PACKAGES[a] for a in absent}]
        for size in arguments.sizes or (MATRICES if rule in ON_MATRICES else SIZES):
            count, *shape = map(int, size.split("x"))
            before = new_gradients if arguments.new_gradients else lambda step: None
            times = measure(
                [ours(rule, hyper), *held], count, tuple(shape), arguments.rounds, before
            )
            row = {"rule": rule, "hyper": repr(isostep.rule(rule, lr=1e-3, **hyper)), "size": size}
            row |= {"new_gradients": arguments.new_gradients}
            result["rows"].append({**row, "times": times})
            print(table(result["rows"][-1]), flush=True)
            out.write_text(json.dumps(result, indent=2) + "\n")
    for rule in arguments.rows:
        result["first"][rule] = found = first_steps(rule)
        print(f"{rule:10} first step {found['without']:.2f} s, cached {found['with']:.2f} s")
    out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
