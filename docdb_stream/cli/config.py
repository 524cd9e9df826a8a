"""``docdb-stream config``: what can be set?"""

from __future__ import annotations

from docdb_stream.cli.terminal import put, say


def config() -> None:
    """Print a config.ini with every setting, its default and what it does, those of installed packages, too.

    What is installed and cannot be explained, since it is broken or wants another's setting, is told on standard error.
    """
    from docdb_stream.errors import ConfigError
    from docdb_stream.registry import models_of_others, registered_names, why_without_settings
    from docdb_stream.settings.reference import config_text

    explained: tuple[str, ...] = ()
    problems: list[str] = []
    for name in registered_names():
        problems += why_without_settings([name])
        try:
            models_of_others((*explained, name))
            explained += (name,)
        except ConfigError as error:
            problems.append(f"{error}; {error.hint}")
    for line in config_text(models_of_others(explained)).splitlines():
        put(line)
    for problem in problems:
        say(f"left out: {problem}")
