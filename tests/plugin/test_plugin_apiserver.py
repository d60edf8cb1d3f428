"""Logging in by a client certificate, a proxy in between, and what is no API server at all."""

import http.server
import json
import ssl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from paramedic.plugin.apiserver import ApiServer
from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.kubeconfig import Login
from plugin.servers import serving
from testbed.certificates import Certificates, make


class Who(http.server.BaseHTTPRequestHandler):
    """Says by which certificate and with which headers it is asked."""

    def do_GET(self) -> None:
        who = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
        said = {"who": who, "path": self.path, "headers": self.headers.items()}
        body = b"<html>" if self.path == "/html" else json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not on the tests' output."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def url(certificates: Certificates) -> Iterator[str]:
    """A server that lets in whoever has a certificate of its CA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    context.load_verify_locations(certificates.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    with serving(Who, context) as port:
        yield f"https://127.0.0.1:{port}"


def login(url: str, certificates: Certificates) -> Login:
    pem = (certificates.certificate.read_text(), certificates.key.read_text())
    return Login(url, authority=certificates.ca.read_text(), certificate=pem[0], key=pem[1])


def test_by_a_client_certificate_of_which_nothing_is_left_behind(
    url: str, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = ApiServer(login(url, certificates)).request("GET", "/")
    assert [("commonName", "server")] in [[tuple(pair) for pair in part] for part in answer["who"]["subject"]]
    assert list(tmp_path.iterdir()) == []


def test_as_whom_somebody_asks() -> None:
    extra = {"acme.com/Project": ("one", "two"), "50%": ("x",)}
    with serving(Who) as port:
        login = Login(f"http://127.0.0.1:{port}", impersonate="alice", uid="u-1", groups=("ops", "dev"), extra=extra)
        sent = ApiServer(login).request("GET", "/")["headers"]
    assert [pair for pair in sent if pair[0].startswith("Impersonate")] == [
        ["Impersonate-User", "alice"],
        ["Impersonate-Uid", "u-1"],
        ["Impersonate-Group", "ops"],
        ["Impersonate-Group", "dev"],
        ["Impersonate-Extra-acme.com%2Fproject", "one"],
        ["Impersonate-Extra-acme.com%2Fproject", "two"],
        ["Impersonate-Extra-50%25", "x"],
    ]


def test_a_key_that_cannot_be_used(url: str, certificates: Certificates) -> None:
    broken = Login(url, authority=certificates.ca.read_text(), certificate="x", key="y")
    with pytest.raises(Failure, match="a certificate or key of the kubeconfig cannot be used") as failure:
        ApiServer(broken).request("GET", "/")
    assert failure.value.code is Exit.NO_CLUSTER


def test_what_answers_is_no_api_server(url: str, certificates: Certificates) -> None:
    with pytest.raises(Failure, match="not a Kubernetes API server"):
        ApiServer(login(url, certificates)).request("GET", "/html")


@pytest.mark.parametrize("how", ["kubeconfig", "environment"])
def test_a_proxy_between(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with serving(Who) as port:
        proxy = f"http://127.0.0.1:{port}"
        monkeypatch.setenv("http_proxy", "" if how == "kubeconfig" else proxy)
        login = Login("http://cluster.invalid", proxy=proxy if how == "kubeconfig" else None)
        assert ApiServer(login).request("GET", "/x")["path"] == "http://cluster.invalid/x"
