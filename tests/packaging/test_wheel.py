"""What is published: built from a copy of the repository, installed where nothing else is, imported there."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import docdb_stream

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(300)  # pip fetches the dependencies where its cache has none

NEEDS_AN_EXTRA = {
    "docdb_stream.targets.kafka": "kafka",
    "docdb_stream.targets.opensearch": "opensearchpy",
    "docdb_stream.targets._webhook": "httpcore",
    "docdb_stream.handlers": "aws_lambda_powertools",
    "docdb_stream.testing.contract": "pytest",
    "docdb_stream.testing.store_contract": "pytest",
    "docdb_stream.testing.versioned_contract": "pytest",
}
"""The modules (or packages) that may miss something where the core's dependencies alone are, and what."""


def run(*command: str | Path, cwd: Path) -> str:
    """Run it outside the repository with nothing of this environment that could help."""
    inherited = ("PATH", "HOME", "LANG", "TMPDIR", "PIP_INDEX_URL", "PIP_CERT", "SSL_CERT_FILE")
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
    environment = {name: os.environ[name] for name in (*inherited, *proxies) if name in os.environ}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="module")
def built(folder: Path) -> Path:
    """The folder with the wheel and the sdist."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    copy = folder / "repository"
    for name in filter(None, listed.stdout.split("\0")):
        source, place = REPOSITORY / name, copy / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            place.symlink_to(source.readlink())
        elif source.is_file():
            shutil.copy2(source, place)
    # The wheel is built from the sdist, so that one cannot lack what the other has.
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", cwd=copy)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [found] = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(folder: Path, wheel: Path) -> Path:
    """The interpreter of an environment that holds the wheel and what it depends on, without extras."""
    place = folder / "venv"
    venv.create(place)
    found = place / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", found, "--quiet", "--disable-pip-version-check", "install")
    run(*pip, "--no-compile", wheel, cwd=folder)
    return found


def module_names() -> list[str]:
    """Every module of the package; ``__main__`` modules run when they are imported."""
    found = pkgutil.walk_packages(docdb_stream.__path__, "docdb_stream.")
    return sorted(info.name for info in found if not info.name.endswith("__main__"))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        infos = archive.infolist()
    names = {info.filename for info in infos}
    tops = {name.split("/")[0] for name in names}
    assert tops == {"docdb_stream", f"docdb_stream-{docdb_stream.__version__}.dist-info"}
    assert "docdb_stream/py.typed" in names
    for name in module_names():
        path = name.replace(".", "/")
        assert {f"{path}.py", f"{path}/__init__.py"} & names, f"{name} is not in the wheel"
    assert not [info.filename for info in infos if (info.external_attr >> 28) == 0o12], "a symbolic link"
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_targets_and_handlers_are_real_folders_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for folder in ("targets", "handlers"):
            expected = {path.name for path in (REPOSITORY / folder).glob("*.py")}
            prefix = f"docdb_stream/{folder}/"
            found = {name.removeprefix(prefix) for name in archive.namelist() if name.startswith(prefix)}
            assert expected <= found
            assert all(
                archive.getinfo(prefix + name).file_size == (REPOSITORY / folder / name).stat().st_size
                for name in expected
            )


def test_the_sdist_builds_by_itself(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "docdb_stream/__init__.py"} <= names
    assert {"targets/__init__.py", "handlers/__init__.py"} <= names
    documents = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").rglob("*.md")}
    assert documents | {"config.ini", "CHANGELOG.md", "CONTRIBUTING.md", "docs/throughput.png", "infra/app.py"} <= names


IMPORT_ALL = """
import importlib, json, sys
import docdb_stream
missing = {}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing[name] = error.name
print(json.dumps([docdb_stream.__file__, missing]))
"""


def test_every_module_is_imported_with_the_core_alone(python: Path, folder: Path) -> None:
    names = module_names()
    where, missing = json.loads(run(python, "-W", "error", "-c", IMPORT_ALL, *names, cwd=folder))
    assert Path(where).is_relative_to(folder / "venv")
    for name, misses in missing.items():
        known = {extra for module, extra in NEEDS_AN_EXTRA.items() if f"{name}.".startswith(f"{module}.")}
        assert misses in known, f"{name} needs {misses}, which is not a dependency of the core"


def test_the_command_is_installed(python: Path, folder: Path) -> None:
    command = python.parent / "docdb-stream"
    assert run(command, "--version", cwd=folder) == f"docdb-stream {docdb_stream.__version__}\n"
    assert "run" in run(command, "--help", cwd=folder)


@pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning")  # kafka-python
@pytest.mark.parametrize("name", module_names())
def test_every_module_is_imported_with_the_extras(name: str) -> None:
    assert importlib.import_module(name).__name__ == name
