"""One actor at a time: a Lease, through the official client's leader election.

The Lease is for availability only; safety comes from the intent on the Incident. What matters here is to stop acting in
time, also after the process was frozen, and to go on at once after a crash in the same pod.
"""

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
from kubernetes.aio import client
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from paramedic.log import get_logger
from paramedic.metrics import Metrics

_log = get_logger(__name__)
LEASE_NAME = "paramedic"
_CONFLICT = 409
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_UNREACHABLE = (aiohttp.ClientError, OSError, TimeoutError)


class Leadership:
    """Whether this process is the one that acts."""

    def __init__(
        self,
        configuration: client.Configuration,
        metrics: Metrics,
        *,
        namespace: str,
        identity: str,
        lease: timedelta,
        renew_deadline: timedelta,
        retry_period: timedelta,
    ) -> None:
        self._configuration = configuration
        self._namespace = namespace
        self._claim = IdentityClaim(identity)
        self._lease = lease
        self._renew_deadline = renew_deadline
        self._retry_period = retry_period
        self._renewed_at: float | None = None
        self._leading = False
        self._on_resumed: Callable[[], None] = lambda: None
        # Asked, not set: a process that was frozen past its Lease does not lead when it wakes, and must not say so.
        metrics.leader.set_function(self.leads)
        # The library logs a stack trace for every lost race and every outage of the API server.
        logging.getLogger("kubernetes.aio.leaderelection").setLevel(logging.CRITICAL)

    def leads(self) -> bool:
        """True while the Lease is surely ours: a process that was frozen past it does not act when it wakes."""
        return self._leading and self._is_fresh()

    async def run(
        self,
        on_started: Callable[[], Awaitable[None]],
        on_stopped: Callable[[], None],
        on_resumed: Callable[[], None],
    ) -> None:
        """Runs for the lead until cancelled, then gives it up so that another need not wait.

        ``on_resumed`` is called when a lead that was in doubt (``leads`` was false for a while) is sure again without
        having been lost: what came to be done in between was left undone.
        """
        self._on_resumed = on_resumed
        async with client.ApiClient(self._configuration) as api:
            lock = _Lock(LEASE_NAME, self._namespace, self._claim.identity, api, self._note_renewal)
            try:
                while True:
                    await LeaderElection(self._config(lock, on_started)).run()
                    self._stopped(on_stopped)
            finally:
                self._stopped(on_stopped)
                await _release(lock)
                self._claim.close()

    def _config(self, lock: LeaseLock, on_started: Callable[[], Awaitable[None]]) -> Config:
        async def started() -> None:
            _log.info("leading", identity=self._claim.identity)
            self._leading = True
            await on_started()

        async def stopped() -> None:
            return None

        return Config(
            lock,
            int(self._lease.total_seconds()),
            self._renew_deadline.total_seconds(),
            self._retry_period.total_seconds(),
            started,
            stopped,
        )

    def _stopped(self, on_stopped: Callable[[], None]) -> None:
        if self._leading:
            _log.info("no longer leading", identity=self._claim.identity)
            self._leading = False
            on_stopped()

    def _note_renewal(self, began: float) -> None:
        in_doubt = self._leading and not self._is_fresh()
        self._renewed_at = began
        if in_doubt and self._is_fresh():
            _log.info("leading again", identity=self._claim.identity)
            self._on_resumed()

    def _is_fresh(self) -> bool:
        if self._renewed_at is None:
            return False
        return time.monotonic() - self._renewed_at < self._renew_deadline.total_seconds()


class IdentityClaim:
    """A name in the Lease that is the same after a crash in the same pod, and never shared by two live processes.

    The claim is an abstract Unix socket, which the kernel frees when the process ends, however it ends. Where there are
    none (outside Linux), or when another process holds it, the name gets a random tail.
    """

    def __init__(self, identity: str) -> None:
        self._socket: socket.socket | None = None
        boot = _BOOT_ID.read_text()[:8] if _BOOT_ID.exists() else secrets.token_hex(4)
        name = f"{identity}_{boot}"
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.bind(f"\0paramedic/{name}")
            self.identity = name
        except (OSError, AttributeError):
            self.close()
            self.identity = f"{name}_{secrets.token_hex(4)}"

    def close(self) -> None:
        """Frees the name."""
        if self._socket:
            self._socket.close()
            self._socket = None


class _Lock(LeaseLock):
    """The library's lock; an API server that cannot be reached is a failed try, not the end of the election."""

    def __init__(
        self, name: str, namespace: str, identity: str, api: client.ApiClient, renewed: Callable[[float], None]
    ) -> None:
        super().__init__(name, namespace, identity, api)
        self._renewed = renewed

    async def get(self, name: str, namespace: str) -> Any:
        try:
            async with asyncio.timeout(5):
                return await super().get(name, namespace)
        except _UNREACHABLE as error:
            return False, ApiException(status=0, reason=repr(error))

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        return await self._noting(self._create(name, namespace, election_record))

    async def update(self, name: str, namespace: str, updated_record: Any) -> bool:
        return await self._noting(super().update(name, namespace, updated_record))

    async def _create(self, name: str, namespace: str, election_record: Any) -> bool:
        """As in the library (kubernetes 37.0.2), whose own call fails its own validation (``pretty=True``)."""
        body = client.V1Lease(
            metadata=client.V1ObjectMeta(name=name, namespace=namespace), spec=self.update_lease(election_record)
        )
        try:
            await self.api_instance.create_namespaced_lease(namespace, body)
        except ApiException as error:
            if error.status != _CONFLICT:
                _log.warning(
                    "cannot create the Lease, so nothing is done: apply manifests/, or set PARAMEDIC_NAMESPACE",
                    namespace=namespace,
                    error=f"{error.status} {error.reason}",
                )
            return False
        return True

    async def _noting(self, write: Awaitable[bool]) -> bool:
        began = time.monotonic()
        try:
            async with asyncio.timeout(5):
                succeeded = await write
        except _UNREACHABLE:
            return False
        if succeeded:
            self._renewed(began)
        return succeeded


async def _release(lock: LeaseLock) -> None:
    """Ends our own Lease early; without an answer it simply runs out."""
    try:
        found, record = await lock.get(lock.name, lock.namespace)
        lease = lock.lease_reference
        if found and lease and lease.spec and getattr(record, "holder_identity", None) == lock.identity:
            lease.spec.holder_identity = ""
            async with asyncio.timeout(2):
                await lock.api_instance.replace_namespaced_lease(lock.name, lock.namespace, lease)
    except (ApiException, *_UNREACHABLE) as error:
        _log.info("lease not released; it runs out by itself", error=repr(error))
