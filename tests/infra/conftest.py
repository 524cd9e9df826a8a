"""Config files made for a test, and the stacks that come of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import infra  # noqa: F401 - before aws_cdk: it says which node runs the CDK
from infra.settings import Deployment, read_deployment

ConfigFile = Callable[..., Path]

CLUSTER = "documentdb_uri = shop.cluster-abc.eu-central-1.docdb.amazonaws.com"


@pytest.fixture
def config(tmp_path: Path) -> ConfigFile:
    """Write a config.ini: ``config(stream="...", deploy="...", rest="...")``."""

    def write(
        stream: str = "kinesis_stream = changes", deploy: str = "", shared: str = CLUSTER, rest: str = ""
    ) -> Path:
        path = tmp_path / "config.ini"
        parts = [
            f"[docdb-stream]\n{shared}",
            f"[deploy]\n{deploy}",
            f"[stream shop.orders]\nwatched_db_name = shop\nwatched_collection_name = orders\n{stream}",
            rest,
        ]
        path.write_text("\n".join(textwrap.dedent(part) for part in parts), encoding="utf-8")
        return path

    return write


@pytest.fixture
def deployment(config: ConfigFile) -> Callable[..., Deployment]:
    """Read what ``config`` would write."""
    return lambda **parts: read_deployment(str(config(**parts)), {})


@pytest.fixture(scope="session")
def some_package(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file in the package's place: synthesizing looks at nothing but its digest."""
    path = tmp_path_factory.mktemp("package") / "package.zip"
    path.write_bytes(b"a package")
    return str(path)


Template = dict[str, Any]


@pytest.fixture
def template(deployment: Callable[..., Deployment], some_package: str) -> Callable[..., Template]:
    """Synthesize what ``config`` would write; the template as it is deployed."""
    from aws_cdk import App
    from aws_cdk.assertions import Template as Synthesized

    from infra.plan import PREFIX
    from infra.stack import DocdbStreamStack

    def synthesize(**parts: str) -> Template:
        stack = DocdbStreamStack(App(), PREFIX, deployment=deployment(**parts), package=some_package)
        return dict(Synthesized.from_stack(stack).to_json())

    return synthesize
