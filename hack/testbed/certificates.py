"""A CA and a server's certificate for 127.0.0.1 and localhost, made with the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """PEM files; `ca` is what a client has to trust."""

    ca: Path
    certificate: Path
    key: Path


def make(folder: Path, *names: str) -> Certificates:
    """Makes them in `folder`, for the DNS names (default: localhost) and 127.0.0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Certificates(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    alternatives = ",".join([*(f"DNS:{name}" for name in names or ("localhost",)), "IP:127.0.0.1"])
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    ca_key = folder / "ca.key"
    _openssl("req", "-x509", *curve, "-subj", "/CN=test CA", "-keyout", ca_key, "-out", made.ca)
    own = ["-addext", f"subjectAltName={alternatives}", "-addext", "basicConstraints=critical,CA:FALSE"]
    signed: list[str | Path] = ["-CA", made.ca, "-CAkey", ca_key, "-subj", "/CN=server"]
    _openssl("req", "-x509", *curve, *signed, *own, "-keyout", made.key, "-out", made.certificate)
    return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
