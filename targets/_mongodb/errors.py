"""What the target's server says, and what it means: to be done again, a document's fault, or the operator's matter."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from bson.errors import BSONError, InvalidBSON
from pymongo.errors import BulkWriteError, DocumentTooLarge, OperationFailure, PyMongoError

from docdb_stream.errors import SourceUnavailableError, TargetError
from docdb_stream.mongodb.diagnosis import AUTHENTICATION_FAILED, UNAUTHORIZED, server_message, unavailable
from docdb_stream.mongodb.errors import Verdict, classify

NAME = "mongodb"

DUPLICATE_KEY = 11000
NAMESPACE_EXISTS = 48
INVALID_NAMESPACE = 73
_NO_TRANSACTIONS = frozenset({20, 303})
"""IllegalOperation: "Transaction numbers are only allowed on a replica set member or mongos"; DocumentDB's "feature not
supported", as before 4.0."""
_NOT_IN_TRANSACTIONS = 263
"""OperationNotSupportedInTransaction: somebody has dropped the collection, which MongoDB 4.2 cannot make in one."""
_PASSING = frozenset({24, 46, 64, 112, 215, 225, 244, 251, 290})
"""LockTimeout, LockBusy, WriteConcernFailed, WriteConflict, DatabaseDropPending, TransactionTooOld, TransactionAborted,
NoSuchTransaction, TransactionExceededLifetimeLimitSeconds (the server's error_codes.yml)."""
_PASSING_LABELS = ("TransientTransactionError", "UnknownTransactionCommitResult")

_MEANING: Mapping[int, str] = {
    2: "a value that cannot be there",
    9: "the update cannot be read",
    14: "a value of another type is there",
    28: "the way to a field leads through a value that is no document",
    40: "two operators change the same field",
    52: "a name that begins with $, which this server does not store",
    54: "an array that cannot be indexed",
    57: "a name with a dot, which this server does not store",
    66: "the shard key, or the _id, would change",
    121: "the validation of its collection refuses it",
    10334: "the document is too large",
    17280: "a value is too large for an index",
    17419: "the document would be too large",
    17420: "the document would be too large",
}
"""Of error codes, in the words of who looks at a dead letter: the server's own quote values."""
_INDEX = re.compile(r"index: (\S+)")


class RefusedError(Exception):
    """A document, or an update, that the server does not take, however often it is sent.

    Attributes:
        code: The server's error code.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class RepeatError(PyMongoError):
    """What was begun met another's work, and has to be done again from its beginning."""


def passes(error: PyMongoError) -> bool:
    """Whether a transaction that met the error may go through when it is done again."""
    if isinstance(error, RepeatError) or any(map(error.has_error_label, _PASSING_LABELS)):
        return True
    if isinstance(error, OperationFailure) and error.code in _PASSING:
        return True
    return classify(error) is Verdict.RESUME


def raise_refused(error: PyMongoError | BSONError) -> NoReturn:
    """Raise RefusedError for what is a document's fault, RepeatError for what passes, and else the error itself."""
    if isinstance(error, InvalidBSON):  # in the answer, which names the _id of what was not there before
        raise RefusedError(0, "refused: this version of PyMongo cannot read its _id; 4.20 can") from error
    if isinstance(error, DocumentTooLarge | BSONError):
        raise RefusedError(10334, "refused: the document is too large, or too deep") from error
    if not isinstance(error, BulkWriteError):
        raise error
    found = _first(error)
    code, message = int(found.get("code", 0)), str(found.get("errmsg", ""))
    if code in (AUTHENTICATION_FAILED, UNAUTHORIZED, _NOT_IN_TRANSACTIONS) or not found:
        raise OperationFailure(message or "the writes are not acknowledged", code) from error
    told = OperationFailure(message, code)
    index = _INDEX.search(message)
    if passes(told) or (code == DUPLICATE_KEY and index is not None and index[1].endswith("_id_")):
        raise RepeatError(f"code {code}") from error
    if code == DUPLICATE_KEY:
        raise RefusedError(code, f"refused: the unique index {index[1] if index else ''} has its value already")
    raise RefusedError(code, f"refused: {_MEANING.get(code, 'the server does not take it')} (code {code})") from error


def _first(error: BulkWriteError) -> Mapping[str, Any]:
    """What is wrong with the first write that failed; empty where it is the write concern."""
    details = error.details or {}
    failed: list[Mapping[str, Any]] = details.get("writeErrors") or []
    return failed[0] if failed else {}


def trouble(error: PyMongoError, uri: str) -> TargetError:
    """The error for the operator: why the target cannot be written to."""
    if isinstance(error, OperationFailure) and error.code in _NO_TRANSACTIONS:
        return no_transactions(server_message(error))
    if isinstance(error, RepeatError):
        return TargetError(NAME, f"other transactions were in the way all the time ({error})", hint=_AGAIN)
    found = unavailable(error, uri)
    hints = {
        AUTHENTICATION_FAILED: "check MONGODB_TARGET_SECRET or the connection string, and authSource",
        UNAUTHORIZED: "the user needs readWrite on the databases that are written to, and on that of "
        "MONGODB_TARGET_STATE",
    }
    code = error.code if isinstance(error, OperationFailure) else None
    return TargetError(NAME, str(found), hint=hints.get(code or 0) or _hint_of(found))


def no_transactions(why: str) -> TargetError:
    """The error for the operator where the server has no transactions."""
    return TargetError(
        NAME,
        f"the server has no transactions: {why}",
        hint="a replica set of MongoDB 4.2 or later, or Amazon DocumentDB 4.0 or later, is needed: start mongod with "
        "--replSet and run rs.initiate()",
    )


_AGAIN = "nothing is lost: the next run delivers again"


def _hint_of(found: SourceUnavailableError) -> str:
    return _AGAIN if not found.hint or "change stream" in found.hint or "checkpoint" in found.hint else found.hint
