"""Settings of a run, and the loop: batches from the seed, steps by a backend, a row for every iteration.

Follows: Baydin, Cornish, Martinez Rubio, Schmidt, Wood, "Online Learning Rate Adaptation with Hypergradient Descent",
    arXiv 1703.04782, section 4, and its code gbaydin/hypergradient-descent, train.py: names of methods and options,
    columns of the file.
Departs: weights, batches and the split are drawn by NumPy from the seed, so that every backend starts and goes alike;
    row 0 has the loss over all training data before the first step; the training loss of a row is that of its batch
    before the step, Alpha the learning rate that the step used.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import isostep
from isostep.extras import need
from isostep.files import FileError, load, save
from isostep.registry import FILE
from isostep.replacing import replacing
from isostep.rule import BoundRule, Rule
from isostep.train.data import Data
from isostep.train.interrupt import interruptible
from isostep.train.log import Log, Row, read
from isostep.train.network import Network, network


class TrainError(ValueError):
    """A run that cannot be made or resumed as asked, in one line."""


@dataclass(frozen=True)
class Settings:
    """What decides a run's numbers, and when it ends.

    Args:
        path: the CSV file; beside it lie ``.json`` (these settings) and, with ``save``, ``.safetensors``.
        rule: the rule.
        label: what the run is called in pictures.
        model: one of ``isostep.train.MODELS``.
        data: the data's name, for the record.
        epochs, iterations: the run ends after so many, whichever comes first; None for no such end.
        loss_threshold: it ends where a batch's loss is below; None for never.
        hidden: hidden widths in place of the model's.
    """

    path: Path
    rule: BoundRule
    label: str = ""
    model: str = "logreg"
    data: str = "digits"
    batch_size: int = 128
    epochs: int | None = 10
    iterations: int | None = None
    loss_threshold: float | None = None
    backend: str = "numpy"
    dtype: str = "float32"
    seed: int = 1
    hidden: tuple[int, ...] | None = None
    save: bool = False

    def total(self, rows: int) -> int | None:
        """The steps of a run that nothing stops early, with so many rows of training data."""
        per_epoch = -(-rows // self.batch_size)
        ends = (None if self.epochs is None else self.epochs * per_epoch, self.iterations)
        return min((e for e in ends if e is not None), default=None)

    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        kept: dict[str, Any] = {}
        for n in ("model", "data", "batch_size", "backend", "dtype", "seed", "hidden"):
            value = getattr(self, n)
            kept[n] = list(value) if isinstance(value, tuple) else value
        return kept | {"rule": repr(self.rule), "files": self.files()}

    def files(self) -> dict[str, str]:
        """For each part of the rule that a file of the user's declares, what tells the file's text from others."""
        found = {}
        for part in (c.part for c in self.rule.components):
            folder: Any = isostep._rules if isinstance(part, Rule) else isostep.pieces.registry
            place = folder.place(part)
            if place is not None and place.endswith(FILE):
                found[part.name] = sha256(Path(place).read_bytes()).hexdigest()[:16]
        return found


@dataclass
class Outcome:
    """How a run ended: ``reason`` in words, and its last row."""

    reason: str
    last: Row
    rows: list[Row] = field(repr=False)
    params: list[np.ndarray] = field(repr=False)


def train(
    settings: Settings,
    data: Data,
    *,
    resume: bool = False,
    tick: Callable[[Row], None] = lambda row: None,
    stop: threading.Event | None = None,
) -> Outcome:
    """Train, writing the CSV file as it goes.

    Args:
        settings: the run.
        data: what to train on.
        resume: go on from the checkpoint beside the file, to the same bits as a run that was not interrupted.
        tick: called with every row.
        stop: when set, the run ends after the iteration that is under way; so does Ctrl-C.
    """
    run = _Run(settings, data)
    rows = run.begin(resume)
    log = Log(settings.path, rows)
    if not resume:  # of the run whose place this one takes: nothing to go on from
        run.checkpoint.unlink(missing_ok=True)
    run.describe()
    ended = threading.Event() if stop is None else stop
    try:
        with interruptible(ended), np.errstate(all="ignore"):  # a loss that overflows ends the run
            reason = run.go(rows, log, tick, ended)
    finally:
        log.close()
    return Outcome(reason, rows[-1], rows, [run.backend.to_numpy(p) for p in run.params])


def described(path: Path) -> dict[str, Any]:
    """The settings that a run has written beside its CSV file.

    Raises:
        TrainError: the file is none of these.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        message = f"{path} is not what isostep train writes beside its results; make them anew"
        raise TrainError(message)
    return found


class _Run:
    """The arrays of a run and what they are made with."""

    def __init__(self, settings: Settings, data: Data) -> None:
        self.settings, self.data = settings, data
        self.net: Network = network(settings.model, data.shape, data.classes, settings.hidden)
        self.backend = isostep.backend(settings.backend)
        self.both = self.net.gradients(self.backend)
        self.rule = settings.rule
        self._check_rule()
        self.x = data.x_train.astype(settings.dtype)
        self.onehot = np.eye(data.classes, dtype=settings.dtype)
        size = settings.batch_size
        self.per_epoch = -(-len(self.x) // size)
        self.params: list[Any] = []
        self.state: Any = None

    def _check_rule(self) -> None:
        """That the rule can step here, before anything is written."""
        rule = self.rule
        more = [*rule.input_names, *(n for n in rule.group_input_names if n != "loss")]
        if more:
            message = f"{rule.name} needs {', '.join(more)} beside gradients and loss, which training here has not; "
            raise TrainError(message + "choose another rule, or step it yourself")
        isostep.program(rule)

    @property
    def checkpoint(self) -> Path:
        return self.settings.path.with_suffix(".safetensors")

    @property
    def notes(self) -> Path:
        return self.settings.path.with_suffix(".json")

    def describe(self) -> None:
        """Write the settings beside the CSV file."""
        label = self.settings.label or self.rule.name
        found = {"label": label, **self.settings.identity(), "isostep": isostep.__version__}
        with replacing(self.notes) as place:
            place.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    def begin(self, resume: bool) -> list[Row]:
        """First weights and row 0, or those of the checkpoint; the rows so far."""
        if self.settings.save:  # before anything is written
            need("safetensors.numpy", "files", "a checkpoint")
        if resume:
            return self._resume()
        weights = self.net.weights(self.settings.seed, self.settings.dtype)
        self.params = [self.backend.asarray(w) for w in weights]
        self.state = self.backend.init(self.rule, self.params)
        loss = self.loss_over(self.data.x_train, self.data.y_train)
        valid = self.loss_over(self.data.x_valid, self.data.y_valid)
        alpha = self.alpha(0)
        row = Row(0, 0, 0.0, loss, loss, valid, alpha, alpha, self.beta)
        return [row]

    def _resume(self) -> list[Row]:
        path = self.settings.path
        for needed in (path, self.notes, self.checkpoint):
            if not needed.exists():
                message = f"{needed} is not there, so nothing can be resumed; run with --save first"
                raise TrainError(message)
        identity = self.settings.identity()
        before = {"files": identity["files"]} | described(self.notes)  # old notes know no files
        for name, value in identity.items():
            if before.get(name) != value:
                message = f"{path} was made with {name} {before.get(name)!r}, got {value!r}; resume as it began"
                raise TrainError(message)
        try:
            _, self.params, self.state = load(self.checkpoint, self.backend, rule=self.rule)
            rows = read(path)
        except (FileError, ValueError) as error:
            raise TrainError(str(error)) from None
        shapes = [tuple(p.shape) for p in self.params]
        wanted = [w.shape for w in self.net.weights(self.settings.seed, self.settings.dtype)]
        if shapes != wanted:
            message = (
                f"{self.checkpoint} holds {shapes}, the model has {wanted}; start anew with --force"
            )
            raise TrainError(message)
        done = int(self.state.t[0])
        rows = [r for r in rows if r.iteration <= done]
        if [r.iteration for r in rows] != list(range(done + 1)):
            message = f"{path} has not every row up to its checkpoint (iteration {done}); start anew with --force"
            raise TrainError(message)
        return rows

    def go(
        self, rows: list[Row], log: Log, tick: Callable[[Row], None], ended: threading.Event
    ) -> str:
        """Iterate until something ends the run; says what."""
        offset = rows[-1].time
        began = time.perf_counter()
        while True:
            done = rows[-1].iteration
            reason = self.finished(rows[-1])
            if reason is None and ended.is_set():
                reason = "interrupted"
            if reason is not None:
                self.keep(log)
                return reason
            if done and done % self.per_epoch == 0:
                self.keep(log)
            row = self.iterate(rows, done, lambda: offset + time.perf_counter() - began)
            rows.append(row)
            log.add(row)
            tick(row)

    def finished(self, row: Row) -> str | None:
        """Why the run ends after this row, or None."""
        s = self.settings
        if s.loss_threshold is not None and row.iteration and row.loss < s.loss_threshold:
            return f"early stopping: loss {row.loss:.6g} is below {s.loss_threshold:g}"
        if s.iterations is not None and row.iteration >= s.iterations:
            return f"iteration limit {s.iterations} reached"
        if s.epochs is not None and row.iteration >= s.epochs * self.per_epoch:
            return f"epoch limit {s.epochs} reached"
        return None if math.isfinite(row.loss) else "stopped: the loss is not finite"

    def keep(self, log: Log) -> None:
        """The file and, if asked for, a checkpoint that belongs to it."""
        log.sync()
        if self.settings.save:
            save(self.checkpoint, self.rule, self.params, self.state, backend=self.backend)

    def iterate(self, rows: list[Row], done: int, now: Callable[[], float]) -> Row:
        """One step."""
        epoch, place = divmod(done, self.per_epoch)
        batch = self.batch(epoch, place)
        x = self.backend.asarray(self.x[batch])
        onehot = self.backend.asarray(self.onehot[self.data.y_train[batch]])
        loss, grads = self.both(self.params, x, onehot)
        number = float(self.backend.to_numpy(loss))
        given = {"loss": loss} if "loss" in self.rule.group_input_names else {}
        self.params, self.state = self.backend.step(
            self.rule, self.params, list(grads), self.state, **given
        )
        alpha = self.alpha(done + 1)
        loss_epoch = valid = alpha_epoch = math.nan
        if place == self.per_epoch - 1:
            own = rows[len(rows) - place :] if place else []
            loss_epoch = math.fsum([number, *(r.loss for r in own)]) / self.per_epoch
            alpha_epoch = math.fsum([alpha, *(r.alpha for r in own)]) / self.per_epoch
            valid = self.loss_over(self.data.x_valid, self.data.y_valid)
        return Row(
            epoch + 1, done + 1, now(), number, loss_epoch, valid, alpha, alpha_epoch, self.beta
        )

    def batch(self, epoch: int, place: int) -> np.ndarray:
        """The rows of one batch; each epoch has an order of its own, drawn from the seed alone."""
        if getattr(self, "_order_of", None) != epoch:
            self._order = np.random.default_rng([self.settings.seed, 1, epoch]).permutation(
                len(self.x)
            )
            self._order_of = epoch
        size = self.settings.batch_size
        return self._order[place * size : (place + 1) * size]

    def loss_over(self, x: np.ndarray, y: np.ndarray) -> float:
        """The mean loss over all rows, 1000 at a time."""
        total = 0.0
        for k in range(0, len(y), 1000):
            part = self.backend.asarray(x[k : k + 1000].astype(self.settings.dtype))
            onehot = self.backend.asarray(self.onehot[y[k : k + 1000]])
            loss, _ = self.both(self.params, part, onehot)
            total += float(self.backend.to_numpy(loss)) * len(y[k : k + 1000])
        return total / len(y)

    def alpha(self, t: int) -> float:
        """The learning rate that step t used: the group's where the rule keeps one."""
        if "lr" in self.rule.group_names:
            return float(self.backend.to_numpy(self.state.group["lr"]))
        return float(self.rule.at(max(t, 1)).get("lr", math.nan))

    @property
    def beta(self) -> float:
        """The learning rate of the learning rate, where the rule has one."""
        value = self.rule.values.get("hypergrad_lr", math.nan)
        return float(value) if isinstance(value, float) else math.nan
