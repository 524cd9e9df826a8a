"""Synthesizes config.ini: ``python -m infra.app``, as ``make synth`` and cdk.json run it.

Environment: DOCDB_STREAM_CONFIG (default: config.ini), DOCDB_STREAM_PACKAGE (default: where ``make lambda`` builds it),
and the CDK's own CDK_OUTDIR.
"""

from __future__ import annotations

import os
import sys

from aws_cdk import App

from docdb_stream.errors import ConfigError
from docdb_stream.registry import switches
from infra.package import package_path
from infra.plan import PREFIX, plans
from infra.settings import Deployment, read_deployment
from infra.stack import DocdbStreamStack


def main() -> None:
    """Write the cloud assembly, or say every problem that is in the way."""
    config = os.environ.get("DOCDB_STREAM_CONFIG", "config.ini")
    try:
        deployment = read_deployment(config)
        package = package_path(deployment.deploy)
        if not package.is_file():
            raise ConfigError(f"there is no package {package}", hint="make lambda")
        _warn(deployment)
        app = App(outdir=os.environ.get("CDK_OUTDIR", "cdk.out"), analytics_reporting=False)
        DocdbStreamStack(app, PREFIX, deployment=deployment, package=str(package))
        app.synth()
    except ConfigError as error:
        lines = [f"error: {error}", *(f"  - {problem}" for problem in error.problems), f"hint: {error.hint}"]
        sys.exit("\n".join(lines))


def _warn(deployment: Deployment) -> None:
    for plan in plans(deployment):
        if plan.targets == ("stdout",):
            sys.stderr.write(
                f"warning: stream {plan.stream}: its only target is stdout, which in a function is its log; switch "
                f"another one on with {', '.join(name for name in switches().values() if name != 'stdout')}\n"
            )


if __name__ == "__main__":
    main()
