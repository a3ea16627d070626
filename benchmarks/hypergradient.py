"""The hypergradient experiment's search: each published method over a grid, on the embedded digits.

    python benchmarks/hypergradient.py                    every model; benchmarks/results/hypergradient.json
    python benchmarks/hypergradient.py --models logreg --dir runs   and the runs' CSV files

A plain rule is tried with every learning rate of the grid, its hypergradient variant with every beta, from a
learning rate of 1e-5. Marked as chosen: the plain rule at 1e-5, the best of both by the last validation loss, and that
beta from a learning rate of 0 (a beta that fails from there is passed over). `docs/experiments.md` shows what came
out, its pictures the chosen runs.
One BLAS thread (OMP_NUM_THREADS=1) is faster for networks so small.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isostep.train import Data, Settings, load_data, method_rule, train

RESULTS = Path(__file__).parent / "results" / "hypergradient.json"
ALPHAS = (1e-5, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
BETAS = {"sgd": (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0)}
BETAS |= {"sgdn": BETAS["sgd"], "adam": (1e-8, 1e-7, 1e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)}


@dataclass(frozen=True)
class Setup:
    """What is trained, for how long, and which methods take part."""

    model: str
    epochs: int
    batch_size: int = 128
    methods: tuple[str, ...] = ("sgd", "sgdn", "adam")
    every: int = 1  # 2: every second value of the grids


#: "full" has no noise in its gradients: what remains of the gap to the tuned rule is not the batches'.
SETUPS = {
    "logreg": Setup("logreg", 60),
    "mlp": Setup("mlp", 60),
    "mlp-full": Setup("mlp", 720, batch_size=1437, methods=("sgd",)),
    "vgg": Setup("vgg", 12, every=2),
}


def main() -> None:
    """Search, choose, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=SETUPS, default=list(SETUPS))
    parser.add_argument("--dir", type=Path, help="keep the chosen runs' files here")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    data = load_data("digits")
    for name in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            root = (arguments.dir or Path(folder)) / name
            found[name] = search(SETUPS[name], data, root)
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def search(setup: Setup, data: Data, folder: Path) -> list[dict[str, Any]]:
    """Every run of a setup, in the order of the table."""
    found = []
    for method in setup.methods:
        plain = [run(setup, data, folder, method, a, 0.0) for a in ALPHAS[:: setup.every]]
        betas = BETAS[method][:: setup.every]
        learned = [run(setup, data, folder, f"{method}_hd", 1e-5, b) for b in betas]
        from_zero: list[dict[str, Any]] = []
        for best in sorted(
            learned, key=last_loss
        ):  # until one is as good from 0: some are at the edge
            from_zero.append(run(setup, data, folder, f"{method}_hd", 0.0, best["beta"]))
            if last_loss(from_zero[-1]) < 1.1 * last_loss(best):
                break
        for chosen in (plain[0], min(plain, key=last_loss), best, from_zero[-1]):
            chosen["chosen"] = True
        found += [*plain, *learned, *from_zero]
    for row in found:
        if "chosen" not in row:
            for end in (".csv", ".json"):
                file_of(folder, row).with_suffix(end).unlink()
    return found


def last_loss(row: dict[str, Any]) -> float:
    """The last validation loss; a run that left for infinity comes last."""
    loss = row["valid_loss"]
    return math.inf if loss is None else float(loss)


def file_of(folder: Path, row: dict[str, Any]) -> Path:
    """Where a run's numbers lie."""
    beta = f", beta={row['beta']:g}" if row["beta"] else ""
    return folder / f"{row['method']}, alpha_0={row['alpha_0']:g}{beta}.csv"


def run(
    setup: Setup, data: Data, folder: Path, method: str, alpha: float, beta: float
) -> dict[str, Any]:
    """One run, in numbers that JSON can hold; what is not finite is None."""
    row: dict[str, Any] = {"method": method, "alpha_0": alpha, "beta": beta}
    path = file_of(folder, row)
    how = Settings(
        path,
        method_rule(method, alpha, beta, 0.9, 1e-4),
        path.stem,
        setup.model,
        batch_size=setup.batch_size,
        epochs=setup.epochs,
        backend="numpy:reference",
    )
    rows = train(how, data).rows
    whole = rows[-1].iteration == setup.epochs * -(-len(data.y_train) // setup.batch_size)
    alphas = np.array([r.alpha for r in rows])
    top = int(np.argmax(np.where(np.isfinite(alphas), alphas, -np.inf)))
    row |= {
        "iterations": rows[-1].iteration,
        "loss": rows[-1].loss_epoch if whole else None,
        "valid_loss": rows[-1].valid_loss_epoch if whole else None,
        "alpha_highest": float(alphas[top]),
        "highest_at": rows[top].iteration,
        "alpha_last": float(alphas[-1]),
    }
    row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    main()
