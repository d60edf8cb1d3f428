"""URLs: health, metrics, what the service depends on, and Envoy's statistics in the pods."""

import asyncio
import ipaddress
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from paramedic.api.diagnosis import DiagnoseParams
from paramedic.clients.web import Web
from paramedic.core.envoy import Stat, breaker_stats
from paramedic.core.picture import Answer, name_of
from paramedic.core.pods import is_counted
from paramedic.diagnosis.looking import Looks
from paramedic.errors import Retry

Json = dict[str, Any]
Purpose = Literal["health", "metrics", "dependency"]
_MOST_PODS = 10
_MOST_STATS_BYTES = 1024 * 1024
_STATS = "/stats/prometheus?filter=circuit_breakers%7Coverflow"


@dataclass(frozen=True, slots=True)
class PodStats:
    """Envoy's circuit-breaker statistics of one pod."""

    pod: str
    stats: list[Stat]


async def ask_all(web: Web, params: DiagnoseParams, looks: Looks, seconds: float) -> tuple[Answer, ...]:
    """Every URL at once. No answer is an answer here: it is what the diagnosis is looking for."""
    asked: list[tuple[Purpose, str]] = [
        *(("health", url) for url in params.health_urls),
        *(("metrics", url) for url in params.metrics_urls),
        *(("dependency", url) for url in params.dependencies),
    ]
    answers = await asyncio.gather(
        *(
            looks.at(f"{purpose} {shown(url)}", _ask(web, purpose, url, seconds), seconds + 1)
            for purpose, url in dict.fromkeys(asked)
        )
    )
    return tuple(answer for answer in answers if answer is not None)


def shown(url: str) -> str:
    """The URL without user, query and fragment, where secrets are."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


async def _ask(web: Web, purpose: Purpose, url: str, seconds: float) -> Answer:
    """Raises Refused for an address that must not be asked."""
    try:
        async with asyncio.timeout(seconds):
            reply = await web.check(url)
    except TimeoutError:
        return Answer(purpose, shown(url), error=f"no answer within {seconds:g} s")
    except Retry as error:
        return Answer(purpose, shown(url), error=str(error))
    return Answer(purpose, shown(url), reply.status, reply.milliseconds, tls_error=reply.tls_error)


async def read_envoys(web: Web, pods: list[Json], port: int, looks: Looks, seconds: float) -> list[PodStats]:
    """Envoy's statistics of at most ten of the target's pods."""
    chosen = [pod for pod in pods if is_counted(pod) and (pod.get("status") or {}).get("podIP")][:_MOST_PODS]
    read = await asyncio.gather(
        *(looks.at(f"Envoy in {name_of(pod)}", _envoy(web, pod, port), seconds) for pod in chosen)
    )
    return [one for one in read if one is not None]


async def _envoy(web: Web, pod: Json, port: int) -> PodStats:
    address = ipaddress.ip_address(str(pod["status"]["podIP"]))
    host = f"[{address}]" if address.version == 6 else str(address)
    raw, _ = await web.read(f"http://{host}:{port}{_STATS}", _MOST_STATS_BYTES)
    return PodStats(name_of(pod), breaker_stats(raw.decode(errors="replace")))
