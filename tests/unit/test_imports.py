"""Who imports what: a Lambda pays at every cold start for what is imported, and imports point one way."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

import docdb_stream
from docdb_stream import exports

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
    "psycopg",
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
    "module",
    [
        "docdb_stream.exports",
        "docdb_stream.admin.doctor, docdb_stream.admin.redrive, docdb_stream.admin.reset, docdb_stream.admin.status",
        "docdb_stream.targets",
        "docdb_stream.testing",
    ],
)
def test_the_library_imports_nothing_that_only_some_need(module: str) -> None:
    assert loaded_after(module).isdisjoint(HEAVY)


def test_the_package_alone_loads_nothing_but_has_everything() -> None:
    ours = {name for name in loaded_after("docdb_stream") if name.startswith(("docdb_stream", "pymongo", "pydantic"))}
    assert ours == {"docdb_stream"}
    assert docdb_stream.__all__ == exports.__all__
    assert set(exports.__all__) <= set(dir(docdb_stream))
    assert all(getattr(docdb_stream, name) is getattr(exports, name) for name in exports.__all__)
    assert docdb_stream.errors.ConfigError is docdb_stream.ConfigError
    with pytest.raises(AttributeError, match="no attribute 'Pollen'"):
        docdb_stream.Pollen  # noqa: B018
    done = run("from docdb_stream import *; Poller, run_streams; from docdb_stream import Pollen")
    assert "ImportError: cannot import name 'Pollen'" in done.stderr


@pytest.mark.parametrize("name", ["Pollen", "errors.nothing", "nothing.at.all", "docdb_stream", "", "_private", "1"])
def test_what_is_not_there_is_an_attribute_error(name: str) -> None:
    """Whatever tries names, like a debugger or ``hasattr``, expects no other."""
    assert not hasattr(docdb_stream, name)


def test_a_name_is_looked_for_once() -> None:
    """A step may ask ``docdb_stream.ChangeEvent`` for each event, and a look takes longer than an event."""
    done = run("import docdb_stream as house; house.Poller; assert house.Poller is vars(house)['Poller']")
    assert done.returncode == 0, done.stderr


def test_what_a_target_of_another_package_imports_is_where_it_was() -> None:
    done = run(
        "from docdb_stream.errors import ConfigError, TargetError, TargetGoneError\n"
        "from docdb_stream.events import Batch, ChangeEvent, Namespace, Position, ResumeToken\n"
        "from docdb_stream.retry import Backoff, Deadline, current_deadline\n"
        "from docdb_stream.settings import Settings\n"
        "from docdb_stream.target import Buffering, Checkable, Paced, Rejection, Target\n"
        "from docdb_stream.testing.contract import TargetContract\n"
        "from docdb_stream.testing.events import ChangeLog, hostile_documents\n"
        "from docdb_stream.testing.source import ABORT, EMPTY, ScriptedSource\n"
        "import docdb_stream\n"
        "assert docdb_stream.Rejection is Rejection and docdb_stream.Deadline is Deadline"
    )
    assert done.returncode == 0, done.stderr


def test_a_poller_is_there_without_the_command_line_and_without_targets() -> None:
    loaded = loaded_after("docdb_stream.poller, docdb_stream.config, docdb_stream.stores.mongodb")
    assert loaded.isdisjoint(HEAVY)
    assert not {name for name in loaded if name.startswith(("docdb_stream.targets", "docdb_stream.cli"))}


def test_reading_the_settings_of_every_target_imports_no_client_library() -> None:
    config = PACKAGE.parent / "config.ini"
    code = (
        "import sys, json; from docdb_stream.registry import switches\n"
        "from docdb_stream import Settings\n"
        "given = {switch.upper(): 'true' for switch in switches().values()}\n"
        "[*Settings.from_config(sys.argv[1], {'DOCUMENTDB_URI': 'mongodb://h/', **given})]\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(config)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert {"docdb_stream.targets.kinesis", "docdb_stream.targets.s3", "docdb_stream.targets.opensearch"} <= loaded
    assert loaded.isdisjoint({*HEAVY, "urllib3"}), loaded & {*HEAVY, "urllib3"}


@pytest.mark.parametrize(("switch", "value"), [("KINESIS_STREAM", "changes"), ("BUCKET_NAME", "changes")])
def test_constructing_a_target_of_aws_imports_boto3_and_not_the_run_that_writes_to_it(switch: str, value: str) -> None:
    code = (
        "import sys; from docdb_stream import Settings; from docdb_stream.targets import build_targets\n"
        "build_targets(Settings.from_env()); assert 'boto3' in sys.modules"
    )
    done = run(code, DOCUMENTDB_URI="mongodb://127.0.0.1:1", **{switch: value})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "extra", "switch"),
    [
        ("kafka", "kafka", {"MSK_BOOTSTRAP_SRV": "127.0.0.1:1"}),
        ("confluent_kafka", "kafka-confluent", {"MSK_BOOTSTRAP_SRV": "127.0.0.1:1", "KAFKA_CLIENT": "confluent"}),
        ("opensearchpy", "opensearch", {"ELASTICSEARCH_URI": "http://127.0.0.1:1"}),
        ("httpx", "webhook", {"WEBHOOK_URL": "https://hooks.example.com"}),
        ("psycopg", "postgresql", {"POSTGRES_URI": "postgresql://127.0.0.1:1/shop"}),
        ("neo4j", "neo4j", {"NEO4J_URI": "bolt://127.0.0.1:1", "NEO4J_NODES": "a: A(id=_id)"}),
        (
            "cassandra.cluster",
            "cassandra",
            {
                "CASSANDRA_HOSTS": "127.0.0.1:1",
                "CASSANDRA_KEYSPACE": "k",
                "CASSANDRA_TABLES": "a: t (id text = _id, PRIMARY KEY (id))",
            },
        ),
        ("redis", "redis", {"REDIS_URI": "redis://127.0.0.1:1"}),
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
    return imported(path, by_functions=False)


def imported(path: Path, *, by_functions: bool = True) -> Iterator[str]:
    for node in import_statements(path, by_functions):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{path}: a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def import_statements(path: Path, by_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if not by_functions and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        pending += ast.iter_child_nodes(node)


ON_DEMAND = {"aws.py", "cli.py", "doctor.py", "reference.py", "__main__.py"}
"""Imported by the command line, or by a function once the settings ask for it."""


@pytest.mark.parametrize(
    "path",
    [path for path in modules(".", "settings", "stores", "mongodb") if path.name not in ON_DEMAND],
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
    assert set(imported(path)) == {"a.b", "c", "d", "d.e", "g", "i", "k", "m"}


# The layers, as docs/architecture.md has them


@dataclass(frozen=True)
class House:
    """A package and the table that says which of its modules may import which.

    ``layers`` has the table's names, as ``run`` or ``mongodb/``, and the row of each: a module imports from its own and
    from those with lower numbers.
    """

    folder: Path
    layers: Mapping[str, int]

    @cached_property
    def modules(self) -> dict[str, Path]:
        """By name below the package: ``mongodb.state``; a folder's ``__init__.py`` goes by the folder's."""
        found = {}
        for folder, _, names in os.walk(self.folder, followlinks=True):  # targets/ and handlers/ are linked in
            for path in (Path(folder, name) for name in names if name.endswith(".py")):
                parts = path.relative_to(self.folder).with_suffix("").parts
                found[".".join(parts[:-1] if parts[1:] and parts[-1] == "__init__" else parts)] = path
        return found

    def shown(self, module: str) -> str:
        return str(self.modules[module].relative_to(self.folder.parent))

    def layer(self, module: str) -> int | None:
        if module in self.layers:
            return self.layers[module]
        parts = module.split(".")
        folders = ["/".join([*parts[:number], ""]) for number in range(len(parts), 0, -1)]
        return next((self.layers[folder] for folder in folders if folder in self.layers), None)

    def imports(self, module: str, *, by_functions: bool) -> set[str]:
        """The modules of the package that it imports: of ``from house import low``, ``low`` where that is a module."""
        found: set[str] = set()
        for node in import_statements(self.modules[module], by_functions):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            else:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= inner if all(map(self._named, inner)) else {*inner, node.module or ""}
        return {name for each in found if (name := self._named(each))} - {module}

    def _named(self, absolute: str) -> str | None:
        """A module's name below the package, by its full one."""
        package, _, name = absolute.partition(".")
        found = name or "__init__"
        return found if package == self.folder.name and found in self.modules else None

    def homeless(self) -> list[str]:
        return [
            f"{self.shown(module)}: say in the table where it belongs"
            for module in self.modules
            if self.layer(module) is None
        ]

    def empty(self) -> list[str]:
        """The table's names of which there is nothing (any more)."""
        there = {*self.modules}
        for module in self.modules:
            parts = module.split(".")
            there |= {"/".join([*parts[:number], ""]) for number in range(1, len(parts) + 1)}
        return [
            f"{name}: there is no such module; take it out of the table" for name in self.layers if name not in there
        ]

    def upward(self) -> list[str]:
        found = []
        for module in self.modules:
            for other in sorted(self.imports(module, by_functions=True)):
                here, there = self.layer(module), self.layer(other)
                if here is not None and there is not None and there > here:
                    found.append(f"{self.shown(module)} (layer {here}) imports {self.shown(other)} (layer {there})")
        return found

    def circles(self) -> list[str]:
        """Found by taking away what imports nothing that is left, again and again."""
        left = {module: self.imports(module, by_functions=False) for module in self.modules}
        while leaves := [module for module, others in left.items() if not others & left.keys()]:
            for module in leaves:
                del left[module]
        return [
            f"{self.shown(module)} imports {self.shown(other)}, in a circle"
            for module, others in left.items()
            for other in sorted(others & left.keys())
        ]


def layers_of(document: str) -> dict[str, int]:
    """The table under the heading Imports."""
    part = document.partition("\n## Imports\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", part, re.MULTILINE)
    return {name: int(number) for number, names in rows for name in re.findall(r"`([^`]+)`", names)}


ROOT = Path(__file__).parents[2]
HOUSE = House(PACKAGE, layers_of((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")))


def test_every_module_has_its_place_in_the_house() -> None:
    assert len(HOUSE.modules) > 100
    assert HOUSE.homeless() == []


def test_everything_in_the_table_is_there() -> None:
    assert HOUSE.empty() == []


def test_no_module_imports_from_above_itself() -> None:
    assert HOUSE.upward() == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert HOUSE.circles() == []


def test_the_search_finds_what_is_wrong(tmp_path: Path) -> None:
    house = tmp_path / "house"
    files = {
        "low.py": "def later():\n    from house.rooms import kitchen\n",
        "rooms/__init__.py": "from house import low\n",
        "rooms/kitchen.py": "import house.rooms.pantry\n",
        "rooms/pantry.py": "from house.rooms.kitchen import spoon\n",
        "rooms/attic.py": "import house.roof\n",
        "roof.py": "import os, houseboat.low\nfrom house.low import later\n",
        "shed.py": "",
    }
    for name, text in files.items():
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(text, encoding="utf-8")
    rows = "| | modules | what |\n|---|---|---|\n| 1 | `low` | `shed` |\n| 2 | `rooms/` | |\n| 3 | `roof` | |\n"
    gone = House(house, {"low": 1, "rooms/": 2, "rooms.attic": 2, "cellar": 3, "stable/": 3, "lo": 3})
    assert [found.partition(":")[0] for found in gone.empty()] == ["cellar", "stable/", "lo"]
    found = House(house, layers_of(f"# A\n\n## Imports\n\n{rows}\n## More\n\n| 4 | `shed` | |\n"))
    assert found.layers == {"low": 1, "rooms/": 2, "roof": 3}
    assert found.homeless() == ["house/shed.py: say in the table where it belongs"]
    assert sorted(found.upward()) == [
        "house/low.py (layer 1) imports house/rooms/kitchen.py (layer 2)",
        "house/rooms/attic.py (layer 2) imports house/roof.py (layer 3)",
    ]
    assert sorted(found.circles()) == [
        "house/rooms/kitchen.py imports house/rooms/pantry.py, in a circle",
        "house/rooms/pantry.py imports house/rooms/kitchen.py, in a circle",
    ]


def asks_boto3(path: Path) -> set[str]:
    """What the module takes of boto3 and botocore besides errors to catch, wherever in it the import stands."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    named = {name for name in found if name.split(".")[0] in ("boto3", "botocore", "aiobotocore", "s3transfer")}
    return named - {"botocore.exceptions", "botocore.parsers"}


def test_there_is_one_way_to_boto3() -> None:
    """A client made elsewhere would have neither time-outs nor the run's deadline, and would not check the lease."""
    asking = {path.relative_to(PACKAGE): asks_boto3(path) for path in PACKAGE.rglob("*.py")}
    # rglob does not follow the links of a source tree before Python 3.13; installed, these are folders.
    for folder in ("targets", "handlers"):
        asking |= {path.relative_to(PACKAGE): asks_boto3(path) for path in (PACKAGE / folder).glob("**/*.py")}
    assert len([path for path in asking if path.parts[0] == "targets"]) > 10
    # A local server's own client asks that server alone, and nothing of the environment.
    assert {str(path) for path, found in asking.items() if found} == {"aws.py", "local/aws.py"}
