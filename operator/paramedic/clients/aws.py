"""AWS' APIs through botocore (of the extra ``paramedic[aws]``), in threads of their own, with its adaptive retries.

What changes something is sent once, for a lost answer does not say that nothing was done; it is repeated only when AWS
itself can tell (a client token).
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

from paramedic.api.connection import AwsAccess, Keys
from paramedic.api.reasons import Reason
from paramedic.clients.extras import require
from paramedic.core.redact import clean
from paramedic.errors import NotFound, ParamedicError, Refused, Terminal, Unreachable

Json = dict[str, Any]
_THREADS = 4
_THROTTLED_AFTER = timedelta(seconds=5)
_PAUSES_SECONDS = (0.5, 1.0, 2.0)
_THROTTLED = ("Throttl", "RequestLimitExceeded", "TooManyRequests", "SlowDown", "BandwidthLimitExceeded")
_FORBIDDEN = ("AccessDenied", "Unauthorized", "OptInRequired")
_NO_LOGIN = (
    "AuthFailure",
    "Expired",
    "IncompleteSignature",
    "InvalidAccessKey",
    "InvalidClientTokenId",
    "InvalidIdentityToken",
    "InvalidSignature",
    "InvalidToken",
    "MissingAuthentication",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClient",
)
_IAM_PREFIXES = {"elbv2": "elasticloadbalancing"}
_MOST_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a request is sent, and how long one may take."""

    attempts: int = 5
    connect_seconds: float = 5
    read_seconds: float = 30


HURRIED = Patience(attempts=2, connect_seconds=1.5, read_seconds=2.5)
"""For who would rather do without an answer than wait for it."""


class AwsFault(Terminal):
    """AWS refused the request; ``code`` is its error code, for example ``InvalidDBClusterStateFault``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(Reason.REJECTED, message)
        self.code = code


class Aws:
    """One region with one set of credentials; ``access`` says which, ``name`` how people call it."""

    def __init__(
        self, name: str, access: AwsAccess, keys: Keys | None = None, patience: Patience | None = None
    ) -> None:
        self.name = name
        self.access = access
        self._patience = patience or Patience()
        self._clients: dict[tuple[str, int], Any] = {}
        self._one_at_a_time = threading.Lock()  # making a client is not safe in threads, using one is
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="aws")
        self._session = new_session(access.region, keys)

    async def read(self, service: str, operation: str, **arguments: Any) -> Json:
        """One request that changes nothing, for example ``read("rds", "describe_db_clusters", …)``.

        Raises NotFound, AwsFault, Refused (Forbidden), Terminal, Unreachable.
        """
        return await self._run(service, operation, arguments, self._patience.attempts, uncertain=False)

    async def write(self, service: str, operation: str, *, idempotent: bool = False, **arguments: Any) -> Json:
        """One request that changes something; ``idempotent`` when it carries a client token. As ``read``; Unreachable
        is uncertain when it may have been done.
        """
        attempts = self._patience.attempts if idempotent else 1
        for pause in _PAUSES_SECONDS:
            try:
                return await self._run(service, operation, arguments, attempts, uncertain=True)
            except Unreachable as error:
                if error.uncertain or error.after is None:  # what was throttled was surely not done
                    raise
            await asyncio.sleep(pause)
        return await self._run(service, operation, arguments, attempts, uncertain=True)

    async def items(self, service: str, operation: str, key: str, *, most: int = 1000, **arguments: Any) -> list[Json]:
        """What a paginated request lists under ``key``, at most ``most``. As ``read``."""

        def gather() -> Json:
            paginator = self._client(service, self._patience.attempts).get_paginator(operation)
            pages = paginator.paginate(PaginationConfig={"MaxItems": most}, **arguments)
            return {key: [item for page in pages for item in page.get(key, [])]}

        found: list[Json] = (await self._in_thread(service, operation, gather, uncertain=False))[key]
        return found

    def close(self) -> None:
        """Ends the threads, at the end of the process: what waits for its turn is given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, service: str, operation: str, arguments: Json, attempts: int, *, uncertain: bool) -> Json:
        def call() -> Json:
            answer: Json = getattr(self._client(service, attempts), operation)(**arguments)
            return answer

        return await self._in_thread(service, operation, call, uncertain=uncertain)

    async def _in_thread(self, service: str, operation: str, call: Callable[[], Json], *, uncertain: bool) -> Json:
        from botocore.exceptions import BotoCoreError, ClientError

        where = f"{self.name}: {service} {operation} in {self.access.region}"
        try:
            return await self._answer(where, call)
        except ClientError as error:
            raise _translated(where, _iam_action(service, error), error.response, uncertain=uncertain) from error
        except BotoCoreError as error:
            raise _unanswered(where, error, uncertain=uncertain) from error

    async def _answer(self, where: str, call: Callable[[], Json]) -> Json:
        """What a thread makes of the call. Raises what the call does, and Unreachable where it did not even begin:
        the threads have ended, or there is none to be had.
        """
        try:
            asked = asyncio.get_running_loop().run_in_executor(self._threads, call)
        except RuntimeError as error:
            raise Unreachable(f"{where}: not asked: {error}") from error
        try:
            return await asked
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise Unreachable(f"{where}: not asked: given up while it waited for its turn") from None

    def _client(self, service: str, attempts: int) -> Any:
        from botocore.config import Config

        key = service, attempts
        with self._one_at_a_time:
            if key not in self._clients:
                config = Config(
                    connect_timeout=self._patience.connect_seconds,
                    read_timeout=self._patience.read_seconds,
                    retries={"total_max_attempts": attempts, "mode": "adaptive"},
                    user_agent_extra="paramedic",
                )
                url = self.access.endpoint_url
                self._clients[key] = self._session.create_client(service, endpoint_url=url, config=config)
            return self._clients[key]


def new_session(region: str, keys: Keys | None = None) -> Any:
    """A session of botocore in a region, by these keys or AWS' default chain. Raises Terminal without the library.

    All have the descriptions of AWS' services in common, for each would read some 25 MB of them.
    """
    require("aws")
    from botocore.session import Session

    session = Session()
    session.register_component("data_loader", _descriptions())
    session.set_config_variable("region", region)
    if keys is not None:
        token = keys.session_token.get_secret_value() if keys.session_token else None
        session.set_credentials(keys.access_key_id.get_secret_value(), keys.secret_access_key.get_secret_value(), token)
    return session


@cache
def _descriptions() -> Any:
    from botocore.session import Session

    return Session().get_component("data_loader")


def _iam_action(service: str, error: Any) -> str:
    """What IAM calls the request that failed; it may be the one for credentials."""
    operation = str(error.operation_name)
    prefix = "sts" if operation.startswith("AssumeRole") else _IAM_PREFIXES.get(service, service)
    return f"{prefix}:{operation}"


def _translated(where: str, iam_action: str, response: Json, *, uncertain: bool) -> ParamedicError:
    """What an answer with an error means. What AWS says of a wrong signature may quote the request's secrets."""
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    text = clean(f"{where}: {code}: {response.get('Error', {}).get('Message', '')}", _MOST_CHARACTERS)
    if code.startswith(_THROTTLED) or status == 429:
        return Unreachable(text, _THROTTLED_AFTER)
    if status >= 500:
        return Unreachable(text, uncertain=uncertain)
    if code.startswith(_NO_LOGIN):
        return Unreachable(f"{where}: the credentials are expired or wrong ({code})")
    if code.startswith(_FORBIDDEN) or status in (401, 403):
        lacks = f"Paramedic's identity in AWS lacks {iam_action} (manifests/README.md)"
        return Refused(Reason.FORBIDDEN, f"{text}; {lacks}")
    if "NotFound" in code:
        return NotFound(text)
    return AwsFault(code, text)


def _unanswered(where: str, error: Exception, *, uncertain: bool) -> ParamedicError:
    """What it means that no answer came, or that nothing could be asked."""
    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, HTTPClientError, ParamValidationError

    text = clean(f"{where}: {error}", _MOST_CHARACTERS)
    if isinstance(error, ParamValidationError):
        return Terminal(Reason.INVALID_PARAMETERS, text)
    asked = isinstance(error, HTTPClientError) and not isinstance(error, EndpointConnectionError | ConnectTimeoutError)
    return Unreachable(text, uncertain=uncertain and asked)
