"""What is outside of the cluster and how it is reached: a step names it as ``target: {kind: Connection, name: …}``.

A connection stands in Paramedic's settings (``connections``), for the namespaces that it lists, or in a Secret of the
policy's own namespace. A Secret says less: it can neither name a file of the operator's, nor borrow the operator's own
rights in AWS.
"""

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, SecretStr, model_validator

from paramedic.api.base import Model, NamespaceName, ObjectName

LABEL_CONNECTION = "paramedic.dev/connection"
"""On a Secret, with the value ``true``: it is meant as a connection."""

Network = IPv4Network | IPv6Network
SslMode = Literal["disable", "require", "verify-ca", "verify-full"]
_Host = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9.:_]*[A-Za-z0-9])?$")]
Region = Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+){1,3}-[0-9]{1,2}$", max_length=32)]
_Port = Annotated[int, Field(ge=1, le=65535)]


def _check_url(value: str) -> str:
    if not re.fullmatch(r"https?://[A-Za-z0-9.\-]+(:[0-9]{1,5})?/?", value):
        raise ValueError("a URL without a path is needed, for example https://rds.eu-west-1.amazonaws.com")
    return value.rstrip("/")


def _words(value: object) -> object:
    return value.split() if isinstance(value, str) else value


class _Fixed(Model):
    model_config = ConfigDict(frozen=True)  # so that it can be a key


class PostgresServer(_Fixed):
    """A database of a PostgreSQL server, and who asks."""

    host: _Host = Field(description="Host name or address; with verify-full the name in its certificate.")
    port: _Port = Field(5432, description="Port.")
    database: str = Field(min_length=1, max_length=63, description="Database to connect to.")
    username: str = Field(
        min_length=1, max_length=63, description="Role; manifests/README.md says which rights it needs."
    )
    sslmode: SslMode = Field("verify-full", description="As in libpq; what is weaker than verify-full is your risk.")


class RedisServer(_Fixed):
    """A database of a Redis server, and who asks."""

    host: _Host = Field(description="Host name or address; also the name in its certificate.")
    port: _Port = Field(6379, description="Port.")
    database: int = Field(0, ge=0, le=9999, description="Number of the database.")
    username: str | None = Field(None, min_length=1, max_length=128, description="ACL user; none: the default user.")
    tls: bool = Field(True, description="Whether it speaks TLS; its certificate is verified.")


class AwsAccess(_Fixed):
    """A region of AWS, with the credentials of AWS' default chain (IRSA, Pod Identity, instance profile)."""

    region: Region = Field(description="For example eu-west-1.")
    endpoint_url: Annotated[str, AfterValidator(_check_url)] | None = Field(
        None, alias="endpointURL", max_length=512, description="Of a service that speaks AWS' protocol; none: AWS."
    )


class AuroraCluster(AwsAccess):
    """An Aurora cluster in RDS."""

    cluster: str = Field(pattern=r"^[a-zA-Z][a-zA-Z0-9-]{0,62}$", description="DB cluster identifier.")


class LoadBalancer(AwsAccess):
    """A listener of an Application Load Balancer."""

    listener_arn: str = Field(
        alias="listenerARN",
        max_length=512,
        pattern=r"^arn:aws[a-z-]*:elasticloadbalancing:[a-z0-9-]+:[0-9]{12}:listener/app/[A-Za-z0-9/-]+$",
        description="ARN of the listener.",
    )
    never_block: Annotated[tuple[Network, ...], BeforeValidator(_words)] = Field(
        default=(), max_length=1000, description="CIDRs that are never blocked; in a Secret, with blanks between them."
    )


class ReplicationGroup(AwsAccess):
    """A replication group in ElastiCache."""

    replication_group: str = Field(
        pattern=r"^[a-zA-Z][a-zA-Z0-9-]{0,39}$", description="Identifier of the replication group."
    )


class CloudNativePG(_Fixed):
    """A Cluster of CloudNativePG, in this Kubernetes cluster."""

    cluster: ObjectName = Field(description="Name of the Cluster (postgresql.cnpg.io/v1).")
    namespace: NamespaceName = Field(description="Its namespace.")


class PostgresSettings(PostgresServer):
    """With files of the operator's, or its identity in AWS."""

    password_file: Path | None = Field(None, description="Read anew for each connection, so that it may be rotated.")
    ca_file: Path | None = Field(None, description="CA that the server's certificate is of; none: the system's.")
    iam_region: Region | None = Field(
        None, description="Log in to RDS or Aurora of this region with a token of AWS IAM instead of a password."
    )

    @model_validator(mode="after")
    def _one_login(self) -> Self:
        if self.iam_region and (self.password_file or not self.sslmode.startswith("verify")):
            raise ValueError("iamRegion takes no passwordFile, and needs an sslmode that verifies the server")
        return self


class RedisSettings(RedisServer):
    """With files of the operator's."""

    password_file: Path | None = Field(None, description="Read anew for each connection, so that it may be rotated.")
    ca_file: Path | None = Field(None, description="CA that the server's certificate is of; none: the system's.")


class ConnectionSettings(Model):
    """One entry of the settings' ``connections``."""

    name: ObjectName = Field(description="How steps name it.")
    namespaces: list[NamespaceName] = Field(min_length=1, description="Whose policies may use it.")
    postgres: PostgresSettings | None = None
    redis: RedisSettings | None = None
    aws: AwsAccess | None = None
    aurora: AuroraCluster | None = None
    load_balancer: LoadBalancer | None = None
    elasticache: ReplicationGroup | None = None
    cloud_native_pg: CloudNativePG | None = Field(None, alias="cloudNativePG")

    @model_validator(mode="after")
    def _one_type(self) -> Self:
        given = [name for name in TYPES if getattr(self, _field(name)) is not None]
        if len(given) != 1:
            raise ValueError(
                f"connection {self.name}: exactly one of {', '.join(TYPES)} is needed, got {given or 'none'}"
            )
        return self

    @property
    def type(self) -> str:
        """Which of ``TYPES`` it is."""
        return next(name for name in TYPES if getattr(self, _field(name)) is not None)

    @property
    def endpoint(self) -> "Endpoint":
        """The one that is set."""
        found: Endpoint = getattr(self, _field(self.type))
        return found


class Keys(_Fixed):
    """Credentials for AWS of a Secret's own."""

    access_key_id: SecretStr = Field(min_length=16, max_length=128)
    secret_access_key: SecretStr = Field(min_length=1, max_length=512)
    session_token: SecretStr | None = Field(None, max_length=8192)


Endpoint = PostgresServer | RedisServer | AwsAccess | CloudNativePG
TYPES: dict[str, type[Endpoint]] = {
    "postgres": PostgresServer,
    "redis": RedisServer,
    "aws": AwsAccess,
    "aurora": AuroraCluster,
    "loadBalancer": LoadBalancer,
    "elasticache": ReplicationGroup,
    "cloudNativePG": CloudNativePG,
}
"""Types of connection, and what a Secret of the type holds (``type`` and these fields, credentials besides)."""
CREDENTIALS = frozenset({"password", "ca.crt", "accessKeyId", "secretAccessKey", "sessionToken"})
"""Keys of a Secret that are credentials."""


def parse_secret(values: Mapping[str, str]) -> tuple[str, Endpoint]:
    """The type and the endpoint of a Secret's decoded values. Raises ValueError (ValidationError is one)."""
    kind = values.get("type", "")
    if kind not in TYPES:
        raise ValueError(f"its key type must be one of {', '.join(TYPES)}")
    if TYPES[kind] is CloudNativePG:  # its author might not have the rights that the operator has on it
        raise ValueError("cloudNativePG is for Paramedic's settings only")
    fields = {name: value for name, value in values.items() if name != "type" and name not in CREDENTIALS}
    return kind, TYPES[kind].model_validate(fields)


def _field(name: str) -> str:
    return {"loadBalancer": "load_balancer", "cloudNativePG": "cloud_native_pg"}.get(name, name)
