"""``docdb-stream doctor``: would it work, and is it ready for production?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Final

import typer

from docdb_stream.admin.checklist.checklist import checklist
from docdb_stream.admin.doctor import Finding, checks
from docdb_stream.cli.connecting import connecting
from docdb_stream.cli.options import ConfigOption, JsonOption, StreamOption, chosen_streams
from docdb_stream.cli.table import print_checklist
from docdb_stream.cli.terminal import put, put_json
from docdb_stream.settings import Settings

FAILED: Final = 1
"""The exit code where an item of the checklist has failed."""


def doctor(
    config: ConfigOption = None,
    stream: StreamOption = None,
    is_checklist: Annotated[
        bool, typer.Option("--checklist", help="Is it ready for production? Looks, and changes nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the settings, the cluster, the state database and every target, without delivering anything."""
    worst = 0
    for settings in chosen_streams(config, stream):
        with connecting(settings) as connected:
            if is_checklist:
                worst = max(worst, _listed(settings, connected, as_json))
                continue
            for found in checks(settings):
                connected()
                worst = max(worst, _told(settings, found, as_json))
    raise typer.Exit(worst)


def _listed(settings: Settings, connected: Callable[[], None], as_json: bool) -> int:
    """Print the checklist; returns its exit code."""
    found = []
    for item in checklist(settings):
        connected()
        found.append(item)
    if as_json:
        put_json({"stream": settings.stream_name, "checklist": [asdict(item) for item in found]})
    else:
        print_checklist(settings.stream_name, found)
    return FAILED if any(item.verdict == "fail" for item in found) else 0


def _told(settings: Settings, found: Finding, as_json: bool) -> int:
    """Say it; returns its exit code."""
    what, error = found
    code = 0 if error is None else error.exit_code
    if as_json:
        verdict = "ok" if error is None else "failed" if code else "caution"
        told, hint = ("", "") if error is None else (str(error), error.hint or "")
        put_json({"stream": settings.stream_name, "what": what, "verdict": verdict, "told": told, "hint": hint})
        return code
    verdict = "ok" if error is None else f"{'FAILED' if code else 'CAUTION'}: {error}"
    put(f"{settings.stream_name}  {what}: {verdict}")
    if error is not None and error.hint:
        put(f"    hint: {error.hint}")
    return code
