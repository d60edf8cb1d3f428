"""What an incident looks like in Slack: pure.

Titles, labels and messages are hostile text. They stand in ``plain_text`` objects only: to escape ``& < >`` keeps Slack
from making mentions and links of them in a ``mrkdwn`` one, but not emphasis, code, quotes or emoji. What stands in
``mrkdwn`` is Paramedic's own: whom it calls, and where it leads. Limits: docs.slack.dev/reference/block-kit.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC
from hashlib import sha256
from typing import Any

from paramedic.api.incident import Incident, Notice, NoticeKind, StepState, StepStatus
from paramedic.api.people import SLACK_GROUP, SLACK_USER
from paramedic.core import people
from paramedic.core.slack_buttons import ButtonAction, action_id, awaiting, shown
from paramedic.core.templates import one_line

Block = dict[str, Any]
MAX_TEXT = 3000
"""Of a text object."""
_MAX_HEADER, _MAX_FIELD, _MAX_TOPIC, _MAX_NAME, _MAX_CONFIRM = 150, 2000, 250, 80, 300
# Slack refuses the whole with msg_blocks_too_long at a little more.
_MAX_MESSAGE = 11_000
_MAX_LINE = 600
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SYMBOLS: dict[StepState, str] = {
    "Pending": "⚪",
    "Skipped": "⏭",
    "Blocked": "⛔",
    "AwaitingApproval": "✋",
    "Executing": "⏳",
    "Verifying": "🔎",
    "Succeeded": "✅",
    "Failed": "❌",
    "Unknown": "❓",
    "Reverted": "↩",
}
_SIGNS: dict[NoticeKind, str] = {"Opened": "🚨", "Call": "📣", "Resolved": "✅"}
# Only a topic has no plain form: there these are replaced by the full-width characters that look like them.
_FULL_WIDTH = str.maketrans("*_~`:", "＊＿～｀：")
_OWN_MARKUP = re.compile(r" ?(<[^<>]*>)")


def escape(text: str) -> str:
    """Slack's three control characters as the entities that Slack asks for."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def fit(text: str, limit: int = MAX_TEXT) -> str:
    """The text escaped, cut where it would be longer than ``limit`` as Slack counts; never empty."""
    parts, length = [], 0
    for character in text:
        part = _ESCAPES.get(character, character)
        length += len(part) + (ord(part[0]) > 0xFFFF)
        if length > limit - 1:
            parts.append("…")
            break
        parts.append(part)
    return "".join(parts) if "".join(parts).strip() else "–"


def plain(text: str, limit: int = MAX_TEXT) -> Block:
    """A text object in which nothing but the text itself can be."""
    return _plain_escaped(fit(text, limit))


def section(text: str) -> Block:
    """A paragraph of plain text."""
    return {"type": "section", "text": plain(text)}


def headline(incident: Incident) -> str:
    """Severity and title, on one line; not escaped."""
    return f"{people.severity(incident)}: {one_line(incident.spec.title)}"


def main_blocks(incident: Incident) -> list[Block]:
    """The message that stands for the incident, as it is now."""
    status = incident.status
    blocks: list[Block] = [
        {"type": "header", "text": plain(headline(incident), _MAX_HEADER)},
        {"type": "section", "fields": [_field(label, value) for label, value in _facts(incident)]},
    ]
    if status.message:
        blocks.append(section(status.message))
    if status.steps:
        blocks.append(section("\n".join(_step_line(step) for step in status.steps)))
    if status.findings:
        blocks.append(section("\n".join(f"• {f.reason}: {one_line(f.message)}"[:_MAX_LINE] for f in status.findings)))
    if buttons := _main_buttons(incident):
        blocks.append({"type": "actions", "block_id": "paramedic", "elements": buttons})
    name, namespace = incident.metadata.name, incident.metadata.namespace
    blocks.append({"type": "context", "elements": [plain(f"kubectl get incident {name} -n {namespace} -o yaml")]})
    return blocks


def approval_blocks(incident: Incident, step: StepStatus) -> list[Block]:
    """Asks for consent to the plan of one step."""
    elements = _approval_buttons(incident, step)
    return [
        section(f"✋ {step.name} waits for approval: {one_line(step.message)}"),
        {"type": "actions", "block_id": "paramedic", "elements": elements},
    ]


def closed_approval(incident: Incident, operation: str) -> str:
    """What becomes of the question once it is answered, or asked no more; not escaped."""
    step = next((s for s in incident.status.steps if s.operation == operation), None)
    if step is None:
        return "This plan is not the one that waits for approval (any more)."
    by = f", approved by {step.approved_by}" if step.approved_by else ""
    return f"{_SYMBOLS[step.state]} {step.name}: {step.state}{by}"


def notices_blocks(notices: Sequence[Notice]) -> list[Block]:
    """Several facts as one message, the newest whole where there is no room for all."""
    lines = [fit(_notice_line(notice)) for notice in notices]
    kept = _newest(lines, _MAX_MESSAGE)
    if len(kept) < len(lines):
        kept.insert(0, f"({len(lines) - len(kept)} earlier ones are on the Incident's timeline)")
    return [{"type": "section", "text": _plain_escaped(text)} for text in _paragraphs(kept)]


def text_blocks(text: str) -> list[Block]:
    """A longer text whose facts are escaped. Those stay plain; the mentions and links in it, which then are Paramedic's
    own, stand below.
    """
    own = " ".join(dict.fromkeys(_OWN_MARKUP.findall(text)))[:MAX_TEXT]
    words = _OWN_MARKUP.sub("", text)[:_MAX_MESSAGE]
    parts = [part for part in _paragraphs(words.split("\n")) if part.strip()] or ["–"]
    told: list[Block] = [{"type": "section", "text": _plain_escaped(part[:MAX_TEXT])} for part in parts]
    marked = {"type": "section", "text": {"type": "mrkdwn", "text": own, "verbatim": True}}
    return [*told, marked] if own else told


def line_text(incident: Incident, notice: Notice) -> str:
    """What everybody should see: mentions and the fact, as Slack's markup. A mention that is no id of Slack's is left
    out.
    """
    called = " ".join(mentions(notice.mentions))
    told = f"{fit(headline(incident), 400)}: {fit(one_line(notice.message), 1500)}"
    return f"{_SIGNS.get(notice.kind, 'ℹ')} {called + ' ' if called else ''}{told}"


def mentions(ids: Iterable[str]) -> list[str]:
    """Slack's markup for users (``U…``) and user groups (``S…``); other channels' contacts are left out."""
    unique = list(dict.fromkeys(ids))
    users = [f"<@{one}>" for one in unique if SLACK_USER.fullmatch(one)]
    return users + [f"<!subteam^{one}>" for one in unique if SLACK_GROUP.fullmatch(one)]


def users_of(ids: Iterable[str]) -> list[str]:
    """The users among the contacts."""
    return [one for one in dict.fromkeys(ids) if SLACK_USER.fullmatch(one)]


def topic(incident: Incident) -> str:
    """The channel's topic, escaped, with nothing in it that Slack would make markup or emoji of."""
    state = "resolved" if incident.status.phase == "Resolved" else "open"
    commander = one_line(people.commander(incident))
    head = f"{people.severity(incident)} · {state} · IC {commander[:60]} · "
    return fit((head + one_line(incident.spec.title)).translate(_FULL_WIDTH), _MAX_TOPIC)


def channel_name(incident: Incident, *, unique: bool = False) -> str:
    """``incident-<name>`` within Slack's rules; ``unique`` where that one is taken: with a part of the UID."""
    name = incident.metadata.name.replace(".", "-")
    tail = f"-{sha256(incident.metadata.uid.encode()).hexdigest()[:8]}" if unique else ""
    room = _MAX_NAME - len("incident-") - len(tail)
    if len(name) > room:
        name = f"{name[: room - 9]}-{sha256(name.encode()).hexdigest()[:8]}"
    return f"incident-{name}{tail}"


def digest(text: str) -> str:
    """A short stand-in for a text: to know it again, in little room."""
    return sha256(text.encode()).hexdigest()[:16]


def _plain_escaped(text: str) -> Block:
    return {"type": "plain_text", "text": text, "emoji": False}


def _facts(incident: Incident) -> list[tuple[str, str]]:
    status = incident.status
    policy = status.policy.key if status.policy else "none"
    return [
        ("Phase", status.phase),
        ("Incident", incident.key),
        ("Target", status.target or "none"),
        ("Type", incident.spec.type),
        ("Commander", people.commander(incident)),
        ("Policy", policy),
    ]


def _field(label: str, value: str) -> Block:
    return plain(f"{label}: {one_line(value)}", _MAX_FIELD)


def _step_line(step: StepStatus) -> str:
    told = one_line(step.message) or step.state
    return f"{_SYMBOLS[step.state]} {step.name} ({step.action}): {told}"[:_MAX_LINE]


def _notice_line(notice: Notice) -> str:
    return f"{notice.at.astimezone(UTC):%H:%M:%S} {notice.reason}: {one_line(notice.message)}"


def _main_buttons(incident: Incident) -> list[Block]:
    if incident.status.phase == "Resolved":
        return []
    step = awaiting(incident)
    elements = _approval_buttons(incident, step) if step else []
    if people.acknowledgement(incident) is None:
        elements.append(_button(incident, "acknowledge", "Acknowledge"))
    paused = incident.spec.paused
    elements.append(_button(incident, "resume", "Resume") if paused else _button(incident, "pause", "Pause"))
    return elements


def _approval_buttons(incident: Incident, step: StepStatus) -> list[Block]:
    confirm = {
        "title": plain("Approve this step?", 100),
        "text": plain(f"{step.name}: {one_line(step.message)}", _MAX_CONFIRM),
        "confirm": plain("Approve", 30),
        "deny": plain("Not now", 30),
    }
    approve = _button(incident, "approve", "Approve", step) | {"style": "primary", "confirm": confirm}
    return [approve, _button(incident, "reject", "Reject", step) | {"style": "danger"}]


def _button(incident: Incident, action: ButtonAction, label: str, step: StepStatus | None = None) -> Block:
    value = shown(incident, step).model_dump_json(exclude_defaults=True)
    return {"type": "button", "action_id": action_id(action), "text": plain(label, 75), "value": value}


def _newest(lines: list[str], room: int) -> list[str]:
    """As many of the last lines as there is room for; at least one."""
    kept: list[str] = []
    for line in reversed(lines):
        room -= len(line) + 1
        if kept and room < 0:
            break
        kept.insert(0, line)
    return kept


def _paragraphs(lines: Sequence[str]) -> list[str]:
    """Lines joined to texts with half the characters of a text object: Slack counts some twice. A longer line is one by
    itself.
    """
    texts: list[str] = []
    for line in lines:
        if texts and len(texts[-1]) + len(line) < MAX_TEXT // 2:
            texts[-1] += f"\n{line}"
        else:
            texts.append(line)
    return texts
