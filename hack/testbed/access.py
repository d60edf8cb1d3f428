"""A cluster as seen from outside: a kubeconfig and kubectl. Holds for our own clusters and for any other."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed import toolchain

Json = dict[str, Any]


class KubectlError(RuntimeError):
    """kubectl ended with an error, or not in time; the text is its standard error."""


@dataclass(frozen=True)
class Credentials:
    """What a client needs: a URL, a CA (None: the system's), and a token or a client certificate."""

    url: str
    ca: Path | None = None
    token: str = ""
    certificate: Path | None = None
    key: Path | None = None


class Access:
    """A cluster reached through a kubeconfig. Files that it writes go to `folder`."""

    audit_log: Path | None = None
    """The API server's audit log, one JSON object per line; None when we cannot read it."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder

    def kubectl(self, *args: str | Path, input: str | None = None, timeout: float = 60) -> str:
        """kubectl's standard output; KubectlError with what it said when it fails."""
        argv = [str(self._kubectl_path()), *map(str, args)]
        env = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.folder / "kubectl-cache")}
        try:
            answer = subprocess.run(
                argv, input=input, env=env, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlError(f"kubectl {' '.join(argv[1:])}: no end within {timeout:g} s") from error
        if answer.returncode:
            raise KubectlError(f"kubectl {' '.join(argv[1:])}: {answer.stderr.strip() or answer.stdout.strip()}")
        return answer.stdout

    def _kubectl_path(self) -> Path:
        on_path = shutil.which("kubectl")
        return Path(on_path) if on_path else toolchain.binary("kubectl")

    def service_account_token(self, namespace: str, name: str, seconds: int = 3600) -> str:
        """A fresh token of a ServiceAccount (TokenRequest), good for `seconds` (the API's least is 600)."""
        return self.kubectl("create", "token", name, "-n", namespace, f"--duration={seconds}s").strip()

    def kubeconfig_for(self, token: str) -> Path:
        """The path of a kubeconfig for the same cluster with another bearer token; readable by its owner only."""
        config = self._flat_config()
        config["users"] = [{"name": "token", "user": {"token": token}}]
        config["contexts"] = [{"name": "token", "context": {"cluster": config["clusters"][0]["name"], "user": "token"}}]
        config["current-context"] = "token"
        name = hashlib.sha256(token.encode()).hexdigest()[:12]
        return write_private(self.folder / f"kubeconfig-{name}", json.dumps(config, indent=1))

    def credentials(self) -> Credentials:
        """What the kubeconfig's current context says, its inline data written out as files."""
        config = self._flat_config()
        server, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        if "exec" in user or "auth-provider" in user:
            raise KubectlError(
                f"{self.kubeconfig} logs in through a plug-in, which the tests do not run; "
                "give them a kubeconfig with a token: kubectl create token <service account>"
            )
        return Credentials(
            url=server["server"],
            ca=self._data_file("ca.crt", server.get("certificate-authority-data")),
            token=user.get("token", ""),
            certificate=self._data_file("client.crt", user.get("client-certificate-data")),
            key=self._data_file("client.key", user.get("client-key-data")),
        )

    def _flat_config(self) -> Json:
        """The kubeconfig's current context as one JSON document, with all files inlined."""
        config: Json = json.loads(self.kubectl("config", "view", "--minify", "--flatten", "--raw", "-o", "json"))
        return config

    def _data_file(self, name: str, data: str | None) -> Path | None:
        return write_private(self.folder / name, base64.b64decode(data).decode()) if data else None


def write_private(path: Path, text: str) -> Path:
    """Writes a file that only its owner can read, complete or not at all, and returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    scratch.replace(path)
    return path


def kubeconfig_text(url: str, ca: Path, token: str) -> str:
    """A kubeconfig as JSON, which is YAML too."""
    authority = base64.b64encode(ca.read_bytes()).decode()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "testbed", "cluster": {"server": url, "certificate-authority-data": authority}}],
        "users": [{"name": "testbed", "user": {"token": token}}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed"}}],
        "current-context": "testbed",
    }
    return json.dumps(config, indent=1)
