"""The types that settings have: what is written, and what it means."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from docdb_stream import template
from docdb_stream.formats import known_format
from docdb_stream.settings.model import Address as Address
from docdb_stream.settings.model import Hidden as Hidden
from docdb_stream.settings.model import Reference

StartAt = Literal["now", "earliest"] | dt.datetime

FormatName = Annotated[str, AfterValidator(known_format)]
"""The name of a format, as ``payload_format`` and each target's own have it."""

OwnFormat = Annotated[
    FormatName | None,
    Field(description="As payload_format, for this target alone. Absent: payload_format.", examples=["document"]),
]
"""The type of a target's own ``<target>_payload_format``; None: the stream's."""


def parse_start_at(value: object) -> object:
    """Where to start, as it is written: ``now`` and ``earliest`` in any case; a timestamp without a zone is UTC.

    Raises:
        ValueError: It is text, and neither of these.
    """
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("now", "earliest"):
            return word
        try:
            value = dt.datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError("expected now, earliest or an ISO 8601 timestamp such as 2026-01-31T12:00:00Z") from None
    if isinstance(value, dt.datetime) and value.tzinfo is None:
        return value.replace(tzinfo=dt.UTC)
    return value


DATABASE_NAME_BYTES = 63
"""MongoDB limits, "Length of Database Names"; what a name must not hold is under "Restrictions on Database Names for
Unix and Linux Systems"."""

_NOT_IN_DATABASE_NAMES = frozenset('/\\. "$\0')
_INTERNAL_DATABASES = frozenset({"admin", "config", "local"})
"""Which change streams cannot watch (MongoDB manual, "Watch a Collection, Database, or Deployment")."""


def _database_name(name: str) -> str:
    """A name that a database can have; the others are mostly meant as something else."""
    if "." in name:
        db, _, coll = name.partition(".")
        raise ValueError(f"no database is called so; for the collection {coll} of {db}, give each its own setting")
    if name == "*":
        raise ValueError("no database is called so; leave it out to watch the whole deployment")
    if _NOT_IN_DATABASE_NAMES & set(name) or len(name.encode()) > DATABASE_NAME_BYTES:
        raise ValueError(
            f"no database is called so: at most {DATABASE_NAME_BYTES} bytes, without / \\ . $, quotes and blanks"
        )
    return name


def _watched_database(name: str) -> str:
    if name in _INTERNAL_DATABASES:
        raise ValueError("the server does not let its own databases be watched (admin, config, local)")
    return _database_name(name)


def _collection_name(name: str) -> str:
    if "\0" in name or name.startswith("."):
        raise ValueError("no collection is called so")
    return name


TemplateText = Annotated[str, AfterValidator(template.checked)]
"""A name or key with fields in braces, see ``template.Template``."""

StartTime = Annotated[StartAt, BeforeValidator(parse_start_at)]
DatabaseName = Annotated[str, AfterValidator(_database_name)]
WatchedDatabase = Annotated[str, AfterValidator(_watched_database)]
CollectionName = Annotated[str, AfterValidator(_collection_name)]


def split_words(text: str) -> tuple[str, ...]:
    """The words of a list written with commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def words(value: object) -> object:
    """A list written with commas, as a tuple; anything else as it is."""
    return split_words(value) if isinstance(value, str) else value


Words = Annotated[tuple[str, ...], BeforeValidator(words)]


def _is_a_reference(value: str | None) -> str | None:
    if value is not None and value.startswith("{"):
        raise ValueError("this is the secret itself; expected where it is: a name or ARN, env:NAME or file:PATH")
    return value


SecretReference = Annotated[str | None, AfterValidator(_is_a_reference), Reference()]
"""Where a username and a password are: the name or ARN of a Secrets Manager secret, env:NAME or file:PATH."""


def _function_path(path: str) -> str:
    """``package.module:function``, by its form alone: it is imported where it is used."""
    module, colon, function = path.partition(":")
    if not colon or not all(name.isidentifier() for name in (*module.split("."), *function.split("."))):
        raise ValueError("expected package.module:function, as Python would import it")
    return path


FunctionPath = Annotated[str, AfterValidator(_function_path)]
"""Where a Python function is; what is at hand there is not looked at."""
