"""What a step's ``Connection`` stands for: looked up in the settings, then in the Secrets of the step's namespace."""

import asyncio
import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from pydantic import SecretStr, ValidationError

from paramedic.api import SYSTEM_NAMESPACE
from paramedic.api.connection import (
    LABEL_CONNECTION,
    AwsAccess,
    CloudNativePG,
    ConnectionSettings,
    Endpoint,
    Keys,
    Network,
    PostgresServer,
    PostgresSettings,
    RedisServer,
    RedisSettings,
    parse_secret,
)
from paramedic.api.reasons import Reason
from paramedic.clients.aws import Aws, Patience
from paramedic.clients.aws_pool import AwsPool
from paramedic.clients.credentials import Credentials, Way
from paramedic.clients.extras import require
from paramedic.clients.kube import Kube
from paramedic.clients.postgres import Postgres
from paramedic.clients.redis import Redis
from paramedic.errors import NotFound, Refused, Terminal

_AT_ONCE = 2
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection as it was found. ``guarded``: a tenant named the host, so that not every address will do."""

    name: str
    type: str
    endpoint: Endpoint
    credentials: Credentials
    guarded: bool


class Connections:
    """All connections. Its methods raise Terminal (ConnectionUnknown, ExtraMissing, …), Refused (Forbidden), Retry."""

    def __init__(
        self,
        configured: Sequence[ConnectionSettings],
        kube: Kube,
        *,
        never_block: Sequence[Network] = (),
        allow_loopback: bool = False,
    ) -> None:
        self.never_block = never_block
        """What blockAddresses never blocks, whatever the connection."""
        self._configured = configured
        self._kube = kube
        self._allow_loopback = allow_loopback  # for tests
        self._turns: WeakValueDictionary[Endpoint, asyncio.Semaphore] = WeakValueDictionary()  # those in use
        self._aws = AwsPool()

    async def find(self, namespace: str, name: str) -> Connection:
        """The connection that this name stands for in this namespace."""
        for one in self._configured:
            if one.name == name and namespace in one.namespaces:
                return Connection(name, one.type, one.endpoint, _files(one.endpoint), guarded=False)
        return _from_secret(name, await self._secret(namespace, name))

    async def postgres(self, namespace: str, name: str) -> Postgres:
        """A PostgreSQL database; nothing is connected yet."""
        found = await self._of_type(namespace, name, "postgres")
        assert isinstance(found.endpoint, PostgresServer)
        return Postgres(name, found.endpoint, self._way(found))

    async def redis(self, namespace: str, name: str) -> Redis:
        """A Redis database; nothing is connected yet."""
        found = await self._of_type(namespace, name, "redis")
        assert isinstance(found.endpoint, RedisServer)
        return Redis(name, found.endpoint, self._way(found))

    async def aws(self, namespace: str, name: str, *types: str, patience: Patience | None = None) -> Aws:
        """A region of AWS. ``types``: which of aws, aurora, loadBalancer, elasticache will do; ``access`` of the result
        is the model of that type. Whoever is less patient than usual has threads of its own.
        """
        found = await self._of_type(namespace, name, *types)
        assert isinstance(found.endpoint, AwsAccess)
        owner = f"namespace {namespace}" if found.guarded else f"the settings' {name}"
        return self._aws.get(owner, name, found.endpoint, found.credentials.keys, patience)

    async def cloud_native_pg(self, namespace: str, name: str) -> CloudNativePG:
        """Where a Cluster of CloudNativePG is."""
        found = await self._of_type(namespace, name, "cloudNativePG")
        assert isinstance(found.endpoint, CloudNativePG)
        return found.endpoint

    def close(self) -> None:
        """Ends what is open."""
        self._aws.close()

    async def check(self, namespace: str, name: str, *types: str) -> None:
        """Whether there is such a connection of one of these types, its library, and the files that it names; nothing
        is connected to.
        """
        found = await self._of_type(namespace, name, *types)
        for extra in _extras(found):
            require(extra)
        found.credentials.password()
        found.credentials.ca()

    async def _of_type(self, namespace: str, name: str, *types: str) -> Connection:
        found = await self.find(namespace, name)
        if found.type not in types:
            raise Terminal(
                Reason.CONNECTION_UNKNOWN, f"connection {name} is of type {found.type}, not {' or '.join(types)}"
            )
        return found

    def _way(self, found: Connection) -> Way:
        return Way(found.credentials, self._turn(found.endpoint), found.guarded, self._allow_loopback)

    def _turn(self, endpoint: Endpoint) -> asyncio.Semaphore:
        return self._turns.setdefault(endpoint, asyncio.Semaphore(_AT_ONCE))

    async def _secret(self, namespace: str, name: str) -> Json:
        try:
            return await self._kube.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        except NotFound as error:
            raise Terminal(
                Reason.CONNECTION_UNKNOWN,
                f"there is no connection {name} for namespace {namespace}: add it to connections in Paramedic's "
                f"settings with this namespace, or create a Secret {name} with the label {LABEL_CONNECTION}=true",
            ) from error
        except Refused as error:
            raise Refused(
                Reason.FORBIDDEN,
                f"connection {name} is not in Paramedic's settings for namespace {namespace}, and Paramedic may not "
                f"read the Secret {name}; to allow it: kubectl create role paramedic-connection-{name} -n {namespace} "
                f"--verb=get --resource=secrets --resource-name={name} && kubectl create rolebinding "
                f"paramedic-connection-{name} -n {namespace} --role=paramedic-connection-{name} "
                f"--serviceaccount={SYSTEM_NAMESPACE}:paramedic",
            ) from error


def _extras(found: Connection) -> Iterator[str]:
    """The libraries that a connection takes."""
    kinds = ((PostgresServer, "postgres"), (RedisServer, "redis"), (AwsAccess, "aws"))
    yield from (extra for kind, extra in kinds if isinstance(found.endpoint, kind))
    if found.credentials.iam_region:
        yield "aws"


def _files(endpoint: Endpoint) -> Credentials:
    if isinstance(endpoint, PostgresSettings):
        return Credentials(endpoint.password_file, endpoint.ca_file, endpoint.iam_region)
    if isinstance(endpoint, RedisSettings):
        return Credentials(endpoint.password_file, endpoint.ca_file)
    return Credentials()


def _from_secret(name: str, secret: Json) -> Connection:
    """Raises Terminal with what is wrong in the Secret, and never a value of it."""
    if (secret["metadata"].get("labels") or {}).get(LABEL_CONNECTION) != "true":
        raise Terminal(
            Reason.CONNECTION_UNKNOWN,
            f"Secret {name} is not meant as a connection: it has no label {LABEL_CONNECTION}=true",
        )
    try:
        values = {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}
        kind, endpoint = parse_secret(values)
        credentials = _credentials(endpoint, values)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise Terminal(Reason.CONNECTION_UNKNOWN, f"Secret {name} is no connection: {told}"[:1000]) from None
    except (UnicodeDecodeError, binascii.Error):
        raise Terminal(Reason.CONNECTION_UNKNOWN, f"Secret {name} is no connection: a value is not text") from None
    except ValueError as error:
        raise Terminal(Reason.CONNECTION_UNKNOWN, f"Secret {name} is no connection: {error}") from None
    return Connection(name, kind, endpoint, credentials, guarded=True)


def _credentials(endpoint: Endpoint, values: dict[str, str]) -> Credentials:
    """Raises ValueError. Keys for AWS must be the Secret's own: else its author would act with the operator's."""
    if isinstance(endpoint, AwsAccess):
        if endpoint.endpoint_url:
            raise ValueError("endpointURL is for Paramedic's settings only")
        own = {key: values[key] for key in ("accessKeyId", "secretAccessKey", "sessionToken") if key in values}
        return Credentials(keys=Keys.model_validate(own))
    password = values.get("password")
    return Credentials(
        password_value=None if password is None else SecretStr(password.removesuffix("\n")), ca_pem=values.get("ca.crt")
    )
