"""Names and keys made of an event: a text with fields in braces.

Owns which fields there are, what they say of an event, and what that means for the order of a document's events. What a
service accepts as a name is its target's matter.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from bson import Decimal128, ObjectId

from docdb_stream.errors import UnrenderableError
from docdb_stream.namespaces import expression

if TYPE_CHECKING:
    from docdb_stream.event import ChangeEvent
    from docdb_stream.position import Namespace

FIELDS: Final = ("db", "coll", "operation", "key", "event_id")
"""What can stand in braces, besides ``document.PATH``."""

_DOCUMENT: Final = "document."
_NAMESPACE_FIELDS: Final = frozenset({"db", "coll"})
_FIXED_FIELDS: Final = frozenset({"db", "coll", "key"})
"""Fields that say the same for every event of one document."""

_TELLING_FIELDS: Final = frozenset({"key", "document._id"})
"""Fields by which each document of a collection is told from the others."""

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")


class MissingValueError(UnrenderableError):
    """The event has no value, or none that a name could be made of, at a template's ``{document.PATH}``."""


class Template:
    """A text with fields in braces: ``{db}``, ``{coll}``, ``{operation}``, ``{key}`` (the document key as text),
    ``{event_id}``, and ``{document.PATH}``, the value at a dotted path of the document. ``{{`` and ``}}`` are braces.

    Args:
        text: The template.

    Raises:
        ValueError: It is empty, a brace has no other, or a field is unknown.
    """

    def __init__(self, text: str) -> None:
        if not text:
            raise ValueError("a template needs some text")
        self.text = text
        pieces = [*_pieces(text)]
        self._pieces = tuple(pieces)
        self.fields = frozenset(name for name, is_field in pieces if is_field)
        """The names in braces."""

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    @property
    def is_of_namespace(self) -> bool:
        """Whether it says the same for all events of a namespace."""
        return self.fields <= _NAMESPACE_FIELDS

    @property
    def is_of_data(self) -> bool:
        """Whether what is in documents has a part in it."""
        return any(name == "key" or name.startswith(_DOCUMENT) for name in self.fields)

    @property
    def is_of_one_document(self) -> bool:
        """Whether no two documents of a collection have it in common."""
        return not self.fields.isdisjoint(_TELLING_FIELDS)

    @property
    def changing(self) -> tuple[str, ...]:
        """The fields that need not say the same for two events of one document: by them, events part that have to keep
        their order. None where the order of each document is kept."""
        return tuple(sorted(name for name in self.fields if not _is_fixed(name)))

    def render(
        self, event: ChangeEvent, namespace: Namespace | None = None, quote: Callable[[str], str] | None = None
    ) -> str:
        """The text for an event.

        Args:
            event: The event.
            namespace: What ``{db}`` and ``{coll}`` say, instead of the event's own; a missing collection is empty.
            quote: What is made of each field's text, where not every character may stand for itself.

        Raises:
            MissingValueError: There is no text, number, date, ObjectId or boolean at a ``{document.PATH}``: in the
                document, or else in the one before the change, or else in the document key.
            UnrenderableError: The event cannot be decoded, or its key not be said.
        """
        texts = []
        for piece, is_field in self._pieces:
            text = _field(piece, event, namespace or event.namespace) if is_field else piece
            texts.append(quote(text) if is_field and quote else text)
        return "".join(texts)


def checked(text: str) -> str:
    """``text``, if it is a template. Raises ValueError as ``Template`` does."""
    return Template(text).text


class AllowList:
    """The names that may be made of data. A ``*`` stands for any text.

    Args:
        setting: The setting that holds them, for messages.
        patterns: The names.
    """

    def __init__(self, setting: str, patterns: Iterable[str]) -> None:
        self._setting = setting
        self._allowed = re.compile("|".join(map(expression, patterns)) or r"(?!)", re.DOTALL)

    def check(self, name: str) -> str:
        """``name``, if it may be used. Raises UnrenderableError where it may not."""
        if self._allowed.fullmatch(name):
            return name
        raise UnrenderableError(f"the name made of the document is not in {self._setting}")


def _pieces(text: str) -> Iterable[tuple[str, bool]]:
    for found in _PIECE.finditer(text):
        whole, name = found.group(), found.group(1)
        if name is not None:
            yield _known(name.strip()), True
        elif whole in ("{{", "}}"):
            yield whole[0], False
        elif whole in "{}":
            raise ValueError(f"a brace without its other one, at character {found.start() + 1}; a brace itself is two")
        else:
            yield whole, False


def _known(name: str) -> str:
    path = name.removeprefix(_DOCUMENT)
    if name in FIELDS:
        return name
    if path != name and all(path.split(".")) and not any(part.startswith("$") for part in path.split(".")):
        return name
    known = ", ".join(f"{{{each}}}" for each in (*FIELDS, "document.PATH"))
    raise ValueError(f"there is no field {{{name}}}; expected {known}")


def _is_fixed(name: str) -> bool:
    return name in _FIXED_FIELDS or name == "document._id" or name.startswith("document._id.")


def _field(name: str, event: ChangeEvent, namespace: Namespace) -> str:
    match name:
        case "db":
            return namespace.db
        case "coll":
            return namespace.coll or ""
        case "operation":
            return event.operation
        case "event_id":
            return event.event_id
        case "key":
            return event.key or ""
    return _of_document(event.document, name.removeprefix(_DOCUMENT))


def _of_document(document: Mapping[str, Any], path: str) -> str:
    for field in ("fullDocument", "fullDocumentBeforeChange", "documentKey"):
        text = _text(_value(document.get(field), path.split(".")))
        if text is not None:
            return text
    raise MissingValueError(f"document.{path}: no text, number, date, ObjectId or boolean there")


def _value(value: Any, path: list[str]) -> Any:
    for part in path:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _decimal_text(number: Decimal) -> str:
    """Exact, and of any size: ``str(int)`` refuses more than 4,300 digits, and ``normalize`` rounds."""
    if not number.is_finite():
        return "NaN" if number.is_nan() else str(number)
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _text(value: Any) -> str | None:
    """A value as text: the same for numbers that are equal."""
    match value:
        case bool():
            return "true" if value else "false"
        case Decimal128():
            return _decimal_text(value.to_decimal())
        case float():
            if not math.isfinite(value):
                return _decimal_text(Decimal(value))
            return str(int(value)) if value.is_integer() else repr(value)
        case int():
            return str(int(value))
        case ObjectId():
            return str(value)
        case dt.datetime():
            return value.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
    return value if type(value) is str and value else None
