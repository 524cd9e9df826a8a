"""Reads settings: config.ini (many streams) and the environment (one stream), and reports every problem at once.

Owns the sources and their order: the environment wins over a stream's section, which wins over ``[docdb-stream]``.
"""

from __future__ import annotations

import configparser
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, ValidationError

from docdb_stream.errors import ConfigError
from docdb_stream.settings import ADDRESSES, Settings, without_secrets

SHARED_SECTION = "docdb-stream"
STREAM_PREFIX = "stream "

# Sections of config.ini that belong to the deployment (infra/), which checks their keys itself; [deploy NAME] is about
# one stream.
DEPLOYMENT_SECTIONS = ("deploy", "network")

# What names one stream. With several streams in a file, these come from its sections alone: a WATCHED_DB_NAME left in
# the environment must not turn every stream into the same one.
_PER_STREAM = frozenset({"stream_name", "watched_db_name", "watched_collection_name"})

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _names() -> dict[str, str]:
    """Every accepted name in lower case -> the field it sets."""
    names = {}
    for field, info in Settings.model_fields.items():
        names[field] = field
        if isinstance(info.validation_alias, AliasChoices):
            names.update({str(alias): field for alias in info.validation_alias.choices})
    return names


def settings_from_env(environ: Mapping[str, str] | None = None) -> Settings:
    """One stream's settings from the environment alone.

    Raises:
        ConfigError: With every problem found.
    """
    problems: list[str] = []
    values = _from_environ(os.environ if environ is None else environ, problems)
    settings = _validated(values, "environment", problems, upper=True)
    problems += _shared_files([settings] if settings else [])
    if settings is None or problems:
        raise _error("the environment", problems)
    return settings


def settings_from_config(
    path: str, environ: Mapping[str, str] | None = None, *, overlaid: bool = True
) -> list[Settings]:
    """The settings of every stream in ``path``, in the file's order.

    Without a ``[stream NAME]`` section the file describes one stream by its ``[docdb-stream]`` section. ``${NAME}`` in
    a value stands for the environment variable NAME.

    Args:
        path: The file.
        environ: Instead of this process's environment.
        overlaid: Whether the environment wins over the file; otherwise it only stands in for ``${NAME}``.

    Raises:
        ConfigError: The file cannot be read, or with every problem found in it.
    """
    environ = os.environ if environ is None else environ
    parser = _parse(path)
    problems: list[str] = []
    shared: dict[str, str] = {}
    streams: dict[str, dict[str, str]] = {}
    for section in parser.sections():
        if section == SHARED_SECTION:
            shared = dict(_entries(parser, section, environ, problems))
        elif section.startswith(STREAM_PREFIX):
            name = section.removeprefix(STREAM_PREFIX).strip()
            streams[name] = {"stream_name": name, **dict(_entries(parser, section, environ, problems))}
        elif section.partition(" ")[0] not in DEPLOYMENT_SECTIONS:
            problems.append(
                f"[{section}]: unknown section; expected [{SHARED_SECTION}], [{STREAM_PREFIX}NAME], "
                + ", ".join(f"[{name}]" for name in DEPLOYMENT_SECTIONS)
            )
    overlay = _from_environ(environ, problems) if overlaid else {}
    if streams:
        overlay = {key: value for key, value in overlay.items() if key not in _PER_STREAM}
    found = []
    for name, own in (streams or {"": {}}).items():
        where = f"[{STREAM_PREFIX}{name}]" if name else f"[{SHARED_SECTION}]"
        settings = _validated({**shared, **own, **overlay}, where, problems)
        if settings is not None:
            found.append(settings)
    names = [settings.stream_name for settings in found]
    problems += [
        f"stream_name: {name} is used by more than one stream" for name in sorted(set(names)) if names.count(name) > 1
    ]
    problems += _shared_files(found)
    if problems:
        raise _error(path, list(dict.fromkeys(problems)))
    return found


def _shared_files(streams: Sequence[Settings]) -> Iterator[str]:
    """A problem for each file that the targets of several streams would write, or a target and the dead letters."""
    writers: dict[str, list[str]] = {}
    for settings in streams:
        if settings.file_path and _is_regular(settings.file_path):
            writers.setdefault(os.path.realpath(settings.file_path), []).append(settings.stream_name)
    letters = {os.path.realpath(settings.dead_letters) for settings in streams if settings.dead_letters}
    for path, names in writers.items():
        if len(names) > 1:
            yield f"file_path: {path} is used by more than one stream ({', '.join(names)}); give each a file of its own"
        if path in letters:
            yield f"file_path: {path} is also named by dead_letters; give them a file of their own"


def _is_regular(path: str) -> bool:
    """Whether it is, or will be, a file and not a device or a pipe, which several may write."""
    return os.path.isfile(path) or not os.path.exists(path)


def deployment_sections(path: str) -> dict[str, dict[str, str]]:
    """The sections of ``path`` about the deployment, by name, as they are written; their keys are not checked.

    Raises:
        ConfigError: The file cannot be read.
    """
    parser = _parse(path)
    return {name: dict(parser[name]) for name in parser.sections() if name.partition(" ")[0] in DEPLOYMENT_SECTIONS}


def _parse(path: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, default_section="\0none", inline_comment_prefixes=(" #",))
    try:
        parser.read_string(Path(path).read_text(encoding="utf-8-sig"), source=path)
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no file {path}", hint="name the file with --config, or leave --config out to use the environment"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}", hint="see that it is a file, and readable"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"cannot read {path}: it is not UTF-8 text ({error.reason})", hint="save it as UTF-8"
        ) from error
    except configparser.Error as error:
        raise ConfigError(
            f"{path} is not a valid ini file: {' '.join(str(error).split())}",
            hint="sections are [docdb-stream] and [stream NAME]; each line under them is key = value",
        ) from error
    return parser


def _entries(
    parser: configparser.ConfigParser, section: str, environ: Mapping[str, str], problems: list[str]
) -> Iterator[tuple[str, str]]:
    """The section's known keys by field name, references replaced; unknown keys become problems."""
    names = _names()
    for key, value in parser.items(section):
        field = names.get(key)
        if field is None:
            near = difflib.get_close_matches(key, names, n=1)
            problems.append(f"[{section}] {key}: unknown key" + (f"; did you mean {near[0]}?" if near else ""))
            continue
        problems += [
            f"[{section}] {key}: the environment variable {name} is not set"
            for name in _REFERENCE.findall(value)
            if name not in environ
        ]
        value = _REFERENCE.sub(lambda match: environ.get(match[1], ""), value)
        if field in ADDRESSES and not _REFERENCE.search(parser.get(section, key)) and without_secrets(value) != value:
            instead = f"{ADDRESSES[field]}, or " if ADDRESSES[field] else ""
            problems.append(
                f"[{section}] {key}: a password in the file; use {instead}${{NAME}} for an environment variable"
            )
        yield field, value


def _from_environ(environ: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """The variables that are settings, by field name; what must be a mistyped one becomes a problem.

    An empty variable counts as not set.
    """
    names = _names()
    found = {}
    for key, value in environ.items():
        if not value.strip():
            continue
        # The AWS sample's later names are in mixed case (Iterations_per_sync); all others are in upper case.
        field = names.get(key.lower()) if key.isupper() or key in _MIXED_CASE else None
        if field is not None:
            found[field] = value
        elif key.upper().startswith(_OWN_PREFIX):
            near = difflib.get_close_matches(key.lower(), names, n=1)
            problems.append(
                f"environment {key}: unknown variable" + (f"; did you mean {near[0].upper()}?" if near else "")
            )
    return found


_MIXED_CASE = frozenset({"Iterations_per_sync", "Documents_per_run"})
_OWN_PREFIX = "WATCHED_"
"""Nobody else's variables begin so. A mistyped one is as if nothing were said about what to watch: everything is."""


def _validated(values: Mapping[str, Any], where: str, problems: list[str], upper: bool = False) -> Settings | None:
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        problems += [_problem(detail, where, upper) for detail in error.errors(include_url=False)]
        return None


def _problem(detail: Any, where: str, upper: bool) -> str:
    """One line: the key, what is expected, what was found (never a value that may hold a secret)."""
    field = str(detail["loc"][0]) if detail["loc"] else ""
    key = field.upper() if upper else field
    info = Settings.model_fields.get(field)
    if detail["type"] == "missing":
        expected = info.description.partition(". ")[0].rstrip(".") if info and info.description else ""
        return f"{where} {key}: missing; expected: {expected}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = message[:1].lower() + message[1:] if detail["type"] == "value_error" else f"expected {message}"
    shown = (
        f", found {detail['input']!r}" if field and isinstance(detail["input"], str) and field not in _UNSHOWN else ""
    )
    return f"{where} {key}: {message}{shown}" if key else f"{where}: {message}"


_UNSHOWN = frozenset({*ADDRESSES, *ADDRESSES.values()})


def _error(where: str, problems: list[str]) -> ConfigError:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigError(
        f"{where}: {count} with the settings",
        hint="see config.ini in the repository for every key with its unit, default and effect",
        problems=tuple(problems),
    )
