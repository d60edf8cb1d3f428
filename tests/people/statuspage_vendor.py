"""Statuspage, played: the parts of its documented API that Paramedic uses, with the page that its readers see."""

from __future__ import annotations

from copy import deepcopy
from itertools import count
from typing import Annotated, Any, Literal

from pydantic import Field

from people.vendors import FakeVendor, Json, Reply, Request, Route, Schema

PAGE_ID, API_KEY = "kctbh9vrtdwd", "89a229ce-1a8b-4f3e-9c4b-0f1d5b2c7e11"
ComponentStatus = Literal[
    "operational", "under_maintenance", "degraded_performance", "partial_outage", "major_outage", ""
]


class Fields(Schema):
    """``incident`` of a realtime incident, as far as documented for both create and update."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    status: Literal["investigating", "identified", "monitoring", "resolved"] = "investigating"
    impact_override: Literal["none", "maintenance", "minor", "major", "critical"] | None = None
    deliver_notifications: bool = True
    body: Annotated[str, Field(max_length=25_000)] = ""
    components: dict[str, ComponentStatus] = Field(default_factory=dict)
    component_ids: list[str] = Field(default_factory=list)
    metadata: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """All top-level values in the object must also be objects."""


class Create(Schema):
    incident: Fields


class Changed(Fields):
    name: Annotated[str, Field(min_length=1, max_length=255)] | None = None  # type: ignore[assignment]


class Update(Schema):
    incident: Changed


class _Component(Schema):
    status: ComponentStatus


class ComponentUpdate(Schema):
    component: _Component


class FakeStatuspage(FakeVendor):
    """One page with its components. ``updates`` of an incident are what subscribers were sent, oldest first."""

    def __init__(self, *components: str) -> None:
        super().__init__()
        self.incidents: dict[str, Json] = {}
        self._numbers = count()
        self.components: dict[str, str] = dict.fromkeys(components, "operational")

    def routes(self) -> list[Route]:
        incidents = f"/v1/pages/{PAGE_ID}/incidents"
        one = incidents + r"/(?P<id>[a-z0-9]{12})"
        return [
            Route("GET", f"{incidents}/unresolved", None, self._unresolved),
            Route("POST", incidents, Create, self._create),
            Route("GET", one, None, self._get),
            Route("PATCH", one, Update, self._update),
            Route("PATCH", rf"/v1/pages/{PAGE_ID}/components/(?P<id>[a-z0-9]{{12}})", ComponentUpdate, self._set),
        ]

    @property
    def api_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def only(self) -> Json:
        """The page's one incident."""
        assert len(self.incidents) == 1, list(self.incidents)
        return next(iter(self.incidents.values()))

    def statuses(self) -> list[str]:
        """Of the only incident's updates."""
        return [update["status"] for update in self.only["incident_updates"]]

    def authorized(self, request: Request) -> str | None:
        given = request.headers.get("authorization")
        return None if given == f"OAuth {API_KEY}" else "Could not authenticate"

    def add(self, name: str, **fields: Any) -> Json:
        """An incident that somebody else has put on the page."""
        return self._store({"name": name, "status": "investigating"} | fields)

    def _unresolved(self, request: Request) -> Reply:
        size, page = int(request.query.get("per_page", 100)), int(request.query.get("page", 1))
        assert 1 <= size <= 100
        found = [one for one in self.incidents.values() if one["status"] != "resolved"]
        return Reply(200, found[(page - 1) * size : page * size])

    def _create(self, request: Request) -> Reply:
        return self._apply(request, None)

    def _update(self, request: Request) -> Reply:
        known = self.incidents.get(request.match["id"])
        return self._apply(request, known) if known else self.refuse(404, "incident not found")

    def _get(self, request: Request) -> Reply:
        known = self.incidents.get(request.match["id"])
        return Reply(200, known) if known else self.refuse(404, "incident not found")

    def _set(self, request: Request) -> Reply:
        known, status = request.match["id"], request.json["component"]["status"]
        if known not in self.components:
            return self.refuse(404, "component not found")
        self.components[known] = status
        return Reply(200, {"id": known, "status": status})

    def _apply(self, request: Request, known: Json | None) -> Reply:
        fields = request.json["incident"]
        unknown = {*fields.get("components", {}), *fields.get("component_ids", [])} - self.components.keys()
        if unknown:
            return self.refuse(422, f"unknown components {sorted(unknown)}")
        return Reply(200 if known else 201, self._store(fields, known))

    def _store(self, fields: Json, known: Json | None = None) -> Json:
        made = known or {"id": f"p31zjtct{next(self._numbers):04}", "incident_updates": [], "components": []}
        made |= {key: deepcopy(value) for key, value in fields.items() if key not in ("body", "components")}
        made["shortlink"] = f"https://stspg.io/{made['id']}"
        self.components |= fields.get("components", {})
        concerned = {one["id"] for one in made["components"]} | fields.get("components", {}).keys()
        made["components"] = [{"id": one, "status": self.components[one]} for one in sorted(concerned)]
        if "body" in fields:
            made["incident_updates"].append({"status": made["status"], "body": fields["body"]})
        self.incidents[made["id"]] = made
        return made
