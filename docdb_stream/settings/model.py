"""What all settings have in common: a frozen model of keys, with marks on its fields for what must not be shown.

Owns the base class, the marks and the hiding. Which settings there are is ``stream``'s, the targets' and infra's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar, get_args

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    SecretBytes,
    SecretStr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError


class Mark:
    """What ``Annotated`` adds to a field, to say more of it than its type does."""


M = TypeVar("M", bound=Mark)


@dataclass(frozen=True)
class Address(Mark):
    """Marks a field that is an address, which can hold a password: that part of it is never shown.

    Attributes:
        secret: The setting that says where the password should be instead; empty if there is none.
    """

    secret: str = ""


@dataclass(frozen=True)
class Hidden(Mark):
    """Marks a field whose value is a secret as a whole: ``***`` is shown for it. So are pydantic's SecretStr and
    SecretBytes, and a model with such a field."""


@dataclass(frozen=True)
class Reference(Mark):
    """Marks a field that says where a secret is, see ``SecretReference``."""


@dataclass(frozen=True)
class Heading(Mark):
    """Marks the first field of a part of config.ini, and says what the part is about."""

    text: str


class SettingsModel(BaseModel):
    """Base of all settings. Frozen; an unknown key is an error, and an empty text counts as not given.

    What ``Address`` and ``Hidden`` mark shows in the attribute itself and nowhere else: not in a repr, an error or a
    dump. So to make other settings of some, take ``model_copy``.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, str_strip_whitespace=True, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _blank_is_absent(cls, values: Any) -> Any:
        """An empty variable is one that is not set: CloudFormation and shells cannot always leave one out."""
        if isinstance(values, dict):
            return {key: value for key, value in values.items() if not (isinstance(value, str) and not value.strip())}
        return values

    @model_serializer(mode="wrap")
    def _dumped(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        return {name: shown(type(self), name, value) for name, value in dump(self).items()}

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, shown(type(self), name or "", value)


@cache
def names(model: type[BaseModel]) -> dict[str, str]:
    """Every accepted name, in lower case -> the field it sets."""
    found: dict[str, str] = {}
    for field, info in model.model_fields.items():
        alias = info.validation_alias
        others = alias.choices if isinstance(alias, AliasChoices) else [alias]
        found |= {name: field for name in (field, *others) if isinstance(name, str)}
    return found


def marked(model: type[BaseModel], kind: type[M]) -> dict[str, M]:
    """The fields with a mark of this kind, wherever in the field's type it is -> the mark."""
    return {field: mark for field, mark in _marks(model) if isinstance(mark, kind)}


@cache
def _marks(model: type[BaseModel]) -> list[tuple[str, Mark]]:
    return [
        (field, mark)
        for field, info in model.model_fields.items()
        for mark in (*info.metadata, *_metadata(info.annotation))
        if isinstance(mark, Mark)
    ]


def _metadata(annotation: Any) -> Iterator[Any]:
    """All that ``Annotated`` adds within a type, as in ``Annotated[str, Hidden()] | None``."""
    yield from getattr(annotation, "__metadata__", ())
    is_secret = isinstance(annotation, type) and issubclass(annotation, (SecretStr, SecretBytes))
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    if is_secret or (is_model and _marks(annotation)):
        yield Hidden()
    for part in get_args(annotation):
        yield from _metadata(part)


def is_unshown(model: type[BaseModel], field: str) -> bool:
    """Whether an error must not repeat what was given for the field."""
    return any(field in marked(model, kind) for kind in (Address, Hidden, Reference))


def shown(model: type[BaseModel], name: str, value: Any) -> Any:
    """A field's value without what its marks hide."""
    if name in marked(model, Hidden):
        return value if value in (None, "") else "***"
    return _without_passwords(value) if name in marked(model, Address) else value


def _without_passwords(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_passwords(each) for key, each in value.items()}
    if isinstance(value, (tuple, list, set, frozenset)):
        return type(value)(map(_without_passwords, value))
    return without_secrets(value) if isinstance(value, str) else value


_USER = re.compile(r"^((?:[a-z][a-z0-9+.-]*://)?+[^:@/?#]*:).+@", re.IGNORECASE | re.DOTALL)
"""A user name and password before the last @: a password that should be percent-encoded can hold any character."""
_PARAMETER = re.compile(r"([?&][^=&#]*(?:password|token|secret|signature)=|AWS_SESSION_TOKEN:)[^&,#]+", re.IGNORECASE)


def without_secrets(address: str) -> str:
    """An address with ``***`` for its password, and for parameters that are named like one."""
    return _PARAMETER.sub(r"\1***", _USER.sub(r"\1***@", address))


def line_errors(error: ValidationError) -> list[InitErrorDetails]:
    """What is wrong, so that errors of several models can be told as one."""
    return [
        InitErrorDetails(type=PydanticCustomError(each["type"], each["msg"]), loc=each["loc"], input=each["input"])
        for each in error.errors(include_url=False)
    ]
