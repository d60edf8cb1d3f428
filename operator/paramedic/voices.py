"""What people say about an incident elsewhere than in Kubernetes: in PagerDuty, in Slack.

The API server checks what is written on an Incident's spec. What is said elsewhere it never sees, so it is asked here
(SubjectAccessReview) whether the person might have written the same: no button gives a right that ``kubectl`` does not.
What is said is stored on the status, which nobody but Paramedic may write; a pause is set on the spec.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from paramedic.api import conditions as c
from paramedic.api.incident import Acknowledgement, Closure, Consent, Incident, StepStatus, Via
from paramedic.api.reasons import Reason
from paramedic.clients.kube import Kube
from paramedic.core import rights
from paramedic.core.rights import Right
from paramedic.errors import Conflict, NotFound, Refused
from paramedic.gate import Urgency
from paramedic.log import get_logger
from paramedic.reconcile import Reconciler
from paramedic.record import Draft, acknowledge, incident_path
from paramedic.store import Store

_log = get_logger(__name__)
_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_MOST_CONSENTS = 64


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who speaks. ``name`` is as the other system names the person, for people to read; ``user`` and ``groups`` say
    who that is in Kubernetes, None where the settings do not say it.
    """

    name: str
    via: Via
    user: str | None = None
    groups: tuple[str, ...] = ()

    @property
    def known_as(self) -> str:
        """What is written down: the Kubernetes user name, else the other system's name of the person."""
        return self.user or self.name


class Voices:
    """Every method returns once what was said is stored, and says the same twice only once.

    They raise Refused with what the person lacks or has to look at, NotFound when the incident is over or gone, and
    Retry when it could not be stored.
    """

    def __init__(self, kube: Kube, store: Store, reconciler: Reconciler) -> None:
        self._kube = kube
        self._store = store
        self._reconciler = reconciler

    async def acknowledge(self, key: str, who: Speaker) -> None:
        """``who`` works on the incident ``key`` (``namespace/name``). PagerDuty's own word for a person is enough."""
        incident = self._open(key)
        await self._check(who, "acknowledge", rights.to_acknowledge(incident), needs_user=who.via != "pagerduty")
        await self._reconciler.amend(key, lambda draft: _acknowledge(draft, who))

    async def close(self, key: str, who: Speaker) -> None:
        """The incident is over, as ``who`` says: what it holds is put back. PagerDuty's own word is enough."""
        incident = self._open(key)
        await self._check(who, "close", rights.to_close(incident), needs_user=who.via != "pagerduty")
        await self._reconciler.amend(key, lambda draft: _close(draft, who))

    async def approve(self, key: str, step: str, operation: str, who: Speaker) -> None:
        """``who`` consents to the plan of a step that was shown with this operation id (``status.steps``). Refused when
        the step does not wait for approval (any more), or its plan is another by now.
        """
        incident = self._open(key)
        await self._check(who, "approve", rights.to_approve(incident), needs_user=True)
        problems: list[Refused] = []

        def put(draft: Draft) -> None:
            problems[:] = _approve(draft, step, operation, who)

        await self._reconciler.amend(key, put)
        if problems:
            raise problems[0]

    async def pause(self, key: str, who: Speaker, *, paused: bool = True) -> None:
        """``who`` takes over (``paused``), or lets Paramedic go on."""
        incident = self._open(key)
        wanted = rights.to_pause(incident) if paused else rights.to_resume(incident)
        await self._check(who, "pause" if paused else "resume", wanted, needs_user=True)
        if incident.spec.paused == paused:
            return
        meta = incident.metadata
        body = {"metadata": {"uid": meta.uid}, "spec": {"paused": paused}}
        try:
            stored = await self._kube.merge_patch(incident_path(meta.namespace, meta.name), body, Urgency.INTENT)
        except Conflict as error:
            raise NotFound(f"{key} is gone, and another has its name") from error
        self._store.put_incident(stored)
        await self._reconciler.amend(key, lambda draft: _paused(draft, who, paused=paused))

    async def tell_refusal(self, key: str, who: Speaker, refusal: Refused) -> None:
        """Puts on the incident, and so before all who are told of it, what ``who`` was refused, where there is no other
        way to answer.
        """
        await self._reconciler.amend(key, lambda draft: _tell_refusal(draft, who, str(refusal)))

    async def check(self, who: Speaker, what: str, wanted: Iterable[Right]) -> None:
        """For what is not listed here: raises Refused unless ``who`` is known in Kubernetes and has all these rights.
        ``what`` says it for people: "create an incident".
        """
        await self._check(who, what, list(wanted), needs_user=True)

    def _open(self, key: str) -> Incident:
        found = self._store.open_incident(key)
        if found is None or found[0].status.phase == "Resolved":
            raise NotFound(f"{key} is over or gone")
        return found[0]

    async def _check(self, who: Speaker, what: str, wanted: list[Right], *, needs_user: bool) -> None:
        if who.user is None:
            if needs_user:
                raise Refused(Reason.FORBIDDEN, _unmapped(who, what))
            return
        answers = await asyncio.gather(*(self._allowed(who, right) for right in wanted))
        missing = [right for right, allowed in zip(wanted, answers, strict=True) if not allowed]
        if missing:
            _log.warning("refused", who=who.known_as, via=who.via, what=what, lacks=[str(right) for right in missing])
            raise Refused(Reason.FORBIDDEN, f"{who.user} may not {what}: lacks {'; '.join(map(str, missing))}")

    async def _allowed(self, who: Speaker, right: Right) -> bool:
        """Whether one of the right's alternatives is given."""
        for alternative in right.alternatives:
            answers = await asyncio.gather(*(self._review(who, one.to_wire()) for one in alternative))
            if all(answers):
                return True
        return False

    async def _review(self, who: Speaker, attributes: dict[str, str]) -> bool:
        spec = {"user": who.user, "groups": list(who.groups), "resourceAttributes": attributes}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = await self._kube.create(_REVIEWS, body, Urgency.INTENT)
        return bool(answer["status"]["allowed"])


def _acknowledge(draft: Draft, who: Speaker) -> None:
    status = draft.incident.status
    if status.acknowledgement is None and status.phase != "Resolved":
        acknowledge(draft, Acknowledgement(by=who.known_as, at=draft.now, via=who.via), _told(who))


def _close(draft: Draft, who: Speaker) -> None:
    """What follows is told by the reconciler, when it has put back what is held."""
    status = draft.incident.status
    if status.closure is None and status.phase != "Resolved":
        status.closure = Closure(by=who.known_as, at=draft.now, via=who.via)


def _approve(draft: Draft, name: str, operation: str, who: Speaker) -> list[Refused]:
    """Why not; nothing when the consent stands on the status."""
    status = draft.incident.status
    step = next((s for s in status.steps if s.name == name), None)
    given = any(a.operation == operation and a.approved_by == who.known_as for a in status.approvals)
    if given:
        return []
    problem = _not_to_approve(step, name, operation)
    if step is None or problem:
        return [Refused(Reason.PLAN_CHANGED, problem)]
    consent = Consent(
        step=step.part_of or step.name, approved_by=who.known_as, operation=operation, at=draft.now, via=who.via
    )
    status.approvals = [*status.approvals, consent][-_MOST_CONSENTS:]
    return []


def _not_to_approve(step: StepStatus | None, name: str, operation: str) -> str:
    if step is None:
        return f"there is no step {name}"
    if step.state != "AwaitingApproval":
        return f"step {name} does not wait for approval: it is {step.state}"
    if step.operation != operation:
        return f"what step {name} would do has changed since it was shown to you; now it {step.message}"
    return ""


def _paused(draft: Draft, who: Speaker, *, paused: bool) -> None:
    if paused:
        text = f"paused by {_told(who)}"
        draft.set_condition(c.REMEDIATION_ALLOWED, "False", Reason.PAUSED, text)
        draft.say(Reason.PAUSED, text, actor=who.known_as, event=True)
    else:
        draft.say(Reason.RESUMED, f"{_told(who)} lets Paramedic go on", actor=who.known_as, event=True)


def _tell_refusal(draft: Draft, who: Speaker, text: str) -> None:
    said = (entry.message for entry in draft.incident.status.timeline if entry.reason == Reason.PERSON_NOT_ALLOWED)
    if text not in said:
        draft.say(Reason.PERSON_NOT_ALLOWED, text, actor=who.known_as)


def _told(who: Speaker) -> str:
    """Both names, where there are two."""
    return f"{who.user}, {who.name}" if who.user else who.name


def _unmapped(who: Speaker, what: str) -> str:
    return (
        f"{who.name} may not {what}: Paramedic's settings do not say who that is in Kubernetes; have the person added "
        f"to channels[].{who.via}.users"
    )
