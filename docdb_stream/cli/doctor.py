"""``docdb-stream doctor``: would it work?"""

from __future__ import annotations

import typer

from docdb_stream.cli.options import ConfigOption, StreamOption, chosen_streams
from docdb_stream.cli.terminal import put


def doctor(config: ConfigOption = None, stream: StreamOption = None) -> None:
    """Check the settings, the cluster, the state database and every target, without delivering anything."""
    from docdb_stream.admin.doctor import checks

    worst = 0
    for settings in chosen_streams(config, stream):
        for what, error in checks(settings):
            verdict = "ok" if error is None else f"{'FAILED' if error.exit_code else 'CAUTION'}: {error}"
            put(f"{settings.stream_name}  {what}: {verdict}")
            if error is not None:
                worst = max(worst, error.exit_code)
                if error.hint:
                    put(f"    hint: {error.hint}")
    raise typer.Exit(worst)
