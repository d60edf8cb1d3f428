"""One capture, from what is wanted to what was kept."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version

from paramedic.api.incident import Evidence
from paramedic.clients.connections import Connections
from paramedic.clients.evidence import Collection, EvidenceStore
from paramedic.clients.evidence_shares import Share
from paramedic.clients.kube import Kube
from paramedic.core.evidence import INDEX
from paramedic.errors import ParamedicError
from paramedic.evidence.database import Dump, capture_dump
from paramedic.evidence.logs import log_sources
from paramedic.evidence.network import Network, capture_network
from paramedic.evidence.objects import event_sources, history_sources, manifest_sources, reference_source
from paramedic.evidence.snapshots import Snapshots, capture_snapshots
from paramedic.evidence.source import Source

_AT_ONCE = 4
_FOR_READING = 0.9
"""The part of a step's time in which reading must end, so that the index is written within it too."""
_LIMIT = "maxBytesPerDay"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to gather. ``selector``, as in ``kubectl -l``, says whose logs; ``own_selector`` finds the history."""

    namespace: str
    incident: str
    operation: str
    target_kind: str
    target_name: str
    target_uid: str
    selector: str
    own_selector: str
    since_seconds: int
    include: tuple[str, ...]
    previous: bool
    total_bytes: int | None = None
    network: Network | None = None
    snapshots: Snapshots | None = None
    dump: Dump | None = None
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class Captured:
    """What was kept and what not, the index first."""

    items: tuple[Evidence, ...]

    @property
    def kept(self) -> int:
        """How many items are there, without the index."""
        return sum(1 for item in self.items if item.uri and item.name != INDEX)

    @property
    def size_bytes(self) -> int:
        """Their size."""
        return sum(item.size_bytes or 0 for item in self.items if item.name != INDEX)

    @property
    def lacking(self) -> list[Evidence]:
        """What is missing or was cut."""
        return [item for item in self.items if item.note]

    def __str__(self) -> str:
        said = f"{self.kept} items, {self.size_bytes / (1 << 20):.2f} MiB"
        if not self.lacking:
            return said
        first = self.lacking[0]
        return f"{said}; {len(self.lacking)} missing or cut: {first.name}: {first.note}"


async def capture(
    wanted: Wanted,
    kube: Kube,
    store: EvidenceStore,
    seconds: float,
    connections: Connections | None = None,
    share: Share | None = None,
) -> Captured:
    """Gathers within ``seconds``, no more than the namespace's ``share`` has room for; ``connections`` lead to AWS, for
    snapshots, and to databases. What fails or has no room is said on its item; nothing is raised for it.
    """
    async with (
        store.collection(
            wanted.namespace,
            wanted.incident,
            wanted.operation,
            about=_about(wanted),
            total_bytes=wanted.total_bytes,
            seconds=seconds * _FOR_READING,
            share=share,
        ) as kept,
        asyncio.TaskGroup() as group,
    ):
        if share and share.problem:
            kept.miss(_LIMIT, f"what was stored within a day cannot be counted, so no limit was kept: {share.problem}")
        if wanted.network:
            group.create_task(capture_network(kept, kube, wanted.namespace, wanted.selector, wanted.network))
        if wanted.snapshots and connections:
            named = wanted.namespace, wanted.incident, wanted.operation, wanted.attempt
            group.create_task(capture_snapshots(kept, kube, connections, wanted.snapshots, *named))
        if wanted.dump and connections:
            group.create_task(capture_dump(kept, connections, wanted.dump, wanted.namespace))
        await _gather(wanted, kube, kept)
    return Captured(tuple(kept.items))


def _about(wanted: Wanted) -> dict[str, str]:
    """What the index says of it."""
    return {
        "target": f"{wanted.target_kind}/{wanted.target_name}",
        "targetUID": wanted.target_uid,
        "pods": wanted.selector,
        "collectedBy": f"paramedic {version('paramedic')}",
    }


async def _gather(wanted: Wanted, kube: Kube, kept: Collection) -> None:
    """What is small first, so that large logs cannot take its room."""
    if "events" in wanted.include:
        await _keep_all(kept, event_sources(kube, wanted.namespace))
    if "history" in wanted.include:
        history = history_sources(kube, wanted.namespace, wanted.target_kind, wanted.target_uid, wanted.own_selector)
        await _keep_all(kept, history)
    if "manifests" in wanted.include:
        references: dict[str, set[str]] = {}
        await _keep_all(kept, manifest_sources(kube, wanted.namespace, references))
        await _keep_all(kept, [reference_source(references)])
    if "logs" in wanted.include:
        await _keep_logs(wanted, kube, kept)


async def _keep_logs(wanted: Wanted, kube: Kube, kept: Collection) -> None:
    found: list[Source] = []
    try:
        async with asyncio.timeout(kept.seconds_left):
            async for source in log_sources(
                kube, wanted.namespace, wanted.selector, wanted.since_seconds, previous=wanted.previous
            ):
                found.append(source)  # noqa: PERF401 - those found before an error are kept
    except (ParamedicError, TimeoutError) as error:
        kept.miss("logs", f"the pods could not all be listed: {error}")
    if not found:
        kept.miss("logs", f"no pod matches {wanted.selector}")
    await _keep_all(kept, found)


async def _keep_all(kept: Collection, sources: Iterable[Source]) -> None:
    waiting = iter(sources)

    async def work() -> None:
        for source in waiting:
            await kept.keep(source.name, source.media_type, source.read())

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
