from __future__ import annotations

import io
import os
from typing import Any

import orjson
import pytest

from docdb_stream.errors import TargetError
from docdb_stream.settings import Settings
from docdb_stream.target import Target
from docdb_stream.targets.stdout import StdoutTarget
from docdb_stream.testing.contract import Delivered, TargetContract
from docdb_stream.testing.events import ChangeLog


class TestStdoutTarget(TargetContract):
    @pytest.fixture(autouse=True)
    def place(self) -> None:
        self.stream = io.BytesIO()

    def make_target(self) -> Target:
        return StdoutTarget(self.stream)

    def read_back(self) -> list[Delivered]:
        lines = self.stream.getvalue().splitlines()
        return [Delivered(orjson.loads(line)["_id"]["_data"], None, line) for line in lines]


def test_the_settings_switch_it_on() -> None:
    assert StdoutTarget.from_settings(Settings(documentdb_uri="mongodb://x", stdout=True)) is not None


def test_it_writes_to_standard_output(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    target = StdoutTarget()
    event = ChangeLog().insert({"_id": 1})
    target.write([event])
    target.flush()
    target.close()
    assert capfdbinary.readouterr().out == event.render("extended") + b"\n"


def test_a_closed_pipe_is_an_error_with_a_hint() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as stream:
        target = StdoutTarget(stream)
        with pytest.raises(TargetError, match="Broken pipe") as caught:
            target.write(ChangeLog().inserts(1))
    assert caught.value.hint
    with pytest.raises(TargetError, match="closed file"):
        target.write(ChangeLog().inserts(1))


def test_a_reader_sees_events_as_soon_as_they_are_written() -> None:
    reader, writer = os.pipe()
    with open(writer, "wb") as stream, open(reader, "rb") as seen:
        event = ChangeLog().insert({"_id": 1})
        StdoutTarget(stream).write([event])
        assert seen.readline() == event.render("extended") + b"\n"


def test_a_stream_without_a_buffer_may_take_parts() -> None:
    class Parts(io.BytesIO):
        def write(self, data: Any, /) -> int:
            return super().write(bytes(data)[:7])

    stream = Parts()
    event = ChangeLog().insert({"_id": 1})
    StdoutTarget(stream).write([event])
    assert stream.getvalue() == event.render("extended") + b"\n"


def test_a_full_stream_that_does_not_wait_is_an_error() -> None:
    class Full(io.BytesIO):
        def write(self, data: Any, /) -> None:  # type: ignore[override]
            return None

    with pytest.raises(TargetError, match="nothing more"):
        StdoutTarget(Full()).write(ChangeLog().inserts(1))
