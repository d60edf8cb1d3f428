"""PagerDuty, played: Events API v2 and the part of the REST API that is used, as PagerDuty documents them.

Alerts are told apart by routing key and dedup key, as there: a trigger of a key whose alert is open changes nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, Field, HttpUrl, TypeAdapter

from people.vendors import FakeVendor, Reply, Request, Route, Schema

Json = dict[str, Any]
ROUTING_KEY, TOKEN, EMAIL = "r" * 32, "u+token-of-the-rest-api", "paramedic@example.com"
SECRET = "secret-of-the-subscription"


def _url(text: str) -> str:
    TypeAdapter(HttpUrl).validate_python(text)
    return text


def _moment(text: str) -> str:
    TypeAdapter(AwareDatetime).validate_python(text)
    return text


Url = Annotated[str, AfterValidator(_url)]
Key = Annotated[str, Field(min_length=1, max_length=255)]


class Link(Schema):
    href: Url
    text: str | None = None


class Payload(Schema):
    summary: Annotated[str, Field(min_length=1, max_length=1024)]
    source: Annotated[str, Field(min_length=1)]
    severity: Literal["critical", "error", "warning", "info"]
    timestamp: Annotated[str, AfterValidator(_moment)] | None = None
    component: str | None = None
    group: str | None = None
    class_: Annotated[str | None, Field(alias="class")] = None
    custom_details: dict[str, Any] = Field(default_factory=dict)


class Trigger(Schema):
    routing_key: str
    event_action: Literal["trigger"]
    dedup_key: Key
    payload: Payload
    client: str | None = None
    client_url: Url | None = None
    links: list[Link] = Field(default_factory=list)


class Change(Schema):
    routing_key: str
    event_action: Literal["acknowledge", "resolve"]
    dedup_key: Key


class _Content(Schema):
    content: Annotated[str, Field(min_length=1)]


class Note(Schema):
    note: _Content


@dataclass
class Alert:
    """An alert and the incident that it has opened."""

    id: str
    key: str
    events: list[Json] = field(default_factory=list)
    status: str = "triggered"
    notes: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """Of the alerts that are the incident's now: those of incidents that were merged into it, too."""

    def __post_init__(self) -> None:
        self.keys = [self.key]

    @property
    def actions(self) -> list[str]:
        return [event["event_action"] for event in self.events]

    @property
    def lines(self) -> list[str]:
        """What the notes say, without the times."""
        return [line.partition("] ")[2] for note in self.notes for line in note.splitlines()]


class FakePagerDuty(FakeVendor):
    """``alerts`` in the order in which they were triggered. For the next ``hidden`` looks incidents are not found."""

    def __init__(self) -> None:
        super().__init__()
        self.alerts: list[Alert] = []
        self.hidden = 0

    def routes(self) -> list[Route]:
        return [
            Route(
                "POST", "/v2/enqueue", Annotated[Trigger | Change, Field(discriminator="event_action")], self.enqueue
            ),
            Route("GET", "/incidents", None, self.find),
            Route("GET", "/incidents/(?P<id>[A-Z0-9]+)/notes", None, self.list_notes),
            Route("POST", "/incidents/(?P<id>[A-Z0-9]+)/notes", Note, self.add_note),
            Route("GET", "/incidents/(?P<id>[A-Z0-9]+)/alerts", None, self.list_alerts),
        ]

    def authorized(self, request: Request) -> str | None:
        if request.path.startswith("/v2/"):
            return None  # the key is in the body
        if request.headers.get("authorization") != f"Token token={TOKEN}":
            return "Unauthorized"
        if request.method == "POST" and request.headers.get("from") != EMAIL:
            return "the From header must name a user of the account"
        return None

    # -- Events API ---------------------------------------------------------------------------------------------------

    def enqueue(self, request: Request) -> Reply:
        event = request.json
        if event["routing_key"] != ROUTING_KEY:
            problem = "Length of 'routing_key' is incorrect (should be 32 characters)"
            invalid = {"status": "invalid event", "message": "Event object is invalid", "errors": [problem]}
            return Reply(400, invalid)
        alert = self.open_alert(event["dedup_key"])
        if alert is None and event["event_action"] == "trigger":
            alert = Alert(f"Q{len(self.alerts):03}", event["dedup_key"])
            self.alerts.append(alert)
        if alert:
            alert.events.append(event)
            states = {"acknowledge": "acknowledged", "resolve": "resolved"}
            alert.status = states.get(event["event_action"], alert.status)
        return Reply(202, {"status": "success", "message": "Event processed", "dedup_key": event["dedup_key"]})

    def open_alert(self, key: str) -> Alert | None:
        """The alert of a key that is not resolved."""
        return next((a for a in self.alerts if a.key == key and a.status != "resolved"), None)

    def merge(self, source: Alert, target: Alert) -> bytes:
        """A person merges an incident into another, as the web app does; gives the body of the webhook of it."""
        target.keys, source.keys, source.status = [*target.keys, *source.keys], [], "resolved"
        reference = {"id": target.id, "type": "incident_reference", "summary": "[#1] the other"}
        reason = {"type": "merge_resolve_reason", "incident": reference}
        return webhook("incident.resolved", source.key, incident=source.id, reason=reason)

    # -- REST API -----------------------------------------------------------------------------------------------------

    def find(self, request: Request) -> Reply:
        wanted = request.query.get("incident_key")
        found = [] if self.hidden else [a for a in reversed(self.alerts) if a.key == wanted]
        self.hidden = max(0, self.hidden - 1)
        items = [{"id": a.id, "type": "incident", "status": a.status} for a in found]
        return Reply(200, {"incidents": items, "limit": 1, "offset": 0, "more": False, "total": None})

    def list_notes(self, request: Request) -> Reply:
        return Reply(
            200, {"notes": [{"id": str(n), "content": text} for n, text in enumerate(self._of(request).notes)]}
        )

    def add_note(self, request: Request) -> Reply:
        content = request.json["note"]["content"]
        self._of(request).notes.append(content)
        return Reply(201, {"note": {"id": "PNOTE", "content": content}})

    def list_alerts(self, request: Request) -> Reply:
        found = next((a for a in self.alerts if a.id == request.match["id"]), None)
        if found is None:
            return Reply(404, {"error": {"message": "Not Found", "code": 2100}})
        alerts = [{"id": f"A{n}", "alert_key": key} for n, key in enumerate(found.keys)]
        return Reply(200, {"alerts": alerts, "limit": 100, "offset": 0, "more": False})

    def _of(self, request: Request) -> Alert:
        return next(a for a in self.alerts if a.id == request.match["id"])


# -- webhooks ---------------------------------------------------------------------------------------------------------

JANE = {
    "html_url": "https://acme.pagerduty.com/users/PLH1HKV",
    "id": "PLH1HKV",
    "self": "https://api.pagerduty.com/users/PLH1HKV",
    "summary": "Jane Doe",
    "type": "user_reference",
}
INTEGRATION = {"id": "PINTEG1", "summary": "Paramedic", "type": "events_api_v2_inbound_integration_reference"}


def webhook(
    kind: str, key: str | None, agent: Json | None = JANE, incident: str = "QNONE", reason: Json | None = None
) -> bytes:
    """The body of a v3 webhook, as PagerDuty's documentation shows it."""
    data = {
        "id": incident,
        "type": "incident",
        "self": f"https://api.pagerduty.com/incidents/{incident}",
        "html_url": f"https://acme.pagerduty.com/incidents/{incident}",
        "number": 2,
        "status": kind.partition(".")[2],
        "incident_key": key,
        "created_at": "2026-03-02T15:16:27Z",
        "title": "API returns 5xx — ünïcode",
        "service": {"id": "PF9KMXH", "summary": "API Service", "type": "service_reference"},
        "urgency": "high",
        "resolve_reason": reason,
    }
    event = {
        "id": "5ac64822-4adc-4fda-ade0-410becf0de4f",
        "event_type": kind,
        "resource_type": "incident",
        "occurred_at": "2026-03-02T18:45:22.169Z",
        "agent": agent,
        "client": {"name": "PagerDuty"},
        "data": data,
    }
    return json.dumps({"event": event}, ensure_ascii=False).encode()


def signature(body: bytes, *secrets: str) -> str:
    """The header, with one signature for each secret."""
    return ",".join("v1=" + hmac.new(one.encode(), body, hashlib.sha256).hexdigest() for one in secrets)
