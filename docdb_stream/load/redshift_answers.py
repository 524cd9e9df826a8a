"""What Redshift answers where it refuses, as operators are told it, and whether the same may succeed at once.

By the wire it gives an SQLSTATE, by the Data API its text alone; many of its own errors have the state XX000. So each
is known by either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from docdb_stream.errors import TargetError
from docdb_stream.load.redshift_connection import NAME, MetAnotherError


@dataclass(frozen=True, slots=True)
class Answer:
    """An error of Redshift.

    Attributes:
        state: The SQLSTATE; empty where it is not told.
        message: Its text, which can hold values.
    """

    state: str
    message: str

    @property
    def met_another(self) -> bool:
        """Whether two transactions met: Redshift's developer guide, "Serializable isolation" (1023), deadlocks, and two
        that make the same schema or table. (No key of a user's table is unique in Redshift, but its catalogue's are.)
        """
        return bool(_MET_ANOTHER.search(f"{self.state} {self.message}"))

    @property
    def told(self) -> str:
        """What is wrong, without values: up to its first colon a message names tables and columns."""
        if self.met_another:
            return "the transaction met another one (1023, serializable isolation violation, or a deadlock)"
        words = _BEFORE.sub("", self.message).split("\n")[0]
        code = _CODE.search(self.message)
        told = [self.state, f"code {code[1]}" if code else "", _VALUES.split(words)[0].strip()]
        return " ".join(filter(None, told)) or "refused without a word"

    @property
    def hint(self) -> str:
        """What the operator does next."""
        text = f"{self.state} {self.message}"
        return next((hint for known, hint in _HINTS if known.search(text)), _NO_HINT)


_MET_ANOTHER: Final = re.compile(
    r"^40001 |^40P01 |\b1023 DETAIL|serializable isolation violation|deadlock detected"
    r"|violates unique constraint|concurrently (updated|deleted)",
    re.IGNORECASE,
)
_BEFORE: Final = re.compile(r"^[\s-]*(error:\s*)?", re.I)
"""A line of hyphens and "error:" stand before what the nodes report, "ERROR: " before each text of the Data API."""
_CODE: Final = re.compile(r"^\s*code:\s+(\d+)", re.M)
_VALUES: Final = re.compile(r":|, Value ")
"""Where values can begin: ``invalid input syntax for integer: "x"``, ``Invalid digit, Value 'x', Pos 0``."""
_NO_HINT: Final = "nothing is lost: the next load begins with this manifest"


def _known(pattern: str, hint: str) -> tuple[re.Pattern[str], str]:
    return re.compile(pattern, re.IGNORECASE), hint


_HINTS: Final = (
    _known(
        r"^28|password authentication failed|invalid (user|credentials)",
        "correct the user and password: WAREHOUSE_URI, WAREHOUSE_SECRET",
    ),
    _known(
        r"^42501 |permission denied|must be owner",
        "let this user CREATE in the schema, own its tables, and assume WAREHOUSE_COPY_ROLE",
    ),
    _known(r"^57014 |query cancell?ed|canceling statement", "nothing is lost: give the load more time"),
    _known(
        r"^42P07 |relation .* already exists",
        "a table of that name is not docdb-stream's: rename it, or set WAREHOUSE_SCHEMA",
    ),
    _known(
        r"^2BP01 |depends? on",
        "a view depends on a column that has to be widened: drop the view, load, and make it again",
    ),
    _known(
        r"^42703 |column .* does not exist",
        "a column is gone that docdb_stream_columns names: delete its row there, and the load makes the column anew",
    ),
    _known(
        r"^22001 |value too long for type",
        "a column is narrower than docdb-stream makes it: ALTER COLUMN .. TYPE VARCHAR(65535)",
    ),
    _known(
        r"load_error",
        "SELECT * FROM sys_load_error_detail ORDER BY start_time DESC LIMIT 1 says which column and why",
    ),
    _known(r"^53100 |disk full", "the cluster's disk is full: delete, VACUUM or resize; nothing is lost"),
    _known(
        r"S3|\biam\b|\brole\b",
        "let WAREHOUSE_COPY_ROLE s3:GetObject and s3:ListBucket in the bucket, and attach it to the cluster",
    ),
    _known(_MET_ANOTHER.pattern, "others write to these tables all the time: let them pause; nothing is lost"),
)


def refused(answer: Answer) -> TargetError:
    """The error to raise."""
    kind = MetAnotherError if answer.met_another else TargetError
    return kind(NAME, answer.told, hint=answer.hint)


def unreachable() -> TargetError:
    """The error to raise where there is no answer."""
    return TargetError(NAME, "cannot be reached, or the connection is lost", hint=_NO_HINT)
