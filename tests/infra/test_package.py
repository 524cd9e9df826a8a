"""The package: the same bytes every time, small, complete, and importable where only boto3 is beside it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import botocore
import jmespath
import pytest
import s3transfer

from docdb_stream.errors import ConfigError
from docdb_stream.settings import Settings
from infra.package import LEFT_OUT, MAX_BYTES, build_package, extras, package_path
from infra.settings import DeploySettings

pytestmark = pytest.mark.integration

HERE = DeploySettings.model_validate(
    {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "architecture": "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64",
    }
)
LAMBDA = DeploySettings(pymongo="<4.14")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Packages for this machine, and for Lambda's default platform, with a PyMongo for DocumentDB 4.0, for a stream
    with ``kafka_client = confluent``."""
    wanted = {"here": HERE, "lambda": LAMBDA}
    paths = {name: tmp_path_factory.mktemp(name) / "package.zip" for name in wanted}
    with ThreadPoolExecutor() as pool:
        confluent = Settings(documentdb_uri="mongodb://x", kafka_client="confluent")
        packed = {"lambda": extras([confluent])}
        list(pool.map(lambda name: build_package(wanted[name], paths[name], packed.get(name, extras([]))), wanted))
    return paths


@pytest.fixture
def package(built: dict[str, Path]) -> Path:
    return built["here"]


@pytest.fixture
def lambda_package(built: dict[str, Path]) -> Path:
    return built["lambda"]


@pytest.mark.long
def test_two_builds_have_the_same_bytes(package: Path, tmp_path: Path):
    again = tmp_path / "package.zip"
    build_package(HERE, again, extras([]))
    assert again.read_bytes() == package.read_bytes()


def test_it_is_small_enough_to_upload(package: Path, lambda_package: Path):
    assert max(package.stat().st_size, lambda_package.stat().st_size) < MAX_BYTES


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


def test_the_handlers_and_all_targets_import_with_boto3_alone_beside_it(package: Path, tmp_path: Path):
    tree, runtime = tmp_path / "task", tmp_path / "runtime"
    zipfile.ZipFile(package).extractall(tree)
    runtime.mkdir()
    for module in (boto3, botocore, jmespath, s3transfer):
        assert module.__file__
        (runtime / module.__name__).symlink_to(Path(module.__file__).parent)
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


def test_a_version_without_a_wheel_is_told(tmp_path: Path):
    with pytest.raises(ConfigError, match="pymongo") as caught:
        build_package(LAMBDA.model_copy(update={"pymongo": "==4.999"}), tmp_path / "package.zip")
    assert "wheel" in caught.value.hint


def test_each_platform_has_a_file_of_its_own():
    assert package_path(LAMBDA) != package_path(HERE)
