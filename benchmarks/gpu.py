"""What needs a CUDA device to be known: bandwidth, step times beside others', graph replay, in one command.

    python benchmarks/gpu.py               everything; writes benchmarks/results/DEVICE.json
    python benchmarks/gpu.py --rules adamw lamb --out mine.json
    python benchmarks/gpu.py --dry-run     what would be measured, on any machine

Bandwidth: the bytes that a step must move, as its program tells, over its time, as a share of what a copy between
two tensors reaches. Times of long steps are the device's (events); of lists of small tensors, and of JAX, the
clock's, host included. Kinds of rows: copy, large, captured, matrices (of rules that are done in passes), small and
low, which are torch's, then JAX's and CuPy's; all of these of a few rules first, then of the others.
At the end stands which figures reach what is asked of them (``targets.py``).
A measurement that fails is written down as failed, and the others go on: in a new process, ``--go-on``, where it has
left the device unusable, as a wrong address does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import traceback
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from gpu_rows import KINDS, known, plan
from targets import verdicts


def measured(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of a row."""
    module, function = KINDS[row["what"]]
    found: dict[str, Any] = getattr(importlib.import_module(module), function)(row)
    return found


def text(row: dict[str, Any], bandwidth: float) -> str:
    """One line of the table."""
    name = ", ".join(row[k] for k in ("rule", "way") if k in row)
    label = f"{row['what']:9} {name:27}"
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
    wheels = packages_distributions()
    for name in ("isostep", "torch", "triton", "cupy", "jax", "optax", "numpy"):
        every = wheels.get(name, [])  # a module's wheel may have another name: cupy-cuda13x
        found[name] = version(every[0]) if every else "not installed"
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


def unusable(torch: Any) -> bool:
    """Whether an earlier error makes every further call fail in this process."""
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return True
    return False


def kept(out: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """These rows as far as a file has them, and what it lacks."""
    found = json.loads(out.read_text())["rows"] if out.exists() else []
    same = all(old.get(k) == v for old, row in zip(found, rows) for k, v in row.items())
    return found if same and len(found) == len(rows) else rows


def run(torch: Any, rows: list[dict[str, Any]], out: Path | None, go_on: bool = False) -> int:
    """Measure, print and write; how many measurements failed."""
    result: dict[str, Any] = {"machine": versions(torch), "rows": rows}
    device = "".join(c if c.isalnum() else "-" for c in result["machine"]["device"]).lower()
    out = out or Path(__file__).resolve().parent / "results" / f"{device}.json"
    if go_on:
        rows = result["rows"] = kept(out, rows)
    bandwidth, ours = 0.0, {}
    for row in rows:
        new = not row.keys() & {"seconds", "same_bits", "error"}
        try:
            row |= measured(row) if new else {}
        except Exception as error:  # the other figures are worth having
            row["error"] = "".join(traceback.format_exception_only(error)).strip()
        bandwidth = row.get("bytes_per_second", bandwidth)
        if row["what"] == "large" and "seconds" in row:
            ours[row["rule"]] = row["seconds"]["isostep"]
        elif row["what"] == "cupy" and "seconds" in row and row["rule"] in ours:
            row["seconds"]["isostep_torch"] = ours[row["rule"]]
        if not new:
            continue
        print(text(row, bandwidth), flush=True)
        result["targets"] = list(verdicts(rows))
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")
        if unusable(torch):
            more = [] if "--go-on" in sys.argv else ["--go-on"]
            os.execv(sys.executable, [sys.executable, *sys.argv, *more])
    failed = sum("error" in r or not r.get("same_bits", True) for r in rows)
    print("", *verdicts(rows), "", sep="\n")
    print(f"{len(rows)} measurements, {failed} failed; written to {out}")
    return failed


def main(argv: list[str] | None = None) -> int:
    """Parse arguments and run; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = known()
    parser.add_argument("--rules", nargs="+", default=every, choices=every, metavar="RULE")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, metavar="KIND")
    parser.add_argument("--out", type=Path, help="where to write (benchmarks/results/DEVICE.json)")
    parser.add_argument("--go-on", action="store_true", help="measure what that file lacks")
    parser.add_argument("--dry-run", action="store_true", help="print what would be measured")
    arguments = parser.parse_args(argv)
    rows = plan(arguments.rules, arguments.kinds)
    if arguments.dry_run:
        for row in rows:
            print(" ".join(f"{k}={v}" for k, v in row.items()))
        return 0
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # the others need memory too
    import torch

    if not torch.cuda.is_available():
        print("gpu.py: needs a CUDA device, got none; --dry-run prints the plan", file=sys.stderr)
        return 2
    return int(run(torch, rows, arguments.out, arguments.go_on) > 0)


if __name__ == "__main__":
    sys.exit(main())
