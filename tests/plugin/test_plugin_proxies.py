"""Proxies, as kubectl goes through them: which one, when none, and as whom."""

import base64
import http.server
import select
import socket
import ssl
from collections.abc import Iterator

import pytest

from paramedic.plugin import proxies
from paramedic.plugin.apiserver import ApiServer
from paramedic.plugin.failures import Exit, Failure
from paramedic.plugin.kubeconfig import Login
from paramedic.plugin.proxies import proxy_by_environment
from plugin.servers import serving
from testbed.certificates import make

PROXY = "http://proxy:3128"
EXCEPTIONS = (
    "foobar.com, .barbaz.net,*.wildcard.io,192.168.1.1,192.168.1.2:81,192.168.1.3:443,10.0.0.0/8,"
    "2001:db8::52:0:1,[2001:db8::52:0:2]:444,[2001:db8::52:0:3]:443,2002:db8:a::45/64,only.org:6443,:1,x/y,[::9]"
)


@pytest.mark.parametrize(
    ("host", "proxied"),
    [
        ("localhost:6443", False),
        ("127.0.0.1:6443", False),
        ("127.0.0.2", False),
        ("[::1]:6443", False),
        ("[::2]", True),
        ("192.168.1.1:6443", False),
        ("192.168.1.2", True),
        ("192.168.1.3", False),
        ("192.168.1.3:6443", True),
        ("192.168.1.4", True),
        ("10.250.0.2:6443", False),
        ("11.0.0.1", True),
        ("[2001:db8::52:0:1]", False),
        ("[2001:0db8:0::52:0:1]:6443", False),
        ("[2001:db8::52:0:2]", True),
        ("[2001:db8::52:0:3]", False),
        ("[2002:db8:a::123]:6443", False),
        ("[fe80::424b:c8be:1643:a1b6]", True),
        ("barbaz.net", True),
        ("www.barbaz.net:6443", False),
        ("foobar.com", False),
        ("FOOBAR.com", False),
        ("www.foobar.com", False),
        ("foofoobar.com", True),
        ("localhost.net", True),
        ("local.localhost", True),
        ("wildcard.io", True),
        ("nested.wildcard.io", False),
        ("awildcard.io", True),
        ("only.org:6443", False),
        ("only.org", True),
        ("a.only.org:6443", False),
    ],
)
def test_which_servers_lie_behind_the_proxy(host: str, proxied: bool) -> None:
    found = proxy_by_environment(f"https://{host}", {"HTTPS_PROXY": PROXY, "NO_PROXY": EXCEPTIONS})
    assert found == (PROXY if proxied else None)
    assert proxy_by_environment(f"https://{host}", {"HTTPS_PROXY": PROXY, "NO_PROXY": "a.b,*"}) is None


@pytest.mark.parametrize(
    ("environment", "server", "proxy"),
    [
        ({}, "https://a", None),
        ({"https_proxy": PROXY}, "https://a", PROXY),
        ({"HTTPS_PROXY": PROXY, "https_proxy": "http://other"}, "https://a", PROXY),
        ({"HTTPS_PROXY": "", "https_proxy": PROXY}, "https://a", PROXY),
        ({"HTTP_PROXY": PROXY}, "https://a", None),
        ({"HTTP_PROXY": PROXY}, "http://a", PROXY),
        ({"ALL_PROXY": PROXY}, "https://a", None),
        ({"HTTPS_PROXY": "proxy:3128"}, "https://a", PROXY),
        ({"HTTPS_PROXY": PROXY, "no_proxy": "a"}, "https://a", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "b", "no_proxy": "a"}, "https://a", PROXY),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "a:443"}, "https://a", None),
        ({"HTTPS_PROXY": PROXY, "NO_PROXY": "a:443"}, "https://a:6443", PROXY),
    ],
)
def test_which_variables_count(environment: dict[str, str], server: str, proxy: str | None) -> None:
    assert proxy_by_environment(server, environment) == proxy


class Tunnel(http.server.BaseHTTPRequestHandler):
    """Lets through, to one port of this machine, whoever has the password."""

    target: int
    asked_for: list[str]
    password = "user:p@ss wörd"

    def do_CONNECT(self) -> None:
        told = f"Basic {base64.b64encode(self.password.encode()).decode()}"
        if self.headers.get("Proxy-Authorization") != told:
            self.send_error(407)
            return
        self.asked_for.append(self.path)
        self.send_response(200)
        self.end_headers()
        with socket.create_connection(("127.0.0.1", self.target)) as there:
            _pump(self.connection, there)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Not on the tests' output."""


def _pump(one: socket.socket, other: socket.socket) -> None:
    ways = {one: other, other: one}
    while True:
        for side in select.select(list(ways), [], [])[0]:
            data = side.recv(65536)
            if not data:
                return
            ways[side].sendall(data)


class Hello(http.server.BaseHTTPRequestHandler):
    """An API server with one object."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Not on the tests' output."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, type[Tunnel]]]:
    """The CA of ``cluster.invalid``, which is reached only through a tunnel; and the tunnel's handler."""
    certificates = make(tmp_path_factory.mktemp("certificates"), "cluster.invalid")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate, certificates.key)
    with serving(Hello, context) as port:
        yield certificates.ca.read_text(), type("ToHello", (Tunnel,), {"target": port, "asked_for": []})


@pytest.mark.parametrize("by", ["kubeconfig", "environment"])
@pytest.mark.parametrize(("user", "let_in"), [("user:p%40ss%20w%C3%B6rd@", True), ("user:wrong@", False), ("", False)])
def test_a_proxy_that_wants_to_know_who_it_is(
    by: str, user: str, let_in: bool, authority: tuple[str, type[Tunnel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    ca, tunnel = authority
    tunnel.asked_for.clear()
    with serving(tunnel) as port:
        url = f"http://{user}127.0.0.1:{port}"
        monkeypatch.setenv("HTTPS_PROXY", url if by == "environment" else "http://127.0.0.1:9")
        login = Login("https://cluster.invalid:6443", authority=ca, proxy=url if by == "kubeconfig" else None)
        if let_in:
            assert ApiServer(login).request("GET", "/") == {}
        else:
            with pytest.raises(Failure, match="407") as failure:
                ApiServer(login).request("GET", "/")
            assert failure.value.code is Exit.NO_CLUSTER
            assert "wrong" not in str(failure.value)
    assert tunnel.asked_for == (["cluster.invalid:6443"] if let_in else [])


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("socks5://user:secret@127.0.0.1:9", "the proxy socks5://127.0.0.1:9 speaks SOCKS, .* pip install pysocks"),
        ("ftp://user:secret@127.0.0.1:9", "the proxy ftp://127.0.0.1:9 cannot be used: .*https://"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_said(proxy: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "find_spec", lambda _: None)
    with pytest.raises(Failure, match=words) as failure:
        ApiServer(Login("https://cluster.invalid", proxy=proxy)).request("GET", "/")
    assert failure.value.code is Exit.NO_CLUSTER
    assert "secret" not in str(failure.value)
