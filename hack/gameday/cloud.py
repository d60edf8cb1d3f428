"""AWS as game days have it: moto's server, on an address that pods reach, behind a layer that notes each request.

    with Cloud(folder, host) as cloud:
        cloud.client("s3").create_bucket(...)     # what the day itself does
        cloud.asked                               # by whom, what, when, and what was answered

What is played: moto keeps an account's state and answers as AWS' API does, but it has no machines. What AWS would then
do to those (a writer that moves, a rule that turns an address away) whoever plays the day does, following moto's state.
What is kept in S3 is really kept. Credentials are not checked: they only tell who asked.
"""

from __future__ import annotations

import http.client
import re
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.config import Config

from testbed.ports import Ports
from testbed.processes import Child, spawn, wait_until

REGION = "eu-west-1"
BUCKET = "covet-evidence"
PARAMEDIC_KEYS = {"AWS_ACCESS_KEY_ID": "AKIAPARAMEDIC0000001", "AWS_SECRET_ACCESS_KEY": "played"}
"""What Paramedic's pods have in their environment; AWS' default chain finds it there."""
_OWN_KEY = "AKIAGAMEDAY000000001"
_START_SECONDS = 60.0
_ANSWER_SECONDS = 30.0
_SCOPE = re.compile(r"Credential=(?P<key>[^/]+)/\d+/[^/]+/(?P<service>[^/]+)/aws4_request")
_PASSED_ON = ("content-type", "etag", "last-modified", "smithy-protocol", "location", "content-range")
_NO_BODY = (204, 304)
_OBJECTS = {  # S3 says by method and parameters what others say by name
    ("POST", "uploads"): "CreateMultipartUpload",
    ("PUT", "partNumber"): "UploadPart",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("GET", "list-type"): "ListObjectsV2",
    ("PUT", ""): "PutObject",
    ("GET", ""): "GetObject",
    ("HEAD", ""): "HeadObject",
    ("DELETE", ""): "DeleteObject",
}


@dataclass(frozen=True)
class Asked:
    """One request to AWS that was answered."""

    at: float
    """When it came (`time.time`)."""
    by_paramedic: bool
    service: str
    action: str
    """As in IAM and the API's reference: FailoverDBCluster, PutObject."""
    arguments: Mapping[str, str]
    """Of the query protocol (RDS, EC2, load balancers); none of the others."""
    path: str
    status: int

    @property
    def reads(self) -> bool:
        """Whether it changes nothing, by its name."""
        return self.action.startswith(("Describe", "Get", "List", "Head"))


class Cloud:
    """One account. `host` is this machine's address as pods reach it; `folder` is for moto's log."""

    def __init__(self, folder: Path, host: str) -> None:
        self._folder = folder
        self._host = host
        self._ports = Ports()
        self._moto: Child | None = None
        self._moto_port = 0
        self._layer: _Layer | None = None
        self._clients: dict[str, Any] = {}
        self.asked: list[Asked] = []
        self.shaped: dict[str, Callable[[bytes], bytes]] = {}
        """By action, what becomes of moto's answer where moto knows less than AWS."""
        self.url = ""
        """The endpoint of every service, for pods and for this machine."""
        self.volume = ""
        """The EBS volume that covet's database would have, were it on a machine of AWS'."""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def client(self, service: str) -> Any:
        """boto3's, for what the day itself does: `asked` tells it from Paramedic."""
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,
                region_name=REGION,
                endpoint_url=self.url,
                aws_access_key_id=_OWN_KEY,
                aws_secret_access_key="played",  # noqa: S106
                config=Config(proxies={}),
            )
        return self._clients[service]

    def by_paramedic(self, since: float) -> list[Asked]:
        """What Paramedic has asked for since then (`time.time`), in the order of the answers."""
        return [one for one in self.asked if one.by_paramedic and one.at >= since]

    def changed(self, since: float) -> list[Asked]:
        """What it was granted of that and does not only read."""
        return [one for one in self.by_paramedic(since) if one.status < 300 and not one.reads]

    def _start(self) -> None:
        self._moto_port = self._ports.reserve()
        argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._moto_port)]
        self._moto = spawn("moto", argv, self._folder / "moto.log")
        wait_until(self._moto_answers, "moto's server", _START_SECONDS, [self._moto])
        self._layer = _Layer((self._host, self._ports.reserve()), self._moto_port, self)
        self.url = f"http://{self._host}:{self._layer.server_port}"
        threading.Thread(target=self._layer.serve_forever, name="cloud", daemon=True).start()
        self.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        volume = self.client("ec2").create_volume(AvailabilityZone=f"{REGION}a", Size=1, VolumeType="gp3")
        self.volume = str(volume["VolumeId"])

    def _close(self) -> None:
        if self._layer:
            self._layer.shutdown()
            self._layer.server_close()
        if self._moto:
            self._moto.stop()
        self._ports.release()

    def _moto_answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self._moto_port}/moto-api/", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


class _Layer(ThreadingHTTPServer):
    """Hands each request on to moto, and notes it before the answer goes back."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], moto_port: int, cloud: Cloud) -> None:
        super().__init__(address, _Handler)
        self.moto_port = moto_port
        self.cloud = cloud


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Layer

    def _answer(self) -> None:
        at = time.time()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, answer = self._forward(body)
        asked = _asked(self, body, at, status)
        self.server.cloud.asked.append(asked)
        if status == HTTPStatus.OK and (shape := self.server.cloud.shaped.get(asked.action)):
            answer = shape(answer)
            headers["Content-Length"] = str(len(answer))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815  # http.server's names

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.moto_port, timeout=_ANSWER_SECONDS)
        try:
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
            kept = {k: v for k, v in answer.getheaders() if k.lower() in _PASSED_ON or k.lower().startswith("x-amz")}
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
            if length is not None and answer.status not in _NO_BODY:
                kept["Content-Length"] = length
            return answer.status, kept, content
        finally:
            connection.close()

    def log_message(self, *_: Any) -> None:
        """Moto has a log."""


def _asked(request: BaseHTTPRequestHandler, body: bytes, at: float, status: int) -> Asked:
    scope = _SCOPE.search(request.headers.get("Authorization") or "")
    service = scope["service"] if scope else ""
    fields = {k: v[0] for k, v in parse_qs(body.decode(errors="replace")).items()} if service != "s3" else {}
    named = fields.get("Action") or (request.headers.get("X-Amz-Target") or request.path).rpartition("/")[2]
    return Asked(
        at=at,
        by_paramedic=scope is not None and scope["key"] == PARAMEDIC_KEYS["AWS_ACCESS_KEY_ID"],
        service=service,
        action=action_of(request.command, request.path) if service == "s3" else named.rpartition(".")[2],
        arguments=fields,
        path=request.path,
        status=status,
    )


def action_of(method: str, path: str) -> str:
    """What a request to S3 is called; method and path for what is not known here."""
    parts = urlsplit(path)
    parameters = parse_qs(parts.query, keep_blank_values=True)
    for (wanted, parameter), name in _OBJECTS.items():
        if method == wanted and (parameter in parameters or (not parameter and parts.path.count("/") > 1)):
            return name
    return f"{method} {parts.path}"
