"""Follows the Incidents of a namespace by a watch, as any client could."""

from __future__ import annotations

import contextlib
import json
import queue
import ssl
import threading
import urllib.request
from datetime import datetime
from typing import Any

from testbed.access import Credentials

Json = dict[str, Any]


class Follower:
    """A thread that reads the watch; `news()` hands out what is new on the timelines since the last call."""

    def __init__(self, credentials: Credentials, namespace: str) -> None:
        url = f"{credentials.url}/apis/paramedic.dev/v1alpha1/namespaces/{namespace}/incidents?watch=1"
        self._request = urllib.request.Request(url, headers={"Authorization": f"Bearer {credentials.token}"})
        self._context = ssl.create_default_context(cafile=str(credentials.ca))
        self._seen: queue.SimpleQueue[Json] = queue.SimpleQueue()
        self._told: dict[str, int] = {}
        self.incidents: dict[str, Json] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def news(self) -> list[Json]:
        """Timeline entries not handed out yet, oldest first."""
        entries = []
        with contextlib.suppress(queue.Empty):
            while True:
                incident = self._seen.get_nowait()
                name, timeline = incident["metadata"]["name"], incident.get("status", {}).get("timeline", [])
                self.incidents[name] = incident
                entries += timeline[self._told.get(name, 0) :]
                self._told[name] = len(timeline)
        return entries

    def _read(self) -> None:
        """Until the server ends the watch, which is when the demo ends."""
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context)
        )
        with contextlib.suppress(OSError, ValueError), opener.open(self._request, timeout=120) as answer:
            for text in answer:
                self._seen.put(json.loads(text)["object"])


def timestamp(text: str) -> float:
    """Seconds since 1970 of a time as Kubernetes writes it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
