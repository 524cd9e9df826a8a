"""Runs the benchmarks, prints one table, and keeps the figures in bench/results.json."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.status import Status

from bench import cpu, documents, follow, memory, report, shaping, tables, throughput
from bench.report import Figure
from bench.rounds import Plan, SkippedError
from bench.servers import MIRROR, TARGETS

BENCHMARKS: dict[str, Callable[[Plan], list[Figure]]] = {
    "drain": throughput.drain,
    **{target: partial(throughput.alone, target=target) for target in (*TARGETS, MIRROR)},
    "bulks": throughput.bulks,
    "confluent": throughput.confluent,
    "together": throughput.together,
    "steps": shaping.steps,
    "formats": shaping.formats,
    "snapshot": documents.snapshot,
    "verify": documents.verify,
    "tables": tables.tables,
    "follow": follow.measure,
    "memory": memory.measure,
    "growth": cpu.growth,
    "streams": cpu.streams,
    "cold-start": cpu.cold_start,
}
_SHOWN_OF_ERROR = 3000


def main() -> int:
    """Run what was asked for; 1 when a benchmark failed, whatever its figures."""
    arguments = _arguments()
    out, err = Console(), Console(stderr=True)
    if not out.is_terminal:
        out.width = 150
    if arguments.plot:
        return _plot(err)
    entries, failed = {}, []
    started = time.monotonic()
    with err.status("") as status:
        plan = Plan(arguments.quick, partial(_say, status, err))
        for name in arguments.names or BENCHMARKS:
            about = report.machine()
            began = time.monotonic()
            try:
                entries[name] = report.entry(about, BENCHMARKS[name](plan))
                if not plan.quick:
                    report.keep({name: entries[name]})
            except SkippedError as error:
                err.print(f"[yellow]-[/] {name} is left out: {error}", highlight=False)
            except Exception:  # noqa: BLE001 - the others' figures are not lost with it
                failed.append(name)
                err.print(f"[red]✗ {name} failed[/]")
                # The end of it, plainly: an error of the driver can quote a document, of 16 MB here.
                print(traceback.format_exc(limit=-4)[-_SHOWN_OF_ERROR:], file=sys.stderr)
            else:
                err.print(f"[green]✓[/] {name} [dim]{time.monotonic() - began:.0f} s[/]", highlight=False)
    if arguments.json:
        print(json.dumps(entries, indent=2))
    elif entries:
        out.print(report.table_of({name: report.figures_of(entry) for name, entry in entries.items()}))
    err.print(f"[dim]took {time.monotonic() - started:.0f} s[/]", highlight=False)
    if arguments.quick:
        err.print("[dim]a quick run shows that all works; its figures are not kept[/]")
    else:
        _plot(err)
    if failed:
        err.print(f"[red]failed: {', '.join(failed)}[/]")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, epilog="names: " + ", ".join(BENCHMARKS))
    parser.add_argument("names", nargs="*", metavar="name", help="which benchmarks; all by default")
    parser.add_argument("--quick", action="store_true", help="small counts and one round; the figures are not kept")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--plot", action="store_true", help="only draw docs/throughput.png from the figures kept")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    return arguments


def _say(status: Status, console: Console, text: str) -> None:
    status.update(text)
    if not console.is_terminal:
        console.print(text, style="dim", highlight=False)


def _plot(console: Console) -> int:
    try:
        from bench.plot import draw
    except ModuleNotFoundError as error:
        hint = f"{error.name} is missing (pip install -e '.[bench]')"
        console.print(f"docs/throughput.png is not drawn: {hint}", style="yellow", markup=False)
        return 1
    drawn = draw(report.load())
    console.print(f"drew {drawn}" if drawn else "docs/throughput.png needs the figures of drain and of every target")
    return 0


if __name__ == "__main__":
    sys.exit(main())
