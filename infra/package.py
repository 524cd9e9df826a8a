"""The package: a zip of this project and what it needs, for Lambda's platform. ``python -m infra.package`` builds it.

Owns what goes in and that two builds have the same bytes. Wheels only: no compiler, no Docker, whatever builds it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Container, Iterable, Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

from docdb_stream.errors import ConfigError
from docdb_stream.settings import Settings
from docdb_stream.targets.cassandra import CassandraSettings
from docdb_stream.targets.iceberg import IcebergSettings
from docdb_stream.targets.kafka import KafkaSettings
from docdb_stream.targets.neo4j import Neo4jSettings
from docdb_stream.targets.postgresql import PostgresSettings
from docdb_stream.targets.redis import RedisSettings
from docdb_stream.targets.s3 import S3Settings
from infra.own_code import IN_THE_RUNTIME, OwnCode, check_transforms, distribution_name, needed_by
from infra.settings import DeploySettings, read_deployment

MAX_BYTES = 250 * 1024 * 1024
"""AWS Lambda quotas, "Deployment package": what a zip holds, unpacked, by way of S3, as the CDK does it. The 50 MB of a
direct upload would be too few for pyarrow, which a pipeline needs."""

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path("build")

_SOURCES = ("docdb_stream", "targets", "handlers", "pyproject.toml", "README.md", "LICENSE")

_EXTRA = "all"
"""Every target's default client library: one package fits all functions; each imports only what it uses."""

_PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""What Amazon Linux 2023 runs (glibc 2.34), newest first."""

LEFT_OUT = {
    **dict.fromkeys(IN_THE_RUNTIME, "Lambda's runtime has them"),
    **dict.fromkeys(
        ("typer", "rich", "pygments", "markdown-it-py", "mdurl", "shellingham", "annotated-doc", "click"),
        "for the command line",
    ),
    **dict.fromkeys(("opensearch-protobufs", "protobuf", "grpcio"), "for opensearch-py's gRPC, which is not used"),
}
"""Distributions that are installed as dependencies and not packed, with the reason; unless the user's code needs one
that the runtime does not have."""

_PARTS_LEFT_OUT = (
    *("docdb_stream/local", "docdb_stream/testing", "docdb_stream/cli", "docdb_stream/__main__.py", "bin"),
    *("pyarrow/tests", "pyarrow/include"),
)

_METADATA_KEPT = ("METADATA", "entry_points.txt")
"""Of a *.dist-info: what ``importlib.metadata`` is asked for at run time. Licences are kept too."""

_TIMESTAMP = (1980, 1, 1, 0, 0, 0)
"""The earliest that a zip can hold."""

_FILE_MODE = 0o644


def package_path(deploy: DeploySettings) -> Path:
    """Where the package for these settings is built; DOCDB_STREAM_PACKAGE names another place."""
    given = os.environ.get("DOCDB_STREAM_PACKAGE")
    return Path(given) if given else BUILD / f"docdb-stream-python{deploy.python}-{deploy.architecture}.zip"


def extras(streams: Iterable[Settings]) -> str:
    """The extras that the functions of these streams need, as pip writes them."""
    streams = [*streams]
    needed = [_EXTRA]
    if any(stream.of(KafkaSettings).kafka_client == "confluent" for stream in streams):
        needed.append("kafka-confluent")
    if any(stream.of(S3Settings).makes_tables for stream in streams):
        needed.append("parquet")
    if any(stream.of(IcebergSettings).is_on for stream in streams):
        needed.append("iceberg")
    warehouses = {(stream.warehouse_uri or "").partition("://")[0] for stream in streams}
    if any(stream.of(PostgresSettings).is_on for stream in streams) or warehouses & {"postgresql", "postgres"}:
        needed.append("postgresql")
    if any(stream.of(RedisSettings).is_on for stream in streams):
        needed.append("redis")
    if any(stream.of(Neo4jSettings).is_on for stream in streams):
        needed.append("neo4j")
    if any(stream.of(CassandraSettings).is_on for stream in streams):
        needed.append("keyspaces")
    if "redshift" in warehouses:  # its Data API needs boto3 alone
        needed.append("redshift")
    return ",".join(needed)


def build_package(
    deploy: DeploySettings, path: Path, extras: str = _EXTRA, *, beside: Path = Path(), transforms: Iterable[str] = ()
) -> None:
    """Build the package for the processor, Python and pymongo of ``deploy``, with these extras of the project.

    Args:
        deploy: What it is for, and which code of the user's own goes in.
        path: Where it goes.
        extras: As ``extras`` has them.
        beside: The folder to which the paths of that code are relative: that of config.ini.
        transforms: The functions that have to be in it (TRANSFORM).

    Raises:
        ConfigError: A dependency has no wheel for them, the user's code is not there or cannot be packed, a function
            cannot be imported from the package, or the package is too large.
    """
    with tempfile.TemporaryDirectory(prefix="docdb-stream-package-") as folder:
        tree = Path(folder, "tree")
        own = OwnCode.found(deploy.packages, beside)
        wheels = [*own.wheels, *(_project_wheel(Path(folder), project) for project in own.projects)]
        _install(deploy, tree, _wheel(Path(folder)), extras, wheels)
        own.copy_into(tree)
        packed = Path(folder, path.name)
        _pack(tree, packed, kept=needed_by(tree, wheels))
        size_bytes = unpacked_bytes(packed)
        if size_bytes > MAX_BYTES:
            raise ConfigError(
                f"{path} holds {size_bytes:,} bytes, more than the {MAX_BYTES:,} that Lambda takes",
                hint="split config.ini by the extras that its streams need, or run them in containers (Dockerfile)",
            )
        check_transforms(packed, [*transforms], deploy, own.tops(wheels))
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(packed, path)  # what cannot be used is not left where it would be deployed


def unpacked_bytes(package: Path) -> int:
    """How much a package holds."""
    with zipfile.ZipFile(package) as archive:
        return sum(entry.file_size for entry in archive.infolist())


def _wheel(folder: Path) -> Path:
    """The project's own wheel, as it would be released."""
    # From a copy of what it is made of: setuptools leaves a build folder behind, and packs what it finds in an old one.
    source = folder / "source"
    for part in _SOURCES:
        copied = source / part
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copied, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, copied)
    _run("build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source))
    return next(folder.glob("*.whl"))


def _project_wheel(folder: Path, project: Path) -> Path:
    """The wheel of a project of the user's own, made of a copy: see ``_wheel``."""
    copied, built = folder / "projects" / project.name, folder / "wheels" / project.name
    shutil.copytree(project, copied, ignore=shutil.ignore_patterns("__pycache__", ".*", "build", "dist", "*.egg-info"))
    _run("build", "--wheel", "--outdir", str(built), str(copied))
    return next(built.glob("*.whl"))


def _install(deploy: DeploySettings, tree: Path, wheel: Path, extras: str, own: Iterable[Path]) -> None:
    architecture = "aarch64" if deploy.architecture == "arm64" else "x86_64"
    _run(
        *("pip", "install", "--quiet", "--disable-pip-version-check", "--no-warn-conflicts", "--no-compile"),
        *("--only-binary=:all:", "--implementation=cp", f"--python-version={deploy.python}", f"--target={tree}"),
        *(f"--platform={platform}_{architecture}" for platform in _PLATFORMS),
        f"docdb-stream[{extras}] @ {wheel.as_uri()}",
        *([f"pymongo{deploy.pymongo}"] if deploy.pymongo else []),
        *map(str, own),
    )


def _run(module: str, *arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(
            f"{module} failed:\n{(done.stderr or done.stdout).strip()}",
            hint="every dependency must have a wheel for [deploy] python, architecture and pymongo",
        )


def _pack(tree: Path, path: Path, kept: Container[str]) -> None:
    """Zip what belongs in, the same way every time: sorted, without times, owners and modes of this machine."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(_contents(tree, kept), key=str):
            entry = zipfile.ZipInfo(str(name), _TIMESTAMP)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix; otherwise the mode means nothing
            entry.external_attr = _FILE_MODE << 16
            archive.writestr(entry, (tree / name).read_bytes())


def _contents(tree: Path, kept: Container[str]) -> Iterator[PurePosixPath]:
    left_out = {
        file
        for found in distributions(path=[str(tree)])
        if (project := distribution_name(found)) in LEFT_OUT and (project in IN_THE_RUNTIME or project not in kept)
        for file in _files(found)
    }
    for file in tree.rglob("*"):
        name = PurePosixPath(file.relative_to(tree).as_posix())
        if file.is_file() and name not in left_out and _belongs(name):
            yield name


def _belongs(name: PurePosixPath) -> bool:
    if any(name.is_relative_to(part) for part in _PARTS_LEFT_OUT) or name.suffix in (".pyc", ".pyi"):
        return False
    folders = name.parts[:-1]
    if "tests" in folders or "__pycache__" in folders:
        return False
    if folders and folders[0].endswith(".dist-info"):
        return name.name in _METADATA_KEPT or name.name.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))
    return True


def _files(distribution: Distribution) -> Iterator[PurePosixPath]:
    for file in distribution.files or ():
        yield PurePosixPath(os.path.normpath(file))


def main() -> None:
    """Build the package that config.ini asks for, and print its place, size and digest."""
    try:
        config = Path(os.environ.get("DOCDB_STREAM_CONFIG", "config.ini"))
        deployment = read_deployment(str(config))
        streams = [settings for settings, _ in deployment.streams]
        path = package_path(deployment.deploy)
        transforms = dict.fromkeys(settings.transform for settings in streams if settings.transform)
        build_package(deployment.deploy, path, extras(streams), beside=config.parent, transforms=transforms)
    except ConfigError as error:
        lines = [f"error: {error}", *(f"  - {problem}" for problem in error.problems), f"hint: {error.hint}"]
        sys.exit("\n".join(lines))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sys.stdout.write(f"{path}  {path.stat().st_size / 1024 / 1024:.1f} MiB  sha256 {digest}\n")


if __name__ == "__main__":
    main()
