"""What the server's errors mean for a change stream: the whole policy of resuming, in pure functions."""

from __future__ import annotations

import enum

from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError

from docdb_stream.mongodb.diagnosis import AUTHENTICATION_FAILED, UNAUTHORIZED, server_message

# Codes of the MongoDB server's error_codes.yml, which DocumentDB shares as far as it has them.
_HISTORY_LOST_CODES = frozenset(
    {
        136,  # CappedPositionLost: DocumentDB's word for a position that left the change stream log
        286,  # ChangeStreamHistoryLost
        280,  # ChangeStreamFatalError: the token was not found in the log
        260,  # InvalidResumeToken
        50811,  # KeyString format error: the token was made by another product
    }
)
_FOREIGN_TOKEN_CODE = 9  # FailedToParse; DocumentDB says "Invalid resume token" with it
_UNREADABLE_TOKEN_CODES = frozenset({260, 50811})
_HISTORY_LOST_TEXTS = (
    "resume of change stream was not possible",
    "resume point may no longer be in the oplog",
    "resume token was not found",
)
_OVERSIZE_CODES = frozenset(
    {
        10334,  # BSONObjectTooLarge
        7182500,  # $changeStreamSplitLargeEvent: not even one of the event's fields fits
    }
)
_OVERSIZE_TEXTS = (
    "bsonobj size",
    "bson size limit hit",
    "bsonobjecttoolarge",
    "object to insert too large",
    "splitting change event failed",
)
_UNKNOWN_FIELD_CODE = 40415
_UNKNOWN_STAGE_CODES = frozenset(
    {40324, 304}
)  # unrecognized pipeline stage; DocumentDB: aggregation stage not supported
_NO_CHANGE_STREAMS_CODES = frozenset({40573})  # only supported on replica sets
_NO_CHANGE_STREAMS_TEXTS = (
    "modifychangestreams has not been run",  # DocumentDB, not enabled: with code 136, as if a position were lost
    "stage not supported: '$changestream'",  # DocumentDB's elastic clusters
)
_NO_MATCHING_DOCUMENT_CODE = 47
_NO_IMAGE_TEXTS = ("post-image was not found", "pre-image was not found")
_NO_IMAGES_CODES = frozenset(
    {
        2,  # BadValue: 'whenAvailable' is not a valid value (MongoDB 5.0)
        9,  # FailedToParse
        40415,  # unknown field: fullDocumentBeforeChange
        40575,  # unrecognized value for the 'fullDocument' option (MongoDB 4)
        51770,  # fullDocumentBeforeChange: no pre-image optime was recorded (MongoDB 4.4 and 5.0)
    }
)
_NO_IMAGES_TEXTS = ("fulldocument", "no pre-image optime")
_RESUMABLE_CODES = frozenset(
    # The change streams specification's list, "Resumable Error", for servers that set no label.
    {6, 7, 43, 63, 89, 91, 133, 150, 189, 234, 262, 9001, 10107, 11600, 11602, 13388, 13435, 13436}
    # MaxTimeMSExpired, ReadConcernMajorityNotAvailableYet, CursorKilled, SnapshotUnavailable, CursorInUse
    | {50, 134, 237, 246, 12051}
)
_RESUMABLE_LABEL = "ResumableChangeStreamError"


class Verdict(enum.Enum):
    """What an error means for a change stream."""

    RESUME = "open the stream again at the position"
    HISTORY_LOST = "the position is no longer in the change log"
    OVERSIZE = "the next event is larger than the server can send"
    NO_CHANGE_STREAMS = "this server has none"
    NO_IMAGES = "this server keeps no pre- and post-images"
    NO_IMAGE = "that of the next event is not there, and required"
    FATAL = "an operator has to look"


def classify(error: PyMongoError) -> Verdict:
    """What to do about ``error``."""
    if not isinstance(error, OperationFailure):
        return Verdict.RESUME if isinstance(error, AutoReconnect) else Verdict.FATAL
    message = server_message(error).lower()
    if error.code in _OVERSIZE_CODES or any(text in message for text in _OVERSIZE_TEXTS):
        return Verdict.OVERSIZE
    if error.code in _NO_CHANGE_STREAMS_CODES or any(text in message for text in _NO_CHANGE_STREAMS_TEXTS):
        return Verdict.NO_CHANGE_STREAMS
    if error.code == _FOREIGN_TOKEN_CODE and "resume token" in message:
        return Verdict.HISTORY_LOST
    if error.code in _HISTORY_LOST_CODES or any(text in message for text in _HISTORY_LOST_TEXTS):
        return Verdict.HISTORY_LOST
    if error.code == _NO_MATCHING_DOCUMENT_CODE and any(text in message for text in _NO_IMAGE_TEXTS):
        return Verdict.NO_IMAGE
    if error.code in _NO_IMAGES_CODES and any(text in message for text in _NO_IMAGES_TEXTS):
        return Verdict.NO_IMAGES
    if error.code in _RESUMABLE_CODES or error.has_error_label(_RESUMABLE_LABEL):
        return Verdict.RESUME
    return Verdict.FATAL


def is_cut_off(error: PyMongoError) -> bool:
    """Whether the server ended the connection instead of answering: the network's trouble, or a reply that is too large
    (MongoDB 6.0.5 and others around it check that only when they send it)."""
    return type(error) is AutoReconnect  # its subclasses know better what happened


def is_unreadable_token(error: BaseException | None) -> bool:
    """Whether the server refuses a resume token for what it is, and not because its log begins later: with a code that
    is about tokens, or one about whatever it came upon while it took the token apart."""
    if not isinstance(error, OperationFailure) or error.code in (AUTHENTICATION_FAILED, UNAUTHORIZED):
        return False
    about_tokens = error.code in _UNREADABLE_TOKEN_CODES or error.code == _FOREIGN_TOKEN_CODE
    return about_tokens or classify(error) is Verdict.FATAL


def is_unknown_option(error: PyMongoError, name: str) -> bool:
    """Whether the server does not know the option or stage ``name``."""
    if not isinstance(error, OperationFailure):
        return False
    if error.code in _UNKNOWN_STAGE_CODES or error.code == _UNKNOWN_FIELD_CODE:
        return True
    message = server_message(error).lower()
    return name.lower() in message and any(word in message for word in ("unknown", "unrecognized", "not supported"))
