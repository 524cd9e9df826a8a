"""``docdb-stream demo``: see it at work."""

from __future__ import annotations

from typing import Annotated

import typer


def demo(
    events: Annotated[int, typer.Option("--events", min=200, help="How many changes the shop makes.")] = 6_000,
    seed: Annotated[int, typer.Option("--seed", help="The same seed makes the same changes.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the servers running at the end, until Ctrl-C.")] = False,
) -> None:
    """See it at work on this machine: five targets, a crash on the way, and a check of every event.

    Starts real servers from the packages of docdb-stream[local]. Exits with 1 when an event is missing, out of order
    or altered in any target.
    """
    from docdb_stream.local.demo.run import DemoOptions, run_demo

    raise typer.Exit(run_demo(DemoOptions(events, seed, keep)))
