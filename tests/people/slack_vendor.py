"""Slack, played: its Web API with what is documented of arguments, limits and errors, response_urls and Socket
Mode. It keeps channels and messages, so that a test sees what people would see.

Sources: docs.slack.dev/reference/methods, …/reference/block-kit, …/apis/events-api/using-socket-mode.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import json
import re
import threading
import time
import urllib.parse
import uuid
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from aiohttp import WSMsgType, web
from pydantic import Field

from people.vendors import FakeVendor, Json, Reply, Request, Route, Schema

BOT_TOKEN, APP_TOKEN, SIGNING_SECRET = "xoxb-1-secret", "xapp-1-secret", "8f742231b10e8888abcd99yyyzzz85a5"
BOT_USER, BOT_ID, TEAM = "U0BOT", "B0BOT", "T0TEAM"


# -- the documented shapes ---------------------------------------------------------------------------------------------


class Plain(Schema):
    type: Literal["plain_text"]
    text: Annotated[str, Field(min_length=1, max_length=3000)]
    emoji: bool | None = None


class Mrkdwn(Schema):
    type: Literal["mrkdwn"]
    text: Annotated[str, Field(min_length=1, max_length=3000)]
    verbatim: bool | None = None


Text = Annotated[Plain | Mrkdwn, Field(discriminator="type")]


class HeaderText(Plain):
    text: Annotated[str, Field(min_length=1, max_length=150)]


class FieldText(Plain):
    text: Annotated[str, Field(min_length=1, max_length=2000)]


class ButtonText(Plain):
    text: Annotated[str, Field(min_length=1, max_length=75)]


class ConfirmTitle(Plain):
    text: Annotated[str, Field(min_length=1, max_length=100)]


class ConfirmText(Plain):
    text: Annotated[str, Field(min_length=1, max_length=300)]


class ConfirmLabel(Plain):
    text: Annotated[str, Field(min_length=1, max_length=30)]


class Confirm(Schema):
    title: ConfirmTitle
    text: ConfirmText
    confirm: ConfirmLabel
    deny: ConfirmLabel


class Button(Schema):
    type: Literal["button"]
    action_id: Annotated[str, Field(min_length=1, max_length=255)]
    text: ButtonText
    value: Annotated[str, Field(max_length=2000)]
    style: Literal["primary", "danger"] | None = None
    confirm: Confirm | None = None


class Header(Schema):
    type: Literal["header"]
    text: HeaderText


class Section(Schema):
    type: Literal["section"]
    text: Text | None = None
    fields: Annotated[list[FieldText], Field(min_length=1, max_length=10)] | None = None


class Actions(Schema):
    type: Literal["actions"]
    block_id: Annotated[str, Field(max_length=255)]
    elements: Annotated[list[Button], Field(min_length=1, max_length=25)]


class Context(Schema):
    type: Literal["context"]
    elements: Annotated[list[Text], Field(min_length=1, max_length=10)]


Block = Annotated[Header | Section | Actions | Context, Field(discriminator="type")]
ChannelId = Annotated[str, Field(pattern=r"^C[A-Z0-9]+$")]
Ts = Annotated[str, Field(pattern=r"^\d+\.\d{6}$")]


class Metadata(Schema):
    event_type: Annotated[str, Field(pattern=r"^[a-z_]+$")]
    event_payload: dict[str, str | int | bool]


class PostMessage(Schema):
    channel: Annotated[str, Field(min_length=1, max_length=80)]
    text: Annotated[str, Field(min_length=1, max_length=40_000)]
    blocks: Annotated[list[Block], Field(min_length=1, max_length=50)]
    parse: Literal["none"]
    link_names: Literal[False]
    metadata: Metadata
    unfurl_links: bool
    unfurl_media: bool
    thread_ts: Ts | None = None
    reply_broadcast: bool | None = None


class Update(Schema):
    channel: ChannelId
    ts: Ts
    text: Annotated[str, Field(min_length=1, max_length=40_000)]
    blocks: Annotated[list[Block], Field(min_length=1, max_length=50)]
    parse: Literal["none"]
    link_names: Literal[False]


class Create(Schema):
    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,80}$")]


class SetTopic(Schema):
    channel: ChannelId
    topic: Annotated[str, Field(max_length=250)]


class Invite(Schema):
    channel: ChannelId
    users: Annotated[str, Field(pattern=r"^[UW][A-Z0-9]+(,[UW][A-Z0-9]+)*$")]
    force: bool


class Response(Schema):
    response_type: Literal["ephemeral"]
    replace_original: Literal[False]
    text: Annotated[str, Field(min_length=1, max_length=40_000)]
    blocks: Annotated[list[Block], Field(min_length=1, max_length=50)]


class Nothing(Schema):
    pass


# -- what it keeps -----------------------------------------------------------------------------------------------------


@dataclass
class Posted:
    """A message."""

    ts: str
    user: str
    text: str
    blocks: list[Json]
    metadata: Json | None = None
    thread: str | None = None
    broadcast: bool = False
    edits: int = 0

    @property
    def words(self) -> str:
        """All that people read, as Slack shows it."""
        return "\n".join(_words(self.blocks))

    @property
    def buttons(self) -> dict[str, Json]:
        """By what is on them."""
        rows = [b["elements"] for b in self.blocks if b["type"] == "actions"]
        return {button["text"]["text"]: button for row in rows for button in row}


@dataclass
class Channel:
    """A channel."""

    id: str
    name: str
    creator: str
    created: float = field(default_factory=time.time)
    topic: str = ""
    topics: int = 0
    members: set[str] = field(default_factory=set)
    messages: list[Posted] = field(default_factory=list)
    archived: bool = False

    @property
    def main(self) -> Posted:
        """The first message."""
        return self.messages[0]

    @property
    def thread(self) -> list[Posted]:
        """What stands in threads."""
        return [m for m in self.messages if m.thread]

    @property
    def top(self) -> list[Posted]:
        """What does not."""
        return [m for m in self.messages if not m.thread]


class FakeSlack(FakeVendor):
    """A workspace; ``answers`` are what people alone have seen."""

    def __init__(self) -> None:
        super().__init__()
        self.channels: dict[str, Channel] = {}
        self.answers: list[str] = []
        self.acknowledged: list[str] = []
        self._numbers = itertools.count(1)
        self._socket: tuple[asyncio.AbstractEventLoop, web.WebSocketResponse] | None = None
        self._connected = threading.Event()
        self.connections = 0

    # -- for tests -----------------------------------------------------------------------------------------------------

    def channel(self, name: str) -> Channel:
        """By name."""
        return next(c for c in self.channels.values() if c.name == name)

    def add_channel(self, name: str, creator: str = "U0ADMIN") -> Channel:
        """One that somebody has made."""
        made = Channel(f"C{next(self._numbers):08}", name, creator)
        self.channels[made.id] = made
        return made

    def api_requests(self, method: str) -> list[Request]:
        """The requests to one method."""
        return [r for r in self.requests if r.path == f"/api/{method}"]

    def press(self, channel: Channel, label: str, user: str, message: Posted | None = None) -> Json:
        """The payload of a press of a button of a message (the main one)."""
        return self.pressed(channel.id, (message or channel.main).buttons[label], user)

    def pressed(self, channel: str, button: Json, user: str, team: str = TEAM) -> Json:
        """The payload of a press."""
        action = {"type": "button", "action_id": button["action_id"], "value": button["value"], "block_id": "paramedic"}
        return {
            "type": "block_actions",
            "user": {"id": user, "username": "some.body", "name": "some.body", "team_id": team},
            "api_app_id": "A0APP",
            "team": {"id": team, "domain": "shop"},
            "enterprise": None,
            "channel": {"id": channel, "name": "privategroup"},
            "actions": [action | {"action_ts": f"{time.time():.6f}"}],
            "trigger_id": "1.2.3",
            "response_url": f"{self.url}/hooks/{uuid.uuid4().hex}",
        }

    def command(self, text: str, user: str, trigger: str = "1.2.3", team: str = TEAM) -> dict[str, str]:
        """The form of ``/incident``."""
        return {
            "token": "deprecated",
            "team_id": team,
            "team_domain": "shop",
            "channel_id": "C0GENERAL",
            "channel_name": "general",
            "user_id": user,
            "user_name": "some.body",
            "command": "/incident",
            "text": text,
            "api_app_id": "A0APP",
            "response_url": f"{self.url}/hooks/{uuid.uuid4().hex}",
            "trigger_id": trigger,
        }

    def wait_connected(self, timeout: float = 30) -> None:
        """Until Socket Mode is connected."""
        assert self._connected.wait(timeout), "nobody has connected by Socket Mode"

    def send_by_socket(self, kind: str, payload: Json) -> str:
        """Sends an envelope and returns its id."""
        self.wait_connected()
        assert self._socket is not None
        envelope = uuid.uuid4().hex
        loop, socket = self._socket
        body = {"type": kind, "envelope_id": envelope, "payload": payload, "accepts_response_payload": False}
        asyncio.run_coroutine_threadsafe(socket.send_json(body), loop).result(10)
        return envelope

    def drop_socket(self) -> None:
        """The connection breaks."""
        assert self._socket is not None
        self._connected.clear()
        loop, socket = self._socket
        asyncio.run_coroutine_threadsafe(socket.close(), loop).result(10)

    # -- the API -------------------------------------------------------------------------------------------------------

    def routes(self) -> list[Route]:
        return [
            Route("POST", r"/api/auth\.test", Nothing, self._auth_test),
            Route("POST", r"/api/conversations\.create", Create, self._create),
            Route("GET", r"/api/conversations\.list", None, self._list),
            Route("POST", r"/api/conversations\.setTopic", SetTopic, self._set_topic),
            Route("POST", r"/api/conversations\.invite", Invite, self._invite),
            Route("GET", r"/api/conversations\.history", None, self._history),
            Route("GET", r"/api/conversations\.replies", None, self._replies),
            Route("POST", r"/api/chat\.postMessage", PostMessage, self._post),
            Route("POST", r"/api/chat\.update", Update, self._update),
            Route("POST", r"/api/apps\.connections\.open", None, self._open),
            Route("POST", r"/hooks/[0-9a-f]+", Response, self._respond),
        ]

    def authorized(self, request: Request) -> str | None:
        if request.path.startswith("/hooks/"):
            return "a response_url takes no token" if "authorization" in request.headers else None
        wanted = APP_TOKEN if request.path.endswith("connections.open") else BOT_TOKEN
        return None if request.headers.get("authorization") == f"Bearer {wanted}" else "invalid_auth"

    def refuse(self, status: int, problem: str) -> Reply:
        return Reply(200, {"ok": False, "error": problem if status == 401 else "invalid_arguments"})

    def _auth_test(self, _: Request) -> Reply:
        return _ok(url="https://shop.slack.com/", team="shop", user_id=BOT_USER, bot_id=BOT_ID, team_id=TEAM)

    def _create(self, request: Request) -> Reply:
        if any(c.name == request.json["name"] for c in self.channels.values()):
            return _no("name_taken")
        made = self.add_channel(request.json["name"], BOT_USER)
        return _ok(channel={"id": made.id, "name": made.name, "is_channel": True})

    def _list(self, request: Request) -> Reply:
        """Two on a page, so that pages are turned."""
        start = int(request.query.get("cursor") or 0)
        everything = sorted(self.channels.values(), key=lambda c: c.id)
        page = [
            {"id": c.id, "name": c.name, "creator": c.creator, "created": int(c.created), "is_archived": c.archived}
            for c in everything[start : start + 2]
        ]
        following = str(start + 2) if start + 2 < len(everything) else ""
        return _ok(channels=page, response_metadata={"next_cursor": following})

    def _gone(self, name: str) -> Reply | None:
        """Deleted: nothing is known of it. Archived: it can be read."""
        channel = self.channels.get(name)
        return _no("is_archived" if channel else "channel_not_found") if channel is None or channel.archived else None

    def _set_topic(self, request: Request) -> Reply:
        if refused := self._gone(request.json["channel"]):
            return refused
        channel = self.channels[request.json["channel"]]
        channel.topic = request.json["topic"]
        channel.topics += 1
        return _ok(channel={"id": channel.id})

    def _invite(self, request: Request) -> Reply:
        if refused := self._gone(request.json["channel"]):
            return refused
        channel, users = self.channels[request.json["channel"]], set(request.json["users"].split(","))
        if users <= channel.members:
            return _no("already_in_channel")
        channel.members |= users
        return _ok(channel={"id": channel.id})

    def _history(self, request: Request) -> Reply:
        channel = self.channels.get(request.query["channel"])
        if channel is None:
            return _no("channel_not_found")
        found = [m for m in channel.messages if not m.thread or m.broadcast]
        return self._messages(request, found[::-1])

    def _replies(self, request: Request) -> Reply:
        channel = self.channels.get(request.query["channel"])
        if channel is None:
            return _no("channel_not_found")
        found = [m for m in channel.messages if request.query["ts"] in (m.ts, m.thread)]
        if not found:
            return _no("thread_not_found")
        return self._messages(request, found)

    def _messages(self, request: Request, found: list[Posted]) -> Reply:
        whole = request.query.get("include_all_metadata") in ("1", "true")
        kept = [m for m in found if float(m.ts) > float(request.query.get("oldest", 0))]
        start = int(request.query.get("cursor") or 0)
        page = [_wire(m, whole=whole) for m in kept[start : start + 2]]
        following = str(start + 2) if start + 2 < len(kept) else ""
        return _ok(messages=page, has_more=bool(following), response_metadata={"next_cursor": following})

    def _post(self, request: Request) -> Reply:
        body = request.json
        channel = self.channels.get(body["channel"]) or next(
            (c for c in self.channels.values() if c.name == body["channel"].removeprefix("#")), None
        )
        if channel is None or channel.archived:
            return _no("is_archived" if channel else "channel_not_found")
        if body.get("thread_ts") and all(m.ts != body["thread_ts"] for m in channel.messages):
            return _no("thread_not_found")
        if len(json.dumps(body["blocks"])) > 60_000 or sum(map(len, _words(body["blocks"]))) > 13_000:
            return _no("msg_blocks_too_long")
        posted = Posted(
            self._ts(),
            BOT_USER,
            body["text"],
            body["blocks"],
            body["metadata"],
            body.get("thread_ts"),
            bool(body.get("reply_broadcast")),
        )
        channel.messages.append(posted)
        return _ok(channel=channel.id, ts=posted.ts)

    def _update(self, request: Request) -> Reply:
        if refused := self._gone(request.json["channel"]):
            return refused
        found = [m for m in self.channels[request.json["channel"]].messages if m.ts == request.json["ts"]]
        if not found:
            return _no("message_not_found")
        found[0].text, found[0].blocks = request.json["text"], request.json["blocks"]
        found[0].edits += 1
        return _ok(channel=request.json["channel"], ts=request.json["ts"])

    def _respond(self, request: Request) -> Reply:
        self.answers.append(_shown(request.json["text"]))
        return Reply(200, "ok")

    def _open(self, _: Request) -> Reply:
        return _ok(url=f"{self.url.replace('http', 'ws', 1)}/socket?ticket={uuid.uuid4().hex}")

    def _ts(self) -> str:
        return f"{time.time():.0f}.{next(self._numbers):06}"

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get("/socket", self._serve_socket)

    async def _serve_socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "hello", "num_connections": 1})
        self._socket = asyncio.get_running_loop(), socket
        self.connections += 1
        self._connected.set()
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                self.acknowledged.append(json.loads(message.data)["envelope_id"])
        return socket


def sign(body: bytes, *, secret: str = SIGNING_SECRET, at: float | None = None) -> dict[str, str]:
    """The headers with which Slack posts this body."""
    timestamp = str(int(time.time() if at is None else at))
    digest = hmac.new(secret.encode(), f"v0:{timestamp}:".encode() + body, hashlib.sha256).hexdigest()
    return {
        "X-Slack-Request-Timestamp": timestamp,
        "X-Slack-Signature": f"v0={digest}",
        "Content-Type": "application/x-www-form-urlencoded",
    }


def form_of(payload: Json) -> bytes:
    """An interaction as Slack posts it."""
    return urllib.parse.urlencode({"payload": json.dumps(payload)}).encode()


def marked_up(blocks: list[Json]) -> list[str]:
    """What Slack would take for a mention or a link anywhere, and for emphasis, code, a quote or an emoji in what it
    formats (docs.slack.dev/messaging/formatting-message-text). ``plain_text`` shows all that as it is, but for emoji.
    """
    found = re.findall(r"<[^>]*>", json.dumps(blocks, ensure_ascii=False))
    for kind, text, emoji in _text_objects(blocks):
        if kind == "mrkdwn":
            found += [match[0] for pattern in _FORMATS for match in pattern.finditer(text)]
        if kind == "mrkdwn" or emoji:
            found += _EMOJI.findall(text)
    return found


_FORMATS = [
    *(re.compile(rf"(?<!\w){re.escape(mark)}(?=\S)[^{mark}\n]+{re.escape(mark)}(?!\w)") for mark in "*_~`"),
    re.compile(r"```"),
    re.compile(r"^ *(?:&gt;|>).*", re.MULTILINE),
]
_EMOJI = re.compile(r":[a-z0-9_+'-]+:")


def _text_objects(value: Any) -> list[tuple[str, str, bool]]:
    """Kind, text and whether Slack makes emoji of names in it, of each text object."""
    if isinstance(value, list):
        return [found for item in value for found in _text_objects(item)]
    if not isinstance(value, dict):
        return []
    if value.get("type") in ("plain_text", "mrkdwn"):
        return [(value["type"], value["text"], value.get("emoji") is not False)]
    return [found for item in value.values() for found in _text_objects(item)]


def _ok(**fields: Any) -> Reply:
    return Reply(200, {"ok": True} | fields)


def _no(error: str) -> Reply:
    return Reply(200, {"ok": False, "error": error})


def _wire(posted: Posted, *, whole: bool) -> Json:
    body: Json = {"type": "message", "ts": posted.ts, "user": posted.user, "text": posted.text}
    body |= {"bot_id": BOT_ID} if posted.user == BOT_USER else {}
    if posted.metadata:
        body["metadata"] = posted.metadata if whole else {"event_type": posted.metadata["event_type"]}
    return body | ({"thread_ts": posted.thread} if posted.thread else {})


def _words(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _words(item)]
    if isinstance(value, dict):
        if value.get("type") in ("plain_text", "mrkdwn"):
            return [_shown(value["text"])]
        return [text for item in value.values() for text in _words(item)]
    return []


def _shown(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
