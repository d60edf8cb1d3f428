"""Writes an OCI image layout (image-spec v1.1) as one tar file."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Json = dict[str, Any]

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MEDIA = "application/vnd.oci.image"


@dataclass(frozen=True)
class Runs:
    """What a container of the image does by default."""

    entrypoint: Sequence[str]
    arguments: Sequence[str] = ()
    user: str = "65532:65532"
    folder: str = "/"
    environment: dict[str, str] = field(default_factory=dict)

    def config(self) -> Json:
        return {
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.arguments),
            "User": self.user,
            "WorkingDir": self.folder,
            "Env": [f"{name}={value}" for name, value in self.environment.items()],
        }


def write_layer(root: Path, target: Path) -> Path:
    """Packs a folder's content as a layer: everything belongs to root, and the same content makes the same bytes."""
    with (
        gzip.GzipFile(target, "wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as layer,
    ):
        for path in sorted(root.rglob("*")):
            layer.add(path, str(path.relative_to(root)), recursive=False, filter=_anonymous)
    return target


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def write_image(target: Path, names: Sequence[str], layers: Sequence[Path], runs: Runs) -> Path:
    """Puts layers together; the image carries each of the full `names` ("docker.io/local/app:1")."""
    digests = [_digest(layer) for layer in layers]
    config = {
        "os": "linux",
        "architecture": ARCHITECTURES[platform.machine()],
        "config": runs.config(),
        "rootfs": {"type": "layers", "diff_ids": [_unpacked_digest(layer) for layer in layers]},
    }
    config_blob = _blob(config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}.manifest.v1+json",
        "config": _described(f"{_MEDIA}.config.v1+json", config_blob),
        "layers": [
            {"mediaType": f"{_MEDIA}.layer.v1.tar+gzip", "digest": digest, "size": layer.stat().st_size}
            for digest, layer in zip(digests, layers, strict=True)
        ],
    }
    manifest_blob = _blob(manifest)
    described = _described(f"{_MEDIA}.manifest.v1+json", manifest_blob)
    manifests = [{**described, "annotations": {"io.containerd.image.name": name}} for name in names]
    with tarfile.open(target, "w") as image:
        _add(image, "oci-layout", _blob({"imageLayoutVersion": "1.0.0"}))
        _add(image, "index.json", _blob({"schemaVersion": 2, "manifests": manifests}))
        for blob in (config_blob, manifest_blob):
            _add(image, _place(_sha256(blob)), blob)
        for digest, layer in zip(digests, layers, strict=True):
            image.add(layer, _place(digest))
    return target


def _described(media_type: str, blob: bytes) -> Json:
    return {"mediaType": media_type, "digest": _sha256(blob), "size": len(blob)}


def _blob(document: Json) -> bytes:
    return json.dumps(document).encode()


def _sha256(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def _unpacked_digest(layer: Path) -> str:
    """By which a runtime knows what it has unpacked, however it was packed."""
    with gzip.open(layer) as content:
        return f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
