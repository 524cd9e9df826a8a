"""What the endpoint of a Neptune cluster says, and what a role needs there."""

from __future__ import annotations

import pytest

from docdb_stream.events import Namespace
from docdb_stream.settings import Settings
from docdb_stream.targets._neptune.database import NeptuneDatabase, _address
from docdb_stream.targets.neptune import NeptuneSettings, NeptuneTarget

CLUSTER = "graph.cluster-abc.eu-central-1.neptune.amazonaws.com"


@pytest.mark.parametrize(
    ("endpoint", "place", "url", "region"),
    [
        (CLUSTER, f"{CLUSTER}:8182", f"https://{CLUSTER}:8182", "eu-central-1"),
        (f"{CLUSTER}:8183", f"{CLUSTER}:8183", f"https://{CLUSTER}:8183", "eu-central-1"),
        (f"https://{CLUSTER}:8182/", f"{CLUSTER}:8182", f"https://{CLUSTER}:8182", "eu-central-1"),
        ("a.cluster-b.cn-north-1.neptune.amazonaws.com.cn", None, None, "cn-north-1"),
        ("a.cluster-b.us-gov-west-1.neptune.amazonaws.com", None, None, "us-gov-west-1"),
        ("http://[::1]:8182", "::1:8182", "http://[::1]:8182", None),
        ("graph.internal", "graph.internal:8182", "https://graph.internal:8182", None),
    ],
)
def test_what_an_endpoint_says(endpoint: str, place: str | None, url: str | None, region: str | None) -> None:
    found = _address(endpoint)
    assert found[2] == region
    if place is not None:
        assert found[:2] == (place, url)
    assert NeptuneDatabase(endpoint).place == found[0]


def test_a_role_may_read_write_and_delete() -> None:
    settings = Settings(documentdb_uri="mongodb://h/", neptune_endpoint=CLUSTER, neptune_nodes="a: A(id=_id)")
    [found] = NeptuneTarget.permissions(settings)
    assert {action.partition(":")[2] for action in found.actions} == {
        "ReadDataViaQuery",
        "WriteDataViaQuery",
        "DeleteDataViaQuery",
    }
    assert found.resources == ("arn:${AWS::Partition}:neptune-db:${AWS::Region}:${AWS::AccountId}:*/*",)
    assert found.why_pattern


@pytest.mark.parametrize(("endpoint", "is_told"), [("http://graph.internal", True), ("http://127.0.0.1:1", False)])
def test_a_connection_without_tls_is_told_of(endpoint: str, is_told: bool) -> None:
    settings = NeptuneSettings(neptune_endpoint=endpoint, neptune_nodes="a: A(id=_id)")
    assert any("without TLS" in each for each in settings.cautions(Namespace("shop", "a"))) == is_told
