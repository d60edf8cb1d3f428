"""Settings of an operator that tells people in a played Slack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from people.slack_vendor import APP_TOKEN, BOT_TOKEN, SIGNING_SECRET, FakeSlack

ALICE, BOB = "U0ALICE", "U0BOB"


def configured(folder: Path, slack: FakeSlack, reported: str, **own: Any) -> Path:
    """Written to the folder. ``reported`` is the namespace of ``/incident``, ``own`` replaces fields of the channel."""
    for name, text in {"bot": BOT_TOKEN, "app": APP_TOKEN, "signing": SIGNING_SECRET}.items():
        (folder / name).write_text(text + "\n")
    chat = {
        "tokenFile": str(folder / "bot"),
        "appTokenFile": str(folder / "app"),
        "signingSecretFile": str(folder / "signing"),
        "channel": "incident-response",
        "apiUrl": f"{slack.url}/api/",
        "incidentNamespace": reported,
        "users": [{"slack": ALICE, "kubernetes": "alice"}, {"slack": BOB, "kubernetes": "bob"}],
    }
    on_call = {"name": "On-call engineer", "contacts": [{"channel": "chat", "mention": ALICE}]}
    duty = {key: value for key, value in chat.items() if key != "incidentNamespace"}  # of the same app
    settings = {
        "channels": [
            {"name": "duty", "perMinute": 6000, "slack": duty},
            {"name": "chat", "perMinute": 6000, "slack": chat | own},
        ],
        "notify": ["chat"],
        "people": {"securityTeam": "security", "teams": [{"name": "security", "levels": [on_call]}]},
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    return folder / "settings.yaml"
