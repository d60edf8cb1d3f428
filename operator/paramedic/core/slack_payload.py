"""What Slack sends when somebody presses a button or writes ``/incident``, and whether Slack has sent it: pure.

Sources: docs.slack.dev/reference/interaction-payloads/block_actions-payload,
docs.slack.dev/interactivity/implementing-slash-commands, docs.slack.dev/authentication/verifying-requests-from-slack.
"""

import hmac
import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from paramedic.api.policy import Severity
from paramedic.core.templates import one_line

Json = dict[str, Any]
MAX_AGE_SECONDS = 300
_HOOKS = "hooks.slack.com"
_SEVERITIES: Mapping[str, Severity] = {"P0": "P0", "P1": "P1", "P2": "P2", "P3": "P3"}
_QUOTES = frozenset({'""', "''", "“”", "„“", "‘’"})
"""As people type them, and as Slack and keyboards change them."""
_Id = Annotated[str, Field(pattern=r"^[A-Z0-9]{2,30}$")]
_Text = Annotated[str, Field(max_length=4000)]


class _Base(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Thing(_Base):
    """A team, an enterprise or a channel."""

    id: _Id


class _User(_Base):
    id: _Id
    username: _Text = ""
    team_id: _Text = ""


class _Action(_Base):
    action_id: _Text
    value: _Text = ""


class Interaction(_Base):
    """A button was pressed."""

    type: Literal["block_actions"]
    user: _User
    team: _Thing | None = None
    enterprise: _Thing | None = None
    channel: _Thing
    actions: Annotated[list[_Action], Field(min_length=1, max_length=25)]
    response_url: _Text = ""

    @property
    def who(self) -> tuple[str, str]:
        """The person's id and own name, on one line."""
        return self.user.id, one_line(self.user.username)[:80]

    @property
    def places(self) -> frozenset[str]:
        """Ids of the workspace and the organization that the person is of."""
        team = self.user.team_id or (self.team.id if self.team else "")
        return frozenset({team, self.enterprise.id if self.enterprise else ""}) - {""}


class Command(_Base):
    """``/incident …``."""

    command: _Text
    text: _Text = ""
    user_id: _Id
    user_name: _Text = ""
    team_id: _Text = ""
    enterprise_id: _Text = ""
    channel_id: _Text = ""
    trigger_id: Annotated[str, BeforeValidator(str), Field(min_length=1, max_length=200)]
    response_url: _Text = ""

    @property
    def who(self) -> tuple[str, str]:
        """The person's id and own name, on one line."""
        return self.user_id, one_line(self.user_name)[:80]

    @property
    def places(self) -> frozenset[str]:
        """Ids of the workspace and the organization that the person is of."""
        return frozenset({self.team_id, self.enterprise_id}) - {""}


Said = Interaction | Command


def read_form(body: bytes) -> Said | None:
    """From the body of a request of Slack's; None for what is of no concern. Raises ValueError."""
    try:
        form = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=64)
    except UnicodeDecodeError as error:
        raise ValueError("not a form") from error
    if "payload" in form:
        try:
            return read_payload(json.loads(form["payload"][0]))
        except RecursionError as error:
            raise ValueError("the JSON is nested too deeply") from error
    return read_payload({key: values[0] for key, values in form.items()})


def read_payload(raw: Any) -> Said | None:
    """From the payload itself, as Socket Mode brings it; None for what is of no concern. Raises ValueError."""
    if not isinstance(raw, dict):
        raise ValueError("not an object")  # noqa: TRY004 - it is the sender's mistake, not the caller's
    try:
        if "command" in raw:
            return Command.model_validate(raw)
        if raw.get("type") == "block_actions":
            return Interaction.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    return None


def read_create(text: str) -> tuple[Severity, str]:
    """From what stands after ``/incident create``, on one line: how bad it is (``P2`` where that is not said), and the
    title, which may be empty. One pair of quotes around all of it, or around the title, does not belong to it.
    """
    whole = _unquoted(text)
    first, _, rest = whole.partition(" ")
    severity = _SEVERITIES.get(first.upper())
    return (severity, _unquoted(rest)) if severity else ("P2", whole)


def _unquoted(text: str) -> str:
    text = text.strip()
    inner = text[1:-1]
    is_quoted = len(text) > 1 and text[0] + text[-1] in _QUOTES and not {text[0], text[-1]} & set(inner)
    return inner.strip() if is_quoted else text


def is_fresh(timestamp: str, now: float) -> bool:
    """Whether it is a timestamp of Slack's, of not more than five minutes ago."""
    well_formed = timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16
    return well_formed and abs(now - int(timestamp)) <= MAX_AGE_SECONDS


def is_signed(secret: str, timestamp: str, body: bytes, signature: str, now: float) -> bool:
    """Whether Slack has signed it with this secret (v0, HMAC-SHA256), not more than five minutes ago."""
    if not is_fresh(timestamp, now):
        return False
    expected = hmac.new(secret.encode(), b"v0:" + timestamp.encode() + b":" + body, sha256).hexdigest()
    return hmac.compare_digest(f"v0={expected}".encode(), signature.encode(errors="replace"))


def may_respond_to(url: str, api_url: str) -> bool:
    """Whether an answer may go to this ``response_url``: Slack's own host, or that of an API that the settings name."""
    try:
        given, api = urlsplit(url), urlsplit(api_url)
        origin, home = (given.scheme, given.hostname, given.port), (api.scheme, api.hostname, api.port)
    except ValueError:
        return False
    if given.username is not None or given.password is not None:
        return False
    return origin in (("https", _HOOKS, None), ("https", f"hooks.{api.hostname}", None), home)
