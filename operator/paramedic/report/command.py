"""``paramedic report``: the report of one incident, read with the user's own kubeconfig and rights."""

from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from paramedic.api import API_VERSION
from paramedic.api.incident import Incident
from paramedic.api.policy import MessageTemplates, RemediationPolicy
from paramedic.clients.kube import Kube, context_namespace, load_configuration
from paramedic.clients.prometheus import Prometheus
from paramedic.errors import NotFound, Refused, Terminal
from paramedic.report.gather import make_report
from paramedic.report.render import render


async def report(
    name: str,
    namespace: str | None,
    form: str,
    kubeconfig: Path | None = None,
    prometheus_url: str | None = None,
    token_file: Path | None = None,
) -> str:
    """The rendered report; ``namespace`` is by default that of the kubeconfig's context. Raises ParamedicError."""
    where = namespace or context_namespace(kubeconfig)
    async with Kube(await load_configuration(kubeconfig)) as kube:
        try:
            incident = Incident.model_validate(await kube.get(_path(where, "incidents", name)))
        except NotFound as error:
            text = f"there is no incident {name} in namespace {where}; kubectl get incidents -n {where} shows them"
            raise NotFound(text) from error
        wording = await _wording(kube, incident)
    prometheus = Prometheus(prometheus_url, bearer_token_file=token_file) if prometheus_url else None
    try:
        return render(await make_report(incident, wording, prometheus, datetime.now(UTC)), form)
    finally:
        if prometheus:
            prometheus.close()


async def _wording(kube: Kube, incident: Incident) -> MessageTemplates | None:
    """The policy's figures of the impact, where the policy is still there and the user may read it."""
    pinned = incident.status.policy
    if pinned is None:
        return None
    path = _path(pinned.namespace, "remediationpolicies", pinned.name)
    try:
        return RemediationPolicy.model_validate(await kube.get(path)).spec.messages
    except (NotFound, Refused, Terminal, ValueError):
        return None


def _path(namespace: str, plural: str, name: str) -> str:
    return f"/apis/{API_VERSION}/namespaces/{quote(namespace, safe='')}/{plural}/{quote(name, safe='')}"
