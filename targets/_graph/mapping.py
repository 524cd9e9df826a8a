"""Which documents make which nodes and relationships, as the settings say it.

Owns the notation: ``users: User(id=_id, name=name)`` for nodes,
``orders: (User id=user_id)-[BOUGHT at=at]->(Product id=items[].sku)`` for relationships.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from docdb_stream.targets._path import value_at

_NAME: Final = r"[^\s(){}\[\]:,;=`\x00-\x1f\x7f]+"
_NODE: Final = re.compile(rf"\s*({_NAME})\s*:\s*({_NAME})\s*\(([^()]*)\)\s*(?:[,;]|$)")
_EDGE: Final = re.compile(
    rf"\s*({_NAME})\s*:\s*\(\s*({_NAME})\s+([^()]*)\)\s*-\s*\[\s*({_NAME})((?:[^\]]|(?<=\[)\])*)\]\s*->\s*"
    rf"\(\s*({_NAME})\s+([^()]*)\)\s*(?:[,;]|$)"
)
_EACH: Final = "[]"
"""After a field: each element of the array that is there."""
_WHOLE: Final = "."
"""The whole document, as JSON."""


@dataclass(frozen=True, slots=True)
class Path:
    """Where a value is in a document, or in an element of one of its arrays.

    Attributes:
        names: The fields, from the document or from the element inwards; empty: the element, or the document, itself.
        of_element: Whether they start at an element.
    """

    names: tuple[str, ...]
    of_element: bool = False

    def value(self, document: Any, element: Any) -> Any:
        """What is there; None where nothing is."""
        return value_at(element if self.of_element else document, self.names)


@dataclass(frozen=True, slots=True)
class NodeRule:
    """A node for each document of a collection.

    Attributes:
        collection: The collection's name, without that of its database.
        label: The node's label.
        identity: The property that tells nodes of the label apart.
        identity_path: What it is made of.
        properties: The other properties, each with what it is made of.
    """

    collection: str
    label: str
    identity: str
    identity_path: Path
    properties: tuple[tuple[str, Path], ...]


@dataclass(frozen=True, slots=True)
class End:
    """Where a relationship begins or ends: the node of a label whose identity a path has."""

    label: str
    identity: str
    path: Path


@dataclass(frozen=True, slots=True)
class EdgeRule:
    """A relationship for each document of a collection, or for each element of one of its arrays.

    Attributes:
        collection: The collection's name, without that of its database.
        type: The relationship's type.
        start: Where it begins.
        end: Where it ends.
        properties: Its properties, each with what it is made of.
        array: Where the array is; None: one relationship for the document.
    """

    collection: str
    type: str
    start: End
    end: End
    properties: tuple[tuple[str, Path], ...]
    array: tuple[str, ...] | None

    def elements(self, document: Mapping[str, Any]) -> Sequence[Any]:
        """What there is a relationship for: the array's elements, or None once where there is no array."""
        if self.array is None:
            return (None,)
        found = value_at(document, self.array)
        return found if isinstance(found, list) else ()


@dataclass(frozen=True, slots=True)
class GraphMapping:
    """All of it.

    Attributes:
        nodes: Of a collection there may be several.
        edges: Likewise.
    """

    nodes: tuple[NodeRule, ...]
    edges: tuple[EdgeRule, ...]

    @property
    def identities(self) -> Mapping[str, str]:
        """Each label, with the property that tells its nodes apart: unique in the database."""
        return dict(self.labelled())

    @property
    def collections(self) -> frozenset[str]:
        """Those whose documents make something."""
        return frozenset([*(node.collection for node in self.nodes), *(edge.collection for edge in self.edges)])

    def labelled(self) -> Iterator[tuple[str, str]]:
        """Label and identity of every rule, also of one label several times."""
        for node in self.nodes:
            yield node.label, node.identity
        for edge in self.edges:
            yield edge.start.label, edge.start.identity
            yield edge.end.label, edge.end.identity


def mapping_of(nodes: str, edges: str) -> GraphMapping:
    """The mapping that two settings say, rules being apart by commas, semicolons or lines.

    Raises:
        ValueError: One cannot be read, or they contradict each other; the message quotes the rule.
    """
    found = GraphMapping(
        tuple(_node(match) for match in _matches(_NODE, nodes, "users: User(id=_id, name=name)")),
        tuple(
            _edge(match) for match in _matches(_EDGE, edges, "orders: (User id=user)-[BOUGHT at=at]->(Product id=sku)")
        ),
    )
    if not found.nodes and not found.edges:
        raise ValueError("there is neither a node nor a relationship to make")
    for label, identity in found.labelled():
        if found.identities[label] != identity:
            raise ValueError(
                f"{label}: nodes of a label have one identity, and {identity} and {found.identities[label]} are said "
                "to be it"
            )
    said = [(rule.collection, rule.label) for rule in found.nodes]
    if len(set(said)) < len(said):
        raise ValueError("a collection's documents make one node of a label at most: leave the second rule out")
    return found


def _matches(pattern: re.Pattern[str], text: str, example: str) -> list[re.Match[str]]:
    found, at = [], 0
    while text[at:].strip():
        match = pattern.match(text, at)
        if match is None:
            raise ValueError(f"{text[at:].strip()}: expected a rule such as {example}")
        found.append(match)
        at = match.end()
    return found


def _node(match: re.Match[str]) -> NodeRule:
    collection, label, inner = match.groups()
    properties, array = _properties(inner, match[0])
    if array is not None:
        raise ValueError(f"{match[0].strip()}: a document makes one node, so no path can have []")
    if not properties:
        raise ValueError(f"{match[0].strip()}: the first property is the identity, and there is none")
    (identity, path), *others = properties
    return NodeRule(collection, _label(label), identity, path, tuple(others))


def _edge(match: re.Match[str]) -> EdgeRule:
    collection, start, start_inner, kind, inner, end, end_inner = match.groups()
    arrays = set()
    ends = []
    for label, text in ((start, start_inner), (end, end_inner)):
        found, array = _properties(text, match[0])
        if len(found) != 1:
            raise ValueError(f"{match[0].strip()}: an end is its label and its identity, as in (User id=user_id)")
        ends.append(End(_label(label), *found[0]))
        arrays.add(array)
    properties, array = _properties(inner, match[0])
    arrays = {*arrays, array} - {None}
    if len(arrays) > 1:
        raise ValueError(f"{match[0].strip()}: all paths with [] have to be of one array")
    return EdgeRule(collection, kind, ends[0], ends[1], tuple(properties), arrays.pop() if arrays else None)


def _label(text: str) -> str:
    if text.startswith("DocdbStream"):
        raise ValueError(f"{text}: labels that begin with DocdbStream are for versions and positions")
    return text


def _properties(text: str, rule: str) -> tuple[list[tuple[str, Path]], tuple[str, ...] | None]:
    """The properties of ``name=path, ...``, and the array that paths are of."""
    found: dict[str, Path] = {}
    arrays = set()
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, path = map(str.strip, part.partition("="))
        if not equals or not re.fullmatch(_NAME, name) or name.startswith("_") or name in found:
            raise ValueError(
                f"{rule.strip()}: {part}: expected name=path, each name once and none that begins with _, as in at=at"
            )
        if path == _WHOLE:
            found[name] = Path(())
            continue
        before, each, after = path.partition(_EACH)
        names = tuple((after.removeprefix(".") if each else before).split("."))
        array = tuple(before.split(".")) if each else None
        is_element = bool(each) and not after
        is_bad = each and ("" in (array or ()) or _EACH in after or (after and not after.startswith(".")))
        if is_bad or ("" in names and not is_element):
            raise ValueError(f"{rule.strip()}: {path}: expected a path such as total, order.total or items[].sku")
        found[name] = Path(() if is_element else names, bool(each))
        if array is not None:
            arrays.add(array)
    if len(arrays) > 1:
        raise ValueError(f"{rule.strip()}: all paths with [] have to be of one array")
    return list(found.items()), arrays.pop() if arrays else None
