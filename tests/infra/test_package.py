"""The package: the same bytes every time, small, complete, and importable where only boto3 is beside it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import textwrap
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import botocore
import jmespath
import pytest
import s3transfer
from pymongo import MongoClient

from docdb_stream.errors import ConfigError
from docdb_stream.events import ChangeEvent
from docdb_stream.local import ReplicaSet
from docdb_stream.settings import Settings
from docdb_stream.testing.events import ChangeLog
from infra.own_code import OwnCode, check_transforms, needed_by
from infra.package import LEFT_OUT, MAX_BYTES, build_package, extras, package_path, unpacked_bytes
from infra.settings import DeploySettings

pytestmark = pytest.mark.integration

HERE = DeploySettings.model_validate(
    {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "architecture": "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64",
    }
)
LAMBDA = DeploySettings(pymongo="<4.14")
CHANGE = "shop_rules.orders:change"


EXAMPLE = Path(__file__).parents[2] / "examples" / "transform"


@pytest.fixture(scope="module")
def own_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with code as users have it: a package, which uses a module."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "shop_rules").mkdir()
    (folder / "shop_rules" / "__init__.py").touch()
    rules = "import boto3\nfrom shop_tax import tax\n\ndef change(event):\n    return tax(event)\n"
    (folder / "shop_rules" / "orders.py").write_text(rules, encoding="utf-8")
    tax = "def tax(event):\n    event.full_document['gross'] = event.full_document['total'] * 2\n    return event\n"
    (folder / "shop_tax.py").write_text(tax, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, own_code: Path) -> dict[str, Path]:
    """Packages for this machine, with a package and a module of the user's own; and for Lambda's default
    platform, with a PyMongo for DocumentDB 4.0, for a stream with ``kafka_client = confluent``, a user's project."""
    here = HERE.model_copy(update={"packages": ("shop_rules", "shop_*.py")})
    wanted = {"here": here, "lambda": LAMBDA.model_copy(update={"packages": (str(EXAMPLE),)})}
    paths = {name: tmp_path_factory.mktemp(name) / "package.zip" for name in wanted}
    confluent = Settings(documentdb_uri="mongodb://x", kafka_client="confluent")

    transforms = {"here": [CHANGE], "lambda": ["shop_stream.rules:enrich"]}

    def build(name: str) -> None:
        clients = [confluent] if name == "lambda" else []
        asked = transforms.get(name, [])
        build_package(wanted[name], paths[name], extras(clients), beside=own_code, transforms=asked)

    with ThreadPoolExecutor() as pool:
        list(pool.map(build, wanted))
    return paths


@pytest.fixture
def package(built: dict[str, Path]) -> Path:
    return built["here"]


@pytest.fixture
def lambda_package(built: dict[str, Path]) -> Path:
    return built["lambda"]


@pytest.mark.long
def test_two_builds_have_the_same_bytes(package: Path, own_code: Path, tmp_path: Path):
    again = tmp_path / "package.zip"
    here = HERE.model_copy(update={"packages": ("shop_rules", "shop_*.py")})
    build_package(here, again, extras([]), beside=own_code, transforms=[CHANGE])
    assert again.read_bytes() == package.read_bytes()


def test_it_is_small_enough_to_upload(package: Path, lambda_package: Path):
    # Even one that has what a pipeline needs (pyarrow has 165 MB) fits.
    assert max(unpacked_bytes(package), unpacked_bytes(lambda_package)) + 185_000_000 < MAX_BYTES


def test_it_is_for_lambda_s_platform_whatever_built_it(lambda_package: Path):
    names = zipfile.ZipFile(lambda_package).namelist()
    libraries = [name for name in names if ".so" in name]
    assert libraries
    assert not [name for name in libraries if "x86_64" in name]
    assert any(name.startswith("pydantic_core/") and "cpython-313-aarch64" in name for name in libraries)
    assert any(name.startswith("pymongo-4.13.") for name in names)


def test_what_only_some_settings_need_is_there_for_those(package: Path, lambda_package: Path):
    def libraries(path: Path) -> list[str]:
        names = zipfile.ZipFile(path).namelist()
        return [name for name in names if name.startswith("confluent_kafka/cimpl.") and name.endswith(".so")]

    assert libraries(package) == []
    assert [name for name in libraries(lambda_package) if "cpython-313-aarch64" in name]


def test_what_has_no_business_in_it_is_left_out(lambda_package: Path):
    archive = zipfile.ZipFile(lambda_package)
    names = archive.namelist()
    tops = {name.split("/")[0].lower() for name in names}
    assert not {name.replace("-", "_") for name in LEFT_OUT} & tops
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name or name.endswith(".pyc")]
    own = {name.split("/")[1] for name in names if name.startswith("docdb_stream/")}
    assert {"handlers", "targets", "stores", "py.typed"} <= own
    assert not {"local", "testing", "cli"} & own
    # Where it was built shows nowhere.
    metadata = [name for name in names if ".dist-info/" in name]
    assert not [name for name in metadata if name.endswith(("RECORD", "direct_url.json", "INSTALLER"))]
    assert names == sorted(names)


@pytest.fixture(scope="module")
def task(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What a function finds: the package for this machine, unpacked, and beside it boto3 alone."""
    folder = tmp_path_factory.mktemp("var")
    tree, runtime = folder / "task", folder / "runtime"
    zipfile.ZipFile(built["here"]).extractall(tree)
    runtime.mkdir()
    for module in (boto3, botocore, jmespath, s3transfer):
        assert module.__file__
        (runtime / module.__name__).symlink_to(Path(module.__file__).parent)
    return tree, runtime


def test_the_handlers_and_all_targets_import_with_boto3_alone_beside_it(task: tuple[Path, Path], tmp_path: Path):
    tree, runtime = task
    program = f"""
        import sys, warnings
        warnings.simplefilter("error")
        import docdb_stream.handlers.poller, docdb_stream.handlers.esm
        from docdb_stream.settings import Settings
        from docdb_stream.targets import build_targets
        settings = Settings.from_env()
        assert len(build_targets(settings)) == 6, settings
        assert docdb_stream.__file__.startswith({str(tree)!r})
        assert "typer" not in sys.modules
        print(docdb_stream.__version__)
    """
    done = subprocess.run(
        [sys.executable, "-S", "-s", "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env={
            "PYTHONPATH": f"{tree}{os.pathsep}{runtime}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "DOCUMENTDB_URI": "mongodb://127.0.0.1/",
            "KINESIS_STREAM": "changes",
            "SQS_QUERY_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/changes",
            "MSK_BOOTSTRAP_SRV": "127.0.0.1:9092",
            "ELASTICSEARCH_URI": "http://127.0.0.1:9200",
            "BUCKET_NAME": "changes",
            "STDOUT": "true",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_user_s_code_is_in_it(package: Path, lambda_package: Path):
    assert {"shop_rules/__init__.py", "shop_rules/orders.py", "shop_tax.py"} <= {*zipfile.ZipFile(package).namelist()}
    assert "shop_stream/rules.py" in zipfile.ZipFile(lambda_package).namelist()


def test_both_handlers_run_the_user_s_function_from_it(
    task: tuple[Path, Path],
    tmp_path: Path,
    replica_set: ReplicaSet,
    mongo: MongoClient[dict[str, Any]],
    db_name: str,
):
    tree, runtime = task
    mongo[db_name].orders.insert_one({"_id": 1, "total": 3})
    pushed = text_of(ChangeLog().insert({"_id": 2, "total": 4}))
    program = f"""
        import json, os
        from docdb_stream.handlers import esm, poller
        class Context:
            function_name = "shop"
            get_remaining_time_in_millis = lambda self: 60_000
        poller.handler({{}}, Context())
        os.environ["FILE_PATH"] = "pushed.jsonl"
        event = json.loads({pushed!r})
        esm.handler({{"eventSource": "aws:docdb", "events": [{{"event": event}}]}}, Context())
    """
    done = subprocess.run(
        [sys.executable, "-S", "-s", "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env={
            "PYTHONPATH": f"{tree}{os.pathsep}{runtime}",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "DOCUMENTDB_URI": replica_set.uri,
            "WATCHED_DB_NAME": db_name,
            "STATE_DB": f"{db_name}_state",
            "START_AT": "earliest",
            "TRANSFORM": CHANGE,
            "FILE_PATH": "polled.jsonl",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name, gross in (("polled", 6), ("pushed", 8)):
        [line] = (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(line)["fullDocument"]["gross"] == gross


def test_a_function_that_is_not_in_it_is_told(lambda_package: Path):
    """Though it is installed on this machine, whose libraries stand in for those of another processor."""
    with pytest.raises(ConfigError, match="in the package: TRANSFORM=pytest:main: there is no module") as caught:
        check_transforms(lambda_package, ["pytest:main"], LAMBDA, {"shop_stream"})
    assert "[deploy] packages" in caught.value.hint


def test_what_is_no_code_is_told(tmp_path: Path, own_code: Path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "rules.txt").touch()
    for name, told in (("notes", "is no wheel"), ("rules.txt", "is no wheel"), ("dist/*.whl", "there is no")):
        with pytest.raises(ConfigError, match=told) as caught:
            OwnCode.found([name], tmp_path)
        assert caught.value.hint
    (tmp_path / "shop_tax.py").touch()
    with pytest.raises(ConfigError, match="would replace shop_tax"):
        OwnCode.found(["shop_tax.py"], own_code).copy_into(tmp_path)


def test_what_the_user_s_wheels_need_stays_in_it(tmp_path: Path):
    """The command line is left out, and with it click; unless somebody else asks for that."""
    needs = {
        "shop-stream": ["click>=8", "never; python_version < '3'", "docdb-stream"],
        "click": ["colorama"],
        "colorama": [],
        "docdb-stream": ["typer"],
        "typer": ["rich"],
    }
    for name, required in needs.items():
        folder = tmp_path / f"{name.replace('-', '_')}-1.dist-info"
        folder.mkdir()
        lines = [f"Name: {name}", "Version: 1", *(f"Requires-Dist: {each}" for each in required)]
        (folder / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]), encoding="utf-8")
    assert needed_by(tmp_path, [Path("dist/shop_stream-1-py3-none-any.whl")]) == {"shop-stream", "click", "colorama"}
    assert needed_by(tmp_path, []) == set()


def text_of(event: ChangeEvent) -> str:
    return event.render("extended").decode()


def test_a_version_without_a_wheel_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match="pymongo") as caught:
        build_package(LAMBDA.model_copy(update={"pymongo": "==4.999"}), tmp_path / "package.zip")
    assert "wheel" in caught.value.hint


def test_each_platform_has_a_file_of_its_own():
    assert package_path(LAMBDA) != package_path(HERE)


def test_extras_are_those_that_the_settings_ask_for() -> None:
    def asked(**values: str) -> str:
        return extras([Settings(documentdb_uri="mongodb://nowhere", **values)])

    assert asked() == "all"
    assert asked(bucket_name="b", s3_format="parquet") == "all,parquet"
    assert asked(iceberg_catalog="glue") == "all,iceberg"
    assert asked(postgres_uri="postgresql://h/db") == "all,postgresql"
    assert asked(redis_uri="rediss://h") == "all,redis"
    assert asked(neo4j_uri="neo4j+s://h") == "all,neo4j"
    assert asked(warehouse_uri="postgresql://h/db") == "all,postgresql"
    assert asked(warehouse_uri="redshift://h/db") == "all,redshift"
    assert asked(warehouse_uri="redshift-data://shop/db") == "all"
    assert asked(msk_bootstrap_srv="b:1", kafka_client="confluent") == "all,kafka-confluent"
