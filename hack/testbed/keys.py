"""One private key for service account tokens, made with the standard library alone (which has no cryptography for it).

A P-256 key is a random number; its public half is one multiplication on the curve. It guards a throwaway cluster on
127.0.0.1: not for anything else, as the arithmetic takes no care of timing.
"""

from __future__ import annotations

import base64
import secrets

Point = tuple[int, int]

PRIME = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
GENERATOR: Point = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
P256_OID = bytes.fromhex("06082a8648ce3d030107")


def new_key() -> str:
    """A fresh P-256 private key as PEM ("EC PRIVATE KEY", RFC 5915)."""
    secret = secrets.randbelow(ORDER - 1) + 1
    x, y = _multiply(secret, GENERATOR)
    public = b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    der = _tlv(
        0x30,
        _tlv(0x02, b"\x01")
        + _tlv(0x04, secret.to_bytes(32, "big"))
        + _tlv(0xA0, P256_OID)
        + _tlv(0xA1, _tlv(0x03, b"\x00" + public)),
    )
    body = base64.encodebytes(der).decode().replace("\n", "")
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    return "\n".join(["-----BEGIN EC PRIVATE KEY-----", *lines, "-----END EC PRIVATE KEY-----", ""])


def _tlv(tag: int, value: bytes) -> bytes:
    """One DER element; ours are all shorter than 128 bytes."""
    return bytes([tag, len(value)]) + value


def _multiply(factor: int, point: Point) -> Point:
    """Double and add."""
    result: Point | None = None
    for bit in bin(factor)[2:]:
        result = _add(result, result)
        if bit == "1":
            result = _add(result, point)
    assert result is not None  # 0 < factor < ORDER
    return result


def _add(left: Point | None, right: Point | None) -> Point | None:
    """The curve's addition; None is its zero."""
    if left is None or right is None:
        return left or right
    (x1, y1), (x2, y2) = left, right
    if x1 == x2 and (y1 + y2) % PRIME == 0:
        return None
    slope = (3 * x1 * x1 - 3) * pow(2 * y1, -1, PRIME) if left == right else (y2 - y1) * pow(x2 - x1, -1, PRIME)
    x = (slope * slope - x1 - x2) % PRIME
    return x, (slope * (x1 - x) - y1) % PRIME
