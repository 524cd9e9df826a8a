"""What a person sees of the demo: steps as they are done, progress in between, the table at the end.

On a terminal the progress moves; elsewhere it is a plain line every few seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from docdb_stream.local.demo.verify import Verdict

_PLAIN_WIDTH = 110  # where nobody tells: wide enough for the table
_PLAIN_EVERY_S = 5.0
_PARAGRAPH_WIDTH = 100
_INDENT = " " * 11  # the width of the time and the mark


class Screen:
    """Prints to standard output."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console = Console(highlight=False, width=_PLAIN_WIDTH)
        self._started_s = time.monotonic()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._plain_at_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._started_s

    def title(self, text: str, subtitle: str) -> None:
        """The first thing on the screen."""
        self._console.print(f"\n[bold]{escape(text)}[/]")
        self._paragraph(f"{escape(subtitle)}\n")

    def step(self, text: str, detail: str = "", *, mark: str = "[green]✓[/]") -> None:
        """Something was done: with the time since the start, so that one sees what takes long."""
        row = Table.grid(padding=(0, 1))
        row.add_row(f"[dim]{self.elapsed_s:6.1f} s[/]", mark, escape(text))
        if detail:
            row.add_row("", "", f"[dim]{escape(detail)}[/]")
        self._console.print(row)

    def blow(self, text: str, detail: str) -> None:
        """Something was done to the poller that must not matter."""
        self.step(text, detail, mark="[bold red]✗[/]")

    def text(self, text: str = "") -> None:
        """Lines as they are."""
        self._console.print(escape(text), soft_wrap=True)

    def _paragraph(self, markup: str) -> None:
        self._console.print(markup, width=min(self._console.width, _PARAGRAPH_WIDTH))

    @contextmanager
    def progress(self, bars: Mapping[str, int]) -> Iterator[None]:
        """Show a bar for each label, up to the number given, as long as the context lasts; see ``advance``."""
        columns = (TextColumn(_INDENT + "{task.description:<24}"), BarColumn(30), TextColumn("{task.fields[count]}"))
        with Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal) as shown:
            self._progress = shown
            self._tasks = {label: shown.add_task(label, total=total, count="") for label, total in bars.items()}
            self._plain_at_s = time.monotonic() + _PLAIN_EVERY_S
            try:
                yield
            finally:
                self._progress, self._tasks = None, {}

    def advance(self, figures: Mapping[str, int]) -> None:
        """Move the bars to ``figures``; does nothing where there are none."""
        if self._progress is None:
            return
        for label, figure in figures.items():
            self._progress.update(self._tasks[label], completed=figure, count=f"{figure:,}")
        if not self._console.is_terminal and time.monotonic() >= self._plain_at_s:
            self._plain_at_s = time.monotonic() + _PLAIN_EVERY_S
            words = ", ".join(f"{label} {figure:,}" for label, figure in figures.items())
            self._console.print(f"{self.elapsed_s:6.1f} s   {words}")

    def table(self, verdicts: Sequence[Verdict], rates: Mapping[str, float]) -> None:
        """The one table: a row for each verdict, with the target's events/s."""
        gap = 1 if self._console.width >= 100 else 0
        table = Table(box=box.SIMPLE_HEAD, padding=(0, gap), pad_edge=False)
        table.add_column("target", vertical="bottom")
        for heading in _FIGURES:
            table.add_column(heading, justify="right", vertical="bottom")
        table.add_column("")
        for verdict in verdicts:
            table.add_row(
                verdict.target,
                f"{verdict.expected:,}",
                f"{verdict.delivered:,}",
                _count(verdict.missing),
                _count(verdict.duplicates, allowed=verdict.duplicates_allowed),
                _count(verdict.order_violations),
                _count(verdict.different),
                f"{rates[verdict.target]:,.0f}" if verdict.target in rates else "?",
                "[green]✓[/]" if verdict.ok else "[bold red]✗[/]",
            )
        self._console.print(table)
        self._paragraph(f"[dim]{escape(_LEGEND.format(cores=os.cpu_count() or 1))}[/]")
        for verdict in verdicts:
            for example in verdict.examples:
                self._console.print(f"[red]{verdict.target}:[/] {escape(example)}", soft_wrap=True)

    def conclusion(self, text: str, *, good: bool) -> None:
        """What it comes down to."""
        self._console.print(f"\n[bold {'green' if good else 'red'}]{escape(text)}[/]", soft_wrap=True)


_FIGURES = ("expected", "delivered", "missing", "duplicates", "order\nviolated", "different", "events/s")
_LEGEND = """\
Kinesis and Kafka promise at least once: what came after the last checkpoint comes again when a run died, with the \
same event ids, and is counted under duplicates. SQS FIFO and S3 hold every event once. OpenSearch holds documents: \
counted and compared as they are in the end.
events/s: per second that the resumed runs spent in that target, while five targets, the servers and the shop shared \
{cores} cores. It is a proof of correctness, not a benchmark."""


def _count(number: int, *, allowed: bool = False) -> str:
    return f"{number:,}" if allowed or not number else f"[bold red]{number:,}[/]"
