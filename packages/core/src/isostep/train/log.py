"""The CSV file of a run, in the published experiment's columns: always whole lines, and readable again."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from isostep.replacing import replacing

HEADER = (
    "Epoch", "Iteration", "Time", "Loss", "LossEpoch", "ValidLossEpoch", "Alpha", "AlphaEpoch", "Beta",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One iteration; the epoch's columns are NaN but in its last row. ``alpha`` is the learning rate used."""

    epoch: int
    iteration: int
    time: float
    loss: float
    loss_epoch: float
    valid_loss_epoch: float
    alpha: float
    alpha_epoch: float
    beta: float

    def text(self) -> str:
        """A line of the file; numbers come back to the bit."""
        return ",".join(repr(getattr(self, f.name)) for f in fields(self)) + "\n"


class Log:
    """A CSV file that grows by whole lines."""

    def __init__(self, path: Path, rows: list[Row]) -> None:
        """Write the file anew, with these rows, and keep it open; it replaces an old one only when it is whole."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text("".join([",".join(HEADER) + "\n", *(r.text() for r in rows)]))
        self._file = path.open("a", encoding="utf-8")

    def add(self, row: Row) -> None:
        """Append a line."""
        self._file.write(row.text())

    def sync(self) -> None:
        """Make sure that all lines are in the file."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


def read(path: Path) -> list[Row]:
    """The rows of a file; a last line that was cut off (power lost) is left out.

    Raises:
        ValueError: the file has other columns, or lines that are no rows.
    """
    # Bytes of another kind of file become characters that no column's name has.
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    lines = list(csv.reader(whole.splitlines()))
    if not lines or tuple(lines[0]) != HEADER:
        message = f"{path} has not the columns of isostep train: {', '.join(HEADER)}"
        raise ValueError(message)
    kinds: list[Any] = [int, int, *[float] * (len(HEADER) - 2)]
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            rows.append(Row(*(k(v) for k, v in zip(kinds, line, strict=True))))
        except ValueError:
            message = f"{path}, line {number}: must be {len(HEADER)} numbers, got {','.join(line)!r}; make it anew"
            raise ValueError(message) from None
    return rows
