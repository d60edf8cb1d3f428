"""The pure parts: manifests without secrets, hexadecimal dumps made captures, the bounded list on the status."""

from __future__ import annotations

import copy
import json
import random
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from paramedic.api.incident import Evidence
from paramedic.core.evidence import SHOWN_AT_MOST, joined
from paramedic.core.manifests import secret_references, without_secrets
from paramedic.core.pcap import HexDump

Json = dict[str, Any]
SECRETS = [
    "hunter2-env",
    "hunter2-arg",
    "hunter2-word",
    "hunter2-url",
    "hunter2-data",
    "hunter2-file",
    "hunter2-annotation",
    "hunter2 with blanks",
    "hunter2-header",
    "hunter2-applied",
    "aHVudGVyMg==",
]
POD: Json = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "covet-app-1",
        "labels": {"app": "covet"},
        "annotations": {
            "kubectl.kubernetes.io/last-applied-configuration": '{"env":[{"name":"X","value":"hunter2-applied"}]}',
            "vendor.example/api-token": "hunter2-annotation",
            "kubernetes.io/change-cause": "image covet:2",
        },
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:password": {}}}}],
    },
    "spec": {
        "serviceAccountName": "covet",
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "main",
                "image": "covet:2",
                "command": ["serve", "--password=hunter2-arg", "--token", "hunter2-word", "--port", "8080"],
                "env": [
                    {"name": "DB_PASSWORD", "value": "hunter2-env"},
                    {"name": "PASSPHRASE", "value": "hunter2 with blanks"},
                    {"name": "DATABASE_URL", "value": "postgres://covet:hunter2-url@db.example/covet"},
                    {"name": "LOG_LEVEL", "value": "debug"},
                    {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "covet-secrets", "key": "key"}}},
                ],
                "envFrom": [{"secretRef": {"name": "covet-env"}}],
                "livenessProbe": {
                    "httpGet": {"path": "/", "httpHeaders": [{"name": "Authorization", "value": "hunter2-header"}]}
                },
            }
        ],
        "volumes": [
            {"name": "tls", "secret": {"secretName": "covet-tls", "items": [{"key": "tls.crt", "path": "crt"}]}},
            {"name": "all", "projected": {"sources": [{"secret": {"name": "covet-projected"}}]}},
        ],
        "imagePullSecrets": [{"name": "registry"}],
    },
}
CONFIG: Json = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "covet-config"},
    "data": {
        "DB_HOST": "db.example",
        "DB_PASSWORD": "hunter2-data",
        "application.properties": "port=8080\nspring.datasource.password=hunter2-file\nthreads=4\n",
    },
    "binaryData": {"signing-key": "aHVudGVyMg=="},
}
INGRESS: Json = {"kind": "Ingress", "metadata": {"name": "i"}, "spec": {"tls": [{"secretName": "covet-ingress-tls"}]}}


@pytest.mark.parametrize("manifest", [POD, CONFIG], ids=["Pod", "ConfigMap"])
def test_no_secret_is_left(manifest: Json) -> None:
    before = copy.deepcopy(manifest)
    text = json.dumps(without_secrets(manifest))
    assert [secret for secret in SECRETS if secret in text] == []
    assert manifest == before


def test_everything_else_is() -> None:
    pod, config = without_secrets(POD), without_secrets(CONFIG)
    container, given = pod["spec"]["containers"][0], POD["spec"]["containers"][0]
    assert container["command"] == ["serve", "--password=***", "--token", "***", "--port", "8080"]
    assert container["env"][0] == {"name": "DB_PASSWORD", "value": "***"}
    assert container["env"][2]["value"] == "postgres://***@db.example/covet"
    assert container["env"][3:] == given["env"][3:]
    assert container["envFrom"] == given["envFrom"]
    for key in ("serviceAccountName", "automountServiceAccountToken", "volumes", "imagePullSecrets"):
        assert pod["spec"][key] == POD["spec"][key]
    assert pod["metadata"]["managedFields"] == POD["metadata"]["managedFields"]
    assert pod["metadata"]["annotations"]["kubernetes.io/change-cause"] == "image covet:2"
    assert config["data"]["DB_HOST"] == "db.example"
    assert config["data"]["application.properties"] == "port=8080\nspring.datasource.password=***\nthreads=4\n"


def test_what_manifests_say_of_secrets_is_found() -> None:
    assert sorted({*secret_references(POD), *secret_references(INGRESS)}) == [
        ("covet-env", ""),
        ("covet-ingress-tls", ""),
        ("covet-projected", ""),
        ("covet-secrets", "key"),
        ("covet-tls", "tls.crt"),
        ("registry", ""),
    ]
    assert list(secret_references(CONFIG)) == []


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"metadata": None},
        {"metadata": {"name": 3, "annotations": None}},
        {"spec": {"secret": "x", "secretRef": [], "imagePullSecrets": [None, {}, "x"]}},
        {"spec": {"env": [{"name": None, "value": 3}, {"name": "PASSWORD"}]}},
        {"data": {"a": None}},
    ],
)
def test_odd_shapes_are_taken_as_they_are(odd: Json) -> None:
    assert without_secrets(odd) == odd
    assert list(secret_references(odd)) == []


# -- captures ----------------------------------------------------------------------------------------------------------

DUMP = (Path(__file__).parent / "tcpdump.txt").read_bytes()
"""What `tcpdump -i any -y LINUX_SLL -n -l -tt -xx udp port 5599` wrote (4.99.3, both outputs mixed) of 3 datagrams."""


def converted(text: bytes, sizes: int = 1 << 20) -> tuple[bytes, HexDump]:
    dump = HexDump()
    parts = [dump.feed(text[at : at + sizes]) for at in range(0, len(text), sizes)]
    return b"".join([*parts, dump.end()]), dump


def packets(file: bytes) -> list[tuple[int, int, bytes]]:
    assert struct.unpack("<IHHiIII", file[:24]) == (0xA1B2C3D4, 2, 4, 0, 0, 262_144, 113)
    found, at = [], 24
    while at < len(file):
        seconds, micros, length, original = struct.unpack("<IIII", file[at : at + 16])
        assert length == original
        found.append((seconds, micros, file[at + 16 : at + 16 + length]))
        at += 16 + length
    return found


@pytest.mark.parametrize("sizes", [1, 7, 80, 1 << 20])
def test_a_dump_becomes_a_capture(sizes: int) -> None:
    file, dump = converted(DUMP, sizes)
    found = packets(file)
    assert dump.packets == len(found) == 3
    assert [data[-17:] for _, _, data in found] == [b"hello paramedic %d" % number for number in range(3)]
    assert found[0][:2] == (1795454721, 997305)
    assert all(data[16:20] == b"\x45\x00\x01\x70" for _, _, data in found), "an IPv4 header behind the link's"
    assert "3 packets captured" in dump.remarks


@pytest.mark.skipif(not shutil.which("tcpdump"), reason="tcpdump reads it back where there is one")
def test_tcpdump_reads_it(tmp_path: Path) -> None:
    (tmp_path / "network.pcap").write_bytes(converted(DUMP)[0])
    read = subprocess.run(
        ["tcpdump", "-n", "-tt", "-r", str(tmp_path / "network.pcap")], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert read == [line for line in DUMP.decode().splitlines() if line.startswith("17954")]


def test_what_is_no_dump_makes_no_file() -> None:
    for text in (b"", b"sh: tcpdump: not found\n", b"1.000001 IP a > b\n", b"\t0x0000:  0011\n", b"\xff" * 300_000):
        file, dump = converted(text, 4096)
        assert file == b""
        assert dump.packets == 0
    assert converted(b"sh: tcpdump: not found")[1].remarks[0] == "sh: tcpdump: not found"


def test_hostile_text_is_bounded() -> None:
    chosen = random.Random(1)
    endless = b"1.000001 IP\n" + b"\t0x0000:  " + b"0011 " * 8 + b"\n"
    file, _ = converted(endless + b"\t0x0000:  0011 0011 0011 0011 0011 0011 0011 0011\n" * 60_000, 65536)
    assert len(file) < 300_000
    for _ in range(200):
        cut = bytearray(DUMP)
        for _ in range(20):
            cut[chosen.randrange(len(cut))] = chosen.randrange(256)
        file, dump = converted(bytes(cut), 999)
        assert dump.packets == (len(packets(file)) if file else 0)


# -- the list on the status --------------------------------------------------------------------------------------------


def item(name: str, note: str | None = None, uri: str | None = "x") -> Evidence:
    return Evidence(name=name, uri=f"file:///{uri}/{name}", sha256="0" * 64, size_bytes=1, note=note)


def test_few_items_are_all_shown_and_replaced_in_their_place() -> None:
    present = [item("index.json"), item("a"), item("b")]
    again = [item("index.json"), item("b", note="cut at 1 MiB")]
    assert joined(present, again) == [item("index.json"), item("a"), item("b", note="cut at 1 MiB")]
    assert joined([], []) == []


def test_of_many_the_index_and_what_is_lacking_stay() -> None:
    many = [item("index.json"), *(item(str(n), note="cut" if n > 290 else None) for n in range(300))]
    shown = joined([item("earlier", uri="other")], many)
    names = [one.name for one in shown]
    assert len(shown) == SHOWN_AT_MOST
    assert names.count("index.json") == 1
    assert {str(n) for n in range(291, 300)} <= set(names)
    assert names[:3] == ["earlier", "index.json", "0"]
    assert next(one for one in shown if one.name == "index.json").note == "lists what has no room here: 102 more"
    assert len(joined(shown, many)) == SHOWN_AT_MOST
