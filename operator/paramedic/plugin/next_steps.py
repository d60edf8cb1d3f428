"""What the reader can do next, as commands to copy. Pure."""

from paramedic.api.incident import Incident
from paramedic.core import people


def commands(incident: Incident) -> list[str]:
    """The likeliest first."""
    name = f"{incident.metadata.name} -n {incident.metadata.namespace}"
    verbs = _after_the_end(incident) if incident.status.phase == "Resolved" else _meanwhile(incident)
    return [f"kubectl incident {verb.format(name)}" for verb in verbs]


def _meanwhile(incident: Incident) -> list[str]:
    waiting = [s for s in incident.status.steps if s.state == "AwaitingApproval"]
    closed = people.resolution(incident) is not None
    answered = closed or people.acknowledgement(incident) or incident.spec.acknowledged_by
    return [
        *(["approve {}", "reject {}"] if waiting else []),
        *(["ack {}"] if not answered else []),
        "resume {}" if incident.spec.paused else "pause {}",
        "escalate {} -m '<why>'",
        *(["resolve {} --root-cause '<what it was>'"] if not closed else []),
    ]


def _after_the_end(incident: Incident) -> list[str]:
    said = people.resolution(incident)
    explained = said is not None and said.root_cause is not None
    return [
        *([] if explained else ["resolve {} --root-cause '<what it was>' --follow-up '<what is left>'"]),
        *([] if all(item.done for item in incident.status.checklist) else ["tick {} <number>"]),
        "report {}",
    ]
