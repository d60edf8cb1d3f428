"""Sees everything that happens to targets and incidents, in all namespaces, by watches that go round the operator."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

import aiohttp

from faults.shapes import DEPLOYMENTS, INCIDENTS, OPERATION, TARGET
from testbed.api import Api, ApiError

Json = dict[str, Any]
State = tuple[int, str]


class Witness:
    """Histories of the targets and the newest copies of the incidents. Use as an async context manager."""

    def __init__(self, admin: Api) -> None:
        self._admin = admin
        self._states: dict[str, list[tuple[State, str]]] = defaultdict(list)
        self._incidents: dict[str, dict[str, Json]] = defaultdict(dict)
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        watches = ((DEPLOYMENTS, self._take_deployment), (INCIDENTS, self._take_incident))
        self._tasks = [asyncio.create_task(self._watch(*one)) for one in watches]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def states(self, namespace: str, target: str = TARGET) -> list[State]:
        """(replicas, image) of the target as it changed."""
        return _without_repeats([state for state, _ in self._states[f"{namespace}/{target}"]])

    def stamps(self, namespace: str, target: str = TARGET) -> list[str]:
        """The operation ids that the target carried, in order."""
        return _without_repeats([stamp for _, stamp in self._states[f"{namespace}/{target}"] if stamp])

    def incidents(self, namespace: str) -> list[Json]:
        """The newest known copies, by name."""
        return [one for _, one in sorted(self._incidents[namespace].items())]

    async def sees(self, question: Callable[[], Any], timeout: float) -> bool:
        """Whether the question is answered with yes within the time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not question():
            left = deadline - loop.time()
            if left <= 0:
                return False
            news = self._news
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), min(left, 0.5))
        return True

    def _take_deployment(self, kind: str, raw: Json) -> None:
        if kind == "DELETED":
            return
        meta, spec = raw["metadata"], raw["spec"]
        state = (spec["replicas"], spec["template"]["spec"]["containers"][0]["image"])
        stamp = (meta.get("annotations") or {}).get(OPERATION, "")
        history = self._states[f"{meta['namespace']}/{meta['name']}"]
        if not history or history[-1] != (state, stamp):
            history.append((state, stamp))

    def _take_incident(self, kind: str, raw: Json) -> None:
        known = self._incidents[raw["metadata"]["namespace"]]
        if kind == "DELETED":
            known.pop(raw["metadata"]["name"], None)
        else:
            known[raw["metadata"]["name"]] = raw

    async def _watch(self, resource: str, take: Callable[[str, Json], None]) -> None:
        """Lists once and watches on from there; after an outage from where it stopped, so that nothing is missed."""
        version = ""
        while True:
            try:
                version = version or await self._list(resource, take)
                async for event in self._admin.watch(resource, resource_version=version, allowWatchBookmarks=True):
                    if event["type"] == "ERROR":
                        version = ""
                        break
                    version = event["object"]["metadata"]["resourceVersion"]
                    if event["type"] != "BOOKMARK":
                        take(event["type"], event["object"])
                        self._tell()
            except ApiError as error:
                version = "" if error.status == 410 else version
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                pass
            await asyncio.sleep(0.1)

    async def _list(self, resource: str, take: Callable[[str, Json], None]) -> str:
        path = f"/apis/{resource}"
        answer = await self._admin.request("GET", path)
        for item in answer["items"]:
            take("ADDED", item)
        self._tell()
        return str(answer["metadata"]["resourceVersion"])

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _without_repeats(values: list[Any]) -> list[Any]:
    return [value for number, value in enumerate(values) if not number or values[number - 1] != value]
