"""PagerDuty through its own client (the extra ``paramedic[pagerduty]``): Events API v2, and the REST API for notes.

The client would try again and sleep by itself; here each request is one try, so that Paramedic's delivery decides on
the next one and obeys what PagerDuty asks. It blocks, so it has a thread of its own.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import httpx2
import pagerduty

from paramedic.api.people import PagerDutyChannel
from paramedic.clients.http_json import refusal
from paramedic.clients.secret_file import SecretFile
from paramedic.core.templates import one_line
from paramedic.errors import Retry, Unreachable

Json = dict[str, Any]
T = TypeVar("T")
_TOLD = 300
_UNREACHED = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)


class _Answered(Exception):
    """429, for which the client would wait by itself."""

    def __init__(self, response: httpx2.Response) -> None:
        super().__init__()
        self.response = response


class _OneTry:
    """What both of PagerDuty's clients are made to do: nothing again, and to use the URL that the settings name, which
    may be a proxy's of the cluster, without TLS.
    """

    max_network_attempts = 0
    url = ""

    def postprocess(self, response: httpx2.Response) -> None:
        """Called with each answer."""
        if response.status_code == 429:
            raise _Answered(response)


class _Events(_OneTry, pagerduty.EventsApiV2Client):
    """Events API v2."""


class _Rest(_OneTry, pagerduty.RestApiV2Client):  # type: ignore[misc]
    """REST API v2."""


class PagerDuty:
    """One integration of PagerDuty's. ``name`` is the channel's.

    All methods raise Retry (``uncertain`` when it may have been done), Unreachable (not let in), Terminal (refused).
    """

    def __init__(self, name: str, settings: PagerDutyChannel, timeout: timedelta) -> None:
        self._name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"pagerduty-{name}")
        self._routing_key = SecretFile(settings.routing_key_file, f"{name}'s routingKeyFile")
        self._events = _Events("", base_url=settings.events_url)
        self._token: SecretFile | None = None
        self._rest: _Rest | None = None
        if settings.api_token_file:
            self._token = SecretFile(settings.api_token_file, f"{name}'s apiTokenFile")
            self._rest = _Rest("", default_from=settings.from_email, base_url=settings.api_url)
        clients: tuple[Any, ...] = (self._events, self._rest) if self._rest else (self._events,)
        for client in clients:
            client.retry, client.timeout = {}, timeout.total_seconds()

    @property
    def has_rest(self) -> bool:
        """Whether the REST API may be asked."""
        return self._rest is not None

    async def send_event(self, action: str, dedup_key: str, **properties: Any) -> None:
        """``trigger`` (with a ``payload``), ``acknowledge`` or ``resolve``; the same twice is as once."""
        key = self._routing_key.read()
        self._events.auth_method.secret = key
        await self._call(lambda: self._events.send_event(action, dedup_key, **properties), (key,), uncertain=True)

    async def find_incident(self, dedup_key: str) -> str | None:
        """The id of the newest incident that has an alert of this key; None when there is none (yet)."""
        params = {"incident_key": dedup_key, "date_range": "all", "sort_by": "created_at:desc", "limit": 1}
        found = await self._ask(lambda rest: rest.rget("/incidents", params=params))
        return str(found[0]["id"]) if found else None

    async def notes(self, incident: str) -> list[str]:
        """The texts of an incident's notes."""
        found = await self._ask(lambda rest: rest.rget(f"/incidents/{incident}/notes"))
        return [str(note.get("content") or "") for note in found]

    async def add_note(self, incident: str, text: str) -> None:
        """One more note: not the same twice."""
        body = {"content": text}
        await self._ask(lambda rest: rest.rpost(f"/incidents/{incident}/notes", json=body), uncertain=True)

    async def alert_keys(self, incident: str) -> list[str]:
        """The dedup keys of an incident's alerts, of which it can have several, also of others."""
        params = {"limit": 100}
        found = await self._ask(lambda rest: rest.rget(f"/incidents/{incident}/alerts", params=params))
        return [str(alert["alert_key"]) for alert in found if alert.get("alert_key")]

    async def close(self) -> None:
        """Ends the connections."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        for client in (self._events, self._rest):
            if client is not None:
                client.close()

    async def _ask(self, ask: Callable[[_Rest], Any], *, uncertain: bool = False) -> Any:
        rest, token = self._rest, self._token
        assert rest is not None, "ask has_rest first"
        assert token is not None
        secret = token.read()
        rest.auth_method.secret = secret
        return await self._call(lambda: ask(rest), (secret,), uncertain=uncertain)

    async def _call(self, call: Callable[[], T], secrets: tuple[str, ...], *, uncertain: bool) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except (_Answered, pagerduty.HttpError) as error:
            self._refused(error.response, secrets, uncertain=uncertain)
        except (pagerduty.Error, httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            cause = error.__cause__ or error
            if isinstance(cause, _UNREACHED):
                raise Retry(f"{self._name} cannot be reached: {type(cause).__name__}") from error
            raise Retry(f"{self._name} gave no answer: {type(cause).__name__}", uncertain=uncertain) from error

    def _refused(self, answer: Any, secrets: tuple[str, ...], *, uncertain: bool) -> NoReturn:
        """For a wrong routing key the Events API says 400, as for a wrong event."""
        said = _without(secrets, answer.text)
        told = f"{self._name} answered {answer.status_code}: {said}"
        if answer.is_success:
            raise Retry(f"{told}; that is not what PagerDuty answers", uncertain=uncertain)
        if answer.status_code == 400 and "routing_key" in said:
            raise Unreachable(f"{told}: check the file that holds the routing key")
        patience = answer.headers.get("Retry-After") or answer.headers.get("ratelimit-reset")
        raise refusal(answer.status_code, told, patience, uncertain=uncertain)


def _without(secrets: tuple[str, ...], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return one_line(text[: 4 * _TOLD])[:_TOLD]
