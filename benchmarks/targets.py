"""What the figures of ``gpu.py`` are to reach, and which of them do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """Of all rows of one kind that a figure is asked of, each is to reach ``least``."""

    what: str
    figure: str
    least: float
    #: a row's figure; None if it is not asked of that row
    of: Callable[[Row, float], float | None]


def share(row: Row, bandwidth: float) -> float | None:
    """The share of a copy's bandwidth, of a step in one pass."""
    if row["stages"] > 1 or not bandwidth:
        return None
    return row["bytes"] / row["seconds"]["isostep"] / bandwidth


def over(*peers: str, unless: str = "") -> Callable[[Row, float], float | None]:
    """How often our step fits into that of the first of these peers that was measured."""

    def ratio(row: Row, bandwidth: float) -> float | None:
        seconds = row["seconds"]
        peer = next((seconds[p] for p in peers if p in seconds), None)
        return None if peer is None or unless in seconds else peer / seconds["isostep"]

    return ratio


TARGETS = (
    Target("large", "of a copy's bandwidth in one pass", 0.9, share),
    Target("large", "x torch fused", 1.0, over("torch fused")),
    Target("large", "x foreach, where torch has no fused form", 2.0,
           over("torch foreach", "isostep foreach", unless="torch fused")),
    Target("small", "x torch fused", 3.0, over("torch fused")),
    Target("captured", "of the replays have the bits of the steps", 1.0, lambda row, _: float(row["same_bits"])),
    Target("cupy", "of a copy's bandwidth in one pass", 0.9, share),
    Target("cupy", "x array expressions, in one pass", 5.0,
           lambda row, _: None if row["stages"] > 1 else over("array expressions")(row, _)),
    Target("cupy", "x our torch fused, in one pass", 0.95,
           lambda row, _: None if row["stages"] > 1 else over("isostep_torch")(row, _)),
    Target("jax", "x optax", 0.95, over("optax")),
    Target("jax small", "x optax", 5.0, over("optax")),
)  # fmt: skip


def verdicts(rows: list[Row]) -> Iterator[str]:
    """A line for each target: how many rows reach it, which do not, and how many of its kind were not measured."""
    bandwidth = next((r["bytes_per_second"] for r in rows if "bytes_per_second" in r), 0.0)
    for target in TARGETS:
        kind = [r for r in rows if r["what"] == target.what]
        done = [r for r in kind if "seconds" in r or "same_bits" in r]
        figures = {r["rule"]: target.of(r, bandwidth) for r in done}
        asked = {n: f for n, f in figures.items() if f is not None}
        below = sorted((f, n) for n, f in asked.items() if f < target.least)
        line = f"{target.what}: at least {target.least:g} {target.figure}: {len(asked) - len(below)} of {len(asked)}"
        if below:
            line += "; below: " + ", ".join(f"{n} {f:.2f}" for f, n in below)
        if len(done) < len(kind):
            line += f"; not measured: {len(kind) - len(done)}"
        yield line
