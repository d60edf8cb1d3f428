"""What leads to the pods: Services, their endpoints, Ingresses, the Services' names in DNS."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from paramedic.api.diagnosis import DiagnoseParams
from paramedic.api.workload import BoundTarget
from paramedic.clients.kube import Kube
from paramedic.clients.web import Web
from paramedic.core.found_cluster import SERVICE_NAME, endpoints_of
from paramedic.core.picture import name_of
from paramedic.core.selectors import matches
from paramedic.diagnosis.looking import Looks, nothing, recent
from paramedic.errors import Retry

Json = dict[str, Any]
_MOST_SERVICES = 20
_IN_CLUSTER = "KUBERNETES_SERVICE_HOST"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What was found; the fields are those of ``Picture``."""

    services: list[Json] | None = None
    strays: list[Json] = field(default_factory=list)
    slices: list[Json] | None = None
    ingresses: list[Json] | None = None
    names: Mapping[str, str | None] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


async def read_traffic(
    kube: Kube,
    web: Web,
    target: BoundTarget,
    params: DiagnoseParams,
    labels: Mapping[str, str],
    looks: Looks,
    seconds: float,
) -> Traffic:
    """Follows the way from the Ingress to the endpoints."""
    service, ingress = _named("Service", target, params.service), _named("Ingress", target, params.ingress)
    all_services, all_ingresses = await asyncio.gather(
        looks.at("services", recent(kube, f"/api/v1/namespaces/{target.namespace}/services"), seconds),
        looks.at(
            "ingresses", recent(kube, f"/apis/networking.k8s.io/v1/namespaces/{target.namespace}/ingresses"), seconds
        ),
    )
    leading = [s for s in all_services or [] if _leads(s, service, labels)][:_MOST_SERVICES]
    strays = _strays(all_services or [], leading, labels, target.name)
    asked = [name_of(s) for s in (*leading, *strays)]
    slices, names = await asyncio.gather(
        looks.at("endpoints of services", _slices(kube, target.namespace, asked), seconds) if asked else nothing(),
        looks.at("DNS of the service", _look_up(web, leading, seconds), seconds + 1) if leading else nothing(),
    )
    ingresses = [i for i in all_ingresses or [] if ingress == name_of(i) or set(asked) & set(backends(i))]
    return Traffic(
        services=leading if all_services is not None else None,
        strays=[s for s in strays if s in leading or endpoints_of(name_of(s), slices or []) == (0, 0)],
        slices=slices,
        ingresses=ingresses if all_ingresses is not None else None,
        names=names or {},
        missing=tuple(_missing(all_services, all_ingresses, service, ingress, ingresses)),
    )


def backends(ingress: Json) -> list[str]:
    """The names of the Services that an Ingress sends to."""
    spec = ingress.get("spec") or {}
    paths = [p for rule in spec.get("rules") or [] for p in (rule.get("http") or {}).get("paths") or []]
    found = [spec.get("defaultBackend") or {}, *(p.get("backend") or {} for p in paths)]
    return [str(b["service"]["name"]) for b in found if (b.get("service") or {}).get("name")]


def _named(kind: str, target: BoundTarget, name: str | None) -> str | None:
    return name or (target.name if target.kind == kind else None)


def _leads(service: Json, named: str | None, labels: Mapping[str, str]) -> bool:
    return name_of(service) == named if named else matches(service["spec"].get("selector") or {}, labels)


def _strays(services: list[Json], leading: list[Json], labels: Mapping[str, str], target: str) -> list[Json]:
    """Services that look as if they should lead to the pods, but select others or none."""
    if not labels:
        return []
    named = [s for s in leading if s["spec"].get("selector") and not matches(s["spec"]["selector"], labels)]
    return named if leading else [s for s in services if _looks_related(s, labels, target)][:_MOST_SERVICES]


def _looks_related(service: Json, labels: Mapping[str, str], target: str) -> bool:
    selector = service["spec"].get("selector")
    if not selector or matches(selector, labels):
        return False
    shares = any(labels.get(key) == value for key, value in selector.items())
    kin = name_of(service).partition("-")[0] == target.partition("-")[0]
    return set(selector) <= set(labels) and (shares or kin)


async def _slices(kube: Kube, namespace: str, services: list[str]) -> list[Json]:
    path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
    return await recent(kube, path, selector=f"{SERVICE_NAME} in ({','.join(services)})")


async def _look_up(web: Web, services: list[Json], seconds: float) -> dict[str, str | None]:
    if not os.environ.get(_IN_CLUSTER):
        raise Retry("Paramedic runs outside of the cluster, whose names it cannot look up")
    names = [f"{name_of(s)}.{s['metadata']['namespace']}.svc" for s in services]
    errors = await asyncio.gather(*(_resolution_error(web, name, seconds) for name in names))
    return dict(zip(names, errors, strict=True))


async def _resolution_error(web: Web, name: str, seconds: float) -> str | None:
    try:
        async with asyncio.timeout(seconds):
            await web.resolve(name)
    except Retry as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {seconds:g} s"
    return None


def _missing(
    services: list[Json] | None,
    all_ingresses: list[Json] | None,
    service: str | None,
    ingress: str | None,
    leading: list[Json],
) -> Iterator[str]:
    """What somebody names and what is not there."""
    if services is not None:
        known = {name_of(s) for s in services}
        wanted = dict.fromkeys([*([service] if service else []), *(b for i in leading for b in backends(i))])
        yield from (f"Service/{name}" for name in wanted if name not in known)
    if all_ingresses is not None and ingress and ingress not in {name_of(i) for i in all_ingresses}:
        yield f"Ingress/{ingress}"
