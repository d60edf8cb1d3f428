"""``runJob``: a Job from a template in the policy, for what no other action does (runbook, "Emergency Recovery":
``python manage.py check --database=default``).
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from paramedic.actions.base import Action, Change, Clients, Json, Observed, Outcome, Report, State, annotation
from paramedic.actions.job_template import RunJobParams, job_manifest, job_name
from paramedic.api import ANNOTATION_OPERATION
from paramedic.api.base import parse_time
from paramedic.api.incident import Evidence
from paramedic.api.reasons import Reason
from paramedic.clients.evidence import EvidenceStore
from paramedic.clients.evidence_shares import Share
from paramedic.core.jobs import JobEnd, job_end, last_lines, newest_pod, output_of, result_of, told
from paramedic.core.redact import clean
from paramedic.errors import AlreadyExists, Conflict, NotFound, ParamedicError, Refused, Retry, Terminal
from paramedic.evidence.logs import log_sources

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 5.0
_DELETE_TRIES = 5
_TAIL_BYTES = 64 * 1024
_MOST_FOR_THE_END_SECONDS = 10.0
_READ_SECONDS = 10.0
_KEPT_LONGER_SECONDS = 900
_MOST_LOG_BYTES = 64 * 1024 * 1024
_TURN_SECONDS = 30.0
_NOTED = "uid"
_EVER_SECONDS = 10 * 365 * 86400


class RunJob(Action):
    """Creates the Job once for an operation, waits for its end, keeps its log."""

    name = "runJob"
    summary = "Runs a Job from a template and waits for its end; its log and its last line's JSON are kept."
    params = RunJobParams
    undoable = False
    slow = True
    beyond_target = True
    while_shut_down = True

    def state(self, observed: Observed) -> State:
        """Nothing of the target is changed."""
        return {}

    def plan(self, observed: Observed, params: RunJobParams, operation: str) -> Change:
        """The Job, under a name of this operation's own."""
        name = job_name(observed.step, operation)
        work = _Work(
            collection=f"/apis/batch/v1/namespaces/{observed.target['metadata']['namespace']}/jobs",
            body=job_manifest(params, name, operation, observed.incident, observed.incident_uid),
            namespace=observed.target["metadata"]["namespace"],
            incident=observed.incident,
            operation=operation,
            log_lines=params.log_lines,
        )
        containers = params.template.spec.containers
        words = [*(containers[0].command or []), *(containers[0].args or [])]
        after = {"job": observed.step, "images": [c.image for c in containers]}
        message = f"Job {name}: {clean(' '.join([containers[0].image, *words]), 200)}"
        return Change({}, after, (), None, message, work=work)

    def restore(self, observed: Observed, before: State, operation: str) -> Change:
        """What a Job has done is not known."""
        raise Refused(Reason.NOT_PUT_BACK, "what a Job has done cannot be undone")

    async def is_begun(self, change: Change, after: State, clients: Clients) -> bool:
        """Whether its Job is there. Raises Terminal when the one that was noted is not any more."""
        work: _Work = change.work
        try:
            uid = str((await clients.kube.get(work.path))["metadata"]["uid"])
        except NotFound:
            uid = ""
        if after.get(_NOTED, uid) != uid:
            raise _deleted(work)
        return bool(uid)

    async def apply(self, change: Change, clients: Clients) -> Report:
        """Runs it. Begun again under the same operation, it finds its Job and goes on waiting."""
        return await _Run(change.work, clients, change.seconds, change.note).report()

    def settled(self, observed: Observed, before: State, after: State, operation: str) -> Outcome:
        """It leaves no trace on the target; the Job's own name and stamp keep it from being made twice."""
        return Outcome.NOT_APPLIED


@dataclass(frozen=True, slots=True)
class _Work:
    """A Job to be run."""

    collection: str
    body: Json
    namespace: str
    incident: str
    operation: str
    log_lines: int

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def path(self) -> str:
        return f"{self.collection}/{self.name}"

    @property
    def container(self) -> str:
        """The template's first, as a mesh may put a sidecar in front of it in the pod."""
        return str(self.body["spec"]["template"]["spec"]["containers"][0]["name"])


def _deleted(work: _Work) -> Terminal:
    text = f"Job {work.name} was deleted by others while it ran; not repeated, please look what it has done"
    return Terminal(Reason.OUTCOME_UNKNOWN, text)


class _Run:
    """One Job, from its creation to what is told of it."""

    def __init__(self, work: _Work, clients: Clients, seconds: float, note: Callable[[State], None]) -> None:
        self._work = work
        self._note = note
        self._clients = clients
        self._seconds = seconds
        self._began = asyncio.get_running_loop().time()
        # What is left after its time: to read the log of a Job that hangs, and to delete it.
        self._end_seconds = min(_MOST_FOR_THE_END_SECONDS, seconds / 5)

    async def report(self) -> Report:
        """Raises Refused or Terminal when it cannot be made or was deleted by others, Retry when that is not known."""
        job = await self._made()
        self._note({_NOTED: job["metadata"]["uid"]})
        job, end = await self._ended(job)
        pod = await self._pod(job)
        log = await self._tail(pod)
        evidence = await self._keep_log(pod)
        now = datetime.now(UTC)
        seconds = max(self._elapsed(), (now - parse_time(job["metadata"]["creationTimestamp"])).total_seconds())
        message = told(self._work.name, end, pod, seconds, now)
        if end is None:
            message += await self._delete(job)
        lines, output = last_lines(log, self._work.log_lines), output_of(log)
        result = result_of(self._work.name, end, pod, seconds, lines, output)
        return Report(message, result, evidence, failed=not (end and end.succeeded))

    async def _made(self) -> Json:
        """The operation's Job, made now or before."""
        wanted = self._work.body["spec"]
        # It stays for as long as it may be looked for: were it gone, a restarted operator could not tell how it ended.
        kept = max(wanted["ttlSecondsAfterFinished"], int(self._seconds) + _KEPT_LONGER_SECONDS)
        spec = {"activeDeadlineSeconds": max(1, int(self._seconds) + 1)} | wanted | {"ttlSecondsAfterFinished": kept}
        try:
            return await self._clients.kube.create(self._work.collection, self._work.body | {"spec": spec})
        except AlreadyExists:
            found = await self._clients.kube.get(self._work.path)
        if annotation(found, ANNOTATION_OPERATION) != self._work.operation:
            raise Terminal(Reason.REJECTED, f"a Job {self._work.name} is there already, and it is not this step's")
        return found

    async def _ended(self, job: Json) -> tuple[Json, JobEnd | None]:
        """The Job at its end, or as it is when the time is over."""
        pause = _FIRST_PAUSE_SECONDS
        while (end := job_end(job)) is None and self._left() > self._end_seconds:
            await asyncio.sleep(min(pause, max(0.1, self._left() - self._end_seconds)))
            pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
            job = await self._again(job)
        return job, end

    async def _again(self, job: Json) -> Json:
        try:
            found = await self._clients.kube.get(self._work.path)
        except Retry:
            return job
        except NotFound:
            found = None
        if found is None or found["metadata"]["uid"] != job["metadata"]["uid"]:
            raise _deleted(self._work)
        return found

    async def _pod(self, job: Json) -> Json | None:
        with suppress(ParamedicError):
            return newest_pod(job, await self._clients.kube.list(self._pods, self._selector))
        return None

    async def _tail(self, pod: Json | None) -> bytes:
        """The end of the log of the template's first container; empty when there is none to be read."""
        if pod is None:
            return b""
        path = f"{self._pods}/{pod['metadata']['name']}/log"
        query = {"container": self._work.container, "tailLines": str(max(1, self._work.log_lines))}
        kept = b""
        with suppress(ParamedicError, TimeoutError):
            async with asyncio.timeout(self._patience()):
                async for chunk in self._clients.kube.stream(path, query, read_seconds=_READ_SECONDS):
                    kept = (kept + chunk)[-_TAIL_BYTES:]
        return kept

    async def _keep_log(self, pod: Json | None) -> tuple[Evidence, ...]:
        """The whole logs of all pods of the Job, where there is a store with room for them, and few others wait for it;
        what goes wrong is said in their notes.
        """
        store = self._clients.evidence
        if store is None or pod is None:
            return ()
        waits_until = asyncio.get_running_loop().time() + min(_TURN_SECONDS, self._patience())
        try:
            async with store.shares.turn(self._work.namespace, waits_until, lambda: None) as share:
                return await self._keep_in(store, share)
        except Terminal as error:
            return (Evidence(name="logs", note=f"not captured: {clean(error, 250)}"),)

    async def _keep_in(self, store: EvidenceStore, share: Share) -> tuple[Evidence, ...]:
        whose = self._work.namespace, self._work.incident, self._work.operation
        async with store.collection(
            *whose,
            about={"job": self._work.name},
            total_bytes=_MOST_LOG_BYTES,
            seconds=self._patience(),
            share=share,
        ) as kept:
            try:
                sources = log_sources(
                    self._clients.kube, self._work.namespace, self._selector, _EVER_SECONDS, previous=False
                )
                async for source in sources:
                    await kept.keep(source.name, source.media_type, source.read())
            except ParamedicError as error:
                kept.miss("logs", str(error))
        return tuple(kept.items)

    async def _delete(self, job: Json) -> str:
        """Ends a Job that hangs, with its pods. Returns what is to be said of that."""
        failure: ParamedicError | None = None
        for _ in range(_DELETE_TRIES):
            try:
                found = await self._clients.kube.get(self._work.path)
                if found["metadata"]["uid"] == job["metadata"]["uid"]:
                    meta = found["metadata"]
                    await self._clients.kube.delete(self._work.path, meta["uid"], meta["resourceVersion"])
            except NotFound:
                return "; it is gone"
            except Conflict as error:  # its controller has written its status in between
                failure = error
            except ParamedicError as error:
                failure = error
                break
            else:
                return "; it was deleted"
        return f"; it could not be deleted: {clean(failure)}"

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{self._work.namespace}/pods"

    @property
    def _selector(self) -> str:
        return f"batch.kubernetes.io/job-name={self._work.name}"

    def _elapsed(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    def _left(self) -> float:
        return self._seconds - self._elapsed()

    def _patience(self) -> float:
        """How long reading may take: most of what is left, so that the Job can still be deleted."""
        return max(1.0, min(self._left() * 0.6, 600.0))
