"""Credentials by reference: Secrets Manager, the environment, or a file. Never by value.

Owns the reading, and what ``{"username": ..., "password": ...}`` is. Never logs or shows what it read.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from docdb_stream.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name and a password that does not show in a repr."""

    username: str
    password: str = field(repr=False)


def read_credentials(reference: str) -> Credentials:
    """Read the secret that ``reference`` names; each call reads it anew, so that a rotated one is seen.

    Args:
        reference: ``env:NAME``, ``file:PATH``, or the name or ARN of a Secrets Manager secret. Each holds JSON with
            ``username`` and ``password``, as the secrets do that Amazon DocumentDB and MSK make.

    Raises:
        ConfigError: It cannot be read, or holds something else.
    """
    text = read_text(reference)
    try:
        secret = json.loads(text)
        username, password = secret["username"], secret["password"]
    except (ValueError, TypeError, KeyError):
        username = password = None
    if not (isinstance(username, str) and isinstance(password, str) and username and password):
        raise ConfigError(
            f"the secret {reference} does not hold username and password",
            hint='store JSON such as {"username": "...", "password": "..."} in it',
        )
    return Credentials(username, password)


def read_text(reference: str) -> str:
    """Read the secret that ``reference`` names, anew with each call. What it holds is for the caller to know.

    Args:
        reference: ``env:NAME``, ``file:PATH``, or the name or ARN of a Secrets Manager secret.

    Raises:
        ConfigError: It cannot be read.
    """
    scheme, _, rest = reference.partition(":")
    if scheme == "env":
        if rest not in os.environ:
            raise ConfigError(f"the environment variable {rest} is not set", hint=f"set {rest}, named by {reference}")
        return os.environ[rest]
    if scheme == "file":
        try:
            return Path(rest).read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read the secret file {rest}: {error.strerror}") from error
        except UnicodeDecodeError:  # the error itself holds the content
            raise ConfigError(f"cannot read the secret file {rest}: it is not UTF-8 text") from None
    return _read_secrets_manager(reference)


def _read_secrets_manager(name: str) -> str:
    from docdb_stream import aws

    secrets = aws.Service("secretsmanager", region=aws.arn_region(name))
    hint = (
        "check the secret's name, the region (AWS_REGION), secretsmanager:GetSecretValue for this role, and that the "
        "network reaches Secrets Manager"
    )
    try:
        answer = aws.patiently(lambda: secrets.client.get_secret_value(SecretId=name))
    except (*aws.request_errors(), ValueError) as error:
        raise ConfigError(f"cannot read the secret {name}: {aws.message(error)}", hint=hint) from error
    if "SecretString" not in answer:
        raise ConfigError(f"the secret {name} is binary", hint="store it as text")
    return str(answer["SecretString"])
