"""The useful part of what the API server says."""

import json

import pytest

from paramedic.plugin.failures import Exit
from paramedic.plugin.refusals import failure_of

RBAC = (
    'incidents.paramedic.dev "down" is forbidden: User "system:serviceaccount:people:viewer" cannot patch resource '
    '"incidents" in API group "paramedic.dev" in the namespace "covet"'
)
ADMISSION = (
    "incidents.paramedic.dev \"down\" is forbidden: ValidatingAdmissionPolicy 'paramedic-incident-people' with binding "
    "'paramedic-incident-people' denied request: alice may not approve: ask for the verb approve"
)
WEBHOOK = 'admission webhook "policy.example.com" denied the request: no incidents on Fridays'
SCHEMA = (
    'Incident.paramedic.dev "down" is invalid: spec.severity: Unsupported value: "P9": supported values: "P0", "P1"'
)


@pytest.mark.parametrize(
    ("status", "message", "code", "said"),
    [
        (403, RBAC, Exit.FORBIDDEN, "system:serviceaccount:people:viewer may not patch incidents in covet: ask for the "
         "ClusterRole paramedic-edit there"),
        (403, RBAC.replace("patch", "list").replace('in the namespace "covet"', "at the cluster scope"), Exit.FORBIDDEN,
         "system:serviceaccount:people:viewer may not list incidents in all namespaces: ask for the ClusterRole "
         "paramedic-view there"),
        (403, ADMISSION, Exit.FORBIDDEN, "alice may not approve: ask for the verb approve"),
        (400, WEBHOOK, Exit.REFUSED, "no incidents on Fridays"),
        (422, SCHEMA, Exit.REFUSED, 'spec.severity: Unsupported value: "P9": supported values: "P0", "P1"'),
        (404, 'incidents.paramedic.dev "down" not found', Exit.NOT_FOUND, 'incidents.paramedic.dev "down" not found'),
        (404, "the server could not find the requested resource", Exit.NOT_FOUND,
         "Paramedic is not installed in this cluster: it knows no incidents.paramedic.dev"),
        (409, "the object has been modified", Exit.CONFLICT, "the object has been modified"),
        (500, "", Exit.REFUSED, "the API server answered 500"),
    ],
)  # fmt: skip
def test_what_is_said(status: int, message: str, code: Exit, said: str) -> None:
    failure = failure_of(status, json.dumps({"kind": "Status", "message": message}).encode())
    assert (failure.code, str(failure)) == (code, said)


def test_what_is_invalid_is_told_field_by_field() -> None:
    causes = [
        {"field": "spec.title", "message": "Too long", "reason": "FieldValueTooLong"},
        {"field": "spec.type", "message": "one CamelCase word", "reason": "FieldValueInvalid"},
        {"field": "<nil>", "message": "some validation rules were not checked", "reason": "FieldValueInvalid"},
    ]
    body = {"message": 'Incident "x" is invalid: [spec.title: …]', "details": {"causes": causes}}
    failure = failure_of(422, json.dumps(body).encode())
    assert str(failure) == "spec.title: Too long\nspec.type: one CamelCase word"


def test_a_login_that_is_not_accepted_and_an_answer_that_is_no_status() -> None:
    assert "log in again" in str(failure_of(401, b'{"message": "Unauthorized"}'))
    assert str(failure_of(502, b"<html>Bad gateway")) == "<html>Bad gateway"
