"""Rules about fields, compiled: what becomes of a value, told by the names that lead to it.

Owns what a path means. Knows no BSON and no event: names are bytes, as they are stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final


class Action(Enum):
    """What becomes of a value as a whole. Where several rules mean it, the first of these."""

    DROP = "drop"
    MASK = "mask"
    HASH = "hash"
    PASS = "pass"


@dataclass(frozen=True, slots=True)
class Rules:
    """Dotted paths of a document's fields.

    Attributes:
        keep: Only these pass; all where there are none. ``_id`` passes always.
        drop: These do not.
        mask: Of these it is told that they are there.
        hash: Of these it can be told which are equal.
    """

    keep: Sequence[str] = ()
    drop: Sequence[str] = ()
    mask: Sequence[str] = ()
    hash: Sequence[str] = ()

    @property
    def first_names(self) -> frozenset[bytes]:
        """An event in which none of these stands has nothing for the rules; empty where all have, as with ``keep``."""
        return frozenset() if self.keep else frozenset(_parts(path)[0] for path, _ in self._actions)

    def compile(self) -> Level:
        """Where each document begins."""
        ruled, kept = _Node(), _Node()
        for path, action in self._actions:
            ruled.add(_parts(path), action)
        for path in self.keep:
            kept.add(_parts(path), Action.PASS)
        return _Compiler().level(frozenset([kept]) if self.keep else None, frozenset([ruled]), is_top=True)

    @property
    def _actions(self) -> list[tuple[str, Action]]:
        given = ((self.drop, Action.DROP), (self.mask, Action.MASK), (self.hash, Action.HASH))
        return [(path, action) for paths, action in given for path in paths]


def _parts(path: str) -> list[bytes]:
    return path.encode().split(b".")


_ID: Final = b"_id"
_POSITION: Final = re.compile(rb"0|[1-9][0-9]{0,6}", re.ASCII)
"""A place in an array: in 16 MiB there are less than ten million."""


class Level:
    """Where a path has come to that rules lead beyond: what becomes of the values one name further.

    Whether a name of digits is a place in an array an update does not say, and rules leave those out. So everywhere but
    at the top, a name of digits can be either: what it leads to is meant by rules with it, and by rules without it.

    Attributes:
        names: What becomes of the values with these names.
        other: Of those with others.
        position: Of those at a place in an array.
        names_positions: Whether rules lead on by a place in an array.
        keeps_scalars: Whether what has no fields of its own passes here.
        is_top: Whether this is where a document begins.
    """

    __slots__ = ("is_top", "keeps_scalars", "names", "names_positions", "other", "position")

    names: dict[bytes, Fate]
    other: Fate
    position: Fate
    names_positions: bool

    def __init__(self, *, keeps_scalars: bool, is_top: bool) -> None:
        self.keeps_scalars, self.is_top = keeps_scalars, is_top

    def at(self, position: int) -> Fate:
        """What becomes of the value at a place in an array."""
        return self.names.get(b"%d" % position, self.position) if self.names_positions else self.position

    def of(self, name: bytes) -> tuple[Fate, bytes | None]:
        """What becomes of the value with a name, which may be a path: an update's are, and a stored name can have dots.

        Returns:
            And how far the path leads where it goes on within what a rule is about: the rest of it is a part of that
            value, and is not told. A hash there is of the whole value, and cannot be made of a part: it is masked.
        """
        parts = name.split(b".")
        if self.is_top and parts[0] == _ID and len(parts) > 1:  # a name of its own, and no way into _id
            return self.other, None
        fate: Fate = self
        for count, part in enumerate(parts, 1):
            assert isinstance(fate, Level)
            fate = fate.names.get(part) or (fate.position if _POSITION.fullmatch(part) else fate.other)
            if fate is Action.MASK or fate is Action.HASH:
                return _within(fate, parts, count)
            if not isinstance(fate, Level):
                break
        return fate, None


Fate = Action | Level
"""What becomes of a value: this, or it depends on what is in it."""


def _within(fate: Action, parts: Sequence[bytes], count: int) -> tuple[Fate, bytes | None]:
    """What becomes of the value with a name whose first ``count`` parts lead to what is masked or hashed."""
    if fate is Action.HASH:  # in an array, each element is
        while count < len(parts) and _POSITION.fullmatch(parts[count]):
            count += 1
    return (fate, None) if count == len(parts) else (Action.MASK, b".".join(parts[:count]))


@dataclass(eq=False, slots=True)
class _Node:
    """A part of rules' paths.

    Attributes:
        children: The parts after it, by name.
        action: Of the rule that ends here.
    """

    children: dict[bytes, _Node] = field(default_factory=dict)
    action: Action | None = None

    def add(self, parts: Iterable[bytes], action: Action) -> None:
        node = self
        for part in parts:
            node = node.children.setdefault(part, _Node())
        node.action = node.action or action


_Nodes = frozenset[_Node]
_STRONGEST_FIRST: Final = list(Action)


class _Compiler:
    """Makes the levels, each once: places in arrays lead from one to itself."""

    def __init__(self) -> None:
        self._made: dict[tuple[_Nodes | None, _Nodes, bool], Level] = {}

    def level(self, kept: _Nodes | None, ruled: _Nodes, *, is_top: bool = False) -> Level:
        """The level at which these parts of rules have been reached; of those that keep, None: all is kept."""
        if (made := self._made.get((kept, ruled, is_top))) is not None:
            return made
        level = self._made[kept, ruled, is_top] = Level(keeps_scalars=kept is None, is_top=is_top)

        def after(name: bytes | None, *, is_position: bool) -> Fate:
            stays = is_position and not is_top
            return self._fate(None if kept is None else _next(kept, name, stays), _next(ruled, name, stays))

        names = {name for node in (*(kept or ()), *ruled) for name in node.children}
        level.names = {name: after(name, is_position=bool(_POSITION.fullmatch(name))) for name in names}
        level.names_positions = any(map(_POSITION.fullmatch, names))
        level.other = after(None, is_position=False)
        level.position = after(None, is_position=True)
        if is_top:
            level.names[_ID] = Action.PASS
        return level

    def _fate(self, kept: _Nodes | None, ruled: _Nodes) -> Fate:
        if kept is not None:
            if not kept:
                return Action.DROP
            if any(node.action for node in kept):
                kept = None
        actions = {node.action for node in ruled}
        for action in _STRONGEST_FIRST:
            if action in actions:
                return action
        return self.level(kept, ruled) if ruled or kept is not None else Action.PASS


def _next(nodes: _Nodes, name: bytes | None, stays: bool) -> _Nodes:
    found = {node.children[name] for node in nodes if name in node.children} if name is not None else set()
    return frozenset(found | nodes) if stays else frozenset(found)
