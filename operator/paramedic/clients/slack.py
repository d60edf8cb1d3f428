"""Slack's Web API through ``slack_sdk``: its errors become ours, and it tries nothing again by itself.

Scopes of the bot token: docs/slack.md. Methods, arguments and errors: docs.slack.dev/reference/methods.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from paramedic.api.reasons import Reason
from paramedic.clients.extras import require
from paramedic.clients.http_json import HttpJson, VendorResolver
from paramedic.clients.secret_file import SecretFile
from paramedic.errors import AlreadyExists, Retry, Terminal, Unreachable

if TYPE_CHECKING:
    from slack_sdk.errors import SlackApiError
    from slack_sdk.web.async_client import AsyncWebClient

Json = dict[str, Any]
_PAGE, _MOST_PAGES = 200, 10
_CHANNELS_PAGE, _MOST_CHANNEL_PAGES = 1000, 50
_PATIENCE, _MOST_PATIENCE = timedelta(seconds=30), timedelta(hours=1)
# What a person must mend in Slack or in the settings; the same works afterwards.
_NOT_LET_IN = frozenset(
    {
        "access_denied",
        "account_inactive",
        "invalid_auth",
        "missing_scope",
        "no_permission",
        "not_allowed_token_type",
        "not_authed",
        "not_in_channel",
        "restricted_action",
        "team_access_not_granted",
        "token_expired",
        "token_revoked",
    }
)
_GONE = frozenset({"channel_not_found", "is_archived"})
_SLACKS_OWN = frozenset(
    {"fatal_error", "internal_error", "request_timeout", "service_unavailable", "team_added_to_org"}
)


class ChannelGone(Terminal):
    """The channel was archived or deleted, or is hidden from us."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the bot token belongs to."""

    user: str
    bot: str
    team: str
    enterprise: str


@dataclass(frozen=True, slots=True)
class ChannelInfo:
    """A channel of the workspace."""

    id: str
    name: str
    creator: str
    created: float
    archived: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """A message of our own that was found. ``payload`` is its metadata's."""

    ts: str
    event: str
    payload: Mapping[str, Any]


class Slack:
    """One workspace. Its methods raise Retry (``after`` as Slack asks, ``uncertain`` when the answer was lost),
    Unreachable when Slack does not let us in, ChannelGone, Terminal when it refuses what was asked.
    """

    def __init__(self, name: str, token_file: Path, api_url: str, timeout: timedelta) -> None:
        """Raises Terminal when the library is not installed."""
        require("slack")
        self.name = name
        self._token = SecretFile(token_file, f"{name}'s tokenFile")
        self._api_url = api_url.rstrip("/") + "/"
        self._timeout = timeout.total_seconds()
        self._http = HttpJson(name, timeout)
        self._session: aiohttp.ClientSession | None = None
        self._client: AsyncWebClient | None = None
        self._identity: tuple[str, Identity] | None = None
        self.writes = 0
        """How many requests have changed something."""

    async def identity(self) -> Identity:
        """Whose token it is; asked once for each token."""
        token = self._token.read()
        if self._identity is None or self._identity[0] != token:
            found = await self._call("auth.test")
            who = Identity(
                str(found["user_id"]),
                str(found.get("bot_id") or ""),
                str(found["team_id"]),
                str(found.get("enterprise_id") or ""),
            )
            self._identity = token, who
        return self._identity[1]

    async def create_channel(self, name: str) -> str:
        """Makes a public channel and returns its id. Raises AlreadyExists when the name is taken."""
        answer = await self._call("conversations.create", {"name": name})
        return str(answer["channel"]["id"])

    async def find_channels(self, names: Sequence[str]) -> dict[str, ChannelInfo]:
        """Those of the public channels, archived ones too, that have one of these names."""
        found: dict[str, ChannelInfo] = {}
        params: Json = {"types": "public_channel", "exclude_archived": False, "limit": _CHANNELS_PAGE}
        for _ in range(_MOST_CHANNEL_PAGES):
            answer = await self._call("conversations.list", params, reads=True)
            found |= {c["name"]: _channel_info(c) for c in answer["channels"] if c["name"] in names}
            params["cursor"] = _next(answer)
            if not params["cursor"] or len(found) == len(names):
                break
        return found

    async def set_topic(self, channel: str, topic: str) -> None:
        """Says it again where it is so already."""
        await self._call("conversations.setTopic", {"channel": channel, "topic": topic})

    async def invite(self, channel: str, users: Sequence[str]) -> None:
        """Invites users; those who are there already, or cannot be invited, are left out."""
        await self._call("conversations.invite", {"channel": channel, "users": ",".join(users), "force": True})

    async def post(
        self,
        channel: str,
        text: str,
        blocks: list[Json],
        *,
        event: str,
        payload: Mapping[str, str],
        thread: str | None = None,
        broadcast: bool = False,
    ) -> tuple[str, str]:
        """Posts a message and returns the channel's id and the message's ``ts``. ``channel`` is an id or a name;
        ``text`` is for notifications, escaped. By ``event`` and ``payload`` it is known again (``seen``).
        """
        body: Json = _message(channel, text, blocks) | {
            "metadata": {"event_type": event, "event_payload": dict(payload)},
            "unfurl_links": False,
            "unfurl_media": False,
        }
        if thread:
            body |= {"thread_ts": thread, "reply_broadcast": broadcast}
        answer = await self._call("chat.postMessage", body)
        return str(answer["channel"]), str(answer["ts"])

    async def update(self, channel: str, ts: str, text: str, blocks: list[Json]) -> None:
        """Puts other content in the place of a message's; its metadata stay."""
        await self._call("chat.update", _message(channel, text, blocks) | {"ts": ts})

    async def seen(self, channel: str, since: datetime, thread: str | None = None) -> list[Seen]:
        """Our own messages with metadata, of a channel or of a thread in it, newer than ``since``."""
        who = await self.identity()
        method = "conversations.replies" if thread else "conversations.history"
        params: Json = {
            "channel": channel,
            "oldest": f"{since.timestamp():.6f}",
            "include_all_metadata": True,
            "limit": _PAGE,
        } | ({"ts": thread} if thread else {})
        found: list[Seen] = []
        for _ in range(_MOST_PAGES):
            answer = await self._call(method, params, reads=True)
            found += [_seen(m) for m in answer["messages"] if m.get("metadata") and _is_own(m, who)]
            params["cursor"] = _next(answer)
            if not params["cursor"]:
                return found
        return found

    async def respond(self, url: str, text: str, blocks: list[Json]) -> None:
        """Answers whoever pressed a button or wrote a command, for that person's eyes only; ``text`` is markup, and
        shown where the blocks cannot be.
        """
        body = {"response_type": "ephemeral", "replace_original": False, "text": text, "blocks": blocks}
        await self._http.send("POST", url, body)

    async def close(self) -> None:
        """Ends the connections."""
        await self._http.close()
        if self._session:
            await self._session.close()

    async def _call(self, method: str, arguments: Json | None = None, *, reads: bool = False) -> Json:
        """Reading methods take a query, the others JSON."""
        from slack_sdk.errors import SlackApiError, SlackClientError

        client = self._open()
        client.token = self._token.read()
        how: Json = {"http_verb": "GET", "params": arguments} if reads else {"json": arguments or {}}
        try:
            answer = await client.api_call(method, **how)
        except SlackApiError as error:
            raise self._translated(method, error, reads=reads) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Retry(f"{self.name}: Slack cannot be reached") from error
        except (SlackClientError, aiohttp.ClientError, OSError, TimeoutError, ValueError, AttributeError) as error:
            # slack_sdk looks for keys in answers that are no JSON.
            told = f"{self.name}: Slack gave no answer to {method} ({type(error).__name__})"
            raise Retry(told, uncertain=not reads) from error
        self.writes += not reads
        return dict(answer.data) if isinstance(answer.data, dict) else {}

    def _translated(self, method: str, error: "SlackApiError", *, reads: bool) -> Exception:
        answer = error.response
        data = answer.data if isinstance(answer.data, dict) else {}
        code = str(data.get("error") or f"status {answer.status_code}")[:100]
        told = f"{self.name}: Slack refused {method}: {code}"
        if answer.status_code == 429 or code in ("ratelimited", "rate_limited"):
            return Retry(told, after=_retry_after(answer.headers))
        if code == "name_taken":
            return AlreadyExists(told)
        if answer.status_code >= 500 or code in _SLACKS_OWN:
            return Retry(told, uncertain=not reads)
        if code in _NOT_LET_IN:
            needed = f"; it needs the scope {data['needed']}" if data.get("needed") else ""
            return Unreachable(f"{told}{needed}: check the bot token, its scopes and its channels")
        return (ChannelGone if code in _GONE else Terminal)(Reason.NOTICE_UNDELIVERED, told)

    def _open(self) -> "AsyncWebClient":
        if self._client is None:
            from slack_sdk.web.async_client import AsyncWebClient

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=VendorResolver()),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=self._timeout),
            )
            self._client = AsyncWebClient(base_url=self._api_url, session=self._session, retry_handlers=[])
        return self._client


def _message(channel: str, text: str, blocks: list[Json]) -> Json:
    return {"channel": channel, "text": text, "blocks": blocks, "parse": "none", "link_names": False}


def _channel_info(raw: Json) -> ChannelInfo:
    return ChannelInfo(
        raw["id"], raw["name"], str(raw.get("creator", "")), float(raw.get("created", 0)), bool(raw.get("is_archived"))
    )


def _seen(raw: Json) -> Seen:
    metadata = raw["metadata"]
    return Seen(raw["ts"], str(metadata.get("event_type", "")), metadata.get("event_payload") or {})


def _is_own(raw: Json, who: Identity) -> bool:
    return raw.get("user") == who.user or bool(who.bot and raw.get("bot_id") == who.bot)


def _next(answer: Json) -> str:
    return str((answer.get("response_metadata") or {}).get("next_cursor") or "")


def _retry_after(headers: Any) -> timedelta:
    """Slack says it in whole seconds."""
    try:
        wait = timedelta(seconds=float(headers.get("Retry-After")))
    except (TypeError, ValueError, OverflowError):
        return _PATIENCE
    return min(max(wait, timedelta(seconds=1)), _MOST_PATIENCE)
