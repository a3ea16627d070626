"""Progress on a terminal as live bars, elsewhere as one plain line per run."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Reporter:
    """Shows what runs now; prints one line for everything that has ended."""

    def __init__(self, console: Console, runs: int, steps: int) -> None:
        """Prepare for so many runs of so many steps."""
        self.console = console
        self.steps = steps
        self._seen = 0
        self._progress = Progress(
            TextColumn("{task.description:<42}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._progress.add_task("all runs", total=runs, note="")
        self._run = self._progress.add_task("", total=steps, note="")

    def __enter__(self) -> Reporter:
        """Start the live display where there is a terminal."""
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the live display."""
        self._progress.stop()

    def start(self, label: str) -> None:
        """Announce the next run."""
        self._seen = 0
        self._progress.reset(self._run, description=label, note="compiling")

    def tick(self, loss: float) -> None:
        """Count one step; the display follows every tenth."""
        self._seen += 1
        if self._seen % 10 == 0 or self._seen == self.steps:
            self._progress.update(self._run, completed=self._seen, note=f"loss {loss:.4f}")

    def done(self, line: str) -> None:
        """Print the line of a run that has ended."""
        self._progress.advance(self._all)
        self.console.print(line, highlight=False)
