"""AWS as game days have it: what was asked for is told by whom, what and when, and what is kept is kept."""

from __future__ import annotations

import time

import boto3
import pytest

from gameday.cloud import BUCKET, PARAMEDIC_KEYS, REGION, Cloud, action_of


@pytest.fixture
def as_paramedic(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> boto3.Session:
    for name, value in PARAMEDIC_KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", cloud.url)
    return boto3.Session(region_name=REGION)


def test_paramedic_is_told_from_the_day_itself(cloud: Cloud, as_paramedic: boto3.Session) -> None:
    began = time.time()
    made = cloud.client("ec2").create_volume(AvailabilityZone=f"{REGION}a", Size=1)
    mine = as_paramedic.client("ec2")
    mine.describe_snapshots(OwnerIds=["self"])
    mine.create_snapshot(VolumeId=made["VolumeId"])
    assert [(one.service, one.action) for one in cloud.by_paramedic(began)] == [
        ("ec2", "DescribeSnapshots"),
        ("ec2", "CreateSnapshot"),
    ]
    (changed,) = cloud.changed(began)
    assert changed.arguments["VolumeId"] == made["VolumeId"]
    assert began <= changed.at <= time.time()
    assert cloud.by_paramedic(time.time()) == []


def test_what_is_refused_has_changed_nothing(cloud: Cloud, as_paramedic: boto3.Session) -> None:
    began = time.time()
    mine = as_paramedic.client("ec2")
    with pytest.raises(mine.exceptions.ClientError):
        mine.create_snapshot(VolumeId="vol-0123456789abcdef0")
    assert [one.status for one in cloud.by_paramedic(began)] == [400]
    assert cloud.changed(began) == []


def test_an_object_is_kept_as_it_came(cloud: Cloud, as_paramedic: boto3.Session) -> None:
    began, body = time.time(), bytes(range(256)) * 1000
    as_paramedic.client("s3").put_object(Bucket=BUCKET, Key="case 1/ä", Body=body)
    assert cloud.client("s3").get_object(Bucket=BUCKET, Key="case 1/ä")["Body"].read() == body
    assert cloud.client("s3").head_object(Bucket=BUCKET, Key="case 1/ä")["ContentLength"] == len(body)
    assert [one.action for one in cloud.changed(began)] == ["PutObject"]


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("POST", "/b/k?uploads", "CreateMultipartUpload"),
        ("PUT", "/b/k?partNumber=1&uploadId=x", "UploadPart"),
        ("POST", "/b/k?uploadId=x", "CompleteMultipartUpload"),
        ("DELETE", "/b/k?uploadId=x", "AbortMultipartUpload"),
        ("DELETE", "/b/k", "DeleteObject"),
        ("GET", "/b?list-type=2&prefix=x", "ListObjectsV2"),
        ("GET", "/b/k", "GetObject"),
        ("PUT", "/b", "PUT /b"),
    ],
)
def test_requests_to_s3_have_their_names(method: str, path: str, action: str) -> None:
    assert action_of(method, path) == action
