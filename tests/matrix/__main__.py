"""``make test-matrix``: parts of the suite once more, on servers and a PyMongo of other versions and makes, what only
those do, and the tests that are marked as ``long``.

``MATRIX`` names the parts, separated by commas: see ``PARTS``; without it, all of them. Everything that a part needs is
fetched before its tests: what cannot be had fails the run. Arguments are passed on to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from matrix.servers import apicurio, cassandra, kafka, neo4j, opensearch
from matrix.servers.downloads import UnobtainableError, cached, jars
from matrix.servers.mongod import WHEELS, mongod_binary

REPOSITORY = Path(__file__).parents[2]
PARTS = ("mongod", "pymongo", "kafka", "opensearch", "neo4j", "cassandra", "long")
OPTIONS = ("--numprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder", "--timeout", "600")
"""As make test has them, with patience for larger servers."""

PYMONGO = ("4.9.2", "4.13.2")
"""The oldest in pyproject.toml, and the newest that speaks to DocumentDB 4.0, whose wire version 4.14 dropped."""
PYMONGO_OF_MONGOD = {"4.2.6": "4.17.0"}
"""For a server whose wire protocol the newest PyMongo does not speak any more: see docs/compatibility.md."""

ON_EVERY_MONGOD = (
    "tests/matrix/test_mongod.py",
    "tests/integration/test_run.py",
    "tests/integration/test_history.py",
    "tests/integration/test_selection.py",
    "tests/integration/test_oversize.py",
    "tests/integration/test_doctor.py",
    "tests/integration/test_ids.py",
    "tests/integration/test_documents.py",
    "tests/integration/test_snapshot_command.py",
    "tests/integration/test_snapshot_shared.py",
    *(
        f"tests/integration/test_verify.py::test_{name}[{target}]"
        for target in ("mongodb", "postgresql")
        for name in (
            "whatever_documents_hold",
            "what_was_planted_is_found_and_repaired",
            "what_was_deleted_while_the_history_was_lost_is_found",
            "writers_at_full_speed_are_no_differences",
            "a_collection_that_is_dropped_or_renamed_meanwhile",
        )
    ),
    "tests/integration/test_query.py",
    "tests/integration/test_match.py",
    "tests/integration/test_mirroring.py",
    "tests/contract/test_mongodb.py",
    "tests/contract/test_mongodb_store.py",
)
ON_EVERY_PYMONGO = (
    "tests/matrix/test_pymongo.py",
    "tests/unit/test_source_classify.py",
    "tests/unit/test_formats_json.py::test_renders_every_type",
    "tests/unit/test_formats_json.py::test_keeps_what_pymongo_drops",
    "tests/contract/test_mongodb_store.py",
    "tests/integration/test_run.py::test_a_collection",
    "tests/integration/test_run.py::test_a_dropped_and_recreated_collection_goes_on_by_itself",
    "tests/integration/test_run.py::test_a_killed_run_loses_nothing_and_keeps_the_order",
)


@dataclass(frozen=True)
class Run:
    """One run of pytest."""

    title: str
    tests: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def runs(parts: frozenset[str]) -> Iterator[Run]:
    """Give the runs of these parts, each once what it needs is there."""
    for version in WHEELS if "mongod" in parts else ():
        environment = {"MONGOD_BINARY": str(mongod_binary(version))}
        if pymongo := PYMONGO_OF_MONGOD.get(version):
            environment["PYTHONPATH"] = str(_pymongo(pymongo))
        yield Run(f"mongod {version}", ON_EVERY_MONGOD, environment)
    for version in PYMONGO if "pymongo" in parts else ():
        environment = {"PYMONGO_ASKED_FOR": version, "PYTHONPATH": str(_pymongo(version))}
        yield Run(f"PyMongo {version}", ON_EVERY_PYMONGO, environment)
    tests: list[str] = []
    if "kafka" in parts:
        jars(kafka.JARS)
        apicurio.unpacked()
        tests += ["tests/contract/test_kafka.py", "tests/contract/test_kafka_transactions.py", *_only_here("kafka")]
    if "opensearch" in parts:
        opensearch.main_class()
        tests += ["tests/contract/test_opensearch.py", *_only_here("opensearch")]
    if "neo4j" in parts:
        jars(neo4j.JARS)
        tests += ["tests/contract/test_neo4j.py", "tests/contract/test_neptune.py"]
        tests += ["tests/integration/test_graph_statements.py", "tests/integration/test_verify_graphs.py"]
    if "cassandra" in parts:
        jars(cassandra.JARS)
        tests += _only_here("cassandra")
    if tests:
        yield Run(
            " and ".join(sorted(parts & {"kafka", "opensearch", "neo4j", "cassandra"})), ("--real-servers", *tests)
        )
    if "long" in parts:
        yield Run("what takes long", ("-m", "long"))


def _only_here(part: str) -> list[str]:
    return sorted(str(file.relative_to(REPOSITORY)) for file in Path(__file__).parent.glob(f"test_{part}*.py"))


def _pymongo(version: str) -> Path:
    def install(to: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*pip, "--target", str(to), f"pymongo=={version}"], capture_output=True, text=True)
        if done.returncode:
            raise UnobtainableError(f"pip does not get PyMongo {version}: {done.stderr.strip()[-1000:]}")

    return cached(f"pymongo-{version}-{sys.implementation.cache_tag}", install)


def main(arguments: list[str]) -> int:
    """Run the parts; return 1 if any of them failed, or cannot be run."""
    parts = frozenset(os.environ.get("MATRIX", ",".join(PARTS)).split(","))
    if unknown := parts - set(PARTS):
        print(f"error: MATRIX names {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    failed = []
    began_s = time.monotonic()
    try:
        for run in runs(parts):
            print(f"== {run.title}", flush=True)
            command = [sys.executable, "-m", "pytest", *OPTIONS, *run.tests, *arguments]
            if subprocess.run(command, cwd=REPOSITORY, env={**os.environ, **run.environment}).returncode:
                failed.append(run.title)
    except UnobtainableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"test-matrix: {', '.join(failed) or 'nothing'} failed, in {time.monotonic() - began_s:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
