"""Which server and which user the kubeconfig means, as kubectl would have it."""

import base64
import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from paramedic.plugin.credentials import Credentials, credentials_of
from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.kubeconfig import Chosen, Login, load_login

Json = dict[str, Any]


def config(server: str = "https://a", user: Json | None = None, **more: Any) -> Json:
    return {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user or {"token": "t"}}],
    } | more


def write(path: Path, content: Json) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without a kubeconfig of the person who runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return tmp_path


def failed(**chosen: Any) -> str:
    with pytest.raises(Failure) as failure:
        load_login(Chosen(**chosen))
    assert failure.value.code is Exit.NO_CLUSTER
    return str(failure.value)


def test_the_one_at_home_is_the_default(home: Path) -> None:
    write(home / ".kube" / "config", config())
    assert load_login(Chosen()) == Login("https://a", token="t")


def test_the_variable_names_several_and_the_first_that_says_something_wins(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(
        home / "one", {"contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "n"}}]}
    )
    second = write(home / "two", config("https://b"))
    monkeypatch.setenv("KUBECONFIG", f"{home / 'missing'}:{first}:{second}")
    assert load_login(Chosen()) == Login("https://b", namespace="n", token="t")


def test_the_command_line_wins(home: Path) -> None:
    contexts = config()["contexts"] + [{"name": "d", "context": {"cluster": "k", "user": "u", "namespace": "n"}}]
    path = str(write(home / "x", config(contexts=contexts)))
    assert load_login(Chosen(path, "d")).namespace == "n"
    login = load_login(Chosen(path, "d", "m", "alice", ("ops", "dev")))
    assert (login.namespace, login.impersonate, login.groups) == ("m", "alice", ("ops", "dev"))


def test_files_lie_where_the_kubeconfig_lies(home: Path) -> None:
    user = {"client-certificate": "c.pem", "client-key-data": base64.b64encode(b"KEY").decode(), "tokenFile": "token"}
    path = write(home / "deep" / "x", config(user=user))
    (home / "deep" / "c.pem").write_text("CERTIFICATE")
    (home / "deep" / "token").write_text("t\n")
    login = load_login(Chosen(str(path)))
    assert credentials_of(login) == Credentials("t", "CERTIFICATE", "KEY")


def test_files_that_are_not_there_are_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"there is no file {home / '.kube' / 'config'}; name a kubeconfig" in failed()
    monkeypatch.setenv("KUBECONFIG", f"/nonexistent/a:{home / 'b'}")
    for chosen in ({}, {"context": "c"}):
        assert f"there is no file /nonexistent/a and {home / 'b'}; name a kubeconfig" in failed(**chosen)
    write(home / "b", {})
    assert "no current context" in failed()


def test_what_cannot_be_used_is_said(home: Path) -> None:
    assert "is not a file" in failed(kubeconfig=str(home / "missing"))
    path = str(write(home / "x", config()))
    assert "there is no context 'd'; there are: c" in failed(kubeconfig=path, context="d")
    (home / "broken").write_text("a: [")
    assert "cannot be read as a kubeconfig" in failed(kubeconfig=str(home / "broken"))
    old = write(home / "old", config(user={"auth-provider": {"name": "gcp"}}))
    assert "use an exec plugin" in failed(kubeconfig=str(old))
    bad = write(home / "bad", config(user={"client-certificate": "gone.pem"}))
    assert "client-certificate cannot be read" in failed(kubeconfig=str(bad))


def test_as_whom_the_kubeconfig_asks(home: Path) -> None:
    user = {
        "as": "alice",
        "as-uid": "u-1",
        "as-groups": ["ops"],
        "as-user-extra": {"project": ["a", "b"], "none": None},
    }
    login = load_login(Chosen(str(write(home / "x", config(user=user)))))
    assert (login.impersonate, login.uid, login.groups) == ("alice", "u-1", ("ops",))
    assert login.extra == {"project": ("a", "b"), "none": ()}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("[]", "it must be a mapping, and is a list"),
        ("just text", "it must be a mapping, and is a text"),
        ("current-context: [c]", "current-context must be a text, and is a list"),
        ("clusters: {k: {server: https://a}}", "clusters must be a list, and is a mapping"),
        ("clusters: [k]", r"clusters\[0\] must be a mapping, and is a text"),
        ("clusters: [null]", r"clusters\[0\] is empty"),
        ("clusters: [{cluster: {server: https://a}}]", r"clusters\[0\] has no name"),
        ("clusters: [{name: [k], cluster: {}}]", r"clusters\[0\].name must be a text, and is a list"),
        ("clusters: [{name: k, cluster: https://a}]", r"clusters\[0\].cluster must be a mapping, and is a text"),
        (
            "clusters: [{name: k, cluster: {server: 5}}]",
            r"clusters\[0\].cluster.server must be a text, and is a number",
        ),
        ("clusters: [{name: k, cluster: {extensions: [1]}}]", r"cluster.extensions\[0\] must be a mapping"),
        ("clusters: [{name: k, cluster: {certificate-authority: 5}}]", "certificate-authority must be a text"),
        ("contexts: [{name: c, context: {cluster: [k]}}]", r"contexts\[0\].context.cluster must be a text"),
        ("users: [{name: u, user: {token: 12345}}]", r"users\[0\].user.token must be a text, and is a number"),
        ("users: [{name: u, user: {as-groups: ops}}]", "as-groups must be a list, and is a text"),
        ("users: [{name: u, user: {as-user-extra: {p: x}}}]", "as-user-extra.p must be a list, and is a text"),
        ("users: [{name: u, user: {as-user-extra: {1: [x]}}}]", "as-user-extra must be a text"),
        ("users: [{name: u, user: {exec: login}}]", "exec must be a mapping, and is a text"),
        ("users: [{name: u, user: {exec: {command: x, env: [{value: y}]}}}]", r"exec.env\[0\] has no name"),
        ("users: [{name: u, user: {exec: {command: x, args: [null]}}}]", r"exec.args\[0\] is empty"),
    ],
)
def test_what_is_no_kubeconfig_is_said_with_its_place(home: Path, changed: str, words: str) -> None:
    (home / "x").write_text(changed)
    said = failed(kubeconfig=str(home / "x"))
    assert said.startswith(f"{home / 'x'} is not a kubeconfig: ")
    assert re.search(words, said)


def test_lists_that_are_null_say_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"clusters": None, "users": None, "contexts": None, "current-context": None}
    empty = write(home / "x", nothing)
    assert "no current context" in failed(kubeconfig=str(empty))
    cluster, user = {"server": "https://a", "extensions": None}, {"token": "t", "as-groups": None, "exec": None}
    full = config(user=user, clusters=[{"name": "k", "cluster": cluster}])
    monkeypatch.setenv("KUBECONFIG", f"{empty}:{write(home / 'y', full)}")
    assert load_login(Chosen()) == Login("https://a", token="t")


def plugin_script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_login_plugin_is_told_what_kubectl_tells_it(home: Path) -> None:
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "fresh"}}
    body = f"echo \"$KUBERNETES_EXEC_INFO\" > {home / 'told'}\necho '{json.dumps(answer)}' | sed s/fresh/$1-$WHO/"
    plugin_script(home / "login", body)
    plugin = {
        "apiVersion": answer["apiVersion"],
        "command": "./login",
        "args": ["for"],
        "env": [{"name": "WHO", "value": "alice"}],
        "provideClusterInfo": True,
        "interactiveMode": "Never",
    }
    path = write(home / "x", config("https://a", {"exec": plugin}))
    assert credentials_of(load_login(Chosen(str(path)))).token == "for-alice"
    told = json.loads((home / "told").read_text())
    assert told == {
        "apiVersion": answer["apiVersion"],
        "kind": "ExecCredential",
        "spec": {"interactive": False, "cluster": {"server": "https://a"}},
    }


def test_a_login_plugin_is_told_of_the_cluster_as_kubectl_tells_it(home: Path) -> None:
    plugin_script(home / "login", f'echo "$KUBERNETES_EXEC_INFO" > {home / "told"}; echo \'{{"status": {{}}}}\'')
    (home / "ca.pem").write_text("CA")
    plugin = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "./login", "provideClusterInfo": True}
    cluster = {
        "server": "https://a",
        "certificate-authority": "ca.pem",
        "insecure-skip-tls-verify": True,
        "tls-server-name": "b",
        "proxy-url": "http://proxy",
        "extensions": [
            {"name": "other", "extension": 1},
            {"name": "client.authentication.k8s.io/exec", "extension": {"audience": "c", "since": "@"}},
        ],
    }
    content = yaml.safe_dump(config(user={"exec": plugin}, clusters=[{"name": "k", "cluster": cluster}]))
    (home / "x").write_text(content.replace("'@'", "2024-01-15"))
    credentials_of(load_login(Chosen(str(home / "x"))))
    assert json.loads((home / "told").read_text())["spec"]["cluster"] == {
        "server": "https://a",
        "certificate-authority-data": base64.b64encode(b"CA").decode(),
        "insecure-skip-tls-verify": True,
        "tls-server-name": "b",
        "proxy-url": "http://proxy",
        "config": {"audience": "c", "since": "2024-01-15"},
    }


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit 3", "the kubeconfig's login plugin failed"),
        ("echo hello", "did not answer with an ExecCredential"),
        (None, "which is not installed: get it from the intranet"),
    ],
)
def test_a_login_plugin_that_fails(home: Path, body: str | None, words: str) -> None:
    script = home / "login"
    if body:
        plugin_script(script, body)
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(script),
        "installHint": "get it from the intranet",
    }
    with pytest.raises(Failure, match=words):
        credentials_of(Login("https://a", exec_plugin=plugin))
