"""The types that settings have: what is written, and what it means."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from docdb_stream import template
from docdb_stream.formats import known_format
from docdb_stream.namespaces import DATABASE_NAME_BYTES, INTERNAL_DATABASES, NamespacePattern, can_name_a_database
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


def _parse_start(value: object) -> object:
    is_snapshot = isinstance(value, str) and value.strip().lower() == "snapshot"
    try:
        return "snapshot" if is_snapshot else parse_start_at(value)
    except ValueError as error:
        raise ValueError(str(error).replace("expected now,", "expected snapshot, now,", 1)) from None


def _database_name(name: str) -> str:
    """A name that a database can have; the others are mostly meant as something else."""
    if "." in name:
        db, _, coll = name.partition(".")
        raise ValueError(f"no database is called so; for the collection {coll} of {db}, give each its own setting")
    if name == "*":
        raise ValueError("no database is called so; leave it out to watch the whole deployment")
    if not can_name_a_database(name):
        raise ValueError(
            f"no database is called so: at most {DATABASE_NAME_BYTES} bytes, without / \\ . $, quotes and blanks"
        )
    return name


def _watched_database(name: str) -> str:
    if name in INTERNAL_DATABASES:
        raise ValueError("the server does not let its own databases be watched (admin, config, local)")
    return _database_name(name)


def _collection_name(name: str) -> str:
    if "\0" in name or name.startswith("."):
        raise ValueError("no collection is called so")
    return name


TemplateText = Annotated[str, AfterValidator(template.checked)]
"""A name or key with fields in braces, see ``template.Template``."""


def _namespace_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for text in patterns:
        pattern = NamespacePattern.of(text)
        if not pattern.db or not pattern.coll:
            raise ValueError("expected db.coll, db.* or the like, with commas")
        if pattern.db in INTERNAL_DATABASES:
            raise ValueError(f"{text}: the server does not let its own databases be watched (admin, config, local)")
        if not can_name_a_database(pattern.db.replace("*", "")):
            raise ValueError(f"{text}: no database is called so; the text before the first dot is the database")
        _collection_name(pattern.coll)
    return tuple(dict.fromkeys(patterns))


OPERATIONS = ("insert", "update", "replace", "delete", "drop", "rename", "dropDatabase", "invalidate")
"""The operations of a change stream that asks for no others (MongoDB manual, "Change Events"; those that came with 6.0
are sent with ``showExpandedEvents`` alone)."""

_BY_LOWER_CASE = {name.lower(): name for name in OPERATIONS}


def _operations(given: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in given if name.lower() not in _BY_LOWER_CASE]:
        raise ValueError(f"there is no operation {', '.join(unknown)}; there are {', '.join(OPERATIONS)}")
    return tuple(dict.fromkeys(_BY_LOWER_CASE[name.lower()] for name in given))


StartTime = Annotated[StartAt | Literal["snapshot"], BeforeValidator(_parse_start)]
"""Where a stream without a checkpoint begins: somewhere in the change log, or with what there is."""
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


Operations = Annotated[Words, AfterValidator(_operations)]
"""Names of operations, in any case, as the server writes them."""
NamespacePatterns = Annotated[Words, AfterValidator(_namespace_patterns)]
"""Texts of ``NamespacePattern``."""


_EVENT_FIELDS = frozenset({"fullDocument", "fullDocumentBeforeChange", "updateDescription", "documentKey"})


def _field_path(path: str, *, may_be_id: bool) -> str:
    """A path of a document's field, as rules about fields have it: one that would never match leaves a value in."""
    first, *rest = names = path.split(".")
    problem = ""
    if first == "_id" and (rest or not may_be_id):
        problem = "_id says which document it is, and always stays as it is"
    elif "" in names:
        problem = "expected names with single dots between them, such as customer.card"
    elif "\0" in path or any(name.startswith("$") for name in names):
        problem = "a name here has no $ before it; a rule on a field is about all that is in it"
    elif any(name in ("*", "**") or name.endswith("]") for name in names):
        problem = "no * and no [] here: a rule is about every element of an array, as in items.card"
    elif first in _EVENT_FIELDS:
        problem = f"a path begins within the document: leave out {first}, the rule is about every part of the event"
    if problem:
        raise ValueError(f"{path}: {problem}")
    return path


def _field_paths(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_field_path(path, may_be_id=False) for path in paths)


def _kept_paths(paths: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(_field_path(path, may_be_id=True) for path in paths)


FieldPaths = Annotated[Words, AfterValidator(_field_paths)]
"""Dotted paths of documents' fields, as rules about them have it."""
KeptPaths = Annotated[Words, AfterValidator(_kept_paths)]
"""The same, where ``_id`` may be among them."""


def _is_a_reference(value: str | None) -> str | None:
    if value is not None and value.startswith(("{", "[", "whsec_")):
        raise ValueError("this is the secret itself; expected where it is: a name or ARN, env:NAME or file:PATH")
    return value


SecretReference = Annotated[str | None, AfterValidator(_is_a_reference), Reference()]
"""Where a username and a password (or keys) are: name or ARN of a Secrets Manager secret, env:NAME or file:PATH."""


def _function_path(path: str) -> str:
    """``package.module:function``, by its form alone: it is imported where it is used."""
    module, colon, function = path.partition(":")
    if not colon or not all(name.isidentifier() for name in (*module.split("."), *function.split("."))):
        raise ValueError("expected package.module:function, as Python would import it")
    return path


FunctionPath = Annotated[str, AfterValidator(_function_path)]
"""Where a Python function is; what is at hand there is not looked at."""
