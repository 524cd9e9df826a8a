"""Formats by name: the built-in ones, and those of other packages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from docdb_stream import formats
from docdb_stream.config import settings_from_config, settings_from_env
from docdb_stream.errors import ConfigError, UnrenderableError
from docdb_stream.events import ChangeEvent, Events
from docdb_stream.format import FileFormat, Format
from docdb_stream.formats import FILE_FORMATS, FORMATS, file_format_named, format_named
from docdb_stream.formats.decoded import Decoded
from docdb_stream.targets.file import FileTarget
from docdb_stream.testing.events import ChangeLog

ENVIRONMENT = {"DOCUMENTDB_URI": "mongodb://127.0.0.1:1", "FILE_PATH": "/dev/null"}


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that is installed, with a format in it and things that only look like one."""
    (tmp_path / "shouting.py").write_text(
        "class Shout:\n"
        "    name = 'shout'\n"
        "    def render(self, decoded):\n"
        "        return [str(event['operationType']).upper().encode() for event in decoded.documents]\n"
        "SHOUT = Shout()\n"
        "NUMBER = 5\n",
        encoding="utf-8",
    )
    info = tmp_path / "shouting-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[docdb_stream.formats]\nshout = shouting:SHOUT\nclass = shouting:Shout\nnumber = shouting:NUMBER\n"
        "gone = shouting:GONE\nextended = shouting:SHOUT\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    caches = (formats._registered, format_named, file_format_named)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_found_by_its_name(name: str) -> None:
    found = format_named(name)
    assert isinstance(found, Format)
    assert found.name == name
    assert found is format_named(name)


@pytest.mark.parametrize("name", FILE_FORMATS)
def test_every_file_format_is_found_by_its_name(name: str) -> None:
    found = file_format_named(name)
    assert isinstance(found, FileFormat)
    assert found.name == name


def test_json_lines() -> None:
    pieces: list[bytes] = []
    writer = file_format_named("jsonl").writer(pieces.append)
    writer.append([])
    writer.append([b"1", b"2"])
    writer.append([b"3"])
    writer.finish()
    assert b"".join(pieces) == b"1\n2\n3\n"


@pytest.mark.usefixtures("plug_in")
def test_a_format_of_another_package(tmp_path: Path) -> None:
    config, file = tmp_path / "config.ini", tmp_path / "events"
    config.write_text(
        "[docdb-stream]\ndocumentdb_uri = mongodb://127.0.0.1:1\nPAYLOAD_FORMAT = shout\n[stream a]\n"
        f"watched_db_name = shop\nfile_path = {file}\n",
        encoding="utf-8",
    )
    [settings] = settings_from_config(str(config), {})
    assert settings.payload_format == "shout"
    target = FileTarget(file, payload_format=settings.payload_format)
    log = ChangeLog()
    assert not target.write([log.insert({"_id": 1}), log.drop()])
    target.close()
    assert file.read_bytes() == b"INSERT\nDROP\n"


@pytest.mark.usefixtures("plug_in")
def test_a_name_of_ours_is_ours() -> None:
    event = ChangeLog().insert({"_id": 1})
    assert event.render("extended").startswith(b'{"_id"')


@pytest.mark.usefixtures("plug_in")
def test_a_name_that_nobody_knows_lists_what_there_is() -> None:
    with pytest.raises(ConfigError) as caught:
        settings_from_env({**ENVIRONMENT, "PAYLOAD_FORMAT": "shuot"})
    [problem] = caught.value.problems
    for part in ("PAYLOAD_FORMAT: expected extended, document or the name of an installed format", "plain", "shout"):
        assert part in problem
    with pytest.raises(ConfigError, match="there is no format 'shuot'") as unknown:
        FileTarget("/dev/null", payload_format="shuot")
    assert "extended, document, plain" in unknown.value.hint
    assert "shout" in unknown.value.hint


def test_without_others_there_are_ours() -> None:
    with pytest.raises(ConfigError, match="there is no file format 'csv'") as unknown:
        file_format_named("csv")
    assert "jsonl" in unknown.value.hint


@pytest.mark.usefixtures("plug_in")
@pytest.mark.parametrize(
    ("name", "trouble"),
    [("class", "is no object with a method render"), ("number", "is no object"), ("gone", "cannot be imported")],
)
def test_what_is_no_format_is_told(name: str, trouble: str) -> None:
    with pytest.raises(ConfigError, match=trouble):
        format_named(name)


# Formats that do what they should not


class Odd:
    """Gives what it is told to give."""

    name = "odd"

    def __init__(self, result: object) -> None:
        self.result = result
        self.calls: list[int] = []

    def render(self, decoded: Decoded) -> Sequence[bytes | UnrenderableError]:
        self.calls.append(len(decoded.documents))
        return self.result(decoded) if callable(self.result) else self.result  # type: ignore[return-value]


def fails_for(number: int, error: Exception) -> object:
    def result(decoded: Decoded) -> list[bytes]:
        if any(event["documentKey"]["_id"] == number for event in decoded.documents):
            raise error
        return [b"fine"] * len(decoded.documents)

    return result


def events() -> Events:
    return Events.of([event.raw or b"" for event in ChangeLog().inserts(5)])


@pytest.mark.parametrize(
    "error", [RuntimeError("s3cret"), RecursionError(), UnrenderableError("number"), SystemError()]
)
def test_what_a_format_raises_is_about_one_event(error: Exception) -> None:
    odd = Odd(fails_for(2, error))
    found = events().render(odd)
    assert [type(each) for each in found] == [bytes, bytes, UnrenderableError, bytes, bytes]
    assert "s3cret" not in str(found[2])
    assert odd.calls == [5, 1, 1, 1, 1, 1]
    [*_, again] = [events()[2]]
    with pytest.raises(UnrenderableError):
        again.render(odd)


def test_what_says_nothing_of_an_event_is_raised() -> None:
    with pytest.raises(MemoryError):
        events().render(Odd(fails_for(2, MemoryError())))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "result",
    [[b"one"], [], [b"x"] * 6, ["text"] * 5, [None] * 5, None, b"bytes", 5, iter([b"x"])],
    ids=["one", "none", "one-too-many", "texts", "nothings", "nothing", "bytes", "number", "lazy"],
)
def test_what_a_format_must_not_give_rejects_every_event(result: object) -> None:
    odd = Odd(lambda decoded: result if len(decoded.documents) > 1 else [*(result or [])][1:])
    for found in events().render(odd):
        assert isinstance(found, UnrenderableError)


def test_a_format_may_be_lazy() -> None:
    assert events().render(Odd(lambda decoded: (b"x" for _ in decoded.documents))) == [b"x"] * 5


def test_an_error_is_raised_anew_each_time() -> None:
    """One and the same would keep the frames of every thread that has seen it."""
    event = ChangeLog().hostile()["invalid_utf8"]
    seen = []
    for _ in range(2):
        with pytest.raises(UnrenderableError) as caught:
            event.render("extended")
        seen.append(caught.value)
    assert seen[0] is not seen[1]
    assert str(seen[0]) == str(seen[1])


def test_a_format_that_is_no_name_and_nobody_announced() -> None:
    event = ChangeEvent(ChangeLog().insert({"_id": 1}).raw)
    assert event.render(Odd([b"x"])) == b"x"
