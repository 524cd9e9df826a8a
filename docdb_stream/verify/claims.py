"""A difference is a claim until it is proven: while writes go on, source and target are never seen at one moment.

Owns the proof. A claim is read at the source, and the target is looked at. If the change log tells of no change of the
document after the position that the stream had saved before, the stream has come past all of them: it is proven. Else
the stream is waited for until it has come past what was read, and the same is done with the time of that. If the
document changed meanwhile once more, all of it counts for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from bson import Timestamp

from docdb_stream.errors import HistoryLostError
from docdb_stream.held import Held, Holdings
from docdb_stream.position import Namespace
from docdb_stream.source import ChangeSource, LookupSource
from docdb_stream.verify.changes import changed, check_time, name_of
from docdb_stream.verify.expected import Expectations
from docdb_stream.verify.stream import StreamPosition

ROUNDS: Final = 5
"""How often a document that changes each time is looked at."""
LOOKED_UP_AT_ONCE: Final = 500

Verdict = Literal[
    "equal",
    "missing",
    "differing",
    "too many",
    "others",
    "kept",
    "rejected",
    "changing",
    "unsure",
    "undecided",
    "again",
]
"""``others``: another stream's, or nobody's. ``kept``: the settings have it stay. ``rejected``: it is in the dead
letters. ``changing``: it changed each time it was looked at, and the stream has brought changes of it meanwhile.
``unsure``: an event of which it is not known whether it was to be delivered. ``undecided``: the stream did not come
past it, or brought none. ``again``: not known yet."""

_AT_ONCE: Final = frozenset({"equal", "rejected", "others", "kept"})
"""Verdicts that the stream need not be waited for: it brings nothing that would make a difference of them."""

Origin = tuple[Namespace, bytes]
"""A document of the source: its collection and its element ``_id``."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A document of the target that may be another than it should be.

    Attributes:
        held: Which one.
        origins: The documents of the source that it may come of; empty where that cannot be told.
        since: Then, the time from which on the source was read, and no document of it was to be there.
    """

    held: Held
    origins: Sequence[Origin]
    since: Timestamp | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A claim, and what has become of it.

    Attributes:
        claim: It.
        verdict: What.
        held: What the target had.
        is_at_source: Whether the source had a document that it comes of.
    """

    claim: Claim
    verdict: Verdict
    held: Held
    is_at_source: bool = False


@dataclass(slots=True)
class _Wanted:
    """What the source says of a claim."""

    digests: set[bytes] = field(default_factory=set)
    is_there: bool = False
    is_rejected: bool = False


class Judge:
    """Decides about claims.

    Args:
        documents: The source's documents.
        changes: Its change log.
        holdings: The target's.
        expectations: What the target should have.
        stream: How far the stream has come.
        keeps_exits: Whether documents stay in the target that the steps leave out since (ON_EXIT = ignore).
        keeps_deleted: Whether deleted ones stay (OPERATIONS without delete).
    """

    def __init__(
        self,
        documents: LookupSource,
        changes: ChangeSource,
        holdings: Holdings,
        expectations: Expectations,
        *,
        stream: StreamPosition,
        keeps_exits: bool,
        keeps_deleted: bool,
    ) -> None:
        self._documents = documents
        self._changes = changes
        self._holdings = holdings
        self._expectations = expectations
        self._stream = stream
        self.keeps_exits = keeps_exits
        self.keeps_deleted = keeps_deleted

    def settle(self, claims: Sequence[Claim]) -> Sequence[Judged]:
        """Decide about each, in no particular order.

        Raises:
            UnequalError: The time was over.
            SourceUnavailableError, TargetError, StateStoreError, StepError: As for a run.
        """
        began = self._changes.operation_time()
        decided: list[Judged] = []
        followed: set[tuple[str, bytes]] = set()
        left = claims
        for _ in range(ROUNDS):
            if not left:
                break
            check_time()
            judged = self._round(left)
            decided += [each for each in judged if each.verdict != "again"]
            again = [each for each in judged if each.verdict == "again"]
            followed.update(_key(each.held) for each in again if each.held.version and each.held.version > began)
            left = [each.claim for each in again]
        return [
            *decided,
            *(Judged(each, "changing" if _key(each.held) in followed else "undecided", each.held) for each in left),
        ]

    def _round(self, claims: Sequence[Claim]) -> Sequence[Judged]:
        saved = self._stream.saved()
        began = self._changes.operation_time()
        wanted, until = self._wanted(claims, began)
        first = self._judged(claims, wanted)
        # What has not changed since the saved position, the stream has come past already.
        decided = [*(each for each in first if each.verdict in _AT_ONCE), *self._unmoved(first, saved)]
        known = {_key(each.held) for each in decided}
        left = [each.claim for each in first if _key(each.held) not in known]
        if not left:
            return decided
        if not self._stream.is_past(until):
            return [*decided, *(Judged(each, "undecided", each.held) for each in left)]
        second = self._judged(left, wanted)
        unmoved = {_key(each.held) for each in self._unmoved(second, began)}
        return [*decided, *(each if _key(each.held) in unmoved else self._proven(each) for each in second)]

    def _unmoved(self, judged: Sequence[Judged], since: Timestamp | None) -> Sequence[Judged]:
        """Those that are not equal, and none of whose documents has changed after a time (None: who knows)."""
        unequal = [each for each in judged if each.claim.origins and each.verdict not in _AT_ONCE]
        names = {name_of(*origin) for each in unequal for origin in each.claim.origins}
        if since is None or not names:
            return ()
        try:
            moved = changed(self._changes, names, since, self._changes.operation_time())
        except HistoryLostError:  # the log does not reach back so far: the stream itself is lost, or about to be
            return ()
        return [each for each in unequal if moved.isdisjoint(name_of(*origin) for origin in each.claim.origins)]

    def _proven(self, judged: Judged) -> Judged:
        """The same if it is equal, or proven all the same; else it has to be looked at again."""
        claim, version = judged.claim, judged.held.version
        if judged.verdict == "equal":
            return judged
        # Where it is not known which of the source's it is: what was written since may well be right.
        is_proven = not claim.origins and (version is None or claim.since is None or version <= claim.since)
        return judged if is_proven else Judged(claim, "again", judged.held)

    def _wanted(
        self, claims: Sequence[Claim], since: Timestamp
    ) -> tuple[Mapping[tuple[str, bytes], _Wanted], Timestamp]:
        """What the source says of each claim, not before a time; and by when it said so."""
        until = since
        found = {_key(claim.held): _Wanted() for claim in claims}
        by_namespace: dict[Namespace, dict[str, bytes]] = {}
        by_name: dict[str, list[_Wanted]] = {}
        for claim in claims:
            for namespace, id in claim.origins:
                name = name_of(namespace, id)
                by_namespace.setdefault(namespace, {})[name] = id
                by_name.setdefault(name, []).append(found[_key(claim.held)])
        for namespace, named in by_namespace.items():
            ids = [*named.values()]
            for start in range(0, len(ids), LOOKED_UP_AT_ONCE):
                for page in self._documents.find(namespace, ids[start : start + LOOKED_UP_AT_ONCE], since=since):
                    until = max(until, page.read_at)
                    for outcome in self._expectations.outcomes(namespace, page.documents) if page.documents else ():
                        for held in outcome.held:
                            if (one := found.get(_key(held))) is not None and held.digest is not None:
                                one.digests.add(held.digest)
                        for one in by_name.get(name_of(namespace, outcome.id), ()):
                            one.is_there = True
                            one.is_rejected = one.is_rejected or outcome.is_rejected
        return found, until

    def _judged(self, claims: Sequence[Claim], wanted: Mapping[tuple[str, bytes], _Wanted]) -> Sequence[Judged]:
        """What the target has of them now, and what that would mean."""
        looked = self._holdings.look([claim.held for claim in claims])
        return [
            Judged(claim, self._verdict(held, wanted[_key(held)]), held, wanted[_key(held)].is_there)
            for claim, held in zip(claims, looked, strict=True)
        ]

    def _verdict(self, held: Held, wanted: _Wanted) -> Verdict:
        if wanted.is_rejected and held.digest not in wanted.digests:
            return "rejected"
        if wanted.digests:
            return "missing" if held.digest is None else "equal" if held.digest in wanted.digests else "differing"
        if held.digest is None:
            return "equal"
        if held.is_own is False:
            return "others"
        is_kept = self.keeps_exits if wanted.is_there else self.keeps_deleted
        return "kept" if is_kept else "too many"


def _key(held: Held) -> tuple[str, bytes]:
    return held.place, held.key
