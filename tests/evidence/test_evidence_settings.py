"""Where evidence is kept, as the settings say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from paramedic.settings import SettingsError, load_settings


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "paramedic.yaml"
    monkeypatch.setenv("PARAMEDIC_CONFIG", str(file))
    return file


def test_by_default_there_is_no_place() -> None:
    chosen = load_settings().evidence
    assert (chosen.directory, chosen.s3) == (None, None)


def test_a_bucket(written: Path) -> None:
    written.write_text(
        "evidence:\n  maxItemBytes: 4096\n  s3: {bucket: b, prefix: p, region: eu-central-1, endpointURL: 'https://s3.example',"
        " encryption: aws:kms, kmsKeyID: k}\n"
    )
    chosen = load_settings().evidence
    assert chosen.max_item_bytes == 4096
    assert chosen.s3 is not None
    assert chosen.s3.model_dump() == {
        "bucket": "b", "prefix": "p", "region": "eu-central-1", "endpoint_url": "https://s3.example",
        "encryption": "aws:kms", "kms_key_id": "k",
    }  # fmt: skip


def test_limits(written: Path) -> None:
    written.write_text("evidence:\n  maxDumpBytes: 5000\n  maxBytesPerDay: null\n")
    chosen = load_settings().evidence
    assert (chosen.max_dump_bytes, chosen.max_bytes_per_day) == (5000, None)


def test_a_directory_by_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARAMEDIC_EVIDENCE__DIRECTORY", "/var/lib/paramedic/evidence")
    assert load_settings().evidence.directory == Path("/var/lib/paramedic/evidence")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{directory: /x, s3: {bucket: b}}", "set one of directory and s3, not both"),
        ("{s3: {prefix: p}}", "evidence.s3.bucket"),
        ("{s3: {bucket: b, encryption: rot13}}", "evidence.s3.encryption"),
        ("{folder: /x}", "evidence.folder"),
        ("{maxItemBytes: 0}", "evidence.maxItemBytes"),
        ("{maxDumpBytes: 0}", "evidence.maxDumpBytes"),
        ("{maxBytesPerDay: lots}", "evidence.maxBytesPerDay"),
    ],
)
def test_mistakes_are_named(written: Path, text: str, words: str) -> None:
    written.write_text(f"evidence: {text}\n")
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert words in str(error.value)
