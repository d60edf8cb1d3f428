"""The JSON that a generic webhook sends: all that there is to say, or what the settings' template makes of it. Pure."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paramedic.api.base import format_time
from paramedic.api.incident import Incident, Notice, NoticeKind
from paramedic.core.messages import LISTS, MAPS, TextName
from paramedic.core.messages import NAMES as FACTS
from paramedic.core.redact import clean
from paramedic.core.situation import began_at
from paramedic.core.texts import compile_text, render_raw

Json = dict[str, Any]
MAX_BODY = 256 * 1024
VERSION = "1"
_LONGEST = 2048
TEXTS: tuple[TextName, ...] = ("internal_update", "customer_message", "all_clear", "shutdown_notice")
"""The texts that a template may use, as ``texts.internal_update`` and so on."""
ALONE: frozenset[NoticeKind] = frozenset({"Call", "ApprovalNeeded"})
"""What somebody is asked to come for."""
NAMES = FACTS | {"id", "kind", "notices", "started_at", "resolved_at", "texts"}
"""The variables of a body's template."""


def values(
    incident: Incident, notices: Sequence[Notice], facts: Mapping[str, Any], texts: Mapping[TextName, str]
) -> Json:
    """The variables: all facts, ``texts`` by name, the ``notices`` and what kind the gravest of them is."""
    ended = incident.status.resolved_at
    started = began_at(incident)
    return {
        **facts,
        "id": incident.metadata.uid,
        "kind": kind_of(notices),
        "notices": [_notice(notice) for notice in notices],
        "started_at": format_time(started) if started else "",
        "resolved_at": format_time(ended) if ended else "",
        "texts": dict(texts),
    }


def kind_of(notices: Sequence[Notice]) -> str:
    """One word for all: where it began or ended in them, that; else the newest's."""
    kinds = [notice.kind for notice in notices]
    return next((kind for kind in ("Resolved", "Opened") if kind in kinds), kinds[-1] if kinds else "")


def idempotency_key(incident: Incident, notices: Sequence[Notice]) -> str:
    """The same for the same notices of the same incident, whoever sends them and however often."""
    told = "\n".join([incident.metadata.uid, *sorted(notice.key for notice in notices)])
    return hashlib.sha256(told.encode()).hexdigest()


def batches(waiting: Sequence[Notice]) -> list[list[Notice]]:
    """What is told by one request each, in order: as much as may be, but a call to somebody stands alone. Whatever else
    waits when it has to be repeated, the repetition is then known by its key, and nobody is called twice.
    """
    told: list[list[Notice]] = []
    for notice in waiting:
        if told and notice.kind not in ALONE and told[-1][-1].kind not in ALONE:
            told[-1].append(notice)
        else:
            told.append([notice])
    return told


def render_body(template: str | None, known: Mapping[str, Any]) -> Any:
    """The body. Raises ValueError when the template does not give JSON."""
    if template is None:
        return default_body(known)
    text = render_raw(template, known, MAX_BODY)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the body's template does not give JSON ({error}); quote values with | tojson") from error


def default_body(known: Mapping[str, Any]) -> Json:
    """What is sent without a template; fields are added to it, and never taken away under the same ``version``."""
    return {
        "version": VERSION,
        "id": known["id"],
        "kind": known["kind"],
        "incident": {
            "name": known["name"],
            "namespace": known["namespace"],
            "title": known["title"],
            "type": known["type"],
            "severity": known["severity"],
            "status": known["status"],
            "phase": known["phase"],
            "target": known["target"],
            "commander": known["commander"],
            "startedAt": known["started_at"] or None,
            "resolvedAt": known["resolved_at"] or None,
            "labels": known["labels"],
            "annotations": known["annotations"],
        },
        "notices": known["notices"],
        "texts": {
            "internalUpdate": known["texts"]["internal_update"],
            "customerMessage": known["texts"]["customer_message"],
            "allClear": known["texts"]["all_clear"] if known["status"] == "RESOLVED" else None,
        },
    }


def problems(channel: str, template: str) -> Iterable[str]:
    """What is wrong in a body's template, found with values that break what is not quoted."""
    try:
        compile_text(template, NAMES)
        for sample in (_sample("INVESTIGATING", 2), _sample("RESOLVED", 0)):
            render_body(template, sample)
    except ValueError as error:
        yield f"channels: {channel}.webhook.body: {error}"


def _notice(notice: Notice) -> Json:
    return {
        "key": notice.key,
        "kind": notice.kind,
        "reason": notice.reason,
        "at": format_time(notice.at),
        "message": clean(notice.message, _LONGEST),
        "mentions": notice.mentions,
    }


def _sample(status: str, items: int) -> Json:
    hostile = 'a "quote", a \\ and more'
    known: Json = dict.fromkeys(NAMES, hostile)
    known |= {name: [hostile] * items for name in LISTS}
    known |= {name: {"alertname": hostile} for name in MAPS}
    known |= {"texts": dict.fromkeys(TEXTS, f"{hostile}\nanother line"), "maintenance": False}
    notice = dict.fromkeys(("key", "kind", "reason", "at", "message"), hostile) | {"mentions": [hostile] * items}
    return known | {"notices": [notice] * max(items, 1), "status": status, "severity": "P1", "kind": "Opened"}
