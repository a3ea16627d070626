"""Train the same small network on real digits with the same rules in every framework installed.

python benchmarks/demo/main.py --out DIR

Prints how far every framework is from NumPy, draws curves.png and writes results.json into DIR.
Exit code 0: all ran and stayed within the bound; 1: a framework failed or left the bound, or the
bound let the deliberate mistake pass; 2: the command line was wrong, or a framework asked for by
name is not there.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from frameworks import KNOWN, Framework, open_framework, why_not
from picture import draw
from progress import Reporter
from results import BOUNDS, CONTROLS, Results, explanation, print_tables, write_json
from rich.console import Console
from task import RULES, RuleSetting, Weights, make_task, nudged
from training import Deviation, Run, deviation, train


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the two files")
    parser.add_argument("--epochs", type=int, default=30, help="default: 30, 44 steps each")
    parser.add_argument(
        "--backends",
        help="such as numpy,torch:loop,jax; default: every framework installed. NumPy always runs",
    )
    parser.add_argument("--dtype", choices=sorted(BOUNDS), default="float32")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {options.epochs}")
    options.paths = options.backends.split(",") if options.backends else list(KNOWN)
    for path in options.paths:
        framework = path.split(":")[0]
        if framework not in KNOWN:
            parser.error(f"unknown framework {framework!r}, the demo knows {', '.join(KNOWN)}")
        if options.backends and (reason := why_not(framework)):
            parser.error(f"cannot run {path}: {reason}")
    return options


def _open_all(wanted: list[str], results: Results, console: Console) -> list[Framework]:
    """Open every framework that is there, NumPy first; record why the others are not."""
    names = sorted(dict.fromkeys(wanted), key=lambda name: not name.startswith("numpy"))
    if not names[0].startswith("numpy"):
        names.insert(0, "numpy")
    opened: dict[str, Framework] = {}
    for name in names:
        if reason := why_not(name.split(":")[0]):
            results.not_run[name] = reason
            console.print(f"not run: {name}: {reason}", style="yellow", highlight=False)
            continue
        try:
            found = open_framework(name, results.dtype)
        except Exception as error:
            results.failed[name] = f"{type(error).__name__}: {error}"
            console.print(f"failed: {name}\n{traceback.format_exc()}", highlight=False)
            continue
        opened[found.path] = found
        about = {"device": found.net.device, "gradients": found.net.gradients}
        results.networks[found.path] = about
        console.print(f"{found.path}: {', '.join(about.values())}", highlight=False)
    return list(opened.values())


def _all_runs(
    setting: RuleSetting, frameworks: list[Framework], results: Results, reporter: Reporter
) -> None:
    """Run one rule in every framework and as the two controls; compare each with the first."""
    task = results.task
    numpy = frameworks[0]
    rule = setting.build(task.steps)
    plans: dict[str, tuple[Any, Framework, Weights | None]] = {
        each.path: (rule, each, None) for each in frameworks
    }
    plans["nudged"] = (rule, numpy, nudged(task.weights))
    plans["mistaken"] = (setting.build(task.steps, lr_factor=1.01), numpy, None)
    runs: dict[str, Run] = {}
    deviations: dict[str, Deviation] = {}
    for name, (bound_rule, framework, weights) in plans.items():
        label = f"{setting.title}, {CONTROLS.get(name, name)}"
        if framework.path in results.failed:
            reporter.done(f"{label}: left out, {framework.path} has failed")
            continue
        reporter.start(label)
        try:
            run = train(bound_rule, framework, task, reporter.tick, weights)
        except Exception as error:
            reason = f"{setting.title}: {type(error).__name__}: {error}"
            results.failed[framework.path] = reason
            reporter.done(f"{label}: FAILED\n{traceback.format_exc()}")
            continue
        runs[name] = run
        if name != numpy.path and numpy.path in runs:
            deviations[name] = deviation(run, runs[numpy.path])
        reporter.done(
            f"{label}: loss {run.train_loss:.4f}, accuracy {run.test_accuracy:.4f}, "
            f"{run.seconds:.1f} s"
        )
    results.runs[setting.title] = runs
    results.deviations[setting.title] = deviations


def main() -> int:
    """Run the demo and return the exit code."""
    options = _arguments()
    began = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console = Console(width=100, markup=False, emoji=False)
    results = Results(make_task(options.epochs, options.dtype), options.dtype)
    frameworks = _open_all(options.paths, results, console)
    if not frameworks or not frameworks[0].path.startswith("numpy"):
        console.print("FAILED: without the NumPy run there is nothing to compare with")
        return 1
    with Reporter(console, len(RULES) * (len(frameworks) + 2), results.task.steps) as reporter:
        for setting in RULES:
            _all_runs(setting, frameworks, results, reporter)
    print_tables(console, results)
    console.print(explanation(results), highlight=False)
    write_json(results, options.out / "results.json")
    draw(results, options.out / "curves.png")
    files = [str(options.out / name) for name in ("curves.png", "results.json")]
    console.print(f"wrote {' and '.join(files)}", highlight=False)
    for path, reason in results.failed.items():
        console.print(f"FAILED: {path}: {reason}", style="bold red", highlight=False)
    wrong = results.beyond() + results.toothless()
    for line in wrong:
        console.print(f"WRONG: {line}", style="bold red", highlight=False)
    passed = not results.failed and not wrong
    console.print(
        f"{'passed' if passed else 'FAILED'}: {len(frameworks)} frameworks run, "
        f"{len(results.not_run)} not run ({', '.join(results.not_run) or 'none'}), "
        f"{time.perf_counter() - began:.0f} s",
        highlight=False,
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
