"""``docdb-stream config``: what can be set?"""

from __future__ import annotations

from docdb_stream.cli.terminal import put


def config() -> None:
    """Print a config.ini with every setting, its default and what it does, those of installed packages, too."""
    from docdb_stream.reference import config_text
    from docdb_stream.registry import models_of_others, registered_names

    for line in config_text(models_of_others(registered_names())).splitlines():
        put(line)
