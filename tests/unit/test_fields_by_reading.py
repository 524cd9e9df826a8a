"""Rules about fields against the plain reading of what they say: a mark at each leaf, looked for in every byte."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from docdb_stream.errors import UnrenderableError
from docdb_stream.events import ChangeEvent
from docdb_stream.formats import FORMATS, format_named
from docdb_stream.settings import Settings
from docdb_stream.steps.fields import Fields
from docdb_stream.testing.events import ChangeLog

LOG = ChangeLog()
KEY = "0123456789abcdef0123456789abcdef"


def redacted(event: ChangeEvent, **rules: Any) -> ChangeEvent:
    if rules.get("fields_hash"):
        rules["fields_hash_key"] = "env:HASH_KEY"
    [found] = Fields.from_settings(Settings(documentdb_uri="h", **rules))([event])
    assert isinstance(found, ChangeEvent), found
    return found


Path_ = tuple[str | int, ...]

NAMES = st.sampled_from(["a", "b", "c", "0", "1", "a.b", "b.c"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.just("leaf"),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=12,
)
RULES = st.lists(
    st.lists(st.sampled_from(["a", "b", "c", "0", "1"]), min_size=1, max_size=3).map(".".join),
    min_size=1,
    max_size=3,
    unique=True,
)


def _marked(value: Any, path: Path_, leaves: dict[str, Path_]) -> Any:
    """The value with a text of its own at each leaf."""
    if isinstance(value, dict):
        return {name: _marked(each, (*path, name), leaves) for name, each in value.items()}
    if isinstance(value, list):
        return [_marked(each, (*path, place), leaves) for place, each in enumerate(value)]
    leaves[f"cnry{len(leaves)}z"] = path
    return [*leaves][-1]


def _is_under(path: Path_, rule: str) -> bool:
    """Whether a rule is about what is at a path: with each place in an array, or without it. A name of digits may be
    one, but for the first."""
    parts = [part for each in path for part in ([str(each)] if isinstance(each, int) else each.split("."))]

    def follow(at: int, wanted: Sequence[str]) -> bool:
        if not wanted:
            return True
        if at == len(parts):
            return False
        if parts[at] == wanted[0] and follow(at + 1, wanted[1:]):
            return True
        return at > 0 and parts[at].isdecimal() and follow(at + 1, wanted)

    return follow(0, rule.split("."))


def _flattened(document: dict[str, Any]) -> dict[str, Any]:
    """As an update tells it: one level of paths."""
    flat = {}
    for name, value in document.items():
        within = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        flat.update({f"{name}.{inner}": each for inner, each in within} or {name: value})
    return flat


@settings(max_examples=250, deadline=None)
@given(VALUES.filter(lambda value: isinstance(value, dict)), RULES, st.sampled_from(["drop", "mask", "hash"]))
def test_no_value_that_a_rule_is_about_is_in_any_byte_and_every_other_is(
    value: dict[str, Any], rules: list[str], kind: str
) -> None:
    leaves: dict[str, Path_] = {}
    full = {"_id": 1, **_marked(value, (), leaves)}
    flat = _flattened({name: each for name, each in full.items() if name != "_id"})
    description = {"updatedFields": flat, "removedFields": [], "truncatedArrays": []}
    event = LOG.update(full, flat).replace(
        updateDescription=description, fullDocumentBeforeChange=full, documentKey=full
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HASH_KEY", KEY)
        found = redacted(event, **{f"fields_{kind}": ",".join(rules)})
    gone = {mark for mark, path in leaves.items() if any(_is_under(path, rule) for rule in rules)}
    raw = found.raw or b""
    assert [mark for mark in leaves if mark.encode() in raw] == [mark for mark in leaves if mark not in gone]
    for name in FORMATS:
        try:
            payload = found.render(format_named(name, "s"))
        except UnrenderableError:
            continue
        assert not [mark for mark in gone if mark.encode() in payload], name
    assert not [mark for mark in gone if mark in repr(found)]


@settings(max_examples=150, deadline=None)
@given(VALUES.filter(lambda value: isinstance(value, dict)), RULES)
def test_nothing_but_what_is_kept_is_in_any_byte(value: dict[str, Any], rules: list[str]) -> None:
    leaves: dict[str, Path_] = {}
    full = {"_id": 1, **_marked(value, (), leaves)}
    flat = _flattened({name: each for name, each in full.items() if name != "_id"})
    found = redacted(LOG.update(full, flat), fields_keep=",".join(rules))
    kept = [mark for mark, path in leaves.items() if any(_is_under(path, rule) for rule in rules)]
    assert [mark for mark in leaves if mark.encode() in (found.raw or b"")] == kept
