"""Paths as matplotlib figures and animations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import Any

import numpy as np

from isostep.extras import need
from isostep.plot.paths import Path

#: Okabe and Ito's colours, told apart under every common colour blindness; each with a marker of its own.
STYLES = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"),
    ("#56B4E9", "P"), ("#000000", "X"), ("#999999", "*"),
)  # fmt: skip
GRID_POINTS = 161


def contour_levels(surface: Any, count: int = 24) -> np.ndarray:
    """Values at which to draw contours, in order: denser where the surface is low."""
    low, heights = lowest(surface), grid(surface)[2]
    heights = heights[np.isfinite(heights)] - low
    return np.unique(low + np.quantile(heights, np.linspace(0.004, 0.97, count) ** 1.6))


def lowest(surface: Any) -> float:
    """What losses are drawn above: the lowest of the minima, of a surface without any the lowest in its window."""
    if surface.minima:
        return min(float(surface.value(*m)) for m in surface.minima)
    heights = grid(surface)[2]
    return float(np.min(heights[np.isfinite(heights)]))


def grid(surface: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and the surface's values over its window."""
    sides = [np.linspace(low, high, GRID_POINTS) for low, high in (surface.x, surface.y)]
    x, y = np.meshgrid(*sides, indexing="xy")
    with np.errstate(all="ignore"):  # it need not be finite everywhere
        return x, y, np.broadcast_to(np.asarray(surface.value(x, y), np.float64), x.shape)


def figure(paths: Sequence[Path], *, three_d: bool = False, upto: int | None = None) -> Any:
    """A matplotlib ``Figure``: the surface with every path and its steps, and the loss curves beside it.

    Args:
        paths: paths over one surface, as ``isostep.plot.path`` returns them.
        three_d: draw the surface in three dimensions instead of its contours.
        upto: draw only this many steps.
    """
    need("matplotlib", "plot", "isostep.plot")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    surface = paths[0].surface
    made: Any = Figure(figsize=(11, 5), layout="constrained")
    kind: dict[str, Any] = {"projection": "3d"} if three_d else {}
    left: Any = made.add_subplot(1, 2, 1, **kind)
    right: Any = made.add_subplot(1, 2, 2)
    x, y, z = grid(surface)
    low = lowest(surface)
    if three_d:  # heights on a logarithmic scale: the valleys are what matters
        with np.errstate(all="ignore"):
            heights = np.log1p(z - low)
        left.plot_surface(x, y, heights, cmap="Greys", alpha=0.5, linewidth=0)
        left.set_zlabel("log(1 + f)")
    else:
        left.contour(x, y, z, contour_levels(surface), colors="#aab2ba", linewidths=0.7)
        for minimum in surface.minima:
            left.plot(*minimum, "k*", markersize=11)
        left.set(xlim=surface.x, ylim=surface.y)
    last = len(paths[0].points) if upto is None else upto + 1
    for k, p in enumerate(paths):
        colour, marker = STYLES[k % len(STYLES)]
        look: dict[str, Any] = {
            "color": colour,
            "marker": marker,
            "markersize": 3.5,
            "linewidth": 1.3,
        }
        points = p.points[:last]
        if three_d:
            inside = _inside(points, surface)
            heights = np.log1p(np.where(inside, p.losses[:last] - low, np.nan))
            left.plot(points[:, 0], points[:, 1], heights, **look)
        else:
            left.plot(points[:, 0], points[:, 1], **look)
        right.plot(np.maximum(p.losses[:last] - low, 1e-16), label=p.title, **look)
    noise = f", gradient noise {paths[0].noise:g} (seed {paths[0].seed})" if paths[0].noise else ""
    left.set(title=f"{surface.name}{noise}", xlabel="x", ylabel="y")
    right.set(
        title="loss above the minimum", xlabel="step", yscale="log", xlim=(0, len(p.points) - 1)
    )
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.grid(color="#dddddd", linewidth=0.6)
    made.legend(
        *right.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    return made


def _inside(points: np.ndarray, surface: Any) -> np.ndarray:
    """Which points lie in the window: matplotlib draws the others across the axes in three dimensions."""
    (a, b), (c, d) = surface.x, surface.y
    x, y = points[:, 0], points[:, 1]
    return np.asarray((x >= a) & (x <= b) & (y >= c) & (y <= d))


def animation(paths: Sequence[Path], target: File, *, three_d: bool = False) -> None:
    """A GIF: one frame a step, the last one shown for two seconds."""
    need("matplotlib", "plot", "isostep.plot")
    import io

    from PIL import Image

    frames = []
    for upto in range(len(paths[0].points)):
        buffer = io.BytesIO()
        shown = figure(paths, three_d=three_d, upto=upto)
        for axis in shown.axes[1:]:
            axis.set_ylim(*_limits(paths))
        shown.savefig(buffer, format="png", dpi=70)
        frames.append(Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
    pauses = [150] * (len(frames) - 1) + [2000]
    more: dict[str, Any] = {"append_images": frames[1:], "duration": pauses, "loop": 0}
    frames[0].save(target, format="GIF", save_all=True, **more)


def _limits(paths: Sequence[Path]) -> tuple[float, float]:
    """The range of all losses, so that the axis of an animation keeps still."""
    low = lowest(paths[0].surface)
    every = np.concatenate([p.losses for p in paths]) - low
    every = np.maximum(every[np.isfinite(every)], 1e-16)
    if every.size == 0:  # all of them have left for infinity
        return 0.1, 1.0
    return float(every.min()) / 2, float(every.max()) * 2


def curves(values: Mapping[str, Sequence[float]], *, xlabel: str, ylabel: str) -> Any:
    """A matplotlib ``Figure`` with one labelled curve for each entry, over 0, 1, 2, ..."""
    need("matplotlib", "plot", "isostep.plot")
    from matplotlib.figure import Figure

    made = Figure(figsize=(8, 4.2), layout="constrained")
    axis = made.add_subplot()
    for k, (name, y) in enumerate(values.items()):
        dash = ("-", "--", "-.", ":")[k % 4]
        axis.plot(range(len(y)), y, dash, color=STYLES[k % len(STYLES)][0], label=name)
    axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, None))
    axis.grid(color="#dddddd", linewidth=0.6)
    made.legend(loc="outside lower center", frameon=False)
    return made
