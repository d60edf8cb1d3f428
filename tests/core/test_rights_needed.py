"""What a person needs to have Paramedic act, where the API server is not the one who asks."""

from __future__ import annotations

import pytest

from builders import Json, incident
from paramedic.core import rights

POLICY = {"name": "api-outage"}


@pytest.mark.parametrize(
    ("ref", "namespace", "name"),
    [
        ({}, "covet", ""),
        ({"policyRef": POLICY}, "covet", "api-outage"),
        ({"policyRef": POLICY | {"namespace": "covet"}}, "covet", "api-outage"),
        ({"policyRef": POLICY | {"namespace": "paramedic-system"}}, "paramedic-system", "api-outage"),
    ],
)
def test_the_policy_that_is_triggered_is_the_one_that_is_named(ref: Json, namespace: str, name: str) -> None:
    _, to_act = rights.to_resume(incident(alert_state=None, **ref))
    (trigger,) = to_act.alternatives[0]
    assert (trigger.verb, trigger.resource, trigger.namespace, trigger.name) == (
        "trigger",
        "remediationpolicies",
        namespace,
        name,
    )
