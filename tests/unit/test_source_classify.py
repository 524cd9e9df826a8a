from __future__ import annotations

import pytest
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    ConnectionFailure,
    CursorNotFound,
    NetworkTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from docdb_stream.mongodb.errors import Verdict, classify, is_unknown_option


def failure(code: int | None, text: str = "x", *labels: str) -> OperationFailure:
    return OperationFailure(text, code, {"ok": 0.0, "errmsg": text, "code": code, "errorLabels": list(labels)})


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (136, "CollectionScan died due to position in capped collection being deleted"),
        (286, "Resume of change stream was not possible, as the resume point may no longer be in the oplog."),
        (280, "cannot resume stream; the resume token was not found"),
        (
            260,
            "Attempting to resume using 'resumeAfter' is not allowed from an invalidate notification",
        ),
        (50811, "Invalid resume token"),
        (9, "Invalid resume token"),  # DocumentDB about a token of MongoDB
        (40576, "resume of change stream was not possible, as the resume token was not found"),  # MongoDB 3.6, 4.0
        (1, "The resume point may no longer be in the oplog"),
    ],
)
def test_history_is_lost(code: int, text: str) -> None:
    assert classify(failure(code, text)) is Verdict.HISTORY_LOST


@pytest.mark.parametrize(
    "code",
    [
        6,
        7,
        43,
        63,
        89,
        91,
        133,
        150,
        189,
        234,
        262,
        9001,
        10107,
        11600,
        11602,
        13388,
        13435,
        13436,
        237,
        12051,
        50,
        134,
    ],
)
def test_the_stream_is_resumed_after(code: int) -> None:
    assert classify(failure(code)) is Verdict.RESUME


@pytest.mark.parametrize(
    "error",
    [
        AutoReconnect("connection closed"),
        NetworkTimeout("timed out"),
        NotPrimaryError("not primary", {"code": 10107}),
        ServerSelectionTimeoutError("no servers found"),
        CursorNotFound("cursor id 1 not found", 43, {"code": 43}),
        failure(4_711, "new in a later server", "ResumableChangeStreamError"),
    ],
    ids=repr,
)
def test_the_stream_is_resumed_after_trouble_of_the_network_or_as_labelled(error: PyMongoError) -> None:
    assert classify(error) is Verdict.RESUME


@pytest.mark.parametrize(
    "error",
    [
        failure(13, "not authorized on shop to execute command"),
        failure(18, "Authentication failed."),
        failure(9, "BSON field '$changeStream.startAfter' is an unknown field."),
        failure(40415, "BSON field '$changeStream.x' is an unknown field."),
        failure(None, "no code at all"),
        ConfigurationError("x"),
        ConnectionFailure("x"),
        PyMongoError("x"),
    ],
    ids=repr,
)
def test_everything_else_ends_the_run(error: PyMongoError) -> None:
    assert classify(error) is Verdict.FATAL


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (10334, "BSONObj size: 16793700 (0x1004064) is invalid. Size must be between 0 and 16793600(16MB)"),
        (1, "BSONObj size: 16793700 (0x1004064) is invalid."),
        (1, "BSONObjectTooLarge"),
        (1, "BSON size limit hit while building Message. Size: 25176638 (0x1802A3E); maxSize: 16793600(16MB)"),
        (
            7182500,
            "Splitting change event failed: fragment size 16809671 is greater than maximum",
        ),
    ],
)
def test_the_next_event_is_too_large(code: int, text: str) -> None:
    assert classify(failure(code, text)) is Verdict.OVERSIZE


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (40573, "The $changeStream stage is only supported on replica sets"),
        # DocumentDB says this with the code of a lost position.
        (136, "modifyChangeStreams has not been run for this collection/database/cluster."),
        (304, "Aggregation stage not supported: '$changeStream'"),
    ],
)
def test_the_server_has_no_change_streams(code: int, text: str) -> None:
    assert classify(failure(code, text)) is Verdict.NO_CHANGE_STREAMS


IMAGE = "Change stream was configured to require a post-image for all update events, but the post-image was not found"


@pytest.mark.parametrize(
    ("code", "text", "verdict"),
    [
        (47, IMAGE, Verdict.NO_IMAGE),
        (47, IMAGE.replace("post", "pre"), Verdict.NO_IMAGE),
        (47, "no matching document", Verdict.FATAL),
        (
            2,
            "Enumeration value 'required' for field '$changeStream.fullDocument' is not a valid value.",
            Verdict.NO_IMAGES,
        ),
        (40575, "unrecognized value for the 'fullDocument' option to the $changeStream stage.", Verdict.NO_IMAGES),
        (40415, "BSON field '$changeStream.fullDocumentBeforeChange' is an unknown field.", Verdict.NO_IMAGES),
        (51770, "... but no pre-image optime was recorded for event", Verdict.NO_IMAGES),
        (2, "unknown operator: $gtee", Verdict.FATAL),
    ],
)
def test_images_of_documents(code: int, text: str, verdict: Verdict) -> None:
    assert classify(failure(code, text)) is verdict


@pytest.mark.parametrize(
    ("error", "name", "unknown"),
    [
        (failure(9, "BSON field '$changeStream.startAfter' is an unknown field."), "startAfter", True),
        (failure(40415, "unknown field"), "startAfter", True),
        (failure(40324, "Unrecognized pipeline stage name: '$changeStreamSplitLargeEvent'"), "$x", True),
        (failure(9, "startAfter is malformed"), "startAfter", False),
        (failure(260, "the resume token is invalid"), "startAfter", False),
        (AutoReconnect("unknown startAfter"), "startAfter", False),
    ],
    ids=repr,
)
def test_an_option_that_the_server_does_not_know(error: PyMongoError, name: str, unknown: bool) -> None:
    assert is_unknown_option(error, name) is unknown


def test_a_lost_history_is_not_resumed_whatever_its_label() -> None:
    assert classify(failure(286, "x", "ResumableChangeStreamError")) is Verdict.HISTORY_LOST
