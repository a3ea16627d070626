"""A path over a surface as a small SVG to put into a page: contours, the path, its start and its end."""

from __future__ import annotations

from xml.sax.saxutils import escape

import numpy as np

from isostep.extras import need
from isostep.plot.figures import STYLES, contour_levels, grid
from isostep.plot.surfaces import Surface

WIDTH, HEIGHT = 420, 280


def drawing(surface: Surface, points: np.ndarray, title: str, levels: int = 8) -> str:
    """An ``svg`` element without line breaks.

    Args:
        surface: what is under the path.
        points: float[n, 2]; steps shorter than a pixel are left out, what lies outside the window is cut off.
        title: what it shows, for those who do not see it.
        levels: how many contours.

    Raises:
        MissingExtra: contourpy, which comes with matplotlib, is not installed.
    """
    generator = need("contourpy", "plot", "isostep.plot").contour_generator
    x, y, z = (a[::2, ::2] for a in grid(surface))
    contours = generator(x, y, z)
    lines = [c for v in contour_levels(surface, levels) for c in contours.lines(float(v))]
    under = "".join(_line(surface, np.concatenate([line[:-1:3], line[-1:]])) for line in lines)
    path = _line(surface, points)
    colour = STYLES[0][0]
    first, last = (_pixels(surface, points[[k]])[0] for k in (0, -1))
    marks = f'<circle cx="{first[0]:.0f}" cy="{first[1]:.0f}" r="3" fill="none" stroke="{colour}"/>'
    marks += f'<circle cx="{last[0]:.0f}" cy="{last[1]:.0f}" r="4" fill="{colour}"/>'
    for minimum in surface.minima:
        a, b = _pixels(surface, np.array([minimum]))[0]
        marks += f'<path d="M{a - 6:.0f} {b:.0f}h12m-6-6v12" stroke="#000"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">'
        f"<title>{escape(title)}</title>"
        f'<path d="{under}" fill="none" stroke="#aab2ba" stroke-width="0.7"/>'
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>{marks}</svg>'
    )


def _pixels(surface: Surface, points: np.ndarray) -> np.ndarray:
    (left, right), (low, high) = surface.x, surface.y
    across = (points[:, 0] - left) / (right - left) * WIDTH
    down = (high - points[:, 1]) / (high - low) * HEIGHT
    # A path that leaves goes a little way out of the picture, where it is cut off.
    return np.clip(np.stack([across, down], axis=1), -2 * WIDTH, 3 * WIDTH)


def _line(surface: Surface, points: np.ndarray) -> str:
    """``M x y L x y ...`` in whole pixels, those once that follow each other."""
    pixels = np.rint(_pixels(surface, points[np.isfinite(points).all(axis=1)])).astype(int)
    moved = np.any(np.diff(pixels, axis=0, prepend=pixels[:1] - 1) != 0, axis=1)
    return "M" + "L".join(f"{a} {b}" for a, b in pixels[moved])
