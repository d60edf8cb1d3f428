"""A network capture: tcpdump in an ephemeral container of one pod (runbook 4, "Network traffic analysis").

An ephemeral container cannot be taken away again: it ends by itself after its time and stays on the pod, ended.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from paramedic.clients.evidence import Chunks, Collection
from paramedic.clients.kube import Kube
from paramedic.core.pcap import HexDump
from paramedic.errors import Conflict, ParamedicError, Retry

Json = dict[str, Any]
NAME = "network.pcap"
MEDIA_TYPE = "application/vnd.tcpdump.pcap"
_START_SECONDS = 60.0
_END_SECONDS = 15.0
_POLL_SECONDS = 0.5
_TRIES = 5
_PODS_AT_ONCE = "100"


@dataclass(frozen=True, slots=True)
class Network:
    """``container`` is the ephemeral container's name, ``command`` its argv, which ends after ``seconds``."""

    container: str
    image: str
    command: tuple[str, ...]
    seconds: int
    start_seconds: float = _START_SECONDS
    end_seconds: float = _END_SECONDS


class NotCaptured(ParamedicError):
    """The cluster does not permit it, or it did not start; the message says why."""


async def capture_network(kept: Collection, kube: Kube, namespace: str, selector: str, wanted: Network) -> None:
    """Adds the capture, or a note why there is none."""
    try:
        async with asyncio.timeout(kept.seconds_left):
            path = await _one_pod(kube, namespace, selector, wanted.container)
            await _put_container(kube, path, wanted)
            runs = await _started(kube, path, wanted)
    except TimeoutError:
        kept.miss(NAME, "the time for this step was over before the capture began")
    except ParamedicError as error:
        kept.miss(NAME, str(error))
    else:
        await kept.keep(NAME, MEDIA_TYPE, _packets(kube, path, wanted, follow=runs), long=True)


async def _one_pod(kube: Kube, namespace: str, selector: str, container: str) -> str:
    """The path of a running pod, one that has the container already if there is one. Raises NotCaptured."""
    collection = f"/api/v1/namespaces/{namespace}/pods"
    found: list[tuple[bool, str]] = []
    async for page in kube.pages(collection, labelSelector=selector, limit=_PODS_AT_ONCE):
        running = [p for p in page if (p.get("status") or {}).get("phase") == "Running"]
        found += [(not _has(p, container), p["metadata"]["name"]) for p in running]
    if not found:
        raise NotCaptured(f"no pod that matches {selector} is running")
    return f"{collection}/{min(found)[1]}"


async def _put_container(kube: Kube, path: str, wanted: Network) -> None:
    """Adds the container, unless it is there from an earlier try. Raises NotCaptured and what the API server says."""
    for _ in range(_TRIES):
        pod = await kube.get(path)
        if _has(pod, wanted.container):
            return
        present = pod["spec"].get("ephemeralContainers") or []
        bound = {key: pod["metadata"][key] for key in ("uid", "resourceVersion")}
        body = {"metadata": bound, "spec": {"ephemeralContainers": [*present, _container(wanted)]}}
        try:
            await kube.merge_patch(f"{path}/ephemeralcontainers", body)
        except Conflict:
            continue
        return
    raise NotCaptured(f"{pod['metadata']['name']} was changed by others at every try")


def _has(pod: Json, container: str) -> bool:
    return any(c["name"] == container for c in pod["spec"].get("ephemeralContainers") or [])


def _container(wanted: Network) -> Json:
    """With as few rights as reading packets takes."""
    return {
        "name": wanted.container,
        "image": wanted.image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(wanted.command),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "runAsUser": 0,
            "runAsNonRoot": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


async def _started(kube: Kube, path: str, wanted: Network) -> bool:
    """Returns when it runs (True) or has run (False). Raises NotCaptured when it does not within its time."""
    said = "the kubelet says nothing of it"
    for _ in range(max(1, round(wanted.start_seconds / _POLL_SECONDS))):
        status = (await kube.get(path)).get("status") or {}
        states = [s for s in status.get("ephemeralContainerStatuses") or [] if s["name"] == wanted.container]
        state = (states[0].get("state") or {}) if states else {}
        if "running" in state or "terminated" in state:
            return "running" in state
        if waiting := state.get("waiting"):
            said = f"{waiting.get('reason', 'waiting')}: {waiting.get('message', '')}".rstrip(": ")
        await asyncio.sleep(_POLL_SECONDS)
    raise NotCaptured(f"its container did not start within {wanted.start_seconds:.0f} s: {said}")


async def _packets(kube: Kube, path: str, wanted: Network, *, follow: bool) -> Chunks:
    """The capture file, while it grows. Raises NotCaptured when there was no packet."""
    dump, loop = HexDump(), asyncio.get_running_loop()
    query = {"container": wanted.container} | ({"follow": "true"} if follow else {})
    ends = loop.time() + wanted.seconds
    async with aclosing(kube.stream(f"{path}/log", query, read_seconds=wanted.seconds + wanted.end_seconds)) as text:
        try:
            async for chunk in text:
                if packets := dump.feed(chunk):
                    yield packets
        except Retry:
            if not follow or loop.time() < ends:
                raise  # else nothing was left to come: the log was just not closed
    if last := dump.end():
        yield last
    if not dump.packets:
        raise NotCaptured(f"no packet came; the container said: {' / '.join(dump.remarks) or 'nothing'}")
