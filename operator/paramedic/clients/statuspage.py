"""Atlassian Statuspage's REST API, as far as it is needed: https://developer.statuspage.io."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from paramedic.api.people import StatuspageChannel
from paramedic.clients.http_json import HttpJson
from paramedic.clients.secret_file import SecretFile
from paramedic.errors import Retry

Json = dict[str, Any]
_PER_PAGE = 100
_MOST_PAGES = 10


class Statuspage:
    """One page. All methods raise as ``HttpJson.send``; its limit is one request in a second."""

    def __init__(self, name: str, settings: StatuspageChannel, timeout: timedelta) -> None:
        self._name = name
        self._url = f"{settings.api_url.rstrip('/')}/pages/{settings.page_id}"
        self._key = SecretFile(settings.api_key_file, f"channel {name}'s apiKeyFile")
        self._http = HttpJson(name, timeout)

    async def unresolved(self) -> list[Json]:
        """The page's incidents that are not over."""
        found: list[Json] = []
        for page in range(1, _MOST_PAGES + 1):
            more = await self._send("GET", f"/incidents/unresolved?page={page}&per_page={_PER_PAGE}", kind=list)
            found += more
            if len(more) < _PER_PAGE:
                break
        return found

    async def incident(self, number: str) -> Json:
        """One incident."""
        found: Json = await self._send("GET", f"/incidents/{number}")
        return found

    async def create(self, incident: Mapping[str, Any]) -> Json:
        """A new incident; there is no key that would keep a second one from being made."""
        made: Json = await self._send("POST", "/incidents", {"incident": incident})
        return made

    async def update(self, number: str, incident: Mapping[str, Any]) -> Json:
        """Changes an incident; with ``body`` that is a new update on the page."""
        made: Json = await self._send("PATCH", f"/incidents/{number}", {"incident": incident})
        return made

    async def set_component(self, component: str, status: str) -> None:
        """What the page shows of a component, apart from any incident."""
        await self._send("PATCH", f"/components/{component}", {"component": {"status": status}})

    async def close(self) -> None:
        """Ends the connections."""
        await self._http.close()

    async def _send(self, method: str, path: str, body: Any = None, kind: type = dict) -> Any:
        key = self._key.read()
        headers = {"Authorization": f"OAuth {key}"}
        answer = await self._http.send(method, self._url + path, body, headers=headers, secrets=(key,))
        if not isinstance(answer.body, kind):
            raise Retry(f"{self._name} answered something else than Statuspage does", uncertain=method != "GET")
        return answer.body
