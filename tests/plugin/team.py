"""The console script, run as people run it: a process of its own, with a kubeconfig of theirs."""

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from access.people import INCIDENTS, Json, Teams
from testbed.access import Access
from testbed.api import Api

BIN = Path(sys.executable).parent
SCRIPT = BIN / "kubectl-incident"
COMPLETE = BIN / "kubectl_complete-incident"
OPERATION = "019cbe40-1c00-7000-8000-000000000001"


@dataclass(frozen=True)
class Said:
    """What came of a command."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Cli:
    """One person's command line, in the team's namespace."""

    kubeconfig: Path
    namespace: str

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "HOME": "/nonexistent"}

    async def __call__(self, *words: str, program: Path = SCRIPT, here: bool = True) -> Said:
        """In a pipe; ``here`` adds the namespace."""
        where = ("-n", self.namespace) if here else ()
        process = await self.start(*words, *where, program=program)
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return Said(process.returncode or 0, out.decode(), err.decode())

    async def start(self, *words: str, program: Path = SCRIPT) -> asyncio.subprocess.Process:
        """Begun, for what is to be read while it runs."""
        return await asyncio.create_subprocess_exec(
            str(program),
            *words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )

    async def in_a_terminal(self, *words: str, answers: Mapping[str, Callable[[], Any]]) -> tuple[int, str]:
        """The exit code and what the terminal showed. For each text in ``answers``, once it is shown, what its function
        (which may be async) returns is typed.
        """
        ours, theirs = pty.openpty()
        os.set_blocking(ours, False)
        process = await asyncio.create_subprocess_exec(
            str(SCRIPT),
            *words,
            "-n",
            self.namespace,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**self.environment, "TERM": "xterm", "COLUMNS": "200"},
        )
        os.close(theirs)
        shown = await asyncio.wait_for(_talk(ours, dict(answers), process), 60)
        os.close(ours)
        return process.returncode or 0, shown


async def _talk(terminal: int, answers: dict[str, Callable[[], Any]], process: asyncio.subprocess.Process) -> str:
    shown, ended = "", asyncio.ensure_future(process.wait())
    while True:
        over = ended.done()
        with suppress(BlockingIOError, OSError):
            shown += os.read(terminal, 65536).decode(errors="replace")
        for text in [one for one in answers if one in shown]:
            typed = answers.pop(text)()
            os.write(terminal, (await typed if asyncio.iscoroutine(typed) else typed).encode())
        if over:
            return shown
        await asyncio.sleep(0.02)


class Team:
    """The team's namespace: who works in it, and its incidents as an admin sees them."""

    def __init__(self, cluster: Access, admin: Api, teams: Teams) -> None:
        self._cluster = cluster
        self.admin = admin
        self.teams = teams
        self.namespace = teams.a

    def cli(self, who: str) -> Cli:
        return Cli(self._cluster.kubeconfig_for(self.teams.tokens[who]), self.namespace)

    @property
    def admins_kubeconfig(self) -> Path:
        return self._cluster.kubeconfig

    def user(self, who: str) -> str:
        return self.teams.user(who)

    async def incident(self, name: str, status: Json | None = None, **spec: Any) -> Json:
        """Stored, with what Paramedic would have written of it."""
        base = {"title": "API returns 5xx", "type": "APIOutage", "severity": "P1"}
        base["target"] = {"kind": "Deployment", "name": "covet-app"}  # type: ignore[assignment]
        made: Json = {"apiVersion": "paramedic.dev/v1alpha1", "kind": "Incident", "metadata": {"name": name}}
        await self.admin.create(made | {"spec": base | spec}, self.namespace)
        if status:
            await self.say(name, status)
        return await self.get(name)

    async def say(self, name: str, status: Json) -> None:
        """Writes the status, as Paramedic would."""
        await self.admin.patch(INCIDENTS, name, {"status": status}, self.namespace, subresource="status")

    async def get(self, name: str) -> Json:
        return await self.admin.get(INCIDENTS, name, self.namespace)

    async def spec(self, name: str) -> Json:
        found: Json = (await self.get(name))["spec"]
        return found

    async def names(self) -> set[str]:
        return {item["metadata"]["name"] for item in await self.admin.list(INCIDENTS, self.namespace)}


def waiting(name: str = "more-room", operation: str = OPERATION, **fields: Any) -> Json:
    """A step that waits for approval."""
    return {
        "name": name,
        "action": "scale",
        "state": "AwaitingApproval",
        "approvalRequired": True,
        "message": "would: covet-app: replicas 2 → 5",
        "operation": operation,
        "target": {"namespace": "covet", "name": "covet-app"},
        "before": {"replicas": 2},
        "after": {"replicas": 5},
        "ttl": "1h",
    } | fields
