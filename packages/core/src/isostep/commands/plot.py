"""``isostep plot``: surfaces with the paths of rules, schedules, and what ``isostep train`` wrote."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import isostep
from isostep.commands.common import (
    Parser,
    UsageError,
    at_least,
    at_most,
    command,
    completes,
    finite_number,
    literal,
    print_json,
    rules_of,
)
from isostep.plot import SURFACES
from isostep.replacing import replacing

FORMATS = (".png", ".pdf", ".svg")
#: Steps that are taken one by one for a figure: some seconds.
MOST = 100_000
#: What a figure shows: beyond it matplotlib's margins and ticks are no numbers any more.
HIGHEST = 1e300


def add(commands: Any) -> None:
    """Add the command and its own commands."""
    plot = commands.add_parser(
        "plot",
        help="paths over surfaces, schedules, results of training",
        description="Draw paths over surfaces, schedules, or results of training.",
        epilog="Example: isostep plot surface --rules sgd,adam -o paths.html",
    )
    kinds = plot.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_surface(kinds)
    _add_results(kinds)
    for kind, about, example in (
        (
            "schedule",
            "schedules over the steps",
            "isostep plot schedule 'LinearInternalDecay(50)' --steps 100",
        ),
        (
            "decay",
            "the sign rules' internal decays",
            "isostep plot decay --steps 100 -o decays.pdf",
        ),
    ):
        made = command(kinds, kind, run_schedule, about, example)
        made.add_argument(
            "schedules",
            nargs="+" if kind == "schedule" else "*",
            metavar="NAME(ARGUMENTS)",
            help="one of isostep.schedules with its arguments, or its name alone for an example",
        )
        made.add_argument(
            "--steps", type=int, default=100, help="how many steps (default: %(default)s)"
        )
        _output(made, f"{kind}.png", FORMATS)


def _add_results(kinds: Any) -> None:
    for kind, about, example in (
        (
            "hypergradient",
            "learning rate, training and validation loss of what isostep train wrote",
            "isostep plot hypergradient results -o hypergradient.pdf",
        ),
        (
            "signs",
            "the sign rules beside others, as isostep train wrote them",
            "isostep plot signs results/cnn -o signs.png",
        ),
    ):
        made = command(kinds, kind, run_results, about, example)
        made.add_argument(
            "folder", type=Path, nargs="?", default=Path("results"), help="of results"
        )
        _output(made, f"{kind}.png", FORMATS)


def _output(made: Parser, default: str, formats: tuple[str, ...]) -> None:
    shown = ", ".join(f[1:] for f in formats)
    made.add_argument(
        "-o", "--out", type=Path, default=Path(default), help=f"{shown} (default: %(default)s)"
    )
    made.set_defaults(formats=formats)


def _add_surface(kinds: Any) -> None:
    made = command(
        kinds,
        "surface",
        run_surface,
        "the paths of rules over a surface of two variables",
        "isostep plot surface --rules 'sgd,sgd(momentum=0.9),adam' --surface beale -o paths.html",
        "A rule without a learning rate gets the one of a grid that ends lowest.",
    )
    completes(
        made.add_argument(
            "--rules",
            default="sgd,adam,addsign",
            metavar="A,B(lr=0.1)",
            help="with values in parentheses (default: %(default)s)",
        ),
        isostep.rules,
    )
    made.add_argument(
        "--surface", choices=list(SURFACES), default="rosenbrock", help="(default: %(default)s)"
    )
    made.add_argument("--start", metavar="X,Y", help="the first point (default: the surface's own)")
    made.add_argument(
        "--noise",
        type=finite_number,
        default=0.0,
        help="standard deviation of what is added to every gradient (default: %(default)s)",
    )
    made.add_argument("--seed", type=int, default=0, help="of the noise (default: %(default)s)")
    made.add_argument("--steps", type=int, default=30, help="(default: %(default)s)")
    made.add_argument("--3d", dest="three_d", action="store_true", help="draw it in 3-D")
    _output(made, "surface.png", (*FORMATS, ".gif", ".html"))


def target(arguments: argparse.Namespace) -> Path:
    """The output file, its format checked."""
    out: Path = arguments.out
    if out.suffix not in arguments.formats:
        allowed = ", ".join(arguments.formats)
        message = f"--out must end in one of {allowed}, got {str(out)!r}"
        raise UsageError(message)
    return out


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """Where to write what becomes the output file once all of it is there; its folder is made."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as place:
        yield place


def save(figure: Any, out: Path) -> None:
    """Write a figure in the format of the file's name."""
    with whole(out) as place:
        figure.savefig(place, dpi=130, format=out.suffix[1:])


def report(arguments: argparse.Namespace, out: Path, found: dict[str, Any]) -> None:
    """Say what was written, with the numbers in JSON."""
    if arguments.json:
        print_json({"file": str(out), **found})
    else:
        print(f"wrote {out}")


def check_steps(steps: int) -> None:
    """As many as a figure can show."""
    at_least("--steps", steps, 1)
    at_most("--steps", steps, MOST, "a figure shows no more")


def start_point(text: str | None) -> tuple[float, float] | None:
    """``X,Y`` as two numbers."""
    if text is None:
        return None
    value = literal(text)
    pair = value if isinstance(value, tuple) else ()
    if len(pair) != 2 or not all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in pair
    ):
        message = f"--start must be two finite numbers X,Y, got {text!r}"
        raise UsageError(message)
    return float(pair[0]), float(pair[1])


def run_surface(arguments: argparse.Namespace) -> None:
    """Draw the paths of some rules over a surface."""
    from isostep.plot.figures import animation, figure
    from isostep.plot.page import page

    check_steps(arguments.steps)
    at_least("--noise", arguments.noise, 0.0)
    at_least("--seed", arguments.seed, 0)
    start, out = start_point(arguments.start), target(arguments)
    how = {"start": start, "steps": arguments.steps}
    how |= {"noise": arguments.noise, "seed": arguments.seed}
    paths = [
        isostep.plot.path(rule, arguments.surface, **how) for rule in rules_of(arguments.rules)
    ]
    if not paths:
        message = "--rules must name at least one rule, such as --rules sgd,adam"
        raise UsageError(message)
    if out.suffix == ".html":
        text = page(paths)
        with whole(out) as place:
            place.write_text(text, encoding="utf-8")
    elif out.suffix == ".gif":
        with whole(out) as place:
            animation(paths, place, three_d=arguments.three_d)
    else:
        save(figure(paths, three_d=arguments.three_d), out)
    rows = [
        {"rule": p.title, "points": p.points.tolist(), "losses": p.losses.tolist()} for p in paths
    ]
    report(arguments, out, {"surface": arguments.surface, "paths": rows})


def run_schedule(arguments: argparse.Namespace) -> None:
    """Draw schedules over the steps done."""
    from isostep.plot.figures import curves
    from isostep.plot.schedules import EXAMPLES, values

    check_steps(arguments.steps)
    out, steps = target(arguments), arguments.steps
    default = (
        f"LinearInternalDecay({steps})",
        f"CosineInternalDecay({steps})",
        f"RestartCosineInternalDecay({steps}, num_periods=4)",
    )
    found: dict[str, list[float]] = {}
    for text in arguments.schedules or default:
        schedule = EXAMPLES[text](steps) if text in EXAMPLES else literal(text)
        if not callable(schedule) and not isinstance(schedule, isostep.schedules.ReduceLROnPlateau):
            message = (
                f"{text!r} is not a schedule; call one of isostep.schedules, such as {default[0]!r}"
            )
            raise UsageError(message)
        found[text] = values(schedule, steps)
        top = max((abs(v) for v in found[text] if math.isfinite(v)), default=0.0)
        if top > HIGHEST:
            message = f"{text!r} must stay within {HIGHEST:g}, which a figure can show, got {top:g}"
            raise UsageError(message)
    save(curves(found, xlabel="steps done", ylabel="value"), out)
    report(arguments, out, {"curves": found})


def run_results(arguments: argparse.Namespace) -> None:
    """Draw the runs below a folder as one of the published comparisons."""
    from isostep.train.experiment import TrainError
    from isostep.train.results import find, panels

    try:
        results = find(arguments.folder)
    except TrainError as error:
        raise UsageError(str(error)) from None
    out = target(arguments)
    save(panels(results, published=arguments.kind), out)
    report(arguments, out, {"runs": [r.summary() for r in results]})
