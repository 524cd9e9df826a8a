"""What was found: figures by place, and what they prove."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bson import Timestamp

from docdb_stream.checkpoint import Verified
from docdb_stream.formats.key import element_key
from docdb_stream.held import Held
from docdb_stream.verify.claims import Judged

DIFFERENCES: Final = ("missing", "differing", "too many")
"""Verdicts that repairing makes equal."""
UNEQUAL: Final = (*DIFFERENCES, "undecided")
"""Verdicts with which nothing is proven equal."""
SHOWN: Final = ("missing", "differing", "too many", "changing", "undecided", "unsure", "others", "kept", "rejected")
"""All verdicts but equal, in the order in which they are shown."""
EXAMPLES_MOST: Final = 10
"""Keys that are told of each verdict."""

Progress = Callable[[str, int, int | None], object]
"""Told what is done now, how many documents or events that was, and of how many, if that is known."""


@dataclass(slots=True)
class PlaceFigures:
    """One index or collection of the target.

    Attributes:
        documents: How many there should be; of a sample, how many were looked at.
        verdicts: How many are what, without the equal ones.
    """

    documents: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, int]:
        """The verdicts' figures, by their names."""
        return {"equal": self.equal, **{name: self.verdicts[name] for name in SHOWN}}

    @property
    def equal(self) -> int:
        """How many are what they should be."""
        of_the_source = ("missing", "differing", "changing", "undecided", "unsure")
        return max(0, self.documents - sum(self.verdicts[verdict] for verdict in of_the_source))


@dataclass(slots=True)
class VerifyResult:
    """What was found of one target.

    Attributes:
        stream: The stream's name.
        target: The target's.
        began: The cluster's operation time before anything was read; of events, the end of the window.
        places: The figures, by index or collection.
        examples: Keys, by verdict.
        rejected: Documents that a step or the target rejects: they are in the dead letters.
        repaired: Documents that were not equal, and are since.
        counted: What is counted: ``documents``, or ``events`` of a log.
        again: Of a log, how often an event is there once more.
        sample: Documents that were asked for of each collection; None where all were compared.
        is_cut: There are so many differences that not all were looked at.
        notes: What else has to be known.
        duration_s: Seconds it took.
    """

    stream: str
    target: str
    began: Timestamp
    places: dict[str, PlaceFigures] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    rejected: int = 0
    repaired: int = 0
    counted: str = "documents"
    again: int = 0
    sample: int | None = None
    is_cut: bool = False
    notes: list[str] = field(default_factory=list)
    duration_s: float = 0.0

    def place(self, name: str) -> PlaceFigures:
        """The figures of a place."""
        return self.places.setdefault(name, PlaceFigures())

    def take(self, judged: Sequence[Judged]) -> None:
        """Count what was found of claims."""
        for each in judged:
            if each.verdict == "equal":
                continue
            self.place(each.held.place).verdicts[each.verdict] += 1
            told = self.examples.setdefault(each.verdict, [])
            if len(told) < EXAMPLES_MOST:
                told.append(f"{each.held.place} {key_text(each.held)}")

    def count(self, *verdicts: str) -> int:
        """How many documents are one of these."""
        return sum(figures.verdicts[verdict] for figures in self.places.values() for verdict in verdicts)

    @property
    def documents(self) -> int:
        """How many there should be."""
        return sum(figures.documents for figures in self.places.values())

    @property
    def is_equal(self) -> bool:
        """Whether no difference is left, of what was looked at."""
        return not self.is_cut and not self.count(*UNEQUAL)

    @property
    def verified_through(self) -> Timestamp | None:
        """The cluster time up to which the target is proven to hold what the source held; None: it is not proven."""
        return self.began if self.is_equal and self.sample is None else None

    @property
    def differing_share(self) -> float | None:
        """With 95 % certainty, at most this share of all documents is missing or differs, by the sample; None where
        some of it did, or nothing was looked at.

        The "rule of three" (Hanley and Lippman-Hand, JAMA 1983): of n without one, at most 3/n.
        """
        if self.sample is None or not self.documents or not self.is_equal:
            return None
        return min(1.0, 3 / self.documents)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; times are ISO 8601. Of documents it has keys, and nothing else."""
        through = self.verified_through
        return {
            "stream": self.stream,
            "target": self.target,
            "equal": self.is_equal,
            "verified_through": None if through is None else through.as_datetime().isoformat(),
            "places": {
                name: {self.counted: figures.documents}
                | {_name(verdict): count for verdict, count in figures.as_dict().items()}
                for name, figures in self.places.items()
            },
            "repaired": self.repaired,
            "rejected": self.rejected,
            "again": self.again,
            "sample": self.sample,
            "differing_share": self.differing_share,
            "cut": self.is_cut,
            "examples": {_name(verdict): keys for verdict, keys in self.examples.items()},
            "notes": self.notes,
            "duration_s": round(self.duration_s, 3),
        }

    def verified(self, at: dt.datetime) -> Verified:
        """What the stream's checkpoint is to know of it."""
        return Verified(self.verified_through, at, self.count(*UNEQUAL))


def key_text(held: Held) -> str:
    """The document's key, to be shown."""
    return held.key.decode(errors="backslashreplace") if held.id is None else element_key(held.id)


def _name(verdict: str) -> str:
    return verdict.replace(" ", "_")
