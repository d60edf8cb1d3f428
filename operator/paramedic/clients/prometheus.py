"""Prometheus' HTTP API through ``prometheus-api-client``, in threads of its own with a time limit."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests
from prometheus_api_client.exceptions import PrometheusApiClientException
from prometheus_api_client.prometheus_connect import PrometheusConnect
from urllib3.util.retry import Retry as TransportRetry

from paramedic.errors import NONSENSE, Retry

_THREADS = 8
_MOST_BYTES = 4 * 1024 * 1024
"""Of the answer to one query: a tenant wrote it, and can ask for all that Prometheus has."""
Sample = tuple[datetime, float]


@dataclass(frozen=True, slots=True)
class ActiveAlert:
    """An alert as Prometheus itself reports it; ``active_at`` is when its expression became true: RFC 3339, or whatever
    something has put there that calls itself Prometheus. One that does not fire is pending: its rule's ``for`` runs.
    """

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    active_at: Any
    fires: bool = True


class Prometheus:
    """One Prometheus. Its methods raise Retry when it does not answer in time or answers an error."""

    def __init__(self, url: str, *, timeout_seconds: float = 5.0, bearer_token_file: Path | None = None) -> None:
        self._timeout = timeout_seconds
        self._token_file = bearer_token_file
        self._session = requests.Session()
        self._queries = _BoundedSession(timeout_seconds)
        self._url = url.rstrip("/")
        self._connect = PrometheusConnect(
            url=self._url,
            session=self._queries,
            retry=TransportRetry(total=0),
            timeout=int(max(1, timeout_seconds)),
            method="POST",
        )
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="prometheus")

    async def query(self, promql: str) -> list[float]:
        """The values of an instant query, one for each series; a scalar gives one."""
        values: list[float] = await self._call(self._query, promql)
        return values

    async def query_range(self, promql: str, start: datetime, end: datetime, step_seconds: int) -> list[list[Sample]]:
        """The samples of each series between two times, oldest first; gaps are left out."""
        found: list[list[Sample]] = await self._call(self._query_range, promql, start, end, step_seconds)
        return found

    async def active_alerts(self) -> list[ActiveAlert]:
        """The alerts that fire now, and those that are pending (``/api/v1/alerts``)."""
        found: list[ActiveAlert] = await self._call(self._active_alerts)
        return found

    async def alerting_rules(self) -> set[str]:
        """The names of the alerting rules that this Prometheus has evaluated, without an error, when it last tried
        (``/api/v1/rules``): that one of another shows nothing proves nothing.
        """
        names: set[str] = await self._call(self._alerting_rules)
        return names

    def close(self) -> None:
        """Ends the threads and connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._session.close()
        self._queries.close()

    async def _call(self, function: Any, *args: Any) -> Any:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout + 1):
                return await loop.run_in_executor(self._threads, function, *args)
        except TimeoutError as error:
            raise Retry(f"Prometheus did not answer within {self._timeout:g} s") from error
        except (requests.RequestException, PrometheusApiClientException, OSError, *NONSENSE) as error:
            raise Retry(f"Prometheus: {_short(error)}") from error

    def _authorize(self) -> None:
        if self._token_file:
            for session in (self._session, self._queries):
                session.headers["Authorization"] = f"Bearer {self._token_file.read_text().strip()}"

    def _query(self, promql: str) -> list[float]:
        self._authorize()
        # Not the library's custom_query: it does not tell a scalar from a string.
        answer = self._queries.post(f"{self._url}/api/v1/query", data={"query": promql}, timeout=self._timeout)
        if answer.status_code != requests.codes.ok:
            raise PrometheusApiClientException(f"HTTP Status Code {answer.status_code} ({answer.content!r})")
        data = answer.json()["data"]
        return _values(data["resultType"], data["result"])

    def _query_range(self, promql: str, start: datetime, end: datetime, step_seconds: int) -> list[list[Sample]]:
        self._authorize()
        result = self._connect.custom_query_range(promql, start, end, str(step_seconds))
        return [
            [(datetime.fromtimestamp(float(at), UTC), float(value)) for at, value in series["values"]]
            for series in result
        ]

    def _active_alerts(self) -> list[ActiveAlert]:
        alerts = self._get("/api/v1/alerts")["alerts"]
        return [
            ActiveAlert(a["labels"], a.get("annotations") or {}, a.get("activeAt"), a["state"] == "firing")
            for a in alerts
            if a["state"] in ("firing", "pending")
        ]

    def _alerting_rules(self) -> set[str]:
        groups = self._get("/api/v1/rules", {"type": "alert"})["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return {rule["name"] for rule in rules} - {rule["name"] for rule in rules if rule.get("health", "ok") != "ok"}

    def _get(self, path: str, params: dict[str, str] | None = None) -> Any:
        self._authorize()
        answer = self._session.get(f"{self._url}{path}", params=params, timeout=self._timeout)
        answer.raise_for_status()
        return answer.json()["data"]


class _BoundedSession(requests.Session):
    """Reads no more of an answer than is bearable, and not for longer than ``seconds``."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        """As its parent's, with the whole body read. Raises RequestException when it is too large or takes too long."""
        ends, left, parts = time.monotonic() + self._seconds, _MOST_BYTES, []
        response = super().send(request, **(options | {"stream": True}))
        for part in response.iter_content(64 * 1024):
            parts.append(part)
            left -= len(part)
            if left < 0 or time.monotonic() > ends:
                response.close()
                raise requests.RequestException(
                    f"the query's answer is larger than {_MOST_BYTES >> 20} MiB or takes too long: ask for fewer series"
                )
        response._content = b"".join(parts)
        return response


def _values(kind: str, result: Any) -> list[float]:
    """Of an instant query's result. Raises ValueError, with what to change, where that holds no numbers."""
    if kind == "scalar":
        return [float(result[1])]
    if kind != "vector" or any("histogram" in series for series in result):
        found = "native histograms" if kind == "vector" else f"a {kind[:20]}"
        raise ValueError(f"the query gives {found}: write one that gives a scalar, or a vector of numbers")
    return [float(series["value"][1]) for series in result]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
