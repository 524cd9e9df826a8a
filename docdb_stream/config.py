"""Reads the settings of streams, from config.ini (many) and the environment (one): every problem is told at once.

Owns the sources and their order: the environment wins over a stream's section, which wins over ``[docdb-stream]``. How
keys and values become a model is ``settings.ini``'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from docdb_stream.settings import Settings
from docdb_stream.settings.cluster import NO_CLUSTER, TABLES_DATABASE
from docdb_stream.settings.ini import ConfigFile, Keys, config_error, validated
from docdb_stream.settings.model import SettingsModel, names
from docdb_stream.settings.types import split_words

SHARED_SECTION = "docdb-stream"
STREAM_PREFIX = "stream "

# Sections of config.ini that belong to the deployment (infra/), which checks their keys itself; [deploy NAME] is about
# one stream.
DEPLOYMENT_SECTIONS = ("deploy", "network")

# What names one stream. With several streams in a file, these come from its sections alone: a WATCHED_DB_NAME left in
# the environment must not turn every stream into the same one.
PER_STREAM = frozenset({"stream_name", "watched_db_name", "watched_collection_name"})

_WATCHING = frozenset({"watched_db_name", "watched_collection_name", "namespaces"})
"""What says which collections of a cluster are read: of a table's stream in its own section alone."""
_OF_TABLE = {"documentdb_uri": NO_CLUSTER, "watched_db_name": TABLES_DATABASE}
"""What holds for a table's stream where nothing else is said."""


def stream_keys(extra: tuple[str, ...]) -> Keys:
    """The keys of a stream and its targets; of other packages' targets, those of extra."""
    from docdb_stream import registry

    def find(key: str) -> tuple[type[SettingsModel], str] | None:
        if key in names(Settings):
            return Settings, names(Settings)[key]
        found = registry.setting_of(key, extra)
        return None if found is None else (found.model, found.field)

    return Keys(find, lambda: registry.all_keys(extra), lambda: registry.why_without_settings(extra))


def settings_from_env(environ: Mapping[str, str] | None = None) -> Settings:
    """One stream's settings from the environment alone.

    Raises:
        ConfigError: With every problem found.
    """
    environ = os.environ if environ is None else environ
    problems: list[str] = []
    keys = stream_keys(split_words(environ.get("EXTRA_TARGETS", "")))
    values = _from_environ(environ, keys, problems)
    settings = validated(Settings, values, "environment", problems, keys, upper=True)
    problems += _shared_files([settings] if settings else [])
    if settings is None or problems:
        raise config_error("the environment", problems)
    return settings


def settings_from_config(
    path: str, environ: Mapping[str, str] | None = None, *, overlaid: bool = True, tables: bool = False
) -> list[Settings]:
    """The settings of every stream in ``path``, in the file's order.

    Without a ``[stream NAME]`` section the file describes one stream by its ``[docdb-stream]`` section. ``${NAME}`` in
    a value stands for the environment variable NAME.

    Args:
        path: The file.
        environ: Instead of this process's environment.
        overlaid: Whether the environment wins over the file; otherwise it only stands in for ``${NAME}``.
        tables: Whether streams of DynamoDB tables are among them, which nobody runs but their mappings.

    Raises:
        ConfigError: The file cannot be read, or with every problem found in it.
    """
    file = ConfigFile(path, os.environ if environ is None else environ)
    found = read_streams(file, overlaid=overlaid, tables=tables)
    if not found and not file.problems:
        file.problems.append(
            "every stream is a DynamoDB table's: its function is started by a mapping, and not by hand"
        )
    file.settled()
    return found


def read_streams(file: ConfigFile, *, overlaid: bool, tables: bool) -> list[Settings]:
    """As ``settings_from_config``; what is wrong becomes the file's problems, and the other streams are returned.

    Args:
        file: The file.
        overlaid: Whether the environment wins over it.
        tables: Whether streams of DynamoDB tables are among them.
    """
    overlaying = file.environ if overlaid else {}
    extra = split_words(",".join([*file.raw("extra_targets"), overlaying.get("EXTRA_TARGETS", "")]))
    keys = stream_keys(tuple(dict.fromkeys(extra)))
    shared: dict[str, str] = {}
    streams: dict[str, dict[str, str]] = {}
    for section in file.sections:
        if section == SHARED_SECTION:
            shared = file.entries(section, keys)
        elif section.startswith(STREAM_PREFIX):
            name = section.removeprefix(STREAM_PREFIX).strip()
            streams[name] = {"stream_name": name, **file.entries(section, keys)}
        elif section.partition(" ")[0] not in DEPLOYMENT_SECTIONS:
            file.problems.append(
                f"[{section}]: unknown section; expected [{SHARED_SECTION}], [{STREAM_PREFIX}NAME], "
                + ", ".join(f"[{name}]" for name in DEPLOYMENT_SECTIONS)
            )
    overlay = _from_environ(overlaying, keys, file.problems)
    if streams:
        overlay = {key: value for key, value in overlay.items() if key not in PER_STREAM}
    found = []
    for name, own in (streams or {"": {}}).items():
        where = f"[{STREAM_PREFIX}{name}]" if name else f"[{SHARED_SECTION}]"
        inherited: Mapping[str, str] = shared
        if (name or tables) and _is_of_table(file, own.get("stream_name", "")):
            if not tables:
                continue
            others = _WATCHING if name else frozenset()
            inherited = {**_OF_TABLE, **{key: shared[key] for key in shared.keys() - others}}
        values = {**inherited, **own, **overlay}
        its_keys = stream_keys(split_words(values.get("extra_targets", "")))
        # What is about a target that is another stream's alone: known, but nothing to this one.
        values = {key: value for key, value in values.items() if its_keys.find(key)}
        settings = validated(Settings, values, where, file.problems, its_keys)
        if settings is not None:
            found.append(settings)
    taken = [settings.stream_name for settings in found]
    file.problems += [
        f"stream_name: {name} is used by more than one stream" for name in sorted(set(taken)) if taken.count(name) > 1
    ]
    file.problems += _shared_files(found)
    return found


def _is_of_table(file: ConfigFile, stream: str) -> bool:
    """Whether a stream is a DynamoDB table's, by the deployment's sections."""
    found = file.text("deploy", "dynamodb_stream_arn")
    for section in file.sections:
        if section.split(None, 1) == ["deploy", stream]:
            own = file.text(section, "dynamodb_stream_arn")
            found = found if own is None else own
    return bool(found)


def _shared_files(streams: Sequence[Settings]) -> Iterator[str]:
    """A problem for each file that the targets of several streams would write, or a target and the dead letters."""
    writers: dict[str, list[str]] = {}
    for settings in streams:
        target = settings.targets.get("file")
        if target and target.is_on and _is_regular(target.where):
            writers.setdefault(os.path.realpath(target.where), []).append(settings.stream_name)
    letters = {os.path.realpath(settings.dead_letters) for settings in streams if settings.dead_letters}
    for path, theirs in writers.items():
        if len(theirs) > 1:
            by = ", ".join(theirs)
            yield f"file_path: {path} is used by more than one stream ({by}); give each a file of its own"
        if path in letters:
            yield f"file_path: {path} is also named by dead_letters; give them a file of their own"


def _is_regular(path: str) -> bool:
    """Whether it is, or will be, a file and not a device or a pipe, which several may write."""
    return os.path.isfile(path) or not os.path.exists(path)


def _from_environ(environ: Mapping[str, str], keys: Keys, problems: list[str]) -> dict[str, str]:
    """The variables that are settings, by field name; what must be a mistyped one becomes a problem.

    An empty variable counts as not set.
    """
    values = {}
    for key, value in environ.items():
        if not value.strip():
            continue
        # The AWS sample's later names are in mixed case (Iterations_per_sync); all others are in upper case.
        found = keys.find(key.lower()) if key.isupper() or key in _MIXED_CASE else None
        if found is not None:
            values[found[1]] = value
        elif key.upper().startswith(_OWN_PREFIX):
            problems.append(keys.unknown(f"environment {key}: unknown variable", key.lower(), upper=True))
    return values


_MIXED_CASE = frozenset({"Iterations_per_sync", "Documents_per_run"})
_OWN_PREFIX = "WATCHED_"
"""Nobody else's variables begin so. A mistyped one is as if nothing were said about what to watch: everything is."""


def environment_names() -> set[str]:
    """Every variable that settings are read from."""
    from docdb_stream.registry import all_keys

    return {key.upper() for key in all_keys()} | _MIXED_CASE
