"""AdamW with its state in eight bits on the CPU: time and memory, beside the libraries that have such optimizers.

    python benchmarks/eight_bits.py
    python benchmarks/eight_bits.py --sizes 1000x4096 --out mine.json

Parameters are float32. Beside our state in float32, bfloat16 and blocks of eight bits stand torch's fused AdamW,
bitsandbytes' and torchao's, as far as they are installed (`pip install --no-deps bitsandbytes torchao`). Contenders
take turns; medians of one run. Bytes of state are those of the arrays that a contender holds after its first steps.
torchao keeps arrays of 4,096 elements and more in eight bits, if whole blocks of 256 fill them.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from peers import Contender, torch_class, torch_optim
from run import machine, measure, results

#: Our state, by what options call it.
KINDS = ("float32", "bfloat16", "mxfp8_e4m3", "mxfp8_e5m2")
#: Classes of other libraries: where they are, and the name on PyPI.
OTHERS = {
    "bitsandbytes": (("bitsandbytes.optim", "AdamW8bit"),),
    "torchao": (("torchao.optim", "AdamW8bit"), ("torchao.optim", "AdamWFp8")),
}


def ours(kind: str) -> Contender:
    """Our class on its fused path."""
    import torch

    dtype = kind if kind.startswith("mxfp8") else getattr(torch, kind)
    options = {"state_dtype": dtype, "fused": True}
    return torch_class("isostep_torch", "AdamW", f"isostep, {kind}", lr=1e-3, **options)


def tensors(value: Any) -> Iterator[Any]:
    """The plain tensors that something holds: of a dict, or of a tensor that stands for others."""
    import torch

    if isinstance(value, dict):
        for each in value.values():
            yield from tensors(each)
    elif hasattr(value, "__tensor_flatten__"):
        for name in value.__tensor_flatten__()[0]:
            yield from tensors(getattr(value, name))
    elif isinstance(value, torch.Tensor):
        yield value


def counted(contender: Contender, found: dict[str, float]) -> Contender:
    """The same, which notes the bytes of its state for each element of the parameters."""

    def prepare(params: list[np.ndarray], grads: list[np.ndarray]) -> Callable[[], Any]:
        step = contender.prepare(params, grads)
        step()
        state = dict(step.__self__.state)  # type: ignore[attr-defined]
        held = {t.data_ptr(): t.numel() * t.element_size() for t in tensors(state)}
        found[contender.name] = sum(held.values()) / sum(p.size for p in params)
        return step

    return Contender(contender.name, prepare)


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["24x1048576"], help="ARRAYSxELEMENTS")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="where to write (benchmarks/results/DEVICE-eight)")
    arguments = parser.parse_args()
    contenders = [*map(ours, KINDS), torch_optim("AdamW", "fused", lr=1e-3)]
    result: dict[str, Any] = {"machine": machine(), "rows": []}
    for package, classes in OTHERS.items():
        if importlib.util.find_spec(package) is None:
            print(f"eight_bits.py: not installed, so not measured: {package}")
            continue
        result["machine"][package] = version(package)
        contenders += [torch_class(m, n, f"{package}, {n}", lr=1e-3) for m, n in classes]
    out = arguments.out or results(result["machine"], "-eight")
    for size in arguments.sizes:
        count, elements = map(int, size.split("x"))
        held: dict[str, float] = {}
        times = measure([counted(c, held) for c in contenders], count, elements, arguments.rounds)
        result["rows"].append({"size": size, "bytes_of_state": held, "times": times})
        base = times["torch fused"]["median"]
        for name, t in times.items():
            print(
                f"{size:>12}  {name:28} {t['median'] * 1e3:9.2f} ms {t['median'] / base:7.2f} "
                f"{held[name]:6.2f} bytes of state"
            )
    out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
