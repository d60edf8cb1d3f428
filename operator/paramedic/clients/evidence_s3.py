"""Evidence in S3, or what speaks its protocol. boto3 comes with the extra ``paramedic[aws]``; credentials are found by
its default chain (environment, web identity, instance profile).

Large items go up in parts, so that 5 MiB of one are in memory; a part that came over damaged is refused by S3, which
compares its SHA-256.
"""

import base64
import hashlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

from paramedic.api.reasons import Reason
from paramedic.clients.evidence import StoreFailed
from paramedic.errors import Terminal

_PART_BYTES = 5 * 1024 * 1024  # the least that S3 takes of any but the last
_CONNECT_SECONDS = 5
_READ_SECONDS = 20
_ATTEMPTS = 3


class S3Backend:
    """Objects under ``<prefix>/`` in one bucket, encrypted at rest by S3 (``encryption``: AES256 or aws:kms; None where
    the service has none). Raises Terminal when boto3 is not installed or the settings cannot be used.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        encryption: str | None = "AES256",
        kms_key_id: str | None = None,
    ) -> None:
        self._client, self._errors = _client(region, endpoint_url)
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._protection = {"ServerSideEncryption": encryption} if encryption else {}
        if kms_key_id:
            self._protection = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key_id}

    def open(self, path: tuple[str, ...], media_type: str) -> "ObjectSink":
        """Begins an object; asks nothing of S3 yet."""
        key = self._key(*path)
        where = {"Bucket": self._bucket, "Key": key}
        return ObjectSink(self._call, where, self._protection | {"ContentType": media_type})

    def stored_bytes(self, folder: str, since: datetime) -> int:
        """By what S3 lists, which takes the right s3:ListBucket. Raises StoreFailed."""
        size, after = 0, dict[str, str]()
        while True:
            page = self._call("list_objects_v2", Bucket=self._bucket, Prefix=f"{self._key(folder)}/", **after)
            size += sum(int(one["Size"]) for one in page.get("Contents") or [] if one["LastModified"] >= since)
            if not page["IsTruncated"]:
                return size
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def _key(self, *path: str) -> str:
        return "/".join([*([self._prefix] if self._prefix else []), *path])

    def _call(self, name: str, **arguments: Any) -> Any:
        """One request. Raises StoreFailed."""
        try:
            return getattr(self._client, name)(**arguments)
        except self._errors as error:
            raise StoreFailed(f"s3://{self._bucket}: {error}") from error


class ObjectSink:
    """One object: a single request when it is small, else an upload in parts that is ended or aborted."""

    block_bytes = _PART_BYTES

    def __init__(self, call: Callable[..., Any], where: dict[str, str], properties: dict[str, str]) -> None:
        self.uri = f"s3://{where['Bucket']}/{where['Key']}"
        self._call = call
        self._where = where
        self._properties = properties
        self._upload: dict[str, str] = {}
        self._parts: list[dict[str, Any]] = []

    def write(self, block: bytes) -> None:
        """Uploads one part. Raises StoreFailed."""
        if not self._upload:
            begun = self._call("create_multipart_upload", ChecksumAlgorithm="SHA256", **self._where, **self._properties)
            self._upload = {"UploadId": begun["UploadId"]}
        number, checksum = len(self._parts) + 1, _checksum(block)
        sent = self._call(
            "upload_part", PartNumber=number, Body=block, ChecksumSHA256=checksum, **self._where, **self._upload
        )
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": checksum})

    def commit(self, rest: bytes) -> None:
        """Makes the object appear. Raises StoreFailed."""
        if not self._upload:
            self._call("put_object", Body=rest, ChecksumSHA256=_checksum(rest), **self._where, **self._properties)
            return
        if rest:
            self.write(rest)
        done = {"Parts": self._parts}
        self._call("complete_multipart_upload", MultipartUpload=done, **self._where, **self._upload)

    def abort(self) -> None:
        """Has S3 drop the parts, which would be paid for. Raises StoreFailed."""
        if self._upload:
            self._call("abort_multipart_upload", **self._where, **self._upload)


def _client(region: str | None, endpoint_url: str | None) -> tuple[Any, tuple[type[Exception], ...]]:
    """A client with its errors. Raises Terminal."""
    try:
        import boto3  # here, because it is optional
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise Terminal(
            Reason.INVALID_PARAMETERS, "evidence.s3 needs boto3, which is not installed: pip install 'paramedic[aws]'"
        ) from error
    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
        s3={"addressing_style": "path"} if endpoint_url else None,
    )
    try:
        session = boto3.Session(region_name=region)
        client = session.client("s3", endpoint_url=endpoint_url, config=config)
    except (BotoCoreError, ValueError) as error:
        raise Terminal(Reason.INVALID_PARAMETERS, f"evidence.s3 cannot be used: {error}") from error
    return client, (BotoCoreError, ClientError)


def _checksum(block: bytes) -> str:
    return base64.b64encode(hashlib.sha256(block).digest()).decode()
