"""The picture: overlaid loss curves of every rule, and below them how far they are apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from results import CONTROLS, Results
from training import FIRST

mpl.use("Agg")  # a file is written, no window is needed

# Okabe and Ito's colours, told apart under every common colour blindness. The lines lie on top of
# each other, so each is also thinner than the one below it and broken differently.
STYLES: list[dict[str, Any]] = [
    {"color": "#56B4E9", "linewidth": 5.0, "linestyle": "-"},
    {"color": "#D55E00", "linewidth": 2.4, "linestyle": (0, (4, 2.5))},
    {"color": "#000000", "linewidth": 1.4, "linestyle": (0, (1, 2.2))},
    {"color": "#009E73", "linewidth": 1.2, "linestyle": (0, (6, 6))},
]
CONTROL_STYLES: dict[str, dict[str, Any]] = {
    "nudged": {"color": "#999999", "linewidth": 1.2, "linestyle": "-"},
    "mistaken": {"color": "#CC79A7", "linewidth": 1.2, "linestyle": "-"},
}


def _mean_over(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Return the mean of the last `width` values at every step, of fewer at the start."""
    total = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (total[ends] - total[starts]) / (ends - starts)


def _running_max(values: NDArray[np.float64]) -> NDArray[np.float64]:
    largest = np.maximum.accumulate(values)
    return np.where(largest > 0, largest, np.nan)


def draw(results: Results, path: Path) -> None:
    """Draw one column per rule: the losses above, the deviations of the loss below."""
    with plt.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = plt.subplots(
            2,
            len(results.runs),
            figsize=(11, 6.2),
            sharex=True,
            sharey="row",
            squeeze=False,
            layout="constrained",
        )
        steps = np.arange(1, results.task.steps + 1)
        width = results.task.steps_per_epoch
        styles = dict(zip(results.networks, STYLES, strict=False))
        for (rule, runs), loss_axis, apart_axis in zip(
            results.runs.items(), axes[0], axes[1], strict=True
        ):
            for name, style in styles.items():
                if name in runs:
                    smooth = _mean_over(runs[name].losses, width)
                    loss_axis.plot(steps, smooth, label=name, **style)
            shown = results.deviations.get(rule, {})
            for name, style in {**CONTROL_STYLES, **styles}.items():
                if name in shown:
                    apart_axis.plot(
                        steps,
                        _running_max(shown[name].loss),
                        label=CONTROLS.get(name, ""),
                        **{**style, "linewidth": min(style["linewidth"], 2.4)},
                    )
            apart_axis.plot(
                [1, min(FIRST, len(steps))],
                [results.bound] * 2,
                color="black",
                linewidth=3,
                solid_capstyle="butt",
                label=f"bound, first {FIRST} steps",
            )
            loss_axis.set(title=rule, yscale="log")
            apart_axis.set(xlabel="step", yscale="log")
            for axis in (loss_axis, apart_axis):
                axis.grid(color="#dddddd", linewidth=0.6)
                axis.set_axisbelow(True)
        axes[0][0].set_ylabel("training loss\n(mean of the last epoch)")
        axes[1][0].set_ylabel("largest difference of the\nbatch loss from NumPy so far")
        axes[0][0].legend(frameon=False, handlelength=3.2)
        handles, labels = axes[1][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
        figure.suptitle(
            f"One rule file, the same steps: digits, MLP 64-64-10, {results.dtype}, "
            "each framework with its own gradients",
            fontsize=12,
        )
        figure.savefig(path, dpi=130)
        plt.close(figure)
