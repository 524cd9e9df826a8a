"""Every setting, written out from the models: the text of config.ini, and the tables of docs/settings.md.

Owns how a setting is explained. What it is and does, the models say.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from docdb_stream.config import PER_STREAM
from docdb_stream.registry import TARGETS, settings_models
from docdb_stream.settings import Settings, TargetSettings
from docdb_stream.settings.model import Heading, SettingsModel, marked, names, shown

WIDTH = 120
_KEPT_TOGETHER = 40
_NO_BREAK = "\N{NO-BREAK SPACE}"

_ABOUT = """\
# docdb-stream: settings.
#
# Precedence: an environment variable (the key in upper case) wins over a [stream ...] section, which wins over
# [docdb-stream]; but watched_db_name, watched_collection_name and stream_name come from the [stream ...] section alone.
# ${NAME} stands for the environment variable NAME. An unknown key is an error. Text after " #" is a comment. Every
# key is listed here with its unit, default and effect; keys that are commented out show their default or an example.
"""
_TARGETS = "Targets: each is on exactly when its first key is set, here or in a stream's section"
_OTHERS = "Targets of other packages: extra_targets switches them on"
_STREAMS = "Streams: one section each. Without any, the section [docdb-stream] describes one stream."
_ANY_KEY = "Any key from above may stand here too, for this stream alone. stream_name is the section's name."


def config_text(others: Mapping[str, type[TargetSettings]] | None = None, deployment: str = "") -> str:
    """A whole config.ini: every setting, explained; valid as it is, for a replica set on this machine.

    Args:
        others: The settings of targets of other packages, by the target's name.
        deployment: The sections about the deployment, which are not this package's.
    """
    parts = [f"{_ABOUT}\n[docdb-stream]", *explained(Settings, leave_out=PER_STREAM), _heading(_TARGETS)]
    for name, model in settings_models(TARGETS).items():
        parts += [_heading(name), *explained(model)]
    parts += [_heading(_OTHERS)] if others else []
    for name, model in (others or {}).items():
        parts += [_heading(name), *explained(model, are_on=False)]
    parts += [deployment] if deployment else []
    parts += [f"{_heading(_STREAMS)}\n\n[stream {_example(Settings, 'stream_name')}]"]
    parts += [
        f"{_comment(Settings, name)}\n{name} = {_example(Settings, name)}"
        for name in Settings.model_fields
        if name in PER_STREAM and name != "stream_name"
    ]
    parts += [f"{_wrapped(_ANY_KEY)}\nstdout = true\n"]
    return "\n\n".join(parts).replace("]\n\n", "]\n")


def explained(model: type[SettingsModel], leave_out: Iterable[str] = (), *, are_on: bool = True) -> Iterator[str]:
    """The settings of a model as paragraphs of config.ini; those that may be left out are commented out.

    Args:
        model: What to explain.
        leave_out: Settings that are explained elsewhere.
        are_on: Whether those that may not be left out are needed; otherwise they are commented out, too.
    """
    for name, info in model.model_fields.items():
        if name in leave_out:
            continue
        if heading := marked(model, Heading).get(name):
            yield _heading(heading.text)
        line = f"{name} = {_example(model, name)}".rstrip()
        yield f"{_comment(model, name)}\n{line if info.is_required() and are_on else f'# {line}'}"


def table(*models: type[SettingsModel], leave_out: Iterable[str] = ()) -> str:
    """The settings of models as a table of Markdown: key, default, meaning."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for model in models:
        for name, info in model.model_fields.items():
            if name not in leave_out:
                keys = " or ".join(f"`{key}`" for key, field in names(model).items() if field == name)
                meaning = (info.description or "").replace("|", "\\|")
                rows.append(
                    f"| {keys} | {'**required**' if info.is_required() else _default(model, name)} | {meaning} |"
                )
    return "\n".join(rows)


def _heading(text: str) -> str:
    return f"# --- {text} ---"


def _comment(model: type[SettingsModel], name: str) -> str:
    """What a setting is about, and its default; ``Absent: ...`` at the end of a description is about that."""
    info = model.model_fields[name]
    meaning, _, without = (info.description or "").partition("Absent: ")
    default = f"none ({without.removesuffix('.')})" if without else _default(model, name, empty="empty")
    if name.endswith("_bytes") and isinstance(info.default, int):
        default += f" ({_size(info.default)})"
    said = " Required." if info.is_required() else f" Default: {default}."
    if len(said) < _KEPT_TOGETHER:
        said = " " + said.strip().replace(" ", _NO_BREAK)
    return _wrapped((meaning.strip() + said).strip())


def _wrapped(text: str) -> str:
    filled = textwrap.fill(
        text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )
    return filled.replace(_NO_BREAK, " ")


def _size(size_bytes: int) -> str:
    unit, of = (1024 * 1024, "MiB") if size_bytes % (1024 * 1024) == 0 else (1024, "KiB")
    return f"{size_bytes // unit} {of}" if size_bytes % unit == 0 else f"{size_bytes} bytes"


def _example(model: type[SettingsModel], name: str) -> str:
    info = model.model_fields[name]
    return str(info.examples[0]) if info.examples else "" if info.is_required() else _text(_value(model, name))


def _default(model: type[SettingsModel], name: str, empty: str = "none") -> str:
    info = model.model_fields[name]
    if info.default_factory and not isinstance(info.default_factory, type):
        return "made when it is read"
    if info.is_required() or _value(model, name) in (None, ()):
        return "none"
    return _text(_value(model, name)) or empty


def _value(model: type[SettingsModel], name: str) -> Any:
    """A setting's default, without what must not be shown. What is made when it is read may be of this machine, or a
    secret: that is not made here, and empty where a type makes it, as ``list`` does."""
    info = model.model_fields[name]
    if not info.default_factory:
        return shown(model, name, info.default)
    return () if isinstance(info.default_factory, type) else None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list | set | frozenset):
        return ",".join(map(str, value))
    return "" if value is None else str(value)
