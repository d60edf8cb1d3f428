"""``captureEvidence``: keeps what a cluster knows of an incident before it is gone (runbook 4, "Investigation" and
"Evidence Preservation").
"""

import asyncio
import ipaddress
import re
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from paramedic.actions.base import Action, Change, Clients, Json, Observed, Outcome, Report, State
from paramedic.api.base import Duration, Model, ObjectName, format_duration, rule
from paramedic.api.diagnosis import ConnectionCheck
from paramedic.api.reasons import Reason
from paramedic.api.workload import WITH_PODS, BoundTarget
from paramedic.clients.pg_dump import Selection
from paramedic.core.selectors import as_query
from paramedic.errors import Refused
from paramedic.evidence.capture import Wanted, capture
from paramedic.evidence.database import Dump
from paramedic.evidence.network import Network
from paramedic.evidence.snapshots import Snapshots, named_claims

_LONGEST_CAPTURE = timedelta(minutes=10)
_LABEL = r"^[a-zA-Z0-9]([-a-zA-Z0-9_./]{0,315}[a-zA-Z0-9])?$"
_LABELS = rule(
    f"self.all(key, key.matches('{_LABEL}'))", "a key of selector is a label, for example app or covet.dev/tier"
)
_LABEL_VALUE = r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
Kept = Literal["logs", "events", "manifests", "history"]
_ALL: tuple[Kept, ...] = ("logs", "events", "manifests", "history")
_WORDS = {"events": "Events", "manifests": "manifests", "history": "rollout history"}


_SHORT = rule(
    "self.matches('^([1-9][0-9]?s|[1-5][0-9]{2}s|600s|[1-9]m|10m)$')",
    "a capture takes between 1s and 10m: write for example 30s or 2m",
)


def _check_address(value: str) -> str:
    return str(ipaddress.ip_address(value))


def _check_keys(value: dict[str, str]) -> dict[str, str]:
    wrong = [key for key in value if not re.fullmatch(_LABEL, key, re.ASCII)]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is no label")
    return value


def _check_duration(value: timedelta) -> timedelta:
    if not timedelta(seconds=1) <= value <= _LONGEST_CAPTURE:
        raise ValueError(f"a capture takes between 1s and {format_duration(_LONGEST_CAPTURE)}")
    return value


Address = Annotated[str, Field(max_length=45, pattern=r"^[0-9a-fA-F:.]+$"), AfterValidator(_check_address)]
Selector = Annotated[
    dict[str, Annotated[str, Field(pattern=_LABEL_VALUE, max_length=63)]],
    AfterValidator(_check_keys),
    Field(json_schema_extra={"x-kubernetes-validations": [_LABELS]}),
]


class NetworkCapture(Model):
    """tcpdump in an ephemeral container of one of the pods. What it may capture is chosen here, not written as text."""

    image: str = Field(
        min_length=1,
        max_length=512,
        pattern=r"^[a-zA-Z0-9][-a-zA-Z0-9._/:@]*$",
        description="Image with tcpdump and timeout, for example a netshoot image in your own registry.",
    )
    duration: Annotated[Duration, AfterValidator(_check_duration)] = Field(
        timedelta(seconds=30),
        description="How long, 10m at most; the step's timeout must be longer.",
        json_schema_extra={"x-kubernetes-validations": [_SHORT]},
    )
    protocol: Literal["tcp", "udp", "icmp"] | None = Field(None, description="Only this protocol.")
    port: int | None = Field(None, ge=1, le=65535, description="Only from or to this port.")
    host: Address | None = Field(None, description="Only from or to this IP address.")

    def command(self) -> tuple[str, ...]:
        """The argv. Text with hexadecimal dumps, as only that passes through a container's log unharmed."""
        filters = [
            words
            for words, given in (
                ((self.protocol or "",), self.protocol),
                (("port", str(self.port)), self.port),
                (("host", self.host or ""), self.host),
            )
            if given
        ]
        joined = [word for words in filters for word in ("and", *words)][1:]
        options = ("-i", "any", "-y", "LINUX_SLL", "-n", "-l", "-tt", "-xx", "-s", "65535", "-Z", "root")
        return "timeout", str(int(self.duration.total_seconds())), "tcpdump", *options, *joined


class VolumeSnapshots(Model):
    """Snapshots of EBS volumes."""

    connection: ObjectName = Field(description="Connection of type aws: the account and region of the volumes.")
    volumes: list[Annotated[str, Field(pattern=r"^vol-[0-9a-f]{8,17}$", max_length=21)]] = Field(
        default_factory=list, max_length=20, description="Ids of volumes, for example vol-0123456789abcdef0."
    )
    claims: bool = Field(
        True, description="Also the volumes behind the PersistentVolumeClaims of the pods and of the target's template."
    )


_TABLE = r"^[A-Za-z_*?][A-Za-z0-9_$*?]*(\.[A-Za-z_*?][A-Za-z0-9_$*?]*)?$"


class DatabaseDump(Model):
    """A dump of a PostgreSQL database by pg_dump, in its custom format (pg_restore reads it)."""

    connection: ObjectName = Field(
        description="Connection of type postgres: the database, and a role that may read all of it."
    )
    schema_only: bool = Field(False, description="Only definitions, no rows.")
    without_rows_of: list[Annotated[str, Field(pattern=_TABLE, max_length=127)]] = Field(
        default_factory=list,
        max_length=64,
        description="Tables whose rows are left out, for example audit.logins or card_*; their definitions are kept. A "
        "pattern that fits no table leaves nothing out.",
    )
    max_bytes: int | None = Field(
        None, ge=1024, le=1 << 50, description="Most bytes of the dump; the settings' limits hold besides."
    )


class CaptureEvidenceParams(Model):
    """What to keep."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                rule(
                    "!has(self.networkCapture) || !has(self.networkCapture.port) || "
                    "!has(self.networkCapture.protocol) || self.networkCapture.protocol != 'icmp'",
                    "icmp has no ports: leave networkCapture.port out",
                )
            ]
        }
    )

    since: Duration = Field(timedelta(hours=1), description="Logs from so long ago until now.")
    selector: Selector = Field(
        default_factory=dict,
        max_length=16,
        description="Labels of the pods whose logs are kept; default: the target's pods.",
    )
    include: list[Kept] = Field(
        default_factory=lambda: list(_ALL),
        min_length=1,
        max_length=4,
        description="logs, events, manifests (Secrets are left out), history (of rollouts); default: all.",
    )
    previous: bool = Field(True, description="Logs of what ran in a container before its last restart, too.")
    max_bytes: int | None = Field(
        None, ge=1024, le=1 << 50, description="Most bytes of all items; the settings' limits hold besides."
    )
    network_capture: NetworkCapture | None = Field(
        None, description="Capture packets of one of the pods, where the cluster permits ephemeral containers."
    )
    snapshots: VolumeSnapshots | None = Field(
        None, description="Snapshots of EBS volumes, waited for until the step's timeout; they stay in EC2."
    )
    database_dump: DatabaseDump | None = Field(None, description="A dump of a PostgreSQL database, as of one moment.")


class CaptureEvidence(Action):
    """Streams logs, Events, manifests and history into the store of evidence; what fails is said, the rest is kept."""

    name = "captureEvidence"
    summary = "Keeps logs, Events, manifests and rollout history, each with its SHA-256, and captures packets."
    params = CaptureEvidenceParams
    kinds = WITH_PODS
    undoable = False
    slow = True
    connection_types = ("postgres", "aws")

    def connections_named(self, params: Json, target: str | None) -> tuple[str, ...]:
        """The dump's and the snapshots'."""
        return tuple(name for name, _ in self.connections_used(params, target))

    def connections_used(self, params: Json, target: str | None) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The same, each of the type that it is used as."""
        parts = (("databaseDump", ("postgres",)), ("snapshots", ("aws",)))
        return tuple((str(params[part].get("connection", "")), types) for part, types in parts if part in params)

    def connection_checks(self, params: Json, target: str | None) -> tuple[ConnectionCheck, ...]:
        """What is kept as evidence need not be what is in trouble."""
        return ()

    async def observe(self, target: BoundTarget, clients: Clients) -> Observed:
        """Reads the target. Raises Refused where there is no store."""
        if clients.evidence is None:
            raise Refused(
                Reason.NO_EVIDENCE_STORE,
                "nowhere to keep evidence: set evidence.directory or evidence.s3.bucket in Paramedic's settings",
            )
        return await super().observe(target, clients)

    def reaches_beyond(self, params: Json) -> bool:
        """A dump reads a database: who may change an Incident's target need not be allowed to have that done."""
        return "databaseDump" in params

    def state(self, observed: Observed) -> State:
        """Nothing of the target is changed."""
        return {}

    def plan(self, observed: Observed, params: CaptureEvidenceParams, operation: str) -> Change:
        """What will be gathered. Raises Refused when it is not clear of which pods."""
        selector = _selector(observed, params)
        wanted = Wanted(
            namespace=observed.target["metadata"]["namespace"],
            incident=observed.incident,
            operation=operation,
            target_kind=observed.kind,
            target_name=observed.name,
            target_uid=observed.uid,
            selector=selector,
            own_selector=_own_selector(observed),
            since_seconds=max(1, int(params.since.total_seconds())),
            include=tuple(kept for kept in _ALL if kept in params.include),
            previous=params.previous,
            total_bytes=params.max_bytes,
            network=_network(params.network_capture, operation),
            snapshots=_snapshots(observed, params.snapshots, selector, own=not params.selector),
            dump=_dump(params.database_dump),
        )
        after = {"captured": ", ".join(wanted.include), "pods": selector}
        return Change({}, after, (), None, _message(observed, params, wanted), work=wanted)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """There is nothing to undo."""
        raise Refused(Reason.NOT_PUT_BACK, "captured evidence needs no undo")

    async def apply(self, change: Change, clients: Clients) -> Report:
        """Gathers, once it is its turn. Done again under the same operation it takes the place of what was kept before.
        Raises Terminal when its turn does not come in time, or when the namespace has stored too much today.
        """
        store, wanted, now = clients.evidence, change.work, asyncio.get_running_loop().time
        assert store is not None
        ends = now() + change.seconds
        waiting = "waiting for other captures to end"
        async with store.shares.turn(wanted.namespace, ends, lambda: change.tell(waiting)) as share:
            change.tell(change.message)
            wanted = replace(wanted, attempt=change.attempt)
            captured = await capture(wanted, clients.kube, store, ends - now(), clients.connections, share)
        result = {"items": captured.kept, "bytes": captured.size_bytes, "lacking": len(captured.lacking)}
        return Report(str(captured), result, captured.items, failed=not captured.kept)

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """It leaves no trace on the target, and may always be done again."""
        return Outcome.NOT_APPLIED


def _selector(observed: Observed, params: CaptureEvidenceParams) -> str:
    chosen = as_query({"matchLabels": params.selector}) or _own_selector(observed)
    if not chosen:
        raise Refused(
            Reason.INVALID_PARAMETERS, f"{observed.kind}/{observed.name} selects no pods by labels: set selector"
        )
    return chosen


def _own_selector(observed: Observed) -> str:
    """Of the target's own pods. A Service's selector is a plain map."""
    selector = observed.target["spec"].get("selector") or {}
    return as_query({"matchLabels": selector} if observed.kind == "Service" else selector)


def _network(params: NetworkCapture | None, operation: str) -> Network | None:
    if params is None:
        return None
    seconds = int(params.duration.total_seconds())
    return Network(f"paramedic-{operation}", params.image, params.command(), seconds)


def _snapshots(observed: Observed, params: VolumeSnapshots | None, selector: str, *, own: bool) -> Snapshots | None:
    """``own``: whether the selector is that of the target's own pods, whose claims outlive them."""
    if params is None:
        return None
    if not params.claims:
        return Snapshots(params.connection, tuple(params.volumes), "")
    spec = observed.target["spec"] if own else {}
    claims = named_claims((spec.get("template") or {}).get("spec") or {})
    made = [template["metadata"]["name"] for template in spec.get("volumeClaimTemplates") or []]
    numbered = tuple(f"{name}-{observed.name}-" for name in made)
    return Snapshots(params.connection, tuple(params.volumes), selector, claims, numbered)


def _dump(params: DatabaseDump | None) -> Dump | None:
    if params is None:
        return None
    return Dump(params.connection, Selection(params.schema_only, tuple(params.without_rows_of)), params.max_bytes)


def _message(observed: Observed, params: CaptureEvidenceParams, wanted: Wanted) -> str:
    said = {**_WORDS, "logs": f"logs (the last {format_duration(params.since)})"}
    what = [said[kept] for kept in wanted.include]
    if wanted.network:
        what.append(f"network packets ({wanted.network.seconds}s)")
    if wanted.snapshots:
        what.append("snapshots of volumes")
    if wanted.dump:
        what.append(f"a dump of {wanted.dump.connection}")
    return f"{observed.name}: keeping {', '.join(what)}"
