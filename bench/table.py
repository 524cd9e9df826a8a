"""The table of figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table

from bench.figure import Figure, shown


def table_of(figures: Mapping[str, Sequence[Figure]]) -> Table:
    """One row for each figure, the benchmarks apart."""
    table = Table(box=box.SIMPLE_HEAD, caption=_CAPTION, caption_justify="left")
    table.add_column("what", min_width=30)
    for heading in ("measured", "of what", "ratio", "wanted", "aim"):
        table.add_column(heading, justify="right")
    table.add_column("met?")
    for rows in figures.values():
        for figure in rows:
            table.add_row(*_cells(figure), end_section=figure is rows[-1])
    return table


_CAPTION = "ratio: the median of the rounds' ratios, and the smallest and largest of them; ★: the aim, too"

_MARKS = ("[red]✗[/]", "[green]✓[/]", "[green]★[/]")


def _cells(figure: Figure) -> list[str]:
    measured = f"{shown(figure.value)} {figure.unit}"
    of = "" if figure.of_value is None else f"{figure.of} {shown(figure.of_value)}"
    ratio = "" if figure.ratio is None else f"[bold]{shown(figure.ratio)}[/]"
    if figure.spread is not None:
        ratio += f" [dim]{shown(figure.spread[0])}-{shown(figure.spread[1])}[/]"
    met = "" if not figure.wanted else _MARKS[figure.is_met + figure.reaches_aim]
    note = f"\n[dim]{figure.note}[/]" if figure.note else ""
    return [figure.what + note, measured, of, ratio, figure.wanted, figure.aim, met]
