"""Looking at rules: their paths over surfaces, as arrays, figures and a page that recomputes them.

>>> import isostep
>>> found = isostep.plot.path(isostep.rule("sgd", lr=0.1), "quadratic", start=(1.0, 0.5), steps=2)
>>> found.points.tolist()
[[1.0, 0.5], [0.9, 0.0], [0.81, 0.0]]

``path`` needs NumPy alone; ``figure`` and ``Path.figure`` need matplotlib (``pip install 'isostep[plot]'``).
"""

from __future__ import annotations

from isostep.plot.figures import figure
from isostep.plot.paths import Path, path, tuned
from isostep.plot.surfaces import SURFACES, Surface

__all__ = ["SURFACES", "Path", "Surface", "figure", "path", "tuned"]
