"""Deletes incidents that ended long ago, once their reports are kept as evidence."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from paramedic.api.incident import Evidence, Incident
from paramedic.clients.kube import Kube
from paramedic.core import retention
from paramedic.errors import Conflict, NotFound, ParamedicError, Refused, Retry
from paramedic.log import get_logger
from paramedic.metrics import Metrics
from paramedic.record import incident_path
from paramedic.store import Entry, Store, key_of

_log = get_logger(__name__)
_EVERY_SECONDS = 60.0
_MOST_AT_ONCE = 30
KeepReport = Callable[[Incident], Awaitable[list[Evidence]]]


class Retention:
    """Only the leader deletes: at most 30 incidents in a minute, one after the other."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        keep_report: KeepReport | None,
        resolved_for: timedelta,
        metrics: Metrics,
        leads: Callable[[], bool],
        clock: Callable[[], datetime],
    ) -> None:
        self._kube = kube
        self._store = store
        self._keep_report = keep_report
        self._resolved_for = resolved_for
        self._metrics = metrics
        self._leads = leads
        self._clock = clock

    async def run(self) -> None:
        """Prunes until cancelled."""
        while True:
            try:
                await self.prune()
            except Refused as error:
                text = "ended incidents may not be deleted: add manifests/components/retention, or retention: null"
                _log.error(text, error=str(error))
            except ParamedicError as error:
                _log.warning("ended incidents are not deleted for now", error=str(error))
            except Exception:  # noqa: BLE001 - one bad incident must not end the process
                _log.exception("deleting ended incidents failed")
            await asyncio.sleep(_EVERY_SECONDS)

    async def prune(self) -> int:
        """Deletes what may be deleted now, and says how much. Raises Refused; what else fails holds up no others."""
        pruned = failed = 0
        for key in self._expired():
            if not self._leads() or pruned + failed >= _MOST_AT_ONCE:
                break
            try:
                pruned += await self._delete(key)
            except Refused:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is about this one, the others go on
                failed += 1
                _log.warning("an ended incident is not deleted for now", incident=key, error=repr(error))
        return pruned

    def _expired(self) -> list[str]:
        if not (self._store.loaded and self._leads()):
            return []
        entries = self._store.entries.values()
        policies = self._store.usable_policies()
        reaches = [retention.reach(policy.spec.guards) for policy in policies] + [
            entry.guard_reach for entry in self._store.open_entries()
        ]
        now = self._clock()
        old = (
            entry for entry in entries if entry.ended_at and entry.ended_at <= now - self._resolved_for
        )  # few of many
        ended = [found for entry in old if (found := _ended(entry))]
        return retention.expired(ended, now, self._resolved_for, max(reaches, default=timedelta(0)))

    async def _delete(self, key: str) -> bool:
        """Whether it is gone. What was changed meanwhile is left for the next time."""
        path = incident_path(*key.split("/", 1))
        try:
            raw = await self._kube.get(path)
            if self._store.put_incident(raw):
                return False
            await self._export(Incident.model_validate(raw))
            meta = raw["metadata"]
            await self._kube.delete(path, meta["uid"], meta["resourceVersion"])
        except Conflict:
            return False
        except NotFound:
            self._store.drop_incident(key)
            return False
        except ValueError as error:
            _log.error("an ended incident that cannot be read is not deleted", incident=key, error=str(error)[:500])
            return False
        self._store.drop_incident(key_of(raw))
        self._metrics.incidents_pruned.inc()
        _log.info("an ended incident was deleted", incident=key)
        return True

    async def _export(self, incident: Incident) -> None:
        """Raises Retry when the report is not kept."""
        if self._keep_report is None:
            return
        missing = [item for item in await self._keep_report(incident) if not item.uri]
        if missing:
            raise Retry(f"the report of {incident.key} could not be kept: {missing[0].note}")


def _ended(entry: Entry) -> retention.Ended | None:
    """None for one that is open, or of which it is not known when it ended."""
    if entry.open or entry.ended_at is None:
        return None
    return retention.Ended(
        key=entry.key,
        ended_at=entry.ended_at,
        attend_at=entry.attend_at,
        in_use=entry.raw is not None,
        fires=bool(entry.firing),
        last_acted_at=max((action.at for action in entry.actions), default=None),
    )
