"""What the command line prints: progress, text for people, one JSON object for programs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Console"]

_LINE_EVERY_S = 20.0


class Console:
    """Output of one command.

    Parameters
    ----------
    json_output : bool
        Print one JSON object on standard output at the end, and nothing else there.
    quiet : bool
        No progress and no text.
    """

    def __init__(self, *, json_output: bool = False, quiet: bool = False) -> None:
        # Of several processes that share a run the first speaks.
        quiet = quiet or os.environ.get("RANK", "0") != "0"
        self.json_output, self.quiet = json_output, quiet
        self._err = RichConsole(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._tasks: dict[str, Any] = {}
        self._last_line = 0.0

    def say(self, text: str) -> None:
        """Print a line for people."""
        if not self.quiet and not self.json_output:
            print(text)

    def note(self, text: str) -> None:
        """Print a remark on standard error."""
        if not self.quiet:
            self._err.print(text, markup=False)

    def finish(self, figures: dict[str, Any]) -> None:
        """End with the JSON object, if it was asked for."""
        if self.json_output:
            json.dump(figures, sys.stdout)
            sys.stdout.write("\n")

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Show what `step` is told: a bar on a terminal, a line now and then in a log."""
        if self.quiet or not self._err.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=self._err) as bar:
            self._progress = bar
            yield
        self._progress = None

    def step(self, stage: str, done: int, total: int) -> None:
        """Tell how far a stage has come."""
        if self.quiet:
            return
        if self._progress is not None:
            if stage not in self._tasks:
                self._tasks[stage] = self._progress.add_task(stage, total=total)
            self._progress.update(self._tasks[stage], completed=done)
        elif done == total or time.monotonic() - self._last_line > _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._err.print(f"{stage}: {done:,} of {total:,}", markup=False)
