"""A local AWS: Kinesis, SQS, SNS, S3, Secrets Manager, Lambda and more at one port, from the ``ministack`` package."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import boto3
import botocore.session
from botocore.config import Config

from docdb_stream.local.process import HOST, ServerProcess, required_module


class AwsServer(ServerProcess):
    """One account in one region, in memory: nothing survives ``kill``.

    Functions run as real processes of this machine; they end with the server.
    """

    name = "aws"
    listening_mark = "Running on http"
    region = "us-east-1"

    @property
    def endpoint_url(self) -> str:
        """The endpoint of every service."""
        return f"http://{self.address}"

    def environment(self) -> dict[str, str]:
        """Return the variables with which boto3, in any process, finds this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": self.region,
        }

    def client(self, service: str, **options: Any) -> Any:
        """Return a boto3 client of a service; this process's environment and AWS profiles play no part. ``options`` are
        of botocore's Config."""
        # Without a profile from AWS_PROFILE: it may not exist, which boto3 refuses even where nothing comes from it.
        without_profile = botocore.session.Session(session_vars={"profile": (None, None, None, None)})
        return boto3.Session(botocore_session=without_profile).client(
            service,
            region_name=self.region,
            endpoint_url=self.endpoint_url,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(proxies={}, **options),
        )

    def _command(self) -> Sequence[str]:
        required_module("ministack")
        return [sys.executable, "-m", "ministack"]

    def _server_environment(self) -> Mapping[str, str]:
        return {
            **self.environment(),  # functions inherit it; the owner's real credentials are none of their business
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": HOST,  # its default is every interface
            "MINISTACK_HOST": HOST,  # in the URLs it hands out; "localhost" may mean ::1, where it does not listen
            "MINISTACK_REGION": self.region,
            "LOG_LEVEL": "INFO",  # at which it says that it listens
            "PERSIST_STATE": "0",
            "S3_PERSIST": "0",
            "USE_SSL": "0",
            # Listeners at fixed ports, on every interface.
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            # Functions run as processes, and a Docker daemon that happens to be there is left alone.
            "LAMBDA_EXECUTOR": "local",
            "DOCKER_HOST": f"unix://{self.folder}/no-docker.sock",
        }
