"""The Dockerfile, as far as it can be checked without images: what it copies is there, and it runs as nobody."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text()


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def test_what_it_copies_is_there_and_not_ignored() -> None:
    kept = {line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [name for line in instructions("COPY") if "--from" not in line for name in line.split()[:-1]]
    assert {*copied} == kept
    for name in copied:
        assert (REPOSITORY / name).exists(), name


def test_its_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    [extras] = [line.partition("=")[2] for line in instructions("ARG")]
    assert {*extras.split(",")} <= {*project["optional-dependencies"]}


def test_it_runs_any_command_as_nobody_and_hears_a_stop() -> None:
    [user] = instructions("USER")
    assert user == "10001:10001"
    # Without a shell between: the process itself gets the signal.
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["docdb-stream"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
