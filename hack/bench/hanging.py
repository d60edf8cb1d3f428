"""What it costs an action that those who are told of it do not answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from bench.bed import Bed, Json, deployment, policy
from bench.figures import Figure, at_most, percentile
from bench.latency import WARM_UP, names, one_alert
from bench.senders import Sender
from bench.watch import Changes, changes

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_ROUNDS = 2
_PAUSE = 0.15
"""After each alert, so that what follows an action is not measured with the next one."""
_NOBODY, _ANSWERS, _HANGS = "nobody", "answers", "hangs"


class Vendor:
    """Takes every connection, and answers it; or, with `answers=False`, does not until `resume`."""

    def __init__(self, *, answers: bool) -> None:
        self.asked = 0
        self._answers = asyncio.Event()
        if answers:
            self._answers.set()

    def resume(self) -> None:
        """Answers, also who waits already."""
        self._answers.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            await self._answers.wait()
            writer.write(_ANSWER)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            return  # who asked has given up
        finally:
            writer.close()


async def measure(b: Bed) -> list[Figure]:
    """Sequential alerts by turns: nobody is told of the one, a vendor that answers of the next, and one that hangs of
    the third.
    """
    total = min(b.scale.latency_rounds, _ROUNDS) * b.scale.latency_alerts + WARM_UP
    targets = {who: names(f"told-{who}", total) for who in (_NOBODY, _ANSWERS, _HANGS)}
    for who, named in targets.items():
        await b.bare.create_all([deployment(name) for name in named])
        await b.bare.create_all([_policy(name, [] if who == _NOBODY else [who]) for name in named])
    async with _telling(b) as vendors, b.running():
        await b.policies_known()
        async with changes(b.bare) as seen, Sender(b) as sender:
            took = await _by_turns(seen, sender, targets)
        vendors[_HANGS].resume()
    if not all(vendor.asked for vendor in vendors.values()):
        raise RuntimeError("nobody was told, so nothing was measured")
    p50 = {who: percentile(times[WARM_UP:], 50) for who, times in took.items()}
    figures = [f"{p50[_NOBODY]:.1f} ms with nobody to tell", f"{p50[_ANSWERS]:.1f} ms with a vendor that answers"]
    note = ", ".join([*figures, f"{p50[_HANGS]:.1f} ms with one that hangs"])
    later = p50[_HANGS] - min(p50[_NOBODY], p50[_ANSWERS])
    return [at_most("alert → target changed, p50: later by a channel that hangs", later, "ms", 1, note)]


def _policy(name: str, notify: list[str]) -> Json:
    made = policy(name, f'deployment="{name}"', target=name)
    made["spec"]["notify"] = notify
    return made


@asynccontextmanager
async def _telling(b: Bed) -> AsyncIterator[dict[str, Vendor]]:
    """Settings with a channel to each vendor, for the next start."""
    env, settings = b.operator.env, b.operator.folder / "hanging.yaml"
    vendors = {_ANSWERS: Vendor(answers=True), _HANGS: Vendor(answers=False)}
    async with AsyncExitStack() as stack:
        channels = []
        for name, vendor in vendors.items():
            server = await stack.enter_async_context(await asyncio.start_server(vendor.serve, "127.0.0.1", 0))
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            channels.append({"name": name, "perMinute": 6000, "webhook": {"url": url}})
        settings.parent.mkdir(parents=True, exist_ok=True)
        # Else their parent would speak for them.
        settings.write_text(json.dumps({"channels": channels, "people": {"severalServices": None}}))
        b.operator.env = env | {"PARAMEDIC_CONFIG": str(settings)}
        try:
            yield vendors
        finally:
            b.operator.env = env
            vendors[_HANGS].resume()


async def _by_turns(seen: Changes, sender: Sender, targets: dict[str, list[str]]) -> dict[str, list[float]]:
    """Milliseconds of each."""
    took: dict[str, list[float]] = {who: [] for who in targets}
    for number in range(len(targets[_NOBODY])):
        for who, named in targets.items():
            took[who].append(await one_alert(seen, sender, named[number]))
            await asyncio.sleep(_PAUSE)
    return took
