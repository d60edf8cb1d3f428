"""Plays Alertmanager: posts payloads, keeps at it when told 503, and notes how long each answer took."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from bench.bed import Bed, encode
from testbed.operator_process import alert, payload

RESEND_AFTER = 0.2
TRIES = 50


@dataclass
class Sent:
    """What the receiver answered."""

    seconds: list[float] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    lost: int = 0


class Sender:
    """One kept connection pool to the webhook."""

    def __init__(self, bed: Bed) -> None:
        self._url = bed.operator.webhook_url
        self._headers = {
            "Authorization": f"Bearer {bed.operator.webhook_token}",
            "Content-Type": "application/json",
        }

    async def __aenter__(self) -> Sender:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=self._headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def post(self, body: bytes) -> int:
        async with self._session.post(self._url, data=body) as answer:
            await answer.read()
            return answer.status

    async def deliver(self, body: bytes, sent: Sent) -> None:
        """Until it is taken, as Alertmanager does for 5xx."""
        for _ in range(TRIES):
            began = time.monotonic()
            status = await self.post(body)
            sent.seconds.append(time.monotonic() - began)
            sent.answers[status] += 1
            if status < 300:
                return
            await asyncio.sleep(RESEND_AFTER)
        sent.lost += 1

    async def deliver_all(self, bodies: Sequence[bytes], senders: int) -> Sent:
        """So many senders, each one after the other."""
        sent, waiting = Sent(), iter(bodies)

        async def work() -> None:
            for body in waiting:
                await self.deliver(body, sent)

        async with asyncio.TaskGroup() as group:
            for _ in range(senders):
                group.create_task(work())
        return sent


def alerts_on(targets: Sequence[str], alertname: str, count: int) -> list[dict[str, object]]:
    """So many different alerts (pods) over the targets in turn, so that neighbours in time are of different targets."""
    made = []
    for number in range(count):
        target = targets[number % len(targets)]
        labels = {"deployment": target, "pod": f"{target}-{number}", "severity": "critical", "namespace": "bench"}
        made.append(alert(alertname, fingerprint=f"{number:016x}", annotations={"summary": "it is slow"}, **labels))
    return made


def one_by_one(alerts: Sequence[dict[str, object]]) -> list[bytes]:
    """Each in a payload of its own, built beforehand."""
    return [encode(payload(one)) for one in alerts]
