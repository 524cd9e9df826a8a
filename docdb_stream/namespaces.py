"""Names of databases, and patterns of namespaces, as NAMESPACES has them: which collections they mean.

Owns what a database can be called, how a pattern is written and what it matches. Who leaves events out by it is the
steps' and the server's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from docdb_stream.position import Namespace

INTERNAL_DATABASES = frozenset({"admin", "config", "local"})
"""The server's own, which change streams cannot watch (MongoDB manual, "Watch a Collection, Database, or
Deployment")."""

DATABASE_NAME_BYTES = 63
"""MongoDB limits, "Length of Database Names"; what a name must not hold is under "Restrictions on Database Names for
Unix and Linux Systems"."""

_NOT_IN_DATABASE_NAMES = frozenset('/\\. "$\0')


def can_name_a_database(text: str) -> bool:
    """Whether a database can be called so, as far as characters and length go."""
    return not _NOT_IN_DATABASE_NAMES & set(text) and len(text.encode()) <= DATABASE_NAME_BYTES


@dataclass(frozen=True)
class NamespacePattern:
    """``db.coll``, where ``*`` stands for any text, also for none. The first dot separates: no database has one in its
    name, collections can.

    Attributes:
        db: The database's part.
        coll: The collection's part.
    """

    db: str
    coll: str

    @classmethod
    @lru_cache
    def of(cls, text: str) -> NamespacePattern:
        """The pattern that is written so."""
        db, _, coll = text.partition(".")
        return cls(db, coll)

    def matches(self, namespace: Namespace) -> bool:
        """Whether it means this collection; of a whole database, whether it means a collection that can be there."""
        if not self.matches_database(namespace.db):
            return False
        return namespace.coll is None or self._coll.fullmatch(namespace.coll) is not None

    def matches_database(self, db: str) -> bool:
        """Whether it means collections of this database."""
        return self._db.fullmatch(db) is not None

    @cached_property
    def _db(self) -> re.Pattern[str]:
        return re.compile(expression(self.db), re.DOTALL)

    @cached_property
    def _coll(self) -> re.Pattern[str]:
        return re.compile(expression(self.coll), re.DOTALL)


def expression(pattern: str) -> str:
    """The regular expression, of Python and of MongoDB, for all of a text that matches. The first place where a text
    between two stars occurs does as well as any other, so none is gone back to: many stars take no longer."""
    first, *others = map(re.escape, re.split(r"\*+", pattern))
    if not others:
        return first
    *between, last = others
    return first + "".join(f"(?>.*?{text})" for text in between) + f".*{last}"
