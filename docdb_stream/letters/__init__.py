"""Where dead letters are kept, one file a kind; ``dead_letters_for`` makes the one that the settings name."""

from __future__ import annotations

from docdb_stream.dead_letters import DeadLetters
from docdb_stream.letters.file import FileDeadLetters
from docdb_stream.letters.mongodb import MongoDeadLetters
from docdb_stream.mongodb.connection import Connection
from docdb_stream.settings import Settings


def dead_letters_for(settings: Settings, connection: Connection | None) -> DeadLetters:
    """The place that DEAD_LETTERS names: ``s3://bucket/prefix``, an SQS queue URL, a file, or by default the
    collection beside the checkpoints, which alone needs the connection. Does no network traffic."""
    place = settings.dead_letters
    if place is None:
        assert connection is not None
        return MongoDeadLetters(settings, connection)
    if place.startswith("s3://"):
        from docdb_stream.letters.aws import S3DeadLetters

        return S3DeadLetters(place)
    if place.startswith(("https://", "http://")):
        from docdb_stream.letters.aws import SqsDeadLetters

        return SqsDeadLetters(place)
    return FileDeadLetters(place)
