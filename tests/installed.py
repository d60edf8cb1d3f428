"""Paramedic's CRDs and manifests in a cluster, as `kubectl apply` puts them there, with their policies in force."""

import time
from pathlib import Path

from testbed.access import Access, KubectlError
from testbed.operator_process import install as apply_everything

ROOT = Path(__file__).resolve().parent.parent
OPERATOR = "system:serviceaccount:paramedic-system:paramedic"
DEFINITIONS = ("incidents.paramedic.dev", "remediationpolicies.paramedic.dev")
PROBE = "policies-in-force"
_INCIDENT = f"""
apiVersion: paramedic.dev/v1alpha1
kind: Incident
metadata: {{name: {PROBE}, namespace: default}}
spec: {{title: a probe of the tests, type: Probe, paused: true}}
"""
_FORGED = _INCIDENT.replace("paused: true", "acknowledgedBy: nobody")
_POLICY = f"""
apiVersion: paramedic.dev/v1alpha1
kind: RemediationPolicy
metadata: {{name: {PROBE}, namespace: default}}
spec: {{match: {{incidents: {{}}}}, namespaces: [kube-system], steps: [{{name: a, restart: {{}}}}]}}
"""
_DRY_RUN = ("create", "--dry-run=server", "-f", "-")
_STATUS = ("patch", "incident", PROBE, "-n", "default", "--subresource=status", "--type=merge", "--dry-run=server")
_FORGER = f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {PROBE}, namespace: default}}
rules: [{{apiGroups: [paramedic.dev], resources: [incidents, incidents/status], verbs: [get, patch]}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {PROBE}, namespace: default}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {PROBE}}}
subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {PROBE}}}]
"""


def install(cluster: Access, timeout: float = 30) -> None:
    """Applies `crds/` and `manifests/`; returns once the CRDs are served and the admission policies refuse."""
    apply_everything(cluster)
    cluster.kubectl("apply", "-f", "-", input=_INCIDENT)
    cluster.kubectl("apply", "-f", "-", input=_FORGER)
    deadline = time.monotonic() + timeout
    _until_refused(cluster, "acknowledgedBy must be your own", deadline, *_DRY_RUN, text=_FORGED)
    _until_refused(cluster, "only for policies in paramedic-system", deadline, *_DRY_RUN, text=_POLICY)
    _until_refused(cluster, "only Paramedic", deadline, *_STATUS, "-p", '{"status": {"phase": "Open"}}', "--as", PROBE)
    cluster.kubectl("delete", f"incident/{PROBE}", f"role/{PROBE}", f"rolebinding/{PROBE}", "-n", "default")


def _until_refused(cluster: Access, words: str, deadline: float, *arguments: str, text: str = "") -> None:
    """A new admission policy is enforced about a second after its creation: asks until it says no."""
    last = "it was allowed"
    while time.monotonic() < deadline:
        try:
            cluster.kubectl(*arguments, input=text)
        except KubectlError as error:
            last = str(error)
            if words in last:
                return
        time.sleep(0.2)
    raise AssertionError(f"the admission policy that says {words!r} is not in force: {last}")
