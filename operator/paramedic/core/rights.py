"""What a person must be allowed to in Kubernetes to say something about an incident elsewhere than there.

The same as the admission policies ask of who writes it on the spec (``manifests/base/admission-incident-*.yaml``): the
one place in the code that follows them. Pure: what to ask the API server, which answers.
"""

from dataclasses import dataclass

from paramedic.api import GROUP
from paramedic.api.incident import Incident
from paramedic.api.workload import RESOURCES


@dataclass(frozen=True, slots=True)
class Access:
    """One verb on one resource, as a SubjectAccessReview asks for it; without a name: on all of the namespace."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str = ""

    def to_wire(self) -> dict[str, str]:
        """``resourceAttributes`` of the review."""
        named = {"name": self.name} if self.name else {}
        return {
            "verb": self.verb,
            "group": self.group,
            "resource": self.resource,
            "namespace": self.namespace,
        } | named

    def __str__(self) -> str:
        """For people: ``patch deployments.apps/web in shop``."""
        group = f".{self.group}" if self.group else ""
        return f"{self.verb} {self.resource}{group}{'/' if self.name else ''}{self.name} in {self.namespace}"


@dataclass(frozen=True, slots=True)
class Right:
    """Held by whoever has all of one of the ``alternatives``."""

    alternatives: tuple[tuple[Access, ...], ...]

    def __str__(self) -> str:
        """The first alternative: the one to ask for."""
        return ", ".join(map(str, self.alternatives[0]))


# Without a target, a policy says what is acted on: all that actions can change.
_ANYTHING = (
    ("patch", "apps", "deployments"),
    ("patch", "apps", "statefulsets"),
    ("patch", "apps", "daemonsets"),
    ("patch", "autoscaling", "horizontalpodautoscalers"),
    ("patch", "", "services"),
    ("patch", "", "configmaps"),
    ("patch", "", "secrets"),
    ("create", "batch", "jobs"),
    ("patch", "networking.k8s.io", "ingresses"),
    ("create", "networking.k8s.io", "networkpolicies"),
    ("patch", GROUP, "connections"),
)


def to_acknowledge(incident: Incident) -> list[Right]:
    """What stops things only needs no more than to be allowed to update the incident."""
    return [_on_incident(incident, "update")]


to_pause = to_acknowledge


def to_resume(incident: Incident) -> list[Right]:
    """What could make Paramedic act needs the right to do by hand what it would do."""
    return [_on_incident(incident, "update"), _to_act(incident)]


to_close = to_resume
"""A mitigation that is still in place is put back."""


def to_approve(incident: Incident) -> list[Right]:
    """The verb ``approve`` besides."""
    return [_on_incident(incident, "approve"), *to_resume(incident)]


def to_create_incident(namespace: str, policy: str = "") -> list[Right]:
    """An incident without a target, for a policy by name or (empty) whichever of the namespace matches."""
    return [Right(((Access("create", GROUP, "incidents", namespace),),)), _to_trigger(namespace, policy, namespace)]


def _on_incident(incident: Incident, verb: str) -> Right:
    meta = incident.metadata
    return Right(((Access(verb, GROUP, "incidents", meta.namespace, meta.name),),))


def _to_act(incident: Incident) -> Right:
    namespace, target = incident.metadata.namespace, incident.spec.target
    if target is None:
        named = incident.spec.policy_ref
        return _to_trigger(namespace, named.name if named else "", (named and named.namespace) or namespace)
    version, plural = RESOURCES[target.kind]
    return Right(((Access("patch", _group(version), plural, namespace, target.name),),))


def _to_trigger(namespace: str, policy: str, policy_namespace: str) -> Right:
    trigger = (Access("trigger", GROUP, "remediationpolicies", policy_namespace, policy),)
    anything = tuple(Access(verb, group, resource, namespace) for verb, group, resource in _ANYTHING)
    return Right((trigger, anything))


def _group(version: str) -> str:
    return version.rpartition("/")[0]
