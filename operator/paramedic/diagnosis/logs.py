"""The last log lines of a few failing containers."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

from paramedic.clients.kube import Kube
from paramedic.core.picture import name_of
from paramedic.core.pods import container_statuses, is_counted, is_ready, last_end
from paramedic.core.redact import clean_lines
from paramedic.diagnosis.looking import Looks

Json = dict[str, Any]
_MOST_CONTAINERS = 5
_MOST_BYTES = 32 * 1024


async def read_logs(kube: Kube, pods: list[Json], lines: int, looks: Looks, seconds: float) -> list[Json]:
    """``{pod, container, previous, lines}`` for at most five containers, different ones first."""
    chosen = list(failing_containers(pods))[:_MOST_CONTAINERS] if lines else []
    wanted = [(pod, container, previous) for pod, container in chosen for previous in _runs(container)]
    read = await asyncio.gather(
        *(
            looks.at(f"logs of {name_of(pod)}", _tail(kube, pod, container, lines, previous=previous), seconds)
            for pod, container, previous in wanted
        )
    )
    return [one for one in read if one is not None]


def failing_containers(pods: list[Json]) -> Iterator[tuple[Json, Json]]:
    """Containers that failed and have run at all, of pods that should serve; one of each name and way to end first."""
    seen: set[tuple[object, ...]] = set()
    later = []
    for pod in pods:
        for container in container_statuses(pod) if is_counted(pod) else []:
            ended = last_end(container)
            unready = not (is_ready(pod) or container.get("ready"))
            if not _runs(container) or not (unready or ended.get("exitCode")):
                continue
            key = (container.get("name"), container.get("image"), ended.get("reason"), ended.get("exitCode"))
            if key in seen:
                later.append((pod, container))
                continue
            seen.add(key)
            yield pod, container
    yield from later


def _runs(container: Json) -> list[bool]:
    """Which runs have a log: the present one (False), the previous one (True)."""
    state = container.get("state") or {}
    present = bool(state.get("running") or state.get("terminated"))
    previous = bool((container.get("lastState") or {}).get("terminated"))
    return [False] * present + [True] * previous


async def _tail(kube: Kube, pod: Json, container: Json, lines: int, *, previous: bool) -> Json:
    query = {"container": container["name"], "tailLines": str(lines), "limitBytes": str(_MOST_BYTES)}
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{name_of(pod)}/log"
    raw = b""
    async with aclosing(kube.stream(path, query | ({"previous": "true"} if previous else {}))) as chunks:
        async for chunk in chunks:
            raw += chunk
            if len(raw) >= _MOST_BYTES:
                break
    text = raw[:_MOST_BYTES].decode(errors="replace")
    return {
        "pod": name_of(pod),
        "container": container["name"],
        "previous": previous,
        "cut": len(raw) >= _MOST_BYTES,
        "lines": clean_lines(text)[-lines:],
    }
