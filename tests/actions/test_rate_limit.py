"""What `rateLimit` plans: pure tables."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from builders import OPERATION, Json, observed, stored, workload
from paramedic.actions import ACTIONS
from paramedic.actions.base import Change, Create, Delete, Observed, Outcome, Patch, may_put_back
from paramedic.actions.rate_limit.manifests import limit_name
from paramedic.api.incident import StepStatus
from paramedic.api.reasons import Reason
from paramedic.api.workload import RESOURCES
from paramedic.errors import Refused

ACTION = ACTIONS["rateLimit"]
NGINX = "nginx.ingress.kubernetes.io/"
FILTERS = "/apis/networking.istio.io/v1alpha3/namespaces/covet/envoyfilters"
POLICIES = "/apis/gateway.envoyproxy.io/v1alpha1/namespaces/covet/backendtrafficpolicies"
SUBDOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
NGINX_CLASS = {"metadata": {"name": "nginx"}, "spec": {"controller": "k8s.io/ingress-nginx"}}


def plan(seen: Observed, method: str = "EnvoyFilter", operation: str = OPERATION, **params: Any) -> Change:
    return ACTION.plan(seen, ACTION.params.model_validate({"method": method} | params), operation)


def refusal(seen: Observed, method: str = "EnvoyFilter", **params: Any) -> tuple[Reason, str]:
    with pytest.raises(Refused) as caught:
        plan(seen, method, **params)
    return caught.value.reason, str(caught.value)


def target(kind: str, spec: Json | None = None, name: str = "covet-app", **meta: Any) -> Json:
    version = RESOURCES[kind][0]
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name} | meta, "spec": spec or {}}


def seen_service(selector: Json | None) -> Observed:
    return observed(target("Service", {"selector": selector} if selector is not None else {}), limits=[])


def seen_route(*limits: Json, **meta: Any) -> Observed:
    return observed(target("HTTPRoute", **meta), limits=list(limits))


def seen_ingress(notes: Json | None = None, name: str = "nginx", classes: list[Json] | None = None) -> Observed:
    found = [NGINX_CLASS] if classes is None else classes
    spec = {"ingressClassName": name} if name else {}
    return observed(target("Ingress", spec, annotations=notes or {}), ingressclasses=found)


def body(change: Change) -> Json:
    (create,) = change.forward
    assert isinstance(create, Create)
    return create.body


def made(change: Change, generation: int = 1, uid: str = "uid-limit", **meta: Any) -> Json:
    """What the API server holds after the change."""
    created = copy.deepcopy(body(change))
    created["metadata"] |= {"uid": uid, "resourceVersion": "9", "generation": generation} | meta
    return created


def with_limits(seen: Observed, *limits: Json, incident: str = "") -> Observed:
    return Observed(seen.target, {"limits": list(limits)}, incident=incident or seen.incident)


# -- EnvoyFilter ------------------------------------------------------------------------------------------------------


def test_the_envoy_filter_whole() -> None:
    """The runbook's, with what Istio and Envoy need beside it."""
    seen = Observed(stored(workload()), {"limits": []}, incident="ddos-1")
    change = plan(seen)
    (create,) = change.forward
    assert isinstance(create, Create)
    assert create.path == FILTERS
    everything = {"numerator": 100, "denominator": "HUNDRED"}
    name = limit_name(seen)
    assert create.body == {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {
            "name": name,
            "namespace": "covet",
            "labels": {"app.kubernetes.io/managed-by": "paramedic"},
            "annotations": {"paramedic.dev/operation": OPERATION, "paramedic.dev/incident": "ddos-1"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "Deployment", "name": "covet-app", "uid": "uid-w"},
            ],
        },
        "spec": {
            "workloadSelector": {"labels": {"app": "covet-app"}},
            "configPatches": [
                {
                    "applyTo": "HTTP_FILTER",
                    "match": {
                        "context": "SIDECAR_INBOUND",
                        "listener": {
                            "filterChain": {
                                "filter": {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "subFilter": {"name": "envoy.filters.http.router"},
                                }
                            }
                        },
                    },
                    "patch": {
                        "operation": "INSERT_BEFORE",
                        "value": {
                            "name": "paramedic.local_ratelimit",
                            "typed_config": {
                                "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3"
                                ".LocalRateLimit",
                                "stat_prefix": "paramedic_rate_limit",
                                "status": {"code": "TooManyRequests"},
                                "token_bucket": {
                                    "max_tokens": 100,
                                    "tokens_per_fill": 100,
                                    "fill_interval": "60s",
                                },
                                "filter_enabled": {
                                    "runtime_key": "paramedic_rate_limit_enabled",
                                    "default_value": everything,
                                },
                                "filter_enforced": {
                                    "runtime_key": "paramedic_rate_limit_enforced",
                                    "default_value": everything,
                                },
                                "response_headers_to_add": [
                                    {
                                        "header": {"key": "x-rate-limited-by", "value": "paramedic"},
                                        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
                                    }
                                ],
                            },
                        },
                    },
                }
            ],
        },
    }
    assert change.before == {f"EnvoyFilter/{name}": "absent"}
    assert change.message == f"covet-app: at most 100 requests per 1m, counted by each pod (EnvoyFilter {name})"


@pytest.mark.parametrize(
    ("per", "written"), [("50ms", "0.050s"), ("1500ms", "1.500s"), ("1m30s", "90s"), ("1d", "86400s")]
)
def test_the_fill_interval_as_protobuf_writes_it(per: str, written: str) -> None:
    patch = body(plan(observed(limits=[]), per=per))["spec"]["configPatches"][0]["patch"]
    assert patch["value"]["typed_config"]["token_bucket"]["fill_interval"] == written


def test_a_gateway_and_a_port() -> None:
    match = body(plan(observed(limits=[]), context="GATEWAY", port=8443))["spec"]["configPatches"][0]["match"]
    assert match["context"] == "GATEWAY"
    assert match["listener"]["portNumber"] == 8443


EXPRESSIONS: Json = {"matchExpressions": [{"key": "app", "operator": "Exists"}]}


@pytest.mark.parametrize(
    ("seen", "labels"),
    [
        (observed(workload("StatefulSet"), limits=[]), {"app": "covet-app"}),
        (observed(workload("DaemonSet"), limits=[]), {"app": "covet-app"}),
        (observed(workload(selector={"matchLabels": {"a": "b"}}), limits=[]), {"a": "b"}),
        # expressions cannot be said in an EnvoyFilter: the labels that the pods are made with
        (observed(workload(selector={"matchLabels": {"a": "b"}} | EXPRESSIONS), limits=[]), {"app": "covet-app"}),
        (seen_service({"tier": "front"}), {"tier": "front"}),
    ],
)
def test_the_pods_that_are_limited(seen: Observed, labels: Json) -> None:
    assert body(plan(seen))["spec"]["workloadSelector"] == {"labels": labels}


@pytest.mark.parametrize("selector", [None, {}])
def test_what_selects_no_pods_is_refused(selector: Json | None) -> None:
    """An EnvoyFilter without labels would hold for all of the namespace."""
    reason, said = refusal(seen_service(selector))
    assert reason is Reason.INVALID_PARAMETERS
    assert "whole namespace" in said


@pytest.mark.parametrize("where", ["labels", "annotations"])
def test_pods_without_a_sidecar(where: str) -> None:
    manifest = workload()
    manifest["spec"]["template"]["metadata"].setdefault(where, {})["sidecar.istio.io/inject"] = "false"
    reason, said = refusal(observed(manifest, limits=[]))
    assert reason is Reason.INVALID_PARAMETERS
    assert "have no sidecar" in said
    assert not plan(observed(manifest, limits=[]), context="GATEWAY").is_empty, "a gateway is a proxy itself"


@pytest.mark.parametrize("name", ["a", "covet-app", "a" * 63, "x" * 39 + "-" + "y" * 30, "x" * 39 + "." + "y" * 200])
def test_names_are_bounded_and_of_one_step_of_one_incident(name: str) -> None:
    def of(incident: str, step: str) -> str:
        return limit_name(Observed(stored(workload(name=name)), incident_uid=incident, step=step))

    given = of("uid-1", "slow-down")
    assert len(given) <= 63
    assert re.fullmatch(SUBDOMAIN, given)
    assert given == of("uid-1", "slow-down"), "planned again, it is the same plan: an approval is for one"
    assert len({given, of("uid-2", "slow-down"), of("uid-1", "slow-down-more")}) == 3


# -- its life ---------------------------------------------------------------------------------------------------------


def test_what_a_look_tells() -> None:
    seen = observed(limits=[])
    change = plan(seen)
    there, edited = with_limits(seen, made(change)), with_limits(seen, made(change, generation=2))
    strange = with_limits(seen, made(change, annotations={}))

    def looked(at: Observed, back: bool = False) -> Outcome:
        before, after = (change.after, change.before) if back else (change.before, change.after)
        return ACTION.settled(at, before, after, OPERATION)

    assert [looked(at) for at in (seen, there, edited, strange)] == [
        Outcome.NOT_APPLIED,
        Outcome.APPLIED,
        Outcome.APPLIED,
        Outcome.UNKNOWN,
    ]
    assert [looked(at, back=True) for at in (seen, there, edited)] == [
        Outcome.APPLIED,
        Outcome.NOT_APPLIED,
        Outcome.UNKNOWN,
    ]


def test_after_a_crash_the_same_operation_makes_the_same_object() -> None:
    """Planned again under its id, with the object there or not: never a second name."""
    seen = observed(limits=[])
    first = plan(seen)
    again = plan(with_limits(seen, made(first)))
    assert body(again) == body(first)
    assert again.after == first.after


def test_what_the_operation_has_made_is_not_in_its_own_way() -> None:
    seen = seen_route()
    change = plan(seen, "BackendTrafficPolicy")
    assert body(plan(with_limits(seen, made(change)), "BackendTrafficPolicy")) == body(change)


def test_the_way_back_deletes_exactly_what_was_made() -> None:
    seen = observed(limits=[])
    change = plan(seen)
    back = ACTION.restore(with_limits(seen, made(change), made(plan(seen, operation="x"))), change.before, "y")
    name = body(change)["metadata"]["name"]
    assert back.forward == (Delete(f"{FILTERS}/{name}", "uid-limit", "9"),)
    assert back.after == change.before


def test_what_is_gone_needs_no_way_back() -> None:
    """Deleted by somebody, or with its CustomResourceDefinition."""
    change = plan(observed(limits=[]))
    for seen in (observed(limits=[]), observed()):
        back = ACTION.restore(seen, change.before, "y")
        assert back.is_empty
        assert "is gone already" in back.message


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"generation": 3}, "is edited (generation 3) instead of as created): hands off"),
        ({"annotations": {}}, "not marked as Paramedic's"),
        ({"annotations": {"paramedic.dev/operation": "o", "paramedic.dev/incident": "other"}}, "not marked"),
        ({"ownerReferences": []}, "not marked as Paramedic's"),
        ({"ownerReferences": [{"uid": "another"}]}, "not marked as Paramedic's"),
    ],
)
def test_hands_off_what_others_have_edited_or_claimed(theirs: Json, said: str) -> None:
    seen = observed(limits=[])
    change = plan(seen)
    step = StepStatus.model_validate(
        {"name": "s", "action": "rateLimit", "target": {"namespace": "covet", "name": "covet-app", "uid": "uid-w"}}
        | {"before": change.before, "after": change.after}
    )
    may_put_back(ACTION, with_limits(seen, made(change)), step)
    may_put_back(ACTION, with_limits(seen), step)
    with pytest.raises(Refused) as refused:
        may_put_back(ACTION, with_limits(seen, made(change, **theirs)), step)
    assert refused.value.reason is Reason.TARGET_CHANGED
    assert said in str(refused.value)


@pytest.mark.parametrize("incident", ["first", "second"])
def test_each_limit_is_its_own(incident: str) -> None:
    """Each holds for as long as its own step says, whatever comes beside it."""
    seen = Observed(stored(workload()), {"limits": []}, incident="first")
    earlier = plan(seen)
    beside = replace(with_limits(seen, made(earlier), incident=incident), incident_uid=incident, step="more")
    change = plan(beside, operation="another")
    assert body(change)["metadata"]["name"] != body(earlier)["metadata"]["name"]
    both = with_limits(seen, made(earlier), made(change))
    ACTION.require_unchanged(both, earlier.before, earlier.after)
    (delete,) = ACTION.restore(both, earlier.before, "y").forward
    assert isinstance(delete, Delete)
    assert delete.path.endswith(body(earlier)["metadata"]["name"])


def test_what_changes_more_than_its_target() -> None:
    """Who may change an Ingress, may have it limited by an Incident that names it."""
    assert not ACTION.reaches_beyond({"method": "Ingress"})
    assert ACTION.reaches_beyond({"method": "EnvoyFilter"})
    assert ACTION.reaches_beyond({})


# -- where it cannot be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "method", "words"),
    [
        (observed(), "EnvoyFilter", ["envoyfilters.networking.istio.io", "Istio is not installed", "Ingress"]),
        (
            observed(target("HTTPRoute")),
            "BackendTrafficPolicy",
            ["backendtrafficpolicies.gateway.envoyproxy.io", "Envoy Gateway is not installed", "EnvoyFilter"],
        ),
    ],
)
def test_without_the_product(seen: Observed, method: str, words: list[str]) -> None:
    reason, said = refusal(seen, method)
    assert reason is Reason.API_NOT_INSTALLED
    assert not [word for word in words if word not in said], said


@pytest.mark.parametrize(
    ("seen", "method", "right"),
    [
        (observed(limits=[]), "Ingress", "write method EnvoyFilter"),
        (observed(limits=[]), "BackendTrafficPolicy", "but for HTTPRoute: write method EnvoyFilter"),
        (seen_route(), "EnvoyFilter", "write method BackendTrafficPolicy"),
        (seen_ingress(), "EnvoyFilter", "write method Ingress"),
    ],
)
def test_a_method_that_is_not_for_the_kind(seen: Observed, method: str, right: str) -> None:
    reason, said = refusal(seen, method)
    assert reason is Reason.INVALID_PARAMETERS
    assert right in said


# -- BackendTrafficPolicy ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per", "unit"), [("1s", "Second"), ("60s", "Minute"), ("1m", "Minute"), ("60m", "Hour"), ("24h", "Day")]
)
def test_the_policy_of_a_route(per: str, unit: str) -> None:
    (create,) = plan(seen_route(), "BackendTrafficPolicy", requests=7, per=per).forward
    assert isinstance(create, Create)
    assert create.path == POLICIES
    assert create.body["spec"] == {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "name": "covet-app"}],
        "mergeType": "StrategicMerge",
        "rateLimit": {"type": "Local", "local": {"rules": [{"limit": {"requests": 7, "unit": unit}}]}},
    }


@pytest.mark.parametrize("per", ["2s", "90s", "2h"])
def test_times_that_envoy_gateway_does_not_count_in(per: str) -> None:
    reason, said = refusal(seen_route(), "BackendTrafficPolicy", per=per)
    assert reason is Reason.INVALID_PARAMETERS
    assert "write per as 1s, 1m, 1h or 1d" in said


def btp(spec: Json, **meta: Any) -> Json:
    return {"metadata": {"name": "theirs"} | meta, "spec": spec}


OURS = {"kind": "HTTPRoute", "name": "covet-app"}


@pytest.mark.parametrize(
    ("spec", "conflicts"),
    [
        ({"targetRefs": [OURS]}, True),
        ({"targetRefs": [{"kind": "HTTPRoute", "name": "other"}, OURS]}, True),
        ({"targetRef": OURS}, True),
        ({"targetSelectors": [{"kind": "HTTPRoute", "matchLabels": {"team": "a"}}]}, True),
        ({"targetSelectors": [{"kind": "HTTPRoute"}]}, True),
        ({"targetSelectors": [{"kind": "HTTPRoute", "matchLabels": {"team": "b"}}]}, False),
        ({"targetSelectors": [{"kind": "Gateway", "matchLabels": {"team": "a"}}]}, False),
        ({"targetRefs": [OURS | {"sectionName": "login"}]}, False),
        ({"targetRefs": [{"kind": "Gateway", "name": "covet-app"}]}, False),
        ({"targetRefs": [{"kind": "HTTPRoute", "name": "other"}]}, False),
        ({}, False),
    ],
)
def test_a_route_has_one_policy(spec: Json, conflicts: bool) -> None:
    seen = seen_route(btp(spec), labels={"team": "a"})
    if not conflicts:
        assert not plan(seen, "BackendTrafficPolicy").is_empty
        return
    reason, said = refusal(seen, "BackendTrafficPolicy")
    assert reason is Reason.ALREADY_LIMITED
    assert "BackendTrafficPolicy theirs is for HTTPRoute/covet-app already" in said


@pytest.mark.parametrize(
    ("controllers", "served"),
    [
        (["gateway.envoyproxy.io/gatewayclass-controller"], True),
        (["istio.io/gateway-controller", "gateway.envoyproxy.io/gatewayclass-controller"], True),
        (["istio.io/gateway-controller"], False),
    ],
)
def test_a_route_of_another_gateway(controllers: list[str], served: bool) -> None:
    parents = [{"controllerName": one} for one in controllers]
    seen = observed(target("HTTPRoute") | {"status": {"parents": parents}}, limits=[])
    if served:
        assert not plan(seen, "BackendTrafficPolicy").is_empty
        return
    reason, said = refusal(seen, "BackendTrafficPolicy")
    assert reason is Reason.INVALID_PARAMETERS
    assert "served by istio.io/gateway-controller and not by Envoy Gateway" in said


# -- Ingress ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notes", "params", "written"),
    [
        ({}, {}, {"limit-rpm": "100"}),
        ({}, {"per": "1s", "requests": 5}, {"limit-rps": "5"}),
        ({}, {"connections": 9, "burstMultiplier": 2},
         {"limit-rpm": "100", "limit-connections": "9", "limit-burst-multiplier": "2"}),
        ({"limit-rpm": "500"}, {}, {"limit-rpm": "100"}),
        ({"limit-rps": "3"}, {}, {"limit-rpm": "100"}),
        # what is stricter stays; zero and nonsense are no limits
        ({"limit-rpm": "20"}, {"connections": 9}, {"limit-connections": "9"}),
        ({"limit-rpm": "0"}, {}, {"limit-rpm": "100"}),
        ({"limit-rpm": "many"}, {}, {"limit-rpm": "100"}),
        ({"limit-rpm": "٣"}, {}, {"limit-rpm": "100"}),
    ],
)  # fmt: skip
def test_the_annotations(notes: Json, params: Json, written: Json) -> None:
    earlier = {NGINX + key: value for key, value in notes.items()}
    change = plan(seen_ingress(earlier), "Ingress", **params)
    (patch,) = change.forward
    assert isinstance(patch, Patch)
    given = dict(patch.body["metadata"]["annotations"])
    assert given.pop("paramedic.dev/operation") == OPERATION
    assert given == {NGINX + key: value for key, value in written.items()}
    after = seen_ingress(earlier | given)
    (back,) = ACTION.restore(after, change.before, "y").forward
    assert isinstance(back, Patch)
    undone = dict(back.body["metadata"]["annotations"])
    undone.pop("paramedic.dev/operation")
    assert undone == {key: earlier.get(key) for key in given}


@pytest.mark.parametrize("limit", ["100", "99", "1"])
def test_an_ingress_that_is_limited_already(limit: str) -> None:
    assert plan(seen_ingress({NGINX + "limit-rpm": limit}), "Ingress").is_empty


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (seen_ingress(name=""), ["names no class", "set spec.ingressClassName"]),
        (seen_ingress(name="alb", classes=[]), ["class alb, which is not there"]),
        (
            seen_ingress(name="alb", classes=[{"spec": {"controller": "ingress.k8s.aws/alb"}}]),
            ["served by ingress.k8s.aws/alb", "only ingress-nginx"],
        ),
        (seen_ingress(classes=[{"spec": {"controller": "nginx.org/ingress-controller"}}]), ["nginx.org"]),
        (seen_ingress(classes=[]), ["class nginx, which is not there"]),
        (seen_ingress({"kubernetes.io/ingress.class": "alb"}, name="", classes=[]), ["class alb, which is not there"]),
        (seen_ingress({NGINX + "limit-rps": "9" * 17}), ["limit-rps is not a number"]),
    ],
)
def test_an_ingress_that_cannot_be_limited(seen: Observed, words: list[str]) -> None:
    reason, said = refusal(seen, "Ingress")
    assert reason is Reason.INVALID_PARAMETERS
    assert not [word for word in words if word not in said], said


@pytest.mark.parametrize(
    "seen",
    [
        seen_ingress({"kubernetes.io/ingress.class": "nginx"}, name="", classes=[]),
        seen_ingress({"kubernetes.io/ingress.class": "edge"}, name="", classes=[NGINX_CLASS]),
        seen_ingress(name="internal", classes=[{"spec": {"controller": "k8s.io/internal-ingress-nginx"}}]),
    ],
)
def test_an_ingress_of_ingress_nginx(seen: Observed) -> None:
    assert not plan(seen, "Ingress").is_empty


@pytest.mark.parametrize("per", ["2s", "1h", "1d"])
def test_times_that_nginx_does_not_count_in(per: str) -> None:
    reason, said = refusal(seen_ingress(), "Ingress", per=per)
    assert reason is Reason.INVALID_PARAMETERS
    assert "write per as 1s or 1m" in said


# -- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"method": "Istio"},
        {"method": "EnvoyFilter", "requests": 0},
        {"method": "EnvoyFilter", "requests": 1_000_001},
        {"method": "EnvoyFilter", "per": "49ms"},
        {"method": "EnvoyFilter", "per": "25h"},
        {"method": "EnvoyFilter", "per": "a minute"},
        {"method": "EnvoyFilter", "port": 70_000},
        {"method": "EnvoyFilter", "context": "ANY"},
        {"method": "Ingress", "connections": 0},
        {"method": "Ingress", "burst": 3},
    ],
)
def test_parameters_that_cannot_be_read(params: Json) -> None:
    with pytest.raises(ValidationError):
        ACTION.params.model_validate(params)
