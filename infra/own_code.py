"""The user's own code in the package: where it is, and whether TRANSFORM is found there.

Owns what of ``[deploy] packages`` is code, and the check of the package that was built. Building it is ``package``'s.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

from docdb_stream.errors import ConfigError
from infra.settings import DeploySettings

IN_THE_RUNTIME = ("boto3", "botocore", "s3transfer", "jmespath")
"""What Lambda's Python runtimes have installed (AWS Lambda Developer Guide, "Runtime dependencies in Python"), by
the names of distributions, which are those of the modules, too."""

CHECK_S = 120
"""How long importing the functions may take, on a machine that is busy with other builds."""

_HINT = "see [deploy] packages in docs/deploy.md"


@dataclass(frozen=True, slots=True)
class OwnCode:
    """Code of the user's own, by its kinds.

    Attributes:
        wheels: Wheels, which are installed with what they depend on.
        projects: Folders with a pyproject.toml, of which wheels are made.
        sources: Packages and modules, which are copied.
    """

    wheels: tuple[Path, ...] = ()
    projects: tuple[Path, ...] = ()
    sources: tuple[Path, ...] = ()

    @classmethod
    def found(cls, patterns: Iterable[str], beside: Path) -> OwnCode:
        """What the patterns name, relative to the folder ``beside``.

        Raises:
            ConfigError: One names nothing, or what is no code.
        """
        paths = [path for pattern in patterns for path in _matching(pattern, beside)]
        wheels = [path for path in paths if path.is_file() and path.suffix == ".whl"]
        projects = [path for path in paths if (path / "pyproject.toml").is_file()]
        sources = [
            path
            for path in paths
            if path not in projects and ((path / "__init__.py").is_file() or (path.is_file() and path.suffix == ".py"))
        ]
        for path in paths:
            if path not in (*wheels, *projects, *sources):
                raise ConfigError(
                    f"[deploy] packages: {path} is no wheel, no project (pyproject.toml), no package (__init__.py) and "
                    "no module (.py)",
                    hint=_HINT,
                )
        return cls(tuple(wheels), tuple(projects), tuple(sources))

    def copy_into(self, tree: Path) -> None:
        """Copy the packages and modules. Raises ConfigError where one would replace another package."""
        for source in self.sources:
            place = tree / source.name
            if place.exists() or (tree / source.stem).exists():
                raise ConfigError(
                    f"[deploy] packages: {source} would replace {source.stem}, which docdb-stream or your code needs",
                    hint="give it another name",
                )
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copy(source, place)

    def tops(self, wheels: Iterable[Path]) -> set[str]:
        """The names by which it is imported: of what is copied, and of what is in the wheels."""
        names = {source.stem for source in self.sources}
        for wheel in wheels:
            names |= {name.partition("/")[0].partition(".")[0] for name in zipfile.ZipFile(wheel).namelist()}
        return names


def _matching(pattern: str, beside: Path) -> Iterator[Path]:
    path = Path(pattern).expanduser()
    root = Path(path.anchor) if path.is_absolute() else beside
    relative = str(path.relative_to(path.anchor)) if path.is_absolute() else str(path)
    found = sorted(root.glob(relative)) if "*" in relative else [root / relative]
    found = [each.resolve() for each in found if each.exists()]
    if not found:
        raise ConfigError(f"[deploy] packages: there is no {root / relative}", hint=_HINT)
    yield from found


def distribution_name(distribution: Distribution) -> str:
    """Its name, as it is written in one way."""
    return _normal(distribution.metadata["Name"])


def _normal(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def needed_by(tree: Path, wheels: Iterable[Path]) -> set[str]:
    """The distributions that these wheels depend on, themselves or through others; but not through docdb-stream."""
    installed = {distribution_name(found): found for found in distributions(path=[str(tree)])}
    names = [_normal(wheel.name.partition("-")[0]) for wheel in wheels]
    needed: set[str] = set()
    while names:
        name = names.pop()
        if name in needed or name == "docdb-stream" or name not in installed:
            continue
        needed.add(name)
        names += [
            _normal(each.name)
            for each in map(Requirement, installed[name].requires or ())
            if each.marker is None or each.marker.evaluate({"extra": ""})
        ]
    return needed


_CHECK = """
import json, sys
from docdb_stream.errors import ConfigError
from docdb_stream.steps.function import function_at
for path in sys.argv[1:]:
    try:
        function_at(path)
    except ConfigError as error:
        print("\\n" + json.dumps([str(error), error.hint, getattr(error.__cause__, "name", None)]))
        break
"""


def check_transforms(package: Path, transforms: Sequence[str], deploy: DeploySettings, own: set[str]) -> None:
    """Import the functions from the package, with nothing beside it but what Lambda's runtime has.

    Where the package is for another processor or Python than this one, what is compiled in it cannot be imported here:
    this machine's own takes its place. What is missing in the package is missing here, too.

    Raises:
        ConfigError: One is not there.
    """
    if not transforms:
        return
    with tempfile.TemporaryDirectory(prefix="docdb-stream-check-") as folder:
        tree, seen = Path(folder, "tree"), Path(folder, "seen")
        zipfile.ZipFile(package).extractall(tree)
        seen.mkdir()
        foreign = _show(tree, seen, set() if _is_for_this_machine(deploy) else own)
        try:
            done = subprocess.run(
                [sys.executable, "-S", "-s", "-c", _CHECK, *transforms],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(seen), "PYTHONDONTWRITEBYTECODE": "1"},
                capture_output=True,
                text=True,
                timeout=CHECK_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(f"importing {', '.join(transforms)} took longer than {CHECK_S} s", hint=_HINT) from None
    if done.returncode:
        raise ConfigError(f"importing {', '.join(transforms)} failed:\n{done.stderr.strip()}", hint=_HINT)
    if not done.stdout.strip():
        return
    problem, hint, missing = json.loads(done.stdout.strip().splitlines()[-1])
    if missing and missing.partition(".")[0] in foreign:
        sys.stderr.write(f"not checked: {problem} (what is packed of it is for {deploy.architecture})\n")
        return
    raise ConfigError(f"in the package: {problem}", hint=f"{hint.partition(' Searched: ')[0]}")


def _is_for_this_machine(deploy: DeploySettings) -> bool:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    processor = "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"
    return (sys.platform, version, processor) == ("linux", deploy.python, deploy.architecture)


def _show(tree: Path, seen: Path, own: set[str]) -> set[str]:
    """Make ``seen`` a folder of links to what can be imported: all of the tree; or, where ``own`` names what is the
    user's, this and what this machine lacks, and the machine's own in the place of all else that is in the tree.

    Returns:
        What is compiled for another machine, and not on this one.
    """
    foreign = set()
    for entry in tree.iterdir():
        name = entry.name.partition(".")[0]
        here = None if not own or name in own else _installed(name)
        if here is not None:
            _link(seen / here.name, here)
        else:
            _link(seen / entry.name, entry)
            if own and _is_compiled(entry):
                foreign.add(name)
    for name in IN_THE_RUNTIME:
        if (here := _installed(name)) is not None:
            _link(seen / here.name, here)
    return foreign


def _link(place: Path, to: Path) -> None:
    if not place.is_symlink():
        place.symlink_to(to)


def _installed(name: str) -> Path | None:
    """Where this machine has a module; None where it has none."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if found is None or found.origin in (None, "built-in", "frozen"):
        return None
    path = Path(str(found.origin))
    return path.parent if found.submodule_search_locations else path


def _is_compiled(entry: Path) -> bool:
    return ".so" in entry.suffixes or (entry.is_dir() and any(".so" in each.name for each in entry.rglob("*.so*")))
