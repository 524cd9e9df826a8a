"""What the documents say about tests and settings is so."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from docdb_stream.config import environment_names, settings_from_config, settings_from_env
from docdb_stream.registry import TARGETS, settings_models
from docdb_stream.settings import Settings
from docdb_stream.settings.reference import config_text, table
from infra.settings import DeploySettings, FunctionSettings, NetworkSettings, deployment_text

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
_TEST = re.compile(r"tests/[\w/]+\.py(?:::\w+)+")
_FILE = re.compile(r"`(tests/[\w/]+\.py)`")
# Where a class of tests has inherited what it does not define itself.
_SUITES = ("docdb_stream/testing/contract.py", "docdb_stream/testing/store_contract.py")


@cache
def names(path: str) -> frozenset[str]:
    """The functions, classes and methods of a file: ``name`` and ``Class::name``."""
    found = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return frozenset(found)


def exists(reference: str) -> bool:
    path, _, name = reference.partition("::")
    if not (ROOT / path).is_file():
        return False
    if name in names(path):
        return True
    class_name, _, method = name.partition("::")
    inherited = {each.rpartition("::")[2] for suite in (path, *_SUITES) for each in names(suite) if "::" in each}
    return class_name in names(path) and method in inherited


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert [reference for reference in _TEST.findall(text) if not exists(reference)] == []
    assert [path for path in _FILE.findall(text) if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("tests/unit/test_docs.py::test_the_look_up_sees_what_is_there_and_what_is_not", True),
        ("tests/unit/test_docs.py::test_that_does_not_exist", False),
        ("tests/unit/test_nowhere.py::test_a", False),
        ("tests/contract/test_sqs.py::TestFifoQueue::test_12_close_twice_is_safe", True),
        ("tests/contract/test_sqs.py::TestFifoQueue::test_99", False),
    ],
)
def test_the_look_up_sees_what_is_there_and_what_is_not(reference: str, expected: bool) -> None:
    assert exists(reference) is expected


def test_each_of_the_twenty_failings_has_a_test() -> None:
    text = (ROOT / "docs" / "the-twenty-failings.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row.split("|")[1]) for row in rows] == list(range(1, 21))
    assert [row for row in rows if not _TEST.search(row.split("|")[4])] == []


def test_the_environment_of_the_migration_guide_is_understood() -> None:
    text = (ROOT / "docs" / "migrate-from-the-aws-sample.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    environment = dict(line.partition(" #")[0].strip().split("=", 1) for line in block.splitlines() if "=" in line)
    settings = settings_from_env(environment)
    assert (settings.stream_name, settings.payload_format) == ("media.music", "document")
    assert (settings.state_db, settings.state_collection) == ("statedb", "statecol")
    assert (settings.max_loop, settings.state_sync_count) == (60, 15)
    unknown = set(environment) - environment_names()
    assert unknown == set(), "an unknown variable is ignored, so the guide must not name one"


# Links

_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(#[^)\s]+)?\)")
_NAMED = re.compile(r"(?<![\w/.-])(?:docs/[\w/-]+|README|CONTRIBUTING|CHANGELOG)\.md(?![\w/])")


def anchors(path: Path) -> set[str]:
    """The headings of a document as links name them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {"#" + re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def dead_links(document: Path) -> list[str]:
    found = []
    for link, anchor in _LINK.findall(document.read_text(encoding="utf-8")):
        place = document.parent / link if link else document
        if not place.exists() or (anchor and anchor not in anchors(place)):
            found.append(link + anchor)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    assert dead_links(document) == []


def test_the_search_for_dead_links_finds_them(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One title, of `mine`\n", encoding="utf-8")
    document = tmp_path / "document.md"
    document.write_text(
        "[a](there.md) [b](there.md#one-title-of-mine) [c](gone.md) [d](there.md#two) [e](https://x/gone.md) [f](#g)",
        encoding="utf-8",
    )
    assert dead_links(document) == ["gone.md", "there.md#two", "#g"]


def test_every_document_that_is_named_anywhere_exists() -> None:
    places = ["docdb_stream", "targets", "handlers", "infra", "tests", "bench", "docs"]
    files = [path for place in places for path in (ROOT / place).rglob("*") if path.suffix in (".py", ".md", ".json")]
    files += [path for path in ROOT.iterdir() if path.suffix in (".md", ".toml", ".ini")] + [ROOT / "Makefile"]
    named = {name: path for path in files for name in _NAMED.findall(path.read_text(encoding="utf-8"))}
    assert {"docs/settings.md", "docs/local-servers.md"} <= set(named)
    assert {name: path for name, path in named.items() if not (ROOT / name).is_file()} == {}


# Settings


CONFIG = ROOT / "config.ini"
CONFIG_TEXT = config_text(deployment=deployment_text())

TABLES = {
    "## A stream": table(Settings),
    "## Its targets": table(*settings_models(TARGETS).values()),
    "## The deployment": table(DeploySettings, leave_out=FunctionSettings.model_fields),
    "## A function": table(FunctionSettings),
    "## The network": table(NetworkSettings),
}


def test_the_config_ini_of_the_repository_is_what_can_be_set() -> None:
    """``PYTHONPATH=. python tests/unit/test_docs.py`` writes it anew."""
    assert CONFIG.read_text(encoding="utf-8") == CONFIG_TEXT
    assert max(map(len, CONFIG_TEXT.splitlines())) <= 120


def test_every_line_of_config_ini_that_is_commented_out_is_valid(tmp_path: Path) -> None:
    """All but what is not there: a package, a name for a stream that has one, other collections than the watched, a
    table whose stream it is."""
    lines = re.sub(r"^# (\w+ = .*)\n\n", r"\1\n\n", CONFIG_TEXT, flags=re.MULTILINE)
    path = tmp_path / "config.ini"
    path.write_text(
        re.sub(r"^(extra_targets|stream_name|namespaces|dynamodb_stream_arn) = .*$", "", lines, flags=re.MULTILINE),
        encoding="utf-8",
    )
    [settings] = settings_from_config(str(path), {})
    assert set(settings.targets) == set(TARGETS)
    wanted = {name for model in (Settings, *settings_models(TARGETS).values()) for name in model.model_fields}
    assert settings.model_fields_set == wanted - {"extra_targets", "namespaces"}


@pytest.mark.parametrize("title", TABLES)
def test_the_table_of_settings_is_what_can_be_set(title: str) -> None:
    """``PYTHONPATH=. python tests/unit/test_docs.py`` writes it anew."""
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    part = text.partition(f"\n{title}\n")[2].partition("\n## ")[0]
    assert "\n".join(line for line in part.splitlines() if line.startswith("|")) == TABLES[title]


def _write() -> None:
    CONFIG.write_text(CONFIG_TEXT, encoding="utf-8")
    path = ROOT / "docs" / "settings.md"
    text = path.read_text(encoding="utf-8")
    for title, rows in TABLES.items():
        before, heading, rest = text.partition(f"\n{title}\n")
        part, next_heading, after = rest.partition("\n## ")
        prose = "\n".join(line for line in part.splitlines() if not line.startswith("|")).rstrip()
        text = f"{before}{heading}{prose}\n\n{rows}\n{next_heading}{after}"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _write()
