"""Places to keep evidence: a directory, and a bucket of moto's S3 server, which is a process of its own."""

from __future__ import annotations

import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlparse

import boto3
from botocore.config import Config

from paramedic.clients.evidence import Backend, EvidenceStore, Limits
from paramedic.clients.evidence_directory import DirectoryBackend
from paramedic.clients.evidence_s3 import S3Backend
from testbed.processes import Child


class Place(Protocol):
    """A backend, and a look behind it."""

    backend: Backend

    def read(self, uri: str) -> bytes: ...

    def names(self) -> list[str]:
        """Everything that lies there, finished or not."""

    def take_away(self) -> None: ...


@dataclass
class Directory:
    """A directory."""

    root: Path

    @property
    def backend(self) -> Backend:
        return DirectoryBackend(self.root)

    def read(self, uri: str) -> bytes:
        return Path(unquote(urlparse(uri).path)).read_bytes()

    def names(self) -> list[str]:
        return sorted(str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file())

    def take_away(self) -> None:
        shutil.rmtree(self.root)


@dataclass
class Bucket:
    """A bucket; `server` is the process behind it."""

    url: str
    server: Child
    name: str

    @property
    def backend(self) -> Backend:
        return S3Backend(self.name, "/cases/", region="eu-central-1", endpoint_url=self.url)

    @property
    def client(self) -> Any:
        return boto3.client(
            "s3", region_name="eu-central-1", endpoint_url=self.url, config=Config(retries={"total_max_attempts": 1})
        )

    def create(self) -> None:
        self.client.create_bucket(Bucket=self.name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})

    def read(self, uri: str) -> bytes:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        found: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return found

    def names(self) -> list[str]:
        stored = self.client.list_objects_v2(Bucket=self.name).get("Contents") or []
        unfinished = self.client.list_multipart_uploads(Bucket=self.name).get("Uploads") or []
        return sorted(one["Key"].removeprefix("cases/") for one in [*stored, *unfinished])

    def take_away(self) -> None:
        self.server.stop()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/moto-api/", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def opened(place: Place, limits: Limits | None = None) -> Iterator[EvidenceStore]:
    """A store in that place, closed at the end."""
    store = EvidenceStore(place.backend, limits)
    try:
        yield store
    finally:
        store.close()


def policy(**params: Any) -> dict[str, Any]:
    """A policy that captures evidence with these parameters."""
    return {
        "apiVersion": "paramedic.dev/v1alpha1",
        "kind": "RemediationPolicy",
        "metadata": {"name": "p"},
        "spec": {
            "match": {"incidents": {}},
            "target": {"name": "covet-app"},
            "steps": [{"name": "keep", "captureEvidence": params}],
        },
    }
