"""Compares what a target holds with the source: by few figures first, and one by one where those differ.

Owns the passes. Each reads a side once, in any order and in little memory: the first folds both sides (``fold``); the
second looks up, on the other side, every document of the buckets that differ. What is not the same there becomes a
claim (``claims``), which is proven or not, and repaired if asked for.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Final

from bson import Timestamp

from docdb_stream.context import current_deadline
from docdb_stream.delivery import Delivery
from docdb_stream.held import Held, IncompleteError
from docdb_stream.retry import Backoff
from docdb_stream.target import announced
from docdb_stream.verify.changes import check_time
from docdb_stream.verify.claims import Claim, Judge, Judged, Origin
from docdb_stream.verify.expected import Expectations
from docdb_stream.verify.fold import Fold, bits_for
from docdb_stream.verify.repair import Repair
from docdb_stream.verify.result import DIFFERENCES, UNEQUAL, VerifyResult
from docdb_stream.verify.sides import Sides

GROUP: Final = 500
"""Documents that are looked up at once."""
CLAIMS_AT_ONCE: Final = 5_000
"""Claims that are decided together, as each time the stream has to be waited for: some megabytes."""
DIFFERENCES_MOST: Final = 100_000
"""So many are looked at one by one. Where there are more, something else is wrong, and a snapshot is quicker."""
NAMES_MOST: Final = 4_000_000
"""Documents whose names are kept (8 bytes each) where the target cannot be asked whose they are."""


class Verification:
    """One target, compared once.

    Args:
        sides: What is compared.
        repairs: Whether to make equal what is not.
        sample: Compare so many documents of each collection, by chance; None: all.
    """

    def __init__(self, sides: Sides, *, repairs: bool = False, sample: int | None = None) -> None:
        settings = sides.settings
        self._sides = sides
        self._documents, self._changes, self._holdings = sides.documents, sides.changes, sides.holdings
        self._sample = sample
        self._result = VerifyResult(settings.stream_name, sides.target.name, self._sides.began, sample=sample)
        kept = {
            "keeps_exits": any(getattr(each, "on_exit", None) == "ignore" for each in sides.steps),
            "keeps_deleted": bool(settings.operations) and "delete" not in settings.operations,
        }
        expectations = self._expectations("verify", self._sides.began)
        self._judge = Judge(self._documents, self._changes, self._holdings, expectations, stream=sides.stream, **kept)
        self._expected = expectations
        self._repair: Repair | None = None
        if repairs:
            delivery = Delivery([sides.target], stream=settings.stream_name, write_letters=lambda *_: None)
            self._repair = Repair(
                self._documents,
                self._changes,
                self._holdings,
                delivery,
                self._expectations,
                self._sides.origins_of,
                **kept,
            )
        self._claims: list[Claim] = []
        self._concluded: set[tuple[str, bytes]] = set()

    def run(self) -> VerifyResult:
        """Compare.

        Raises:
            UnequalError: The time was over before.
            SourceUnavailableError, TargetError, StateStoreError, StepError, ConfigError: As for a run.
        """
        clock = current_deadline().clock
        began_s = clock()
        if self._sample is None:
            self._compare_all()
        else:
            self._compare_some(self._sample)
        self._conclude()
        self._result.duration_s = clock() - began_s
        return self._result

    # All of them

    def _compare_all(self) -> None:
        estimate = sum(self._documents.estimate(each) or 0 for each in self._sides.namespaces)
        bits, salt = bits_for(estimate), os.urandom(32)
        source = Fold(bits, salt)
        for namespace, page in self._sides.pages("reading the source", estimate, self._sides.began):
            expected, rejected = self._expected.of(namespace, page.documents)
            self._result.rejected += rejected
            source.add(expected)
        target = self._folded(bits, salt, source)
        for place, count in source.documents.items():
            self._result.place(place).documents = count
        for place in target.documents:
            self._result.place(place)
        if differing := source.differing(target):
            self._look_closer(source, differing, sum(source.documents.values()))

    def _folded(self, bits: int, salt: bytes, source: Fold) -> Fold:
        """The target's side."""
        backoff = Backoff()
        while True:
            fold = Fold(bits, salt)
            try:
                fold.add(self._sides.held("reading the target", sum(source.documents.values())))
                return fold
            except IncompleteError:
                self._sides.again(backoff)

    def _look_closer(self, fold: Fold, differing: Collection[int], documents: int) -> None:
        """Look up the documents of the buckets that differ, of each side on the other."""
        since = self._changes.operation_time()
        names = array("Q")
        group: list[tuple[Held, Origin]] = []
        for namespace, page in self._sides.pages("comparing the source", documents, since):
            for outcome in self._expected.outcomes(namespace, page.documents):
                for held in outcome.held:
                    if fold.bucket(held) not in differing:
                        continue
                    group.append((held, (namespace, outcome.id)))
                    if len(names) <= NAMES_MOST and (not self._sides.is_direct or self._holdings.id_of(held) is None):
                        names.append(fold.name(held))
            if len(group) >= GROUP:
                self._compare(group)
                group = []
            if self._result.is_cut:
                return
        self._compare(group)
        named = array("Q", sorted(names))

        def is_expected(held: Held) -> bool:
            return _has(named, fold.name(held))

        strangers = (
            held
            for held in self._sides.held_or_again("comparing the target", documents)
            if fold.bucket(held) in differing
        )
        while part := [*islice(strangers, GROUP)]:
            self._find_too_many(part, since, is_expected if len(names) <= NAMES_MOST else None)
            if self._result.is_cut:
                return

    def _compare(self, group: Sequence[tuple[Held, Origin]]) -> None:
        """Claim of these documents, as they should be, those that the target has not got like that."""
        looked = self._holdings.look([held for held, _ in group]) if group else ()
        for (held, origin), there in zip(group, looked, strict=True):
            if there.digest != held.digest:
                self._claim(Claim(held, self._sides.together(held.place, origin)))

    def _find_too_many(
        self, part: Sequence[Held], since: Timestamp, is_expected: Callable[[Held], bool] | None
    ) -> None:
        """Claim of documents of the target those that the source has not got.

        Args:
            part: The documents.
            since: The time from which on the source was read.
            is_expected: Whether a document of the source is to be this one there; None: not known.
        """
        claims = []
        for held in part:
            origins = self._sides.origins_of(held) if self._sides.is_direct else ()
            if origins:
                claims.append(Claim(held, origins))
            elif is_expected is None:
                self._result.take([Judged(Claim(held, ()), "undecided", held)])
            elif not is_expected(held):
                self._claim(Claim(held, (), since))
        expected = self._expected_of({origin for claim in claims for origin in claim.origins}, since)
        for claim in claims:
            if claim.held[:2] not in expected:
                self._claim(claim)

    def _expected_of(self, origins: Collection[Origin], since: Timestamp) -> Collection[tuple[str, bytes]]:
        """What these documents of the source should be in the target, as far as there are any since a time."""
        found: set[tuple[str, bytes]] = set()
        for namespace in {namespace for namespace, _ in origins}:
            ids = [id for of, id in origins if of == namespace]
            for page in self._documents.find(namespace, ids, since=since):
                found.update(held[:2] for held in self._expected.of(namespace, page.documents)[0])
        return found

    # Some of them

    def _compare_some(self, count: int) -> None:
        for namespace in self._sides.namespaces:
            ids = self._documents.sample(namespace, count)
            for start in range(0, len(ids), GROUP):
                check_time()
                group: list[tuple[Held, Origin]] = []
                for page in self._documents.find(namespace, ids[start : start + GROUP], since=self._sides.began):
                    for outcome in self._expected.outcomes(namespace, page.documents) if page.documents else ():
                        group += [(held, (namespace, outcome.id)) for held in outcome.held]
                        self._result.rejected += outcome.is_rejected
                for held, _ in group:
                    self._result.place(held.place).documents += 1
                self._compare(group)
                self._sides.progress("comparing a sample", self._result.documents, None)
        if not self._sides.is_direct:
            self._result.notes.append("whether there are too many was not looked at: a step or a template names keys")
            return
        for place in self._sides.places:
            some = self._holdings.sample(place, count)
            self._result.place(place)
            known = [held for held in some if self._holdings.id_of(held) is not None]
            for start in range(0, len(known), GROUP):
                check_time()
                self._find_too_many(known[start : start + GROUP], self._sides.began, None)

    # Claims

    def _claim(self, claim: Claim) -> None:
        if claim.held[:2] in self._concluded:
            return
        self._claims.append(claim)
        if len(self._claims) >= CLAIMS_AT_ONCE:
            self._conclude()

    def _conclude(self) -> None:
        """Decide about what is claimed so far, and repair it if asked for."""
        claims, self._claims = [*{claim.held[:2]: claim for claim in self._claims}.values()], []
        if not claims:
            return
        self._sides.progress("proving what differs, which the stream has to have come past", len(claims), None)
        judged = self._judge.settle(claims)
        wrong = [each for each in judged if each.verdict in DIFFERENCES]
        if wrong and self._repair is not None:
            judged = [*(each for each in judged if each.verdict not in DIFFERENCES), *self._repaired(wrong)]
        self._concluded.update(each.claim.held[:2] for each in judged if each.verdict != "equal")
        self._result.take(judged)
        self._result.is_cut = self._result.is_cut or self._result.count(*UNEQUAL) >= DIFFERENCES_MOST

    def _repaired(self, wrong: Sequence[Judged]) -> Sequence[Judged]:
        assert self._repair is not None
        self._sides.progress("repairing", len(wrong), None)
        rejections = self._repair.repair(wrong)
        for reason in dict.fromkeys(rejection.reason for rejection in rejections):
            note = f"{self._sides.target.name} does not take all that was repaired: {reason}"
            if note not in self._result.notes:
                self._result.notes.append(note)
        again = self._judge.settle([each.claim for each in wrong])
        self._result.repaired += sum(each.verdict in ("equal", "changing") for each in again)
        return again

    # Both sides

    def _expectations(self, id: str, time: Timestamp) -> Expectations:
        sides = self._sides
        return Expectations(sides.steps, self._holdings, announced([sides.target]), id, time)


def _has(names: array[int], name: int) -> bool:
    place = bisect_left(names, name)
    return place < len(names) and names[place] == name
