"""What proves who asks: a token, or a client certificate, from the kubeconfig or from the plugin that it names.

The protocol of plugins: https://kubernetes.io/docs/reference/config-api/client-authentication.v1/.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.kubeconfig import Json, Login

_PATIENCE_SECONDS = 120.0
"""A login may open a browser."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A bearer token, a client certificate with its key (PEM), or both."""

    token: str | None = None
    certificate: str | None = None
    key: str | None = None


def credentials_of(login: Login) -> Credentials:
    """Asks the plugin, where the kubeconfig names one. Raises Failure when there are none to be had."""
    if login.exec_plugin:
        return _from_plugin(login.exec_plugin)
    token = login.token
    if login.token_file:
        try:
            token = Path(login.token_file).read_text("utf-8").strip()
        except OSError as error:
            raise Failure(Exit.NO_CLUSTER, f"the kubeconfig's tokenFile cannot be read: {error}") from error
    return Credentials(token, login.certificate, login.key)


def _from_plugin(plugin: Json) -> Credentials:
    said = _run(plugin)
    try:
        status = json.loads(said)["status"]
        return Credentials(status.get("token"), status.get("clientCertificateData"), status.get("clientKeyData"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = f"the kubeconfig's login plugin {plugin['command']} did not answer with an ExecCredential"
        raise Failure(Exit.NO_CLUSTER, text) from error


def _run(plugin: Json) -> str:
    """The plugin's output. What it tells people goes to standard error, as it does under kubectl."""
    command, arguments = str(plugin.get("command") or ""), [str(one) for one in plugin.get("args") or []]
    interactive = plugin.get("interactiveMode") != "Never" and sys.stdin is not None and sys.stdin.isatty()
    own = {one["name"]: one.get("value") or "" for one in plugin.get("env") or []}
    try:
        return subprocess.run(  # noqa: S603 - the user's own kubeconfig says what logs the user in
            [command, *arguments],
            env={**os.environ, **own, "KUBERNETES_EXEC_INFO": _told(plugin, interactive=interactive)},
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=True,
        ).stdout
    except FileNotFoundError as error:
        hint = plugin.get("installHint") or "install it, or choose another context with --context"
        text = f"the kubeconfig logs in with {command}, which is not installed: {hint}"
        raise Failure(Exit.NO_CLUSTER, text) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise Failure(Exit.NO_CLUSTER, f"the kubeconfig's login plugin failed: {error}") from error


def _told(plugin: Json, *, interactive: bool) -> str:
    """An ExecCredential. YAML's dates, which may be in the plugin's own configuration, are texts for it."""
    spec = {"interactive": interactive} | ({"cluster": plugin["cluster"]} if "cluster" in plugin else {})
    credential = {"apiVersion": plugin.get("apiVersion"), "kind": "ExecCredential", "spec": spec}
    return json.dumps(credential, default=str)
