"""A deployment on the local cloud: the real package, the synthesized template, the stack made of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from docdb_stream.local import AwsServer
from docdb_stream.local.process import wait_until

REPOSITORY = Path(__file__).parents[2]
ACCOUNT = "000000000000"


def here() -> dict[str, str]:
    """The settings ``python`` and ``architecture``: functions run on this machine's Python, and so does the package."""
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "architecture": "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64",
    }


def deploy(aws: AwsServer, config: str, folder: Path) -> dict[str, str]:
    """What ``make lambda synth`` and ``cdk deploy`` do with this config.ini. Returns the stack's outputs."""
    path = folder / "config.ini"
    path.write_text(textwrap.dedent(config), encoding="utf-8")
    package, assembly = folder / "package.zip", folder / "cdk.out"
    paths = {"DOCDB_STREAM_CONFIG": path, "DOCDB_STREAM_PACKAGE": package, "CDK_OUTDIR": assembly}
    environment = {**os.environ, **aws.environment(), **{name: str(path) for name, path in paths.items()}}
    for module in ("infra.package", "infra.app"):
        done = subprocess.run(
            [sys.executable, "-m", module],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    return _made(aws, assembly)


def _made(aws: AwsServer, assembly: Path) -> dict[str, str]:
    """What ``cdk bootstrap`` and ``cdk deploy`` do: the assets' bucket, the assets, the stack. Returns its outputs."""
    aws.client("ssm").put_parameter(Name="/cdk-bootstrap/hnb659fds/version", Value="30", Type="String")
    s3 = aws.client("s3")
    bucket = f"cdk-hnb659fds-assets-{ACCOUNT}-{aws.region}"
    s3.create_bucket(Bucket=bucket)
    assets = json.loads((assembly / "docdb-stream.assets.json").read_text(encoding="utf-8"))["files"]
    for asset in assets.values():
        for place in asset["destinations"].values():
            s3.upload_file(str(assembly / asset["source"]["path"]), bucket, place["objectKey"])
    template = (assembly / "docdb-stream.template.json").read_text(encoding="utf-8")
    cloudformation = aws.client("cloudformation")
    cloudformation.create_stack(StackName="docdb-stream", TemplateBody=template, Capabilities=["CAPABILITY_IAM"])

    def ended() -> dict[str, Any] | None:
        (stack,) = cloudformation.describe_stacks(StackName="docdb-stream")["Stacks"]
        return None if stack["StackStatus"].endswith("IN_PROGRESS") else dict(stack)

    stack = eventually(ended, "the stack is made", timeout_s=30)
    events = cloudformation.describe_stack_events(StackName="docdb-stream")["StackEvents"]
    assert stack["StackStatus"] == "CREATE_COMPLETE", [event.get("ResourceStatusReason") for event in events]
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def eventually(condition: Callable[[], Any], what: str, *, timeout_s: float) -> Any:
    """Wait for ``condition``, which asks a server for much: not as often as ``wait_until`` alone."""

    def asked() -> Any:
        time.sleep(0.5)
        return condition()

    return wait_until(asked, what, timeout_s=timeout_s)
