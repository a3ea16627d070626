"""Runs read back from their folder, and drawn as published."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isostep.extras import need
from isostep.plot.figures import STYLES
from isostep.train.experiment import TrainError, described
from isostep.train.log import Row, read

DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)), (0, (9, 3)))


@dataclass(frozen=True)
class Result:
    """One run: what it is called, its settings and its rows."""

    label: str
    settings: dict[str, Any]
    rows: list[Row]

    @property
    def epochs(self) -> list[Row]:
        """Row 0 and the last row of every epoch."""
        return [r for r in self.rows if not math.isnan(r.valid_loss_epoch)]

    def summary(self) -> dict[str, Any]:
        """Where it ended, and between which learning rates it went."""
        last = self.epochs[-1]
        alphas = [r.alpha for r in self.rows]
        return {
            "label": self.label,
            "iterations": self.rows[-1].iteration,
            "loss_epoch": last.loss_epoch,
            "valid_loss_epoch": last.valid_loss_epoch,
            "best_valid_loss_epoch": min(r.valid_loss_epoch for r in self.epochs),
            "alpha_first": alphas[0],
            "alpha_highest": max(alphas),
            "alpha_last": alphas[-1],
        }


def find(folder: Path) -> list[Result]:
    """Every run below a folder, by path.

    Raises:
        TrainError: there is none, or a file is not one of ``isostep train``.
    """
    found = []
    for path in sorted(folder.rglob("*.csv")):
        try:
            rows = read(path)
            notes = path.with_suffix(".json")
            settings = described(notes) if notes.exists() else {}
        except ValueError as error:  # TrainError is one
            raise TrainError(str(error)) from None
        made = Result(str(settings.get("label", path.stem)), settings, rows)
        if len(rows) > 1 and made.epochs:
            found.append(made)
    if not found:
        message = f"no results in {folder}; make some with isostep train --dir {folder}"
        raise TrainError(message)
    return found


PANELS = (
    ("learning rate", "alpha_epoch", "alpha"),
    ("training loss", "loss_epoch", "loss"),
    ("validation loss", "valid_loss_epoch", "valid_loss_epoch"),
)


def panels(results: Sequence[Result], *, published: str = "hypergradient") -> Any:
    """A matplotlib ``Figure`` by epoch, as one of two published comparisons has it.

    ``hypergradient``: learning rate, training and validation loss, with insets by iteration, log-log.
    ``signs``: the losses alone, logarithmic.

    A run whose label begins as another's goes on (``sgd``, ``sgd_hd``) shares its colour and has another dash.
    """
    insets = published == "hypergradient"
    shown = PANELS if insets else PANELS[1:]
    figure = need("matplotlib.figure", "plot", "isostep plot").Figure
    made: Any = figure(figsize=(4.4 * len(shown), 4.8), layout="constrained")
    axes = made.subplots(1, len(shown))
    looks = styles([r.label for r in results])
    for axis, (name, by_epoch, by_iteration) in zip(axes, shown, strict=True):
        inset = axis.inset_axes((0.5, 0.55, 0.47, 0.42)) if insets else None
        for r, look in zip(results, looks, strict=True):
            epochs = r.epochs
            axis.plot([e.epoch for e in epochs], [getattr(e, by_epoch) for e in epochs], **look)
            if inset is not None:
                rows = [x for x in r.rows if x.iteration and getattr(x, by_iteration) > 0]
                y = [getattr(x, by_iteration) for x in rows]
                inset.plot([x.iteration for x in rows], y, **{**look, "linewidth": 0.8})
        axis.set(xlabel="epoch", title=name, yscale="linear" if insets else "log")
        axis.grid(color="#dddddd", linewidth=0.6)
        if inset is not None:
            top = axis.get_ylim()[1]
            axis.set_ylim(0, top * 1.9 if top > 0 else None)  # room for the inset
            if not any(len(line.get_xdata()) for line in inset.lines):  # no epoch is over
                inset.remove()
                continue
            inset.set(xscale="log", yscale="log")
            inset.tick_params(labelsize=7)
            inset.set_xlabel("iteration", fontsize=7, labelpad=0)
    handles, _ = axes[0].get_legend_handles_labels()
    made.legend(
        handles,
        [r.label for r in results],
        loc="outside lower center",
        ncols=min(4 if insets else 3, len(results)),
        frameon=False,
    )
    return made


def styles(labels: Sequence[str]) -> list[dict[str, Any]]:
    """A colour for each stem (the label before ``_hd``, a bracket or a comma), a dash for each run of it."""
    stems = [
        label.partition("(")[0].partition(",")[0].strip().removesuffix("_hd") for label in labels
    ]
    order = list(dict.fromkeys(stems))
    seen = dict.fromkeys(order, 0)
    found = []
    for stem, label in zip(stems, labels, strict=True):
        dash = DASHES[seen[stem] % len(DASHES)]
        seen[stem] += 1
        colour = STYLES[order.index(stem) % len(STYLES)][0]
        found.append({"color": colour, "linestyle": dash, "linewidth": 1.6, "label": label})
    return found
