"""The user's kubeconfig: which server, and by what it is told who asks.

Read here and not by ``kubernetes.aio``, whose import alone takes longer than all of a command. The format is that of
https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/; the old ``auth-provider`` entries are refused.
"""

import base64
import binascii
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.shapes import KUBECONFIG, check

Json = dict[str, Any]
_SECTIONS = {"clusters": "cluster", "users": "user", "contexts": "context"}
_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
_TOLD = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url", "disable-compression")
_EXEC_EXTENSION = "client.authentication.k8s.io/exec"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the command line says instead of the kubeconfig."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None
    impersonate: str | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Login:
    """One server and one user. Certificates and keys are PEM; of the three ways to log in more than one may be set."""

    server: str
    namespace: str = "default"
    authority: str | None = None
    verify: bool = True
    server_name: str | None = None
    proxy: str | None = None
    token: str | None = None
    token_file: str | None = None
    certificate: str | None = None
    key: str | None = None
    exec_plugin: Json | None = None
    impersonate: str | None = None
    uid: str | None = None
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of the user that is impersonated, as ``uid`` and ``groups`` are."""


def load_login(chosen: Chosen) -> Login:
    """The context that is chosen, else the current one. Raises Failure when there is none that can be used."""
    paths = _paths(chosen)
    config = _merged(paths)
    name = chosen.context or config["current-context"]
    where = " or ".join(str(path) for path in paths)
    if not name:
        raise Failure(Exit.NO_CLUSTER, f"no cluster to talk to: {where} has no current context; set KUBECONFIG")
    context = _entry(config, "contexts", name, where)
    cluster = _entry(config, "clusters", str(context.get("cluster") or ""), where)
    user = _entry(config, "users", str(context["user"]), where) if context.get("user") else {}
    return _login(chosen, context, cluster, user)


def _paths(chosen: Chosen) -> list[Path]:
    if chosen.kubeconfig:
        path = Path(chosen.kubeconfig)
        if not path.is_file():
            raise Failure(Exit.NO_CLUSTER, f"{path} is not a file: --kubeconfig names a kubeconfig")
        return [path]
    named = [Path(part) for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    return named or [Path.home() / ".kube" / "config"]


def _merged(paths: Sequence[Path]) -> Json:
    """As kubectl merges files: the first that says something wins, and a file that is not there says nothing. Raises
    Failure when none is there.
    """
    merged: Json = {"current-context": ""} | {section: {} for section in _SECTIONS}
    files = [(path, raw) for path in paths if (raw := _read(path)) is not None]
    if not files:
        where = " and ".join(str(path) for path in paths)
        text = f"no cluster to talk to: there is no file {where}; name a kubeconfig by KUBECONFIG or --kubeconfig"
        raise Failure(Exit.NO_CLUSTER, text)
    for path, raw in files:
        merged["current-context"] = merged["current-context"] or raw.get("current-context") or ""
        for section, singular in _SECTIONS.items():
            for entry in raw.get(section) or []:
                merged[section].setdefault(entry["name"], _rooted(entry.get(singular) or {}, path.parent))
    return merged


def _read(path: Path) -> Json | None:
    """None when it is not there."""
    try:
        raw = yaml.load(path.read_text("utf-8"), Loader=_LOADER)  # noqa: S506 - a safe loader
    except FileNotFoundError:
        return None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Failure(Exit.NO_CLUSTER, f"{path} cannot be read as a kubeconfig: {error}") from error
    try:
        check(raw, KUBECONFIG)
    except ValueError as error:
        raise Failure(Exit.NO_CLUSTER, f"{path} is not a kubeconfig: {error}") from error
    return raw or {}


def _rooted(entry: Json, folder: Path) -> Json:
    """With the paths in it relative to the file that they stand in."""
    rooted = {key: str(folder / entry[key]) for key in _FILES if entry.get(key)}
    plugin = entry.get("exec")
    if plugin and os.sep in str(plugin.get("command", "")):
        rooted["exec"] = plugin | {"command": str(folder / plugin["command"])}
    return entry | rooted


def _entry(config: Json, section: str, name: str, where: str) -> Json:
    if name not in config[section]:
        known = ", ".join(config[section]) or "none"
        raise Failure(Exit.NO_CLUSTER, f"{where}: there is no {_SECTIONS[section]} {name!r}; there are: {known}")
    entry: Json = config[section][name]
    return entry


def _login(chosen: Chosen, context: Json, cluster: Json, user: Json) -> Login:
    if not cluster.get("server"):
        raise Failure(Exit.NO_CLUSTER, f"the cluster {context.get('cluster')!r} of the kubeconfig has no server")
    if user.get("auth-provider"):
        text = "the kubeconfig logs in by an auth-provider, which kubectl has given up: use an exec plugin (kubelogin)"
        raise Failure(Exit.NO_CLUSTER, text)
    authority = _pem(cluster, "certificate-authority")
    return Login(
        server=cluster["server"].rstrip("/"),
        namespace=chosen.namespace or context.get("namespace") or "default",
        authority=authority,
        verify=not cluster.get("insecure-skip-tls-verify"),
        server_name=cluster.get("tls-server-name"),
        proxy=cluster.get("proxy-url"),
        token=user.get("token"),
        token_file=user.get("tokenFile"),
        certificate=_pem(user, "client-certificate"),
        key=_pem(user, "client-key"),
        exec_plugin=_exec_plugin(user.get("exec"), cluster, authority),
        impersonate=chosen.impersonate or user.get("as"),
        uid=user.get("as-uid"),
        groups=chosen.groups or tuple(user.get("as-groups") or ()),
        extra={key: tuple(values or ()) for key, values in (user.get("as-user-extra") or {}).items()},
    )


def _pem(entry: Json, key: str) -> str | None:
    """Inline data wins over a file."""
    try:
        if data := entry.get(f"{key}-data"):
            return base64.b64decode(data).decode()
        return Path(entry[key]).read_text("utf-8") if entry.get(key) else None
    except (OSError, ValueError, binascii.Error) as error:
        raise Failure(Exit.NO_CLUSTER, f"the kubeconfig's {key} cannot be read: {error}") from error


def _exec_plugin(plugin: Json | None, cluster: Json, authority: str | None) -> Json | None:
    """The plugin, with what it may be told of the cluster."""
    if plugin is None:
        return None
    return plugin | ({"cluster": _told(cluster, authority)} if plugin.get("provideClusterInfo") else {})


def _told(cluster: Json, authority: str | None) -> Json:
    """An ExecCredential's ``spec.cluster``: as the kubeconfig has it, but with the CA itself instead of its file."""
    told = {key: cluster[key] for key in _TOLD if cluster.get(key)}
    if authority:
        told["certificate-authority-data"] = base64.b64encode(authority.encode()).decode()
    for one in cluster.get("extensions") or []:
        if one["name"] == _EXEC_EXTENSION:
            told["config"] = one.get("extension")
    return told
