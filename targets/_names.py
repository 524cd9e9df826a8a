"""Names and keys of events at a service: as it accepts them, and as a template makes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from docdb_stream.event import ChangeEvent
from docdb_stream.position import Namespace
from docdb_stream.template import AllowList, MissingValueError, Template


def distinct_name(original: str, accepted: str, max_bytes: int) -> str:
    """``original`` where the service accepts it, else a name as near to it that no other original shares.

    A changed name ends in ``-`` and eight hexadecimal digits of the original's SHA-256, so that ``shop.Orders`` and
    ``shop.orders`` never end up in one place unnoticed.

    Args:
        original: The wanted name.
        accepted: The wanted name with everything replaced that the service does not accept.
        max_bytes: The service's limit, in bytes of UTF-8.
    """
    if accepted == original and len(original.encode()) <= max_bytes:
        return original
    suffix = "-" + hashlib.sha256(original.encode()).hexdigest()[:8]
    return accepted.encode()[: max_bytes - len(suffix)].decode(errors="ignore") + suffix


class TargetName:
    """A name that a template makes: of a topic, an index, a prefix.

    Args:
        text: The template.
        setting: The setting of the allow-list.
        allow: The names that may be made of data.
        quote: What is made of each field's text, where not every character may stand for itself.
    """

    def __init__(
        self, text: str, setting: str, allow: Sequence[str], quote: Callable[[str], str] | None = None
    ) -> None:
        self._template = Template(text)
        self._quote = quote
        self._allowed = AllowList(setting, allow) if allow or self._template.is_of_data else None
        self.is_of_namespace = self._template.is_of_namespace
        """Whether the name is the same for all events of a namespace."""
        self.tells_namespaces = {"db", "coll"} <= self._template.fields
        """Whether no two collections have the same."""

    def of(self, event: ChangeEvent, namespace: Namespace | None = None) -> str:
        """The name for an event. Raises UnrenderableError where there is none, or it is not allowed."""
        name = self._template.render(event, namespace, self._quote)
        return name if self._allowed is None else self._allowed.check(name)


def key_of(event: ChangeEvent, template: Template, default: str | None) -> str | None:
    """The key that a template makes, or ``default`` for an event that has no value for it.

    Raises:
        UnrenderableError: The event cannot be decoded.
    """
    try:
        return template.render(event) or default
    except MissingValueError:
        return default


def require_allow_list(setting: str, text: str | None, allow: Sequence[str]) -> None:
    """Whoever can write to the collection says what is in a document: names are not made of it without a list.

    Raises:
        ValueError: The template makes names of data, and nothing says which may be made.
    """
    if text is not None and Template(text).is_of_data and not allow:
        raise ValueError(
            f"{setting} makes names of data: say in {setting}_allow which may be made (a * stands for any text)"
        )


def shares_names(template: Template, scope: Namespace | None) -> bool:
    """Whether several collections of what is watched have one name."""
    needed = {"db", "coll"} if scope is None else set() if scope.coll is not None else {"coll"}
    return not needed <= template.fields


def order_cautions(**templates: str | None) -> Iterable[str]:
    """For each template, by its setting, that parts the events of one document, that it does."""
    for setting, text in templates.items():
        if text is not None and (changing := Template(text).changing):
            fields = " and ".join(f"{{{name}}}" for name in changing)
            yield (
                f"{setting.upper()}: {fields} can differ between two changes of one document, which then keep no order "
                "among themselves"
            )
