"""``isostep train``: the published experiments, with any rule on any backend."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import isostep
from isostep.backend import families
from isostep.commands.common import (
    UsageError,
    assignments,
    at_least,
    bind,
    command,
    completes,
    finite_number,
    print_json,
    set_argument,
)
from isostep.plot.paths import title
from isostep.registry import FILE
from isostep.rule import BoundRule

METHODS = ("sgd", "sgd_hd", "sgdn", "sgdn_hd", "adam", "adam_hd")
MODELS = ("logreg", "mlp", "cnn", "vgg")
#: The options that make up a method, with their defaults; a rule has --set instead.
OF_A_METHOD = {"alpha_0": 1e-3, "beta": 1e-6, "mu": 0.9, "weight_decay": 0.0}
#: Bytes of a name that every file system takes, with room for an ending.
LONGEST = 200
#: Exit code of a run that Ctrl-C ended.
INTERRUPTED = 130


def add(commands: Any) -> None:
    """Add the command."""
    made = command(
        commands,
        "train",
        run,
        "the hypergradient experiment, or any rule in its place",
        "isostep train --model logreg --method sgd_hd --alpha-0 1e-5 --beta 1e-3 --epochs 20",
        "Writes DIR/MODEL/METHOD/ALPHA_BETA.csv. In --set, STEPS is the number of steps of the run.",
    )
    what = made.add_argument_group("what is trained")
    what.add_argument("--model", choices=MODELS, default="logreg", help="(default: %(default)s)")
    what.add_argument(
        "--data",
        choices=("digits", "mnist", "cifar10"),
        default="digits",
        help="embedded digits, or files that you have (default: %(default)s)",
    )
    what.add_argument("--data-dir", type=Path, default=Path("data"), help="(default: %(default)s)")
    what.add_argument("--hidden", metavar="A,B", help="hidden widths (default: the model's)")
    how = made.add_argument_group("how")
    how.add_argument("--method", choices=METHODS, help="a published method (default: sgd_hd)")
    completes(how.add_argument("--rule", help="any rule instead of a method"), isostep.rules)
    set_argument(made)
    for name, about in (
        ("alpha_0", "first learning rate of a method"),
        ("beta", "learning rate of a method's learning rate"),
        ("mu", "Nesterov momentum of a method"),
        ("weight_decay", "of a method"),
    ):
        told = f"{about} (default: {OF_A_METHOD[name]:g})"
        how.add_argument(f"--{name.replace('_', '-')}", type=finite_number, help=told)
    how.add_argument("--batch-size", type=int, default=128, help="(default: %(default)s)")
    how.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    completes(
        how.add_argument("--backend", default="numpy", help="such as torch (default: %(default)s)"),
        lambda: list(families()),
    )
    how.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="(default: %(default)s)"
    )
    end = made.add_argument_group("when it ends")
    end.add_argument("--epochs", type=int, help="(default: 10 without --iterations)")
    end.add_argument("--iterations", type=int, help="steps")
    end.add_argument("--loss-threshold", type=finite_number, help="a batch's loss")
    out = made.add_argument_group("what is written")
    out.add_argument(
        "--dir", type=Path, default=Path("results"), help="folder (default: %(default)s)"
    )
    out.add_argument("--name", help="file name without ending (default: from the settings)")
    out.add_argument("--save", action="store_true", help="keep a checkpoint after every epoch")
    out.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    out.add_argument("--force", action="store_true", help="replace results that are there")
    out.add_argument("--quiet", action="store_true", help="print no progress")


def run(arguments: argparse.Namespace) -> int:
    """Train, and say how it ended."""
    from isostep.train.data import DataError, load_data
    from isostep.train.experiment import TrainError, train

    try:
        data = load_data(arguments.data, arguments.data_dir)
        settings = settings_of(arguments, len(data.y_train))
        if settings.path.exists() and not (arguments.resume or arguments.force):
            message = (
                f"{settings.path} is there already; go on with --resume or start anew with --force"
            )
            raise UsageError(message)
        quiet = arguments.quiet or arguments.json
        with progress(None if quiet else settings.total(len(data.y_train))) as tick:
            ended = train(settings, data, resume=arguments.resume, tick=tick)
    except (DataError, TrainError) as error:
        raise UsageError(str(error)) from None
    last = ended.last
    valid = [r.valid_loss_epoch for r in ended.rows if not math.isnan(r.valid_loss_epoch)]
    found = {
        "file": str(settings.path),
        "label": settings.label,
        "reason": ended.reason,
        "epoch": last.epoch,
        "iteration": last.iteration,
        "loss": last.loss,
        "valid_loss": valid[-1] if valid else math.nan,
        "alpha": last.alpha,
    }
    if arguments.json:
        print_json(found)
    else:
        numbers = f"loss {last.loss:.6g}, validation loss {found['valid_loss']:.6g}, learning rate {last.alpha:.6g}"
        print(f"{ended.reason} after {last.iteration} iterations: {numbers}; wrote {settings.path}")
    return INTERRUPTED if ended.reason == "interrupted" else 0


def settings_of(arguments: argparse.Namespace, rows: int) -> Any:
    """The run that the arguments describe."""
    from isostep.train.experiment import Settings

    for name in ("epochs", "iterations", "batch_size"):
        if getattr(arguments, name) is not None:
            at_least(f"--{name.replace('_', '-')}", getattr(arguments, name), 1)
    at_least("--seed", arguments.seed, 0)
    epochs = arguments.epochs
    if epochs is None and arguments.iterations is None:
        epochs = 10
    per_epoch = -(-rows // arguments.batch_size)
    steps = min(x for x in (epochs and epochs * per_epoch, arguments.iterations) if x is not None)
    rule, label, name = chosen(arguments, steps)
    chosen_by = arguments.rule or arguments.method or "sgd_hd"
    if chosen_by.endswith(FILE):
        chosen_by = rule.rule.name
    if "/" in chosen_by or len(chosen_by.encode()) > LONGEST:  # a formula
        chosen_by = file_name(chosen_by)
    folder = arguments.dir / arguments.model / chosen_by
    return Settings(
        path=folder / f"{arguments.name or name}.csv",
        rule=rule,
        label=arguments.name or label,
        model=arguments.model,
        data=arguments.data,
        batch_size=arguments.batch_size,
        epochs=epochs,
        iterations=arguments.iterations,
        loss_threshold=arguments.loss_threshold,
        backend=arguments.backend,
        dtype=arguments.dtype,
        seed=arguments.seed,
        hidden=widths(arguments.hidden),
        save=arguments.save or arguments.resume,
    )


def chosen(arguments: argparse.Namespace, steps: int) -> tuple[BoundRule, str, str]:
    """The rule, its label in pictures and the file's name."""
    from isostep.train.methods import method_rule

    if arguments.rule is not None:
        if arguments.method is not None:
            message = f"--rule and --method exclude each other, got --rule {arguments.rule} --method {arguments.method}"
            raise UsageError(message)
        for name in OF_A_METHOD:
            if getattr(arguments, name) is not None:
                option = f"--{name.replace('_', '-')}"
                message = (
                    f"{option} belongs to --method, got it with --rule {arguments.rule}; use --set"
                )
                raise UsageError(message)
        words = [w.replace("STEPS", str(steps)) for w in arguments.set]
        rule = bind(arguments.rule, assignments(words))
        label = title(rule)
        return rule, label, file_name(label)
    if arguments.set:
        message = "--set belongs to --rule; a method has --alpha-0, --beta, --mu and --weight-decay"
        raise UsageError(message)
    method = arguments.method or "sgd_hd"
    given = {n: getattr(arguments, n) for n in OF_A_METHOD}
    values = {n: OF_A_METHOD[n] if v is None else v for n, v in given.items()}
    rule = method_rule(method, **values)
    alpha, beta = values["alpha_0"], values["beta"]
    return rule, f"{method}, alpha_0={alpha:g}", f"{alpha:g}_{beta:g}"


def file_name(label: str) -> str:
    """A label as the name of a file: what is too long for one ends in a number of its own."""
    name = "".join(c if c.isalnum() or c in ".-=" else "_" for c in label).strip("_")
    if len(name.encode()) <= LONGEST:
        return name
    return f"{name[: LONGEST // 4]}-{sha256(name.encode()).hexdigest()[:12]}"


def widths(text: str | None) -> tuple[int, ...] | None:
    """``A,B`` as numbers."""
    if text is None:
        return None
    try:
        found = tuple(int(w) for w in text.split(",")) if text else ()
    except ValueError:
        found = (0,)
    if any(w < 1 for w in found):
        message = f"--hidden must be whole numbers >= 1 with commas between, got {text!r}"
        raise UsageError(message)
    return found


@contextmanager
def progress(total: int | None) -> Iterator[Callable[[Any], None]]:
    """A function to call with every row: a bar on a terminal with rich, else a line after every epoch."""
    if total is None:
        yield lambda row: None
        return
    if not sys.stderr.isatty():
        yield _line
        return
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )
    except ModuleNotFoundError:
        yield _line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=total)

        def tick(row: Any) -> None:
            text = f"epoch {row.epoch}, loss {row.loss:.4g}, lr {row.alpha:.3g}"
            bar.update(task, completed=row.iteration, description=text)

        yield tick


def _line(row: Any) -> None:
    if not math.isnan(row.valid_loss_epoch):
        print(
            f"epoch {row.epoch}: loss {row.loss_epoch:.6g}, validation loss {row.valid_loss_epoch:.6g}, "
            f"learning rate {row.alpha_epoch:.6g}",
            file=sys.stderr,
        )
