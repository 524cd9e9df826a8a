"""Reads keys and values into frozen models: the sections of an ini file, and whatever else has them as text.

Owns what is said of an unknown key, of a wrong value and of a secret where none belongs: of all, at once. Knows no
setting.
"""

from __future__ import annotations

import configparser
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from docdb_stream.errors import ConfigError
from docdb_stream.settings.model import Address, Hidden, SettingsModel, is_unshown, marked, names, without_secrets

_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_HINT = "see config.ini in the repository, or docdb-stream config, for every key with its unit, default and effect"

M = TypeVar("M", bound=SettingsModel)


@dataclass(frozen=True)
class Keys:
    """The keys that may be given in one place, and what they set.

    Attributes:
        find: The model and the field that a key sets, or None.
        all: Every key there is; asked for when one is unknown.
        why_unknown: What else may be the reason that one is unknown.
    """

    find: Callable[[str], tuple[type[SettingsModel], str] | None]
    all: Callable[[], Iterable[str]]
    why_unknown: Callable[[], Iterable[str]] = tuple

    @classmethod
    def of(cls, model: type[SettingsModel]) -> Keys:
        """Those of a model."""
        return cls(lambda key: (model, names(model)[key]) if key in names(model) else None, lambda: names(model))

    def unknown(self, what: str, key: str, upper: bool = False) -> str:
        """The problem of a key that there is not."""
        near = difflib.get_close_matches(key, list(self.all()), n=1)
        meant = [f"; did you mean {near[0].upper() if upper else near[0]}?"] if near else []
        return what + "".join(meant or [f" ({reason})" for reason in self.why_unknown()])


@dataclass
class ConfigFile:
    """A config.ini: its sections, and the problems found so far in them.

    Attributes:
        path: The file.
        environ: What ``${NAME}`` stands for.
        problems: One line for each.

    Raises:
        ConfigError: The file cannot be read.
    """

    path: str
    environ: Mapping[str, str]
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._parser = _parse(self.path)

    @property
    def sections(self) -> list[str]:
        """Their names, in the file's order."""
        return self._parser.sections()

    def text(self, section: str, key: str) -> str | None:
        """What a section sets a key to, as it stands there; None where it does not."""
        found: str | None = self._parser.get(section, key, fallback=None)
        return None if found is None else found.strip()

    def entries(self, section: str, keys: Keys) -> dict[str, str]:
        """What a section sets, by the names of the fields, references replaced; empty if there is no such section.

        A key that is unknown and a reference to nothing become problems, and so does a secret in the file.
        """
        if not self._parser.has_section(section):
            return {}
        return dict(self._entries(section, keys))

    def read(self, model: type[M], section: str, also: Mapping[str, str] | None = None) -> M | None:
        """A section as a model; None if that cannot be, which is then a problem.

        Args:
            model: What its keys are.
            section: Its name.
            also: What holds for keys that the section does not have.
        """
        return validated(
            model, {**(also or {}), **self.entries(section, Keys.of(model))}, f"[{section}]", self.problems
        )

    def settled(self) -> None:
        """Raises ConfigError, with every problem, if there are any."""
        if self.problems:
            raise config_error(self.path, self.problems)

    def raw(self, key: str) -> Iterator[str]:
        """What any section sets a key to, references replaced and nothing checked."""
        for section in self.sections:
            value = self._parser.get(section, key, fallback="")
            yield _REFERENCE.sub(lambda match: self.environ.get(match[1], ""), value)

    def _entries(self, section: str, keys: Keys) -> Iterator[tuple[str, str]]:
        for key, value in self._parser.items(section):
            found = keys.find(key)
            if found is None:
                self.problems.append(keys.unknown(f"[{section}] {key}: unknown key", key))
                continue
            self.problems += [
                f"[{section}] {key}: the environment variable {name} is not set"
                for name in _REFERENCE.findall(value)
                if name not in self.environ
            ]
            if not _REFERENCE.search(value):
                self.problems += [f"[{section}] {key}: {problem}" for problem in _secrets_in(value, *found)]
            yield found[1], _REFERENCE.sub(lambda match: self.environ.get(match[1], ""), value)


def _secrets_in(value: str, model: type[SettingsModel], field: str) -> Iterator[str]:
    address = marked(model, Address).get(field)
    if address and without_secrets(value) != value:
        instead = f"{address.secret}, or " if address.secret else ""
        yield f"a password in the file; use {instead}${{NAME}} for an environment variable"
    if field in marked(model, Hidden) and value.strip():
        yield "a secret in the file; use ${NAME} for an environment variable"


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


def validated(
    model: type[M],
    values: Mapping[str, Any],
    where: str,
    problems: list[str],
    keys: Keys | None = None,
    *,
    upper: bool = False,
) -> M | None:
    """The model with these values; None if they are wrong, which are then problems.

    Args:
        model: What to make.
        values: By the names of its fields.
        where: Begins each problem.
        problems: Where these go.
        keys: Which keys there are besides the model's.
        upper: Whether keys are said as the environment has them.
    """
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems += [
            _problem(detail, where, keys or Keys.of(model), upper) for detail in error.errors(include_url=False)
        ]
    except ConfigError as error:
        problems.append(f"{where}: {error}; {error.hint}")
    return None


def _problem(detail: Any, where: str, keys: Keys, upper: bool) -> str:
    """One line: the key, what is expected, what was found (never a value that may hold a secret)."""
    name = str(detail["loc"][0]) if detail["loc"] else ""
    key = name.upper() if upper else name
    found = keys.find(name)
    if found is None:
        message = detail["msg"].removeprefix("Value error, ")
        return f"{where} {key}: {message}" if key else f"{where}: {message[:1].lower()}{message[1:]}"
    info = found[0].model_fields[found[1]]
    if detail["type"] == "missing":
        return f"{where} {key}: missing; expected: {(info.description or '').partition('. ')[0].rstrip('.')}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if detail["type"] == "string_pattern_mismatch" and info.examples:
        message = f"expected something like {info.examples[-1]}"
    elif detail["type"] == "value_error":
        message = message[:1].lower() + message[1:]
    else:
        message = f"expected {message}"
    is_shown = isinstance(detail["input"], (str, int)) and not is_unshown(*found)
    return f"{where} {key}: {message}" + (f", found {str(detail['input'])!r}" if is_shown else "")


def config_error(where: str, problems: Sequence[str]) -> ConfigError:
    """The error that tells all of them, each once."""
    problems = tuple(dict.fromkeys(problems))
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigError(f"{where}: {count} with the settings", hint=_HINT, problems=problems)
