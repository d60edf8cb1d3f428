"""What it costs an action that those who are told of it do not answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.bed import Bed, Json, deployment, policy
from bench.figures import Figure, at_most, percentile
from bench.latency import WARM_UP, names, one_alert
from bench.senders import Sender
from bench.watch import Changes, changes

_CHANNEL = "hanging"
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_ROUNDS = 2


class Vendor:
    """Takes every connection, and answers none while it `hangs`."""

    def __init__(self) -> None:
        self.asked = 0
        self._answers = asyncio.Event()
        self._answers.set()

    def hang(self, *, hangs: bool) -> None:
        """From now on, also for who waits already."""
        if hangs:
            self._answers.clear()
        else:
            self._answers.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += not self._answers.is_set()
            await self._answers.wait()
            writer.write(_ANSWER)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return  # who asked has given up
        finally:
            writer.close()


async def measure(b: Bed) -> list[Figure]:
    """Sequential alerts by turns: nobody is told and the vendor answers; all are told and it hangs."""
    total = min(b.scale.latency_rounds, _ROUNDS) * b.scale.latency_alerts + WARM_UP
    quiet, told = names("hanging-quiet", total), names("hanging-told", total)
    await b.bare.create_all([deployment(name) for name in (*quiet, *told)])
    await b.bare.create_all([_policy(name, []) for name in quiet])
    await b.bare.create_all([_policy(name, [_CHANNEL]) for name in told])
    async with _telling(b) as vendor, b.running():
        await b.policies_known()
        async with changes(b.bare) as seen, Sender(b) as sender:
            alone, beside = await _rounds(b, vendor, seen, sender, quiet, told)
    if not vendor.asked:
        raise RuntimeError("nobody was told, so nothing was measured")
    without, with_it = percentile(alone, 50), percentile(beside, 50)
    note = f"{without:.1f} ms with nobody to tell, {with_it:.1f} ms with a vendor that hangs"
    return [at_most("alert → target changed, p50: later by a channel that hangs", with_it - without, "ms", 1, note)]


def _policy(name: str, notify: list[str]) -> Json:
    made = policy(name, f'deployment="{name}"', target=name)
    made["spec"]["notify"] = notify
    return made


@asynccontextmanager
async def _telling(b: Bed) -> AsyncIterator[Vendor]:
    """Settings with a channel to the vendor, for the next start."""
    vendor, env, settings = Vendor(), b.operator.env, b.operator.folder / "hanging.yaml"
    async with await asyncio.start_server(vendor.serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        channel = {"name": _CHANNEL, "perMinute": 6000, "webhook": {"url": url}}
        settings.parent.mkdir(parents=True, exist_ok=True)
        # Else their parent would speak for them.
        settings.write_text(json.dumps({"channels": [channel], "people": {"severalServices": None}}))
        b.operator.env = env | {"PARAMEDIC_CONFIG": str(settings)}
        try:
            yield vendor
        finally:
            b.operator.env = env
            vendor.hang(hangs=False)


async def _rounds(
    b: Bed, vendor: Vendor, seen: Changes, sender: Sender, quiet: list[str], told: list[str]
) -> tuple[list[float], list[float]]:
    """Milliseconds of both, warm-up left out."""
    alone: list[float] = []
    beside: list[float] = []
    for start in (0, *range(WARM_UP, len(quiet), b.scale.latency_alerts)):
        end = start + (b.scale.latency_alerts if start else WARM_UP)
        alone += [await one_alert(seen, sender, name) for name in quiet[start:end]]
        await b.idle()
        vendor.hang(hangs=True)
        beside += [await one_alert(seen, sender, name) for name in told[start:end]]
        vendor.hang(hangs=False)
        await b.idle()  # what is told afterwards must not burden who is told nothing
    return alone[WARM_UP:], beside[WARM_UP:]
