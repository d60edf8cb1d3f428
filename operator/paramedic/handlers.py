"""The Kopf edge: watch events of both kinds go into the mirror and wake the reconciler. Nothing is decided here.

Only raw watch events are handled (``kopf.on.event``): Kopf then writes neither annotations nor finalizers, and nothing
that a tenant could delete. The mirror already holds what the first list said, so that Kopf's own replay of it at the
start finds nothing new.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import kopf

from paramedic.api import GROUP, VERSION
from paramedic.clients.kube import Kube
from paramedic.policies import PolicyReporter, read_policy
from paramedic.reconcile import Reconciler
from paramedic.record import reread
from paramedic.store import Store, WatchProgress, key_of

Json = dict[str, Any]
_NOT_RESOLVED = "status.phase!=Resolved"


class _Backoffs:
    """Seconds between Kopf's tries, without end: an API server that is away for long is no reason to give the watch up,
    and it is back at once when the server is.
    """

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((1, 1, 2, 3), itertools.repeat(5))


class _NoDiffBase(kopf.DiffBaseStorage):
    """Kopf compares each object with the last one handled, for handlers that we do not have; that comparison would be
    half of its cost for an event."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        return None


class Handlers:
    """Registers with Kopf and runs it."""

    def __init__(
        self, kube: Kube, store: Store, reconciler: Reconciler, reporter: PolicyReporter, namespace: str
    ) -> None:
        self._kube = kube
        self._store = store
        self._reconciler = reconciler
        self._reporter = reporter
        self._namespace = namespace
        self.progress = WatchProgress()

    def take_incident(self, kind: str | None, raw: Json) -> None:
        """One watch event (``DELETED``, or None and the rest for what exists) of an Incident."""
        self.progress.saw("incidents", raw)
        if kind != "DELETED" and self._store.put_incident(raw):
            self._reconciler.queue.add(key_of(raw))

    def take_policy(self, kind: str | None, raw: Json) -> None:
        """One watch event of a RemediationPolicy."""
        self.progress.saw("remediationpolicies", raw)
        key = key_of(raw)
        if kind == "DELETED":
            self._store.remove_policy(raw)
        else:
            policy, problem = read_policy(raw, self._namespace)
            known = self._store.policies.get(key)
            if not self._store.put_policy(raw, policy, problem) or _same_spec(known.raw if known else None, raw):
                return
        self._reporter.wake()
        self._wake_incidents(key)

    async def run(self, stop: asyncio.Event, on_signal: Callable[[], Awaitable[None]]) -> None:
        """Runs Kopf until ``stop``; returns (or raises) when a watch cannot go on, which ends the process.

        Kopf takes the process' signals. ``on_signal`` is awaited before it ends, and before it cancels all tasks of the
        loop that it does not know.
        """
        registry = kopf.OperatorRegistry()

        @kopf.on.cleanup(registry=registry)
        async def ending(**_: Any) -> None:
            await on_signal()

        kopf.on.event(GROUP, VERSION, "incidents", registry=registry)(self._on_incident)
        kopf.on.event(GROUP, VERSION, "remediationpolicies", registry=registry)(self._on_policy)
        kopf.on.login(registry=registry)(self._login)
        await kopf.operator(
            registry=registry,
            settings=_kopf_settings(),
            clusterwide=True,
            standalone=True,
            stop_flag=stop,
        )

    async def _on_incident(self, event: Any, **_: Any) -> None:
        self.take_incident(event["type"], event["object"])
        if event["type"] == "DELETED":
            await self._incident_left(event["object"])

    async def _on_policy(self, event: Any, **_: Any) -> None:
        self.take_policy(event["type"], event["object"])

    async def _login(self, **_: Any) -> kopf.ConnectionInfo:
        return await self._kube.connection_info()

    async def _incident_left(self, raw: Json) -> None:
        """Deleted, or resolved and so no longer in the watch's selection. The event shows it as it was before, so it is
        read anew: one that is over stays known, for its guards and its group. Should that fail, the resync does it.
        """
        known = self._store.entries.get(key_of(raw))
        if known and known.open:
            await reread(self._kube, self._store, known.key)

    def _wake_incidents(self, policy_key: str) -> None:
        """Those under the policy, and those that wait for one."""
        for entry in self._store.open_entries():
            if entry.policy is None or entry.policy == policy_key:
                self._reconciler.queue.add(entry.key)


def _same_spec(known: Json | None, raw: Json) -> bool:
    if known is None:
        return False
    meta, old = raw["metadata"], known["metadata"]
    return (meta.get("uid"), meta.get("generation")) == (old.get("uid"), old.get("generation"))


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.finalizer = f"{GROUP}/kopf-unused"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"kopf.{GROUP}")
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.watching.chunk_size = 500
    settings.watching.inactivity_timeout = 70
    settings.watching.field_selectors[GROUP, "incidents"] = _NOT_RESOLVED
    settings.queueing.idle_timeout = 0.5
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = _Backoffs()
    logging.getLogger("kopf").setLevel(logging.WARNING)
    return settings
