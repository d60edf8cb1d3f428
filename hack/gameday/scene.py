"""One run of a fault: covet in a namespace of its own, its users, its alert, and what can be done to it."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gameday.aws import Aws
from gameday.insider import Insider
from gameday.load import Call, Load, Sample
from gameday.repeated import Repeated
from gameday.stores import Stores
from testbed import toolchain
from testbed.access import Access
from testbed.realnode import RealNode

Json = dict[str, Any]

FLOOD_SOURCE = 3
"""Which of the machine's further addresses it comes from (`RealNode.add_address`)."""
PATIENCE_SECONDS = 0.4
LATE_DEPTH = 100
OVERLOAD = ("HTTP 503", "HTTP 504", "timeout")


@dataclass(frozen=True)
class Act:
    """Something that Paramedic has changed: at (seconds since 1970), and what."""

    at: float
    what: str


class Scene:
    """covet, running, with its users; everything about it is gone when the context is left."""

    def __init__(
        self,
        access: Access,
        node: RealNode,
        namespace: str,
        stores: Stores,
        aws: Aws,
        users: Load,
    ) -> None:
        self.namespace = namespace
        self.stores = stores
        self.aws = aws
        self.users = users
        self._access = access
        self._node = node
        self._flood: Load | None = None
        self._intruder: Load | Insider | None = None
        self._queue = Probe(lambda: "" if stores.queue_depth() < LATE_DEPTH else "waits")
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.users)
        self._stack.enter_context(self._queue)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def kubectl(self, *args: str | Path, input: str | None = None) -> str:
        """In covet's namespace."""
        return self._access.kubectl("-n", self.namespace, *args, input=input)

    def get(self, kind: str, name: str) -> Json:
        found: Json = json.loads(self.kubectl("get", kind, name, "-o", "json"))
        return found

    # -- faults -------------------------------------------------------------------------------------------------------

    def release(self, fault: str) -> None:
        """Rolls out a release of the app that has a fault."""
        self.kubectl("set", "env", "deployment/covet-app", f"FAULT={fault}")

    def configure(self, **values: str) -> None:
        """Changes keys of covet's ConfigMap."""
        self.kubectl("patch", "configmap", "covet-config", "--type=merge", "-p", json.dumps({"data": values}))

    def restart(self) -> None:
        """As `kubectl rollout restart` of the app."""
        self.kubectl("rollout", "restart", "deployment/covet-app")

    def queue_tasks(self, count: int) -> None:
        """Puts tasks for the workers into the queue."""
        self.stores.queue_tasks(count)

    def ask(self, call: Call) -> None:
        """One request more, whose answer nobody waits for."""
        request = urllib.request.Request(self.users.url + call.path, method=call.method)
        threading.Thread(target=_forgotten, args=(request,), daemon=True).start()

    def outsider(self, rate: float, calls: Sequence[Call]) -> None:
        """More traffic, from outside of the cluster: through the Service's node port."""
        service = self.get("service", "covet-service")["spec"]
        node = json.loads(self._access.kubectl("get", "pods", "-n", self.namespace, "-o", "json"))["items"][0]
        url = f"http://{node['status']['hostIP']}:{service['ports'][0]['nodePort']}"
        self._intruder = self._stack.enter_context(Load(url, rate=rate, calls=calls))

    def insider(self, call: Call) -> None:
        """A worker's pod asks the app's Service for what is none of its business."""
        argv: list[str | Path] = [toolchain.binary("kubectl"), "--kubeconfig", self._access.kubeconfig]
        argv += ["-n", self.namespace, "exec", "deployment/covet-worker", "--", "python3"]
        self._intruder = self._stack.enter_context(Insider(argv, f"http://covet-service{call.path}"))

    def flood(self, rate: float, source: str = "") -> None:
        """More traffic on the users' way in, all from one address."""
        come_from = source or self._node.add_address(FLOOD_SOURCE)
        self._flood = self._stack.enter_context(Load(self.users.url, rate=rate, source=come_from))

    def cut_off(self) -> None:
        """Each of the app's pods gets a route by which all that is for the databases goes nowhere, as an agent on the
        node leaves it behind that was told a wrong network. It lasts as long as the pod.
        """
        pods = json.loads(self.kubectl("get", "pods", "-l", "app=covet", "-o", "json"))["items"]
        for pod in pods:
            container = pod["status"]["containerStatuses"][0]["containerID"].rpartition("/")[2]
            self._node.in_network_of(container, "ip", "route", "add", "blackhole", self.stores.host)

    # -- what people do -----------------------------------------------------------------------------------------------

    def order(self, name: str, kind: str, step: str) -> None:
        """Somebody applies an Incident, and has approved its one step."""
        whoami = json.loads(self.kubectl("auth", "whoami", "-o", "json"))["status"]["userInfo"]["username"]
        spec = {"title": name, "type": kind, "severity": "P0", "approvals": [{"step": step, "approvedBy": whoami}]}
        metadata = {"name": name, "namespace": self.namespace}
        made = {"apiVersion": "paramedic.dev/v1alpha1", "kind": "Incident", "metadata": metadata, "spec": spec}
        self.kubectl("apply", "-f", "-", input=json.dumps(made))

    def wait_resolved(self, name: str) -> None:
        """Until an Incident is over, well."""
        self.kubectl("wait", f"incident/{name}", "--for=jsonpath={.status.phase}=Resolved", "--timeout=60s")

    # -- who is hurt --------------------------------------------------------------------------------------------------

    def of_users(self) -> list[Sample]:
        """covet's users."""
        return self.users.samples

    def of_those_who_wait(self) -> list[Sample]:
        """covet's users, for whom slow is as bad as failed."""
        return [
            Sample(one.at, one.seconds, one.failure or ("slow" if one.seconds > PATIENCE_SECONDS else ""))
            for one in self.users.samples
        ]

    def of_the_queue(self) -> list[Sample]:
        """Those whose tasks wait."""
        return self._queue.samples

    def of_the_intruder(self) -> list[Sample]:
        """A guess that gets an answer is what hurts; that it gets none, however late, is what is wanted."""
        found = list(self._intruder.samples) if self._intruder else []
        return [_guess(one) for one in found]

    def of_the_flood(self) -> list[Sample]:
        """What became of each of its requests."""
        return self._flood.samples if self._flood else []

    def of_the_overload(self) -> list[Sample]:
        """Users who are hurt by overload. To be told to come back later (429) is what a limit is for."""
        return [
            Sample(one.at, one.seconds, one.failure if one.failure in OVERLOAD else "") for one in self.users.samples
        ]


def _guess(sample: Sample) -> Sample:
    if sample.failure == "HTTP 401":
        return Sample(sample.at, sample.seconds, "guessed")
    return Sample(sample.at, 0.0, "")


class Probe(Repeated):
    """Asks ten times a second; like a `Load`, it keeps a sample of each."""

    def __init__(self, ask: Callable[[], str]) -> None:
        super().__init__("probe", 0.1, self._sample)
        self._ask = ask
        self.samples: list[Sample] = []

    def _sample(self) -> None:
        at, began = time.time(), time.perf_counter()
        answer = self._ask()
        self.samples.append(Sample(at, time.perf_counter() - began, answer))


def _forgotten(request: urllib.request.Request) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(request, timeout=1).close()
    except (OSError, urllib.error.HTTPError):
        return
