"""The generic webhook: what is documented is what is sent, and three vendors take the examples of docs/channels.md."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from paramedic.api.incident import Incident
from paramedic.api.people import ChannelSettings
from paramedic.channels.base import PartlyTold
from paramedic.channels.webhook import Webhook
from paramedic.core import webhook_body
from paramedic.errors import Retry, Terminal, Unreachable
from paramedic.settings import Settings, SettingsError, load_settings
from people.tellers import NOW, UID, incident, messages, notice, to_tell
from people.vendors import FakeVendor, Fault, Json, Reply, Request, Route, Schema

DOCS = (Path(__file__).parents[2] / "docs/channels.md").read_text()
GENIE_KEY = "GenieKey eb243592-faa2-4ba2-a551-1afdf565c889"
HOSTILE = 'down" }, \\ \n{{ 7*7 }} <b>bold</b> <!channel> @all @channel [click](http://evil.example) **b** ' + "x" * 300


class _Notice(Schema):
    key: str
    kind: str
    reason: str
    at: str
    message: str
    mentions: list[str]


class _Incident(Schema):
    name: str
    namespace: str
    title: str
    type: str
    severity: str
    status: str
    phase: str
    target: str
    commander: str
    startedAt: str | None  # noqa: N815 - as it is sent
    resolvedAt: str | None  # noqa: N815
    labels: dict[str, str]
    annotations: dict[str, str]


class _Texts(Schema):
    internalUpdate: str  # noqa: N815
    customerMessage: str  # noqa: N815
    allClear: str | None  # noqa: N815


class _Default(Schema):
    """The default body, version 1: what others rely on."""

    version: Literal["1"]
    id: str
    kind: str
    incident: _Incident
    notices: list[_Notice]
    texts: _Texts


class _OpsgenieAlert(Schema):
    """Opsgenie's "Create Alert"."""

    message: Annotated[str, Field(min_length=1, max_length=130)]
    alias: Annotated[str, Field(max_length=512)] = ""
    description: Annotated[str, Field(max_length=15_000)] = ""
    responders: list[dict[str, str]] = Field(default_factory=list, max_length=50)
    actions: list[Annotated[str, Field(max_length=50)]] = Field(default_factory=list, max_length=10)
    tags: list[Annotated[str, Field(max_length=50)]] = Field(default_factory=list, max_length=20)
    details: dict[str, str] = Field(default_factory=dict)
    entity: Annotated[str, Field(max_length=512)] = ""
    source: Annotated[str, Field(max_length=100)] = ""
    priority: Literal["P1", "P2", "P3", "P4", "P5"] = "P3"
    user: Annotated[str, Field(max_length=100)] = ""
    note: Annotated[str, Field(max_length=25_000)] = ""


class _OpsgenieClose(Schema):
    """Opsgenie's "Close Alert"."""

    user: Annotated[str, Field(max_length=100)] = ""
    source: Annotated[str, Field(max_length=100)] = ""
    note: Annotated[str, Field(max_length=25_000)] = ""


class _TextBlock(Schema):
    type: Literal["TextBlock"]
    text: str
    size: Literal["Default", "Small", "Medium", "Large", "ExtraLarge"] = "Default"
    weight: Literal["Default", "Lighter", "Bolder"] = "Default"
    color: Literal["Default", "Dark", "Light", "Accent", "Good", "Warning", "Attention"] = "Default"
    wrap: bool = False


class _Fact(Schema):
    title: str
    value: str


class _FactSet(Schema):
    type: Literal["FactSet"]
    facts: Annotated[list[_Fact], Field(min_length=1)]


class _Card(Schema):
    schema_: Annotated[Literal["http://adaptivecards.io/schemas/adaptive-card.json"], Field(validation_alias="$schema")]
    type: Literal["AdaptiveCard"]
    version: Annotated[str, Field(pattern=r"^1\.[0-5]$")]
    body: list[Annotated[_TextBlock | _FactSet, Field(discriminator="type")]]


class _CardAttachment(Schema):
    contentType: Literal["application/vnd.microsoft.card.adaptive"]  # noqa: N815
    contentUrl: str | None  # noqa: N815
    content: _Card


class _TeamsMessage(Schema):
    """What a Workflow's webhook trigger takes."""

    type: Literal["message"]
    attachments: Annotated[list[_CardAttachment], Field(min_length=1, max_length=10)]


class _MattermostPost(Schema):
    """Mattermost's incoming webhook."""

    text: Annotated[str, Field(min_length=1, max_length=16_383)]
    channel: str = ""
    username: str = ""
    icon_url: str = ""
    icon_emoji: str = ""
    props: dict[str, Any] = Field(default_factory=dict)


class Receiver(FakeVendor):
    """Takes each body that fits; ``taken`` are those, without the repetitions of an Idempotency-Key."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, Json] = {}
        self.paths: list[str] = []

    def routes(self) -> list[Route]:
        return [
            Route("POST", "/incidents", _Default, self._take),
            Route("POST", "/own/(?P<id>[^/]+)", Any, self._take),
            Route("POST", "/v2/alerts", _OpsgenieAlert, self._opsgenie),
            Route("POST", r"/v2/alerts/(?P<alias>[^/]+)/close", _OpsgenieClose, self._opsgenie),
            Route("POST", "/workflows/trigger", _TeamsMessage, self._teams),
            Route("POST", "/hooks/key", _MattermostPost, self._mattermost),
        ]

    def _take(self, request: Request) -> Reply:
        self.taken.setdefault(request.path + request.headers["idempotency-key"], request.json)
        self.paths.append(request.path)
        return Reply(200, "ok")

    def _opsgenie(self, request: Request) -> Reply:
        if request.headers.get("authorization") != GENIE_KEY:
            return self.refuse(401, "Key format is not valid!")
        if request.match and request.query != {"identifierType": "alias"}:
            return self.refuse(422, "identifierType must be alias")
        self._take(request)
        return Reply(202, {"result": "Request will be processed", "took": 0.1, "requestId": "43a29c5c"})

    def _teams(self, request: Request) -> Reply:
        if len(request.body) > 28 * 1024:
            return self.refuse(413, "the message is larger than 28 KB")
        self._take(request)
        return Reply(202)

    def _mattermost(self, request: Request) -> Reply:
        self._take(request)
        return Reply(200, "ok")


Make = Callable[..., Webhook]


@pytest.fixture
def vendor() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture
async def make(vendor: Receiver) -> AsyncIterator[Make]:
    opened: list[Webhook] = []

    def made(settings: Json | None = None, **webhook: Any) -> Webhook:
        given = settings or {"name": "hook", "timeout": "1s", "webhook": {"url": f"{vendor.url}/incidents"} | webhook}
        opened.append(Webhook(ChannelSettings.model_validate(given), messages()))
        return opened[-1]

    yield made
    for one in opened:
        await one.close()


def resolved(**more: Any) -> Incident:
    return incident(phase="Resolved", resolvedAt=NOW.isoformat(), **more)


def hostile(**more: Any) -> Incident:
    return incident(spec={"title": HOSTILE, "commander": HOSTILE[:200]}, target=HOSTILE, message=HOSTILE, **more)


# -- the default -------------------------------------------------------------------------------------------------------


async def test_the_default_body_is_as_documented(make: Make, vendor: Receiver) -> None:
    assert await make().tell(to_tell(incident())) == {}
    (body,) = vendor.taken.values()
    documented = json.loads(re.findall(r"```json\n(.*?)```", DOCS, re.DOTALL)[0])
    texts = body.pop("texts")
    assert documented.pop("texts").keys() == texts.keys()
    assert body == documented
    assert texts["internalUpdate"].startswith("INCIDENT UPDATE - api-slow\n")


async def test_the_default_body_at_the_end(make: Make, vendor: Receiver) -> None:
    await make().tell(to_tell(resolved(), notice("Update"), notice("Resolved", "RemediationSucceeded", 1)))
    (body,) = vendor.taken.values()
    assert body["kind"] == "Resolved"
    assert body["incident"]["status"] == "RESOLVED"
    assert body["texts"]["allClear"].startswith("INCIDENT RESOLVED - api-slow\n")
    assert [one["kind"] for one in body["notices"]] == ["Update", "Resolved"]


async def test_only_the_wanted_kinds(make: Make, vendor: Receiver) -> None:
    hook = make(kinds=["Resolved"])
    assert await hook.tell(to_tell(incident(), notice("Opened"), notice())) == {}
    assert not vendor.requests
    await hook.tell(to_tell(resolved(), notice(), notice("Resolved")))
    (body,) = vendor.taken.values()
    assert [one["kind"] for one in body["notices"]] == ["Resolved"]


# -- told once ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.reset(taken=True), Fault.hang(taken=True)])
async def test_a_repetition_can_be_known(make: Make, vendor: Receiver, fault: Fault) -> None:
    vendor.fail_next(fault)
    with pytest.raises(Retry) as caught:
        await make().tell(to_tell(incident()))
    assert caught.value.uncertain
    await make().tell(to_tell(incident(), again=True))
    assert len(vendor.requests) == 2
    assert len(vendor.taken) == 1


async def test_a_call_is_made_though_what_waits_with_it_is_refused(make: Make, vendor: Receiver) -> None:
    opened, call, late = notice("Opened"), notice("Call", minute=1), notice(minute=2)
    vendor.fail_next(Fault.status(400))
    with pytest.raises(PartlyTold, match="400") as partly:
        await make().tell(to_tell(incident(), opened, call, late))
    assert isinstance(partly.value.problem, Terminal)
    assert (partly.value.keys, partly.value.failed) == ([call.key, late.key], [opened.key])
    assert [body["kind"] for body in vendor.taken.values()] == ["Call", "Update"]


async def test_a_call_is_not_made_again_because_the_next_one_fails(make: Make, vendor: Receiver) -> None:
    first, second = notice("Call"), notice("Call", minute=1)
    vendor.fail_next(Fault("pass", taken=True), Fault.status(503))
    with pytest.raises(PartlyTold) as partly:
        await make(kinds=["Call"]).tell(to_tell(incident(), notice(minute=3), first, second))
    assert isinstance(partly.value.problem, Retry)
    assert (partly.value.keys, partly.value.failed) == ([first.key, notice(minute=3).key], None)


async def test_a_call_has_the_same_key_whatever_else_waits_when_it_is_repeated(make: Make, vendor: Receiver) -> None:
    call, asked = notice("Call", minute=1), notice("ApprovalNeeded", minute=3)
    vendor.fail_next(Fault.hang(taken=True))
    with pytest.raises(Retry):
        await make().tell(to_tell(incident(), call))
    waiting = (notice("Opened"), call, notice(minute=2), notice(minute=3), asked, notice(minute=4))
    await make().tell(to_tell(incident(), *waiting, again=True))
    told = [[one["key"] for one in body["notices"]] for body in vendor.taken.values()]
    assert told == [[call.key], [waiting[0].key], [one.key for one in waiting[2:4]], [asked.key], [waiting[5].key]]


def test_idempotency_key() -> None:
    one, two = notice(minute=1), notice(minute=2)
    key = webhook_body.idempotency_key(incident(), [one, two])
    assert key == webhook_body.idempotency_key(incident(phase="Resolved"), [two, one])
    assert key != webhook_body.idempotency_key(incident(), [one])
    other = incident().model_copy(deep=True)
    other.metadata.uid = "another"
    assert key != webhook_body.idempotency_key(other, [one, two])


async def test_failures(make: Make, vendor: Receiver) -> None:
    vendor.fail_next(Fault.status(429, retry_after=3), Fault.status(500), Fault.status(400))
    with pytest.raises(Retry) as patience:
        await make().tell(to_tell(incident()))
    assert patience.value.after
    assert not patience.value.uncertain
    with pytest.raises(Retry) as broken:
        await make().tell(to_tell(incident()))
    assert broken.value.uncertain
    with pytest.raises(Terminal):
        await make().tell(to_tell(incident()))


# -- secrets -----------------------------------------------------------------------------------------------------------


async def test_secret_url_and_header_are_read_anew_and_never_told(make: Make, vendor: Receiver, tmp_path: Path) -> None:
    url, header = tmp_path / "url", tmp_path / "header"
    url.write_text(f"{vendor.url}/hooks/s3cr3t-path")
    header.write_text("s3cr3t-header\n")
    hook = make(
        {
            "name": "hook",
            "webhook": {
                "urlFile": url,
                "headers": [{"name": "X-Key", "valueFile": header}, {"name": "A", "value": "b"}],
            },
        }
    )
    vendor.fail_next(Fault.status(404, body=f"no {url.read_text()} for s3cr3t-header"))
    with pytest.raises(Terminal) as caught:
        await hook.tell(to_tell(incident()))
    assert "s3cr3t" not in str(caught.value)
    url.write_text(f"{vendor.url}/incidents")
    header.write_text("rotated")
    await hook.tell(to_tell(incident()))
    assert vendor.requests[-1].headers["x-key"] == "rotated"
    assert vendor.requests[-1].headers["a"] == "b"
    url.unlink()
    with pytest.raises(Unreachable, match="urlFile"):
        await hook.tell(to_tell(incident()))


# -- templates ---------------------------------------------------------------------------------------------------------


async def test_a_teams_own_body(make: Make, vendor: Receiver) -> None:
    body = '{"t": {{ title | tojson }}, "n": [{% for n in notices %}{{ n.message | tojson }},{% endfor %}null]}'
    hook = make(url=f"{vendor.url}/own/{{id}}", body=body)
    await hook.tell(to_tell(incident(spec={"title": HOSTILE}), notice(message=HOSTILE), notice(minute=1)))
    (sent,) = vendor.taken.values()
    assert sent["n"][1:] == ["a fact", None]
    assert sent["t"].startswith('down" }, \\ {{ 7*7 }} <b>bold</b>')
    assert vendor.paths == [f"/own/{UID}"]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('{"text": "{{ title }}"}', "does not give JSON"),
        ('{"text": {{ title }}}', "does not give JSON"),
        ('{"text": {{ titel | tojson }}}', "unknown titel"),
        ("{{ title.upper() }}", "Call is not allowed"),
        ('{"a": [{% for n in notices %}{{ n.key | tojson }},{% endfor %}]}', "does not give JSON"),
    ],
)
def test_a_wrong_body_is_refused_at_start(
    body: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(
        yaml.safe_dump({"channels": [{"name": "hook", "webhook": {"url": "http://x.example", "body": body}}]})
    )
    monkeypatch.setenv("PARAMEDIC_CONFIG", str(path))
    with pytest.raises(SettingsError, match=f"hook.webhook.body: .*{problem}"):
        load_settings()


# -- the documented examples -------------------------------------------------------------------------------------------


def example(name: str, vendor: Receiver, folder: Path) -> Json:
    """A channel of docs/channels.md as it stands there, at the fake vendor and with its files here."""
    documents = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL))
    found: Json = next(c for d in documents for c in d.get("channels") or [] if c["name"] == name)
    hook = found["webhook"]
    for key, content in (("urlFile", f"{vendor.url}{URL_PATHS.get(name, '')}"),):
        if key in hook:
            (folder / "url").write_text(content)
            hook[key] = folder / "url"
    if "url" in hook:
        hook["url"] = hook["url"].replace("https://api.opsgenie.com", vendor.url)
    for header in hook.get("headers", []):
        (folder / "header").write_text(GENIE_KEY)
        header["valueFile"] = folder / "header"
    return found


URL_PATHS = {"teams": "/workflows/trigger", "mattermost": "/hooks/key"}


@pytest.mark.parametrize("of", [incident, hostile, resolved])
@pytest.mark.parametrize("name", ["opsgenie", "opsgenie-close", "teams", "mattermost"])
async def test_vendors_take_the_examples(
    name: str, of: Callable[[], Incident], make: Make, vendor: Receiver, tmp_path: Path
) -> None:
    kinds = [notice("Opened"), notice("Update", minute=1, message=HOSTILE), notice("Resolved", minute=2)]
    await make(example(name, vendor, tmp_path)).tell(to_tell(of(), *kinds))
    assert len(vendor.taken) == 1
    vendor.check()


async def test_opsgenie_opens_and_closes_the_same_alert(make: Make, vendor: Receiver, tmp_path: Path) -> None:
    channels = [make(example(name, vendor, tmp_path)) for name in ("opsgenie", "opsgenie-close")]
    for told in (
        to_tell(incident(), notice("Opened")),
        to_tell(incident(), notice()),
        to_tell(resolved(), notice("Resolved")),
    ):
        for channel in channels:
            await channel.tell(told)
    assert vendor.paths == ["/v2/alerts", f"/v2/alerts/paramedic-{UID}/close"]
    opened, _ = vendor.taken.values()
    assert opened["alias"] == f"paramedic-{UID}"
    assert opened["priority"] == "P2"


async def test_no_markup_and_no_mention_gets_through(make: Make, vendor: Receiver, tmp_path: Path) -> None:
    for name in ("opsgenie", "teams", "mattermost"):
        await make(example(name, vendor, tmp_path)).tell(to_tell(hostile(), notice("Opened", message=HOSTILE)))
    alert, card, post = vendor.taken.values()
    assert "<b>" not in json.dumps(alert)
    for text in (json.dumps(card, ensure_ascii=False), post["text"]):
        assert not re.search("@(all|channel)", text)
        assert "[click](" not in text
        assert "<b>" not in text


def test_every_example_is_a_valid_setting() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", DOCS, re.DOTALL):
        document = yaml.safe_load(block)
        if "channels" in document:
            channels = [ChannelSettings.model_validate(one) for one in document["channels"]]
            Settings(channels=channels, notify=document.get("notify", []))
