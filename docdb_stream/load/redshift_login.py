"""A user and password of Redshift that IAM gives, for some minutes: enough to connect with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from docdb_stream.aws import Service
from docdb_stream.load.redshift_connection import NAME
from docdb_stream.permissions import Permission, arn
from docdb_stream.secret import Credentials
from docdb_stream.targets._aws.client import Destination

WORKGROUPS: Final = arn("redshift-serverless", "workgroup/*")
WHY_ANY_WORKGROUP: Final = "The ARN of a workgroup ends in an id that its name does not tell."


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks IAM for them.

    Attributes:
        database: The database.
        workgroup: A serverless workgroup; else ``cluster`` is given.
        cluster: A provisioned cluster.
        user: A user of the cluster's database; None: the one that stands for the IAM identity.
    """

    database: str
    workgroup: str | None = None
    cluster: str | None = None
    user: str | None = None

    def credentials(self) -> Credentials:
        """New ones.

        Raises:
            TargetError: IAM does not give them.
        """
        if self.workgroup is not None:
            of = {"workgroupName": self.workgroup, "dbName": self.database}
            found = self._asked("redshift-serverless", "GetCredentials", "get_credentials", **of)
            return Credentials(found["dbUser"], found["dbPassword"])
        whose: dict[str, Any] = {"ClusterIdentifier": self.cluster, "DbName": self.database}
        action, method = "GetClusterCredentialsWithIAM", "get_cluster_credentials_with_iam"
        if self.user is not None:
            whose |= {"DbUser": self.user, "AutoCreate": False}
            action, method = "GetClusterCredentials", "get_cluster_credentials"
        found = self._asked("redshift", action, method, **whose)
        return Credentials(found["DbUser"], found["DbPassword"])

    def permission(self) -> Permission:
        """What that takes."""
        if self.workgroup is not None:
            return Permission(("redshift-serverless:GetCredentials",), (WORKGROUPS,), WHY_ANY_WORKGROUP)
        database = arn("redshift", f"dbname:{self.cluster}/{self.database}")
        if self.user is None:
            return Permission(("redshift:GetClusterCredentialsWithIAM",), (database,))
        user = arn("redshift", f"dbuser:{self.cluster}/{self.user}")
        return Permission(("redshift:GetClusterCredentials",), (database, user))

    def _asked(self, service: str, action: str, method: str, **parameters: Any) -> Any:
        aws = Service(service)
        destination = Destination(
            target=NAME,
            what=f"the credentials of {self.workgroup or self.cluster}",
            variable="WAREHOUSE_URI",
            create="aws redshift create-cluster",
            capacity="the next load goes on",
        )
        return destination.retry(f"{service}:{action}", lambda: getattr(aws.client, method)(**parameters))
