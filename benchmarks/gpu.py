"""What needs a CUDA device to be known: bandwidth, step times beside torch.optim's, and graph replay, in one command.

    python benchmarks/gpu.py               everything; writes benchmarks/results/DEVICE.json
    python benchmarks/gpu.py --rules adamw lamb --out mine.json
    python benchmarks/gpu.py --dry-run     what would be measured, on any machine

Bandwidth: the bytes that a step must move, as its program tells, over its time, as a share of what a copy between
two tensors reaches. Times of long steps are the device's (events), of lists of small tensors the clock's, host
included. A measurement that fails is written down as failed, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import isostep
from isostep.domains import REQUIRED
from isostep.lower.device import kernels
from isostep.lower.layout import layout
from isostep.lower.traffic import bytes_moved
from isostep.program import trace

LARGE = (4, 26_214_400)  # 104,857,600 elements
SMALL = (1000, 1000)
STEPS, ROUNDS = 10, 7
#: Rules whose captured step must equal the eager one: elementwise, with sums, with state of the group.
CAPTURED = ("adamw", "lamb", "sgd_hd")


def bound(name: str) -> isostep.BoundRule:
    """A rule with a small number for each hyperparameter that it requires."""
    hyper = isostep.definition(name).hyper
    return isostep.rule(name, **{n: 1e-3 for n, d in hyper.items() if d.default is REQUIRED})


def fused() -> list[str]:
    """The rules that have kernels for arrays of any rank."""
    every = {n: bound(n) for n in isostep.rules()}
    return [
        n
        for n, r in every.items()
        if not layout(trace(r), "float32").obstacle and r.rule.ndim is None
    ]


def stages(rule: isostep.BoundRule) -> int:
    """Passes over the elements."""
    return len(kernels(trace(rule), "float32").stages)


def plan(rules: list[str]) -> list[dict[str, Any]]:
    """What is measured, in order."""
    rows: list[dict[str, Any]] = [{"what": "copy"}]
    for name in rules:
        rule = bound(name)
        rows.append(
            {
                "what": "large",
                "rule": name,
                "stages": stages(rule),
                "bytes": (bytes_moved(trace(rule)) or 0) * LARGE[0] * LARGE[1],
            }
        )
    rows += [{"what": "small", "rule": n} for n in rules]
    rows += [{"what": "captured", "rule": n} for n in CAPTURED if n in rules]
    return rows


# On the device.


def tensors(torch: Any, count: int, size: int) -> list[Any]:
    """Parameters with gradients, small enough that no rule runs off."""
    made = [torch.nn.Parameter(torch.randn(size, device="cuda")) for _ in range(count)]
    for p in made:
        p.grad = torch.randn(size, device="cuda") * 1e-2
    return made


def device_seconds(torch: Any, call: Callable[[], Any]) -> float:
    """The median time of one call on the device, many in a row."""
    for _ in range(3):
        call()
    taken = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(STEPS):
            call()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3 / STEPS)
    return statistics.median(taken)


def clock_seconds(torch: Any, call: Callable[[], Any]) -> float:
    """The median time of one call by the clock, the host's work included, many in a row."""
    for _ in range(3):
        call()
    taken = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(STEPS):
            call()
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - begin) / STEPS)
    return statistics.median(taken)


def ours(name: str, params: list[Any], **options: Any) -> tuple[Any, Callable[[], Any]]:
    """Our optimizer on its fused path, and its step."""
    import isostep_torch

    rule = bound(name)
    made = isostep_torch.from_rule(rule, params, fused=True, **options)
    inputs = {n: {p: p.grad.abs() for p in params} for n in rule.input_names}
    inputs |= dict.fromkeys(rule.group_input_names, params[0].new_tensor(0.7))
    return made, lambda: made.step(**inputs)


def peers(torch: Any, name: str, params: list[Any]) -> dict[str, Callable[[], Any]]:
    """torch.optim's class of the same name in the forms that it has."""
    import isostep_torch

    title = isostep_torch.load_optimizer(name).__name__
    found: dict[str, Callable[[], Any]] = {}
    for form in ("fused", "foreach"):
        try:
            found[f"torch {form}"] = getattr(torch.optim, title)(
                params, lr=1e-3, **{form: True}
            ).step
        except (AttributeError, TypeError, RuntimeError):
            continue  # torch has no such class, or not in this form
    return found


def copy(torch: Any, row: dict[str, Any]) -> dict[str, Any]:
    """The bandwidth of a copy of the same size, read and write counted."""
    source = torch.randn(LARGE[0] * LARGE[1], device="cuda")
    target = torch.empty_like(source)
    seconds = device_seconds(torch, lambda: target.copy_(source))
    return {"seconds": seconds, "bytes_per_second": 2 * source.nbytes / seconds}


def steps(torch: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Ours and torch's on the same sizes."""
    count, size = LARGE if row["what"] == "large" else SMALL
    measure = device_seconds if row["what"] == "large" else clock_seconds
    params = tensors(torch, count, size)
    optimizer, step = ours(row["rule"], params)
    found = {"path": optimizer.path, "seconds": {"isostep": measure(torch, step)}}
    del optimizer, step
    for name, peer in peers(torch, row["rule"], params).items():
        found["seconds"][name] = measure(torch, peer)
        del peer
    return found


def captured(torch: Any, row: dict[str, Any]) -> dict[str, Any]:
    """Whether steps replayed from a graph leave the very bits of steps taken one by one."""
    results = []
    for graph in (False, True):
        torch.manual_seed(0)
        params = tensors(torch, 5, 100_003)
        optimizer, step = ours(row["rule"], params, capturable=True)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        if graph:
            held = torch.cuda.CUDAGraph()
            with torch.cuda.graph(held):
                step()  # captured, not taken
            step = held.replay
        for _ in range(5):
            step()
        torch.cuda.synchronize()
        own = [v for s in optimizer.state.values() for v in s.values()]
        results.append([t.detach().clone() for t in [*params, *own]])
    same = all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    return {"same_bits": same}


MEASURES = {"copy": copy, "large": steps, "small": steps, "captured": captured}


def text(row: dict[str, Any], bandwidth: float) -> str:
    """One line of the table."""
    label = f"{row['what']:9} {row.get('rule', ''):24}"
    if "error" in row:
        return f"{label} failed: {row['error']}"
    if row["what"] == "copy":
        return f"{label} {row['bytes_per_second'] / 1e9:.0f} GB/s"
    if row["what"] == "captured":
        return f"{label} {'the same bits' if row['same_bits'] else 'OTHER BITS'}"
    mine = row["seconds"]["isostep"]
    parts = [f"{mine * 1e3:8.3f} ms"]
    if "bytes" in row and bandwidth:
        parts.append(f"{row['bytes'] / mine / bandwidth:4.0%} of copy")
    parts += [f"{t / mine:5.2f}x {n}" for n, t in row["seconds"].items() if n != "isostep"]
    return f"{label} " + "  ".join(parts)


def versions(torch: Any) -> dict[str, Any]:
    """What a figure depends on."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in ("isostep", "torch", "triton", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = getattr(sys.modules.get(name), "__version__", "not installed")
    if torch is not None:
        free, total = torch.cuda.mem_get_info()
        found |= {
            "device": torch.cuda.get_device_name(),
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "cuda": torch.version.cuda,
            "memory_bytes": total,
            "free_bytes": free,
        }
    try:
        here = Path(__file__).resolve().parent
        git = ["git", "-C", str(here)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
        found["commit"] = commit.stdout.strip() or "unknown"
        found["changed"] = bool(changed.stdout.strip())
    except OSError:
        found["commit"] = "unknown"
    return found


def run(torch: Any, rows: list[dict[str, Any]], out: Path | None) -> int:
    """Measure, print and write; how many measurements failed."""
    result: dict[str, Any] = {"machine": versions(torch), "rows": rows}
    device = "".join(c if c.isalnum() else "-" for c in result["machine"]["device"]).lower()
    out = out or Path(__file__).resolve().parent / "results" / f"{device}.json"
    bandwidth = 0.0
    for row in rows:
        try:
            row |= MEASURES[row["what"]](torch, row)
        except Exception as error:  # the other figures are worth having
            row["error"] = "".join(traceback.format_exception_only(error)).strip()
        bandwidth = row.get("bytes_per_second", bandwidth)
        print(text(row, bandwidth), flush=True)
        torch.cuda.empty_cache()
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
    failed = sum("error" in r or not r.get("same_bits", True) for r in rows)
    print(f"\n{len(rows)} measurements, {failed} failed; written to {out}")
    return failed


def main(argv: list[str] | None = None) -> int:
    """Parse arguments and run; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = fused()
    parser.add_argument("--rules", nargs="+", default=known, choices=known, metavar="RULE")
    parser.add_argument("--out", type=Path, help="where to write (benchmarks/results/DEVICE.json)")
    parser.add_argument("--dry-run", action="store_true", help="print what would be measured")
    arguments = parser.parse_args(argv)
    rows = plan(arguments.rules)
    if arguments.dry_run:
        for row in rows:
            print(" ".join(f"{k}={v}" for k, v in row.items()))
        return 0
    import torch

    if not torch.cuda.is_available():
        print("gpu.py: needs a CUDA device, got none; --dry-run prints the plan", file=sys.stderr)
        return 2
    return int(run(torch, rows, arguments.out) > 0)


if __name__ == "__main__":
    sys.exit(main())
