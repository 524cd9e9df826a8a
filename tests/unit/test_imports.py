"""Who imports what: a Lambda pays at every cold start for what is imported, and imports point one way."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import docdb_stream

PACKAGE = Path(docdb_stream.__file__).parent
HEAVY = [
    "boto3",
    "botocore",
    "typer",
    "click",
    "rich",
    "kafka",
    "confluent_kafka",
    "opensearchpy",
    "requests",
    "pytest",
    "fiftyone",
]


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR", "LANG")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**clean, **environment}, timeout=60
    )


def loaded_after(module: str) -> set[str]:
    done = run(f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))")
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "module", ["docdb_stream.exports", "docdb_stream.admin.status", "docdb_stream.targets", "docdb_stream.testing"]
)
def test_the_library_imports_nothing_that_only_some_need(module: str) -> None:
    assert loaded_after(module).isdisjoint(HEAVY)


def test_a_poller_is_there_without_the_command_line_and_without_targets() -> None:
    loaded = loaded_after("docdb_stream.poller, docdb_stream.config, docdb_stream.stores.mongodb")
    assert loaded.isdisjoint(HEAVY)
    assert not {name for name in loaded if name.startswith(("docdb_stream.targets", "docdb_stream.cli"))}


@pytest.mark.parametrize(
    ("module", "extra", "switch"),
    [
        ("kafka", "kafka", {"MSK_BOOTSTRAP_SRV": "127.0.0.1:1"}),
        ("confluent_kafka", "kafka-confluent", {"MSK_BOOTSTRAP_SRV": "127.0.0.1:1", "KAFKA_CLIENT": "confluent"}),
        ("opensearchpy", "opensearch", {"ELASTICSEARCH_URI": "http://127.0.0.1:1"}),
    ],
)
def test_a_missing_extra_says_what_to_install(module: str, extra: str, switch: dict[str, str], tmp_path: Path) -> None:
    code = f"""
import sys, os
os.chdir({str(tmp_path)!r})
sys.modules[{module!r}] = None
sys.argv = ["docdb-stream", "run"]
from docdb_stream.cli import main
main()
"""
    done = run(code, DOCUMENTDB_URI="mongodb://127.0.0.1:1", WATCHED_DB_NAME="shop", **switch)
    assert done.returncode == 2, done.stderr
    assert f"pip install 'docdb-stream[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


# The direction of imports, read from the source


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (PACKAGE / folder).glob("*.py"))


def imported_at_module_level(path: Path) -> Iterator[str]:
    """What importing the module imports; what functions import later, and type checkers only, is left out."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        pending += ast.iter_child_nodes(node)


ON_DEMAND = {"aws.py", "cli.py", "doctor.py", "__main__.py"}
"""Imported by the command line, or by a function once the settings ask for it."""


@pytest.mark.parametrize(
    "path",
    [path for path in modules(".", "stores", "mongodb") if path.name not in ON_DEMAND],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_the_core_imports_no_target_no_aws_and_no_command_line(path: Path) -> None:
    ours = ["targets", "handlers", "local", *(name.removesuffix(".py") for name in ON_DEMAND)]
    forbidden = tuple(f"{name}." for name in [*HEAVY, *(f"docdb_stream.{name}" for name in ours)])
    assert not {name for name in imported_at_module_level(path) if f"{name}.".startswith(forbidden)}


@pytest.mark.parametrize("path", modules("targets"), ids=lambda path: path.name)
def test_targets_import_no_handler_and_no_poller(path: Path) -> None:
    forbidden = ("docdb_stream.handlers", "docdb_stream.cli", "docdb_stream.poller", "docdb_stream.checkpoint")
    assert not [name for name in imported_at_module_level(path) if name.startswith(forbidden)]


def test_the_walk_sees_what_it_should(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import a.b, c\nfrom d import e\nif TYPE_CHECKING:\n    import f\ntry:\n    import g\nexcept ImportError:\n"
        "    pass\ndef h():\n    import i\nclass J:\n    import k\n    def l(self):\n        import m\n",
        encoding="utf-8",
    )
    assert set(imported_at_module_level(path)) == {"a.b", "c", "d", "d.e", "g", "k"}
