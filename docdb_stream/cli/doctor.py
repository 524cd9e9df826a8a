"""``docdb-stream doctor``: would it work?"""

from __future__ import annotations

import typer

from docdb_stream.admin.doctor import Finding, checks
from docdb_stream.cli.connecting import connecting
from docdb_stream.cli.options import ConfigOption, StreamOption, chosen_streams
from docdb_stream.cli.terminal import put
from docdb_stream.settings import Settings


def doctor(config: ConfigOption = None, stream: StreamOption = None) -> None:
    """Check the settings, the cluster, the state database and every target, without delivering anything."""
    worst = 0
    for settings in chosen_streams(config, stream):
        with connecting(settings) as connected:
            for found in checks(settings):
                connected()
                worst = max(worst, _told(settings, found))
    raise typer.Exit(worst)


def _told(settings: Settings, found: Finding) -> int:
    """Say it; returns its exit code."""
    what, error = found
    verdict = "ok" if error is None else f"{'FAILED' if error.exit_code else 'CAUTION'}: {error}"
    put(f"{settings.stream_name}  {what}: {verdict}")
    if error is not None and error.hint:
        put(f"    hint: {error.hint}")
    return 0 if error is None else error.exit_code
