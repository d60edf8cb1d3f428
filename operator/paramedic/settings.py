"""Settings, read once: a YAML file named by ``PARAMEDIC_CONFIG``, overridden by ``PARAMEDIC_*`` variables."""

import contextlib
import os
import socket
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, YamlConfigSettingsSource
from yaml import YAMLError, safe_load

from paramedic.api import SYSTEM_NAMESPACE
from paramedic.api.base import Url, parse_duration
from paramedic.api.connection import ConnectionSettings, Network
from paramedic.api.people import ChannelSettings, PeopleSettings, Templates, wrong_channels, wrong_contacts
from paramedic.core import messages, schedule, webhook_body
from paramedic.core.mistakes import FREE_KEYS, explain, snake_case, written_twice
from paramedic.errors import ParamedicError

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


class SettingsError(ParamedicError):
    """The settings are wrong; the message names each field and says what is wrong with it."""


class _CamelCaseYaml(YamlConfigSettingsSource):
    """The file's keys are camelCase, as everywhere in Kubernetes; the fields' names are snake_case."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        keys: dict[str, Any] = _snake_keys(super()._read_file(file_path))
        return keys


def _snake_keys(value: Any) -> Any:
    if isinstance(value, list):
        return [_snake_keys(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {snake_case(str(key)): (inner if key == FREE_KEYS else _snake_keys(inner)) for key, inner in value.items()}


def _check_address(value: str) -> str:
    port = value.rpartition(":")[2] if ":" in value else ""
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError("an address and a port are needed, for example 0.0.0.0:8080")
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PrometheusSettings(_Section):
    """Where ``verify`` asks and the poller looks."""

    url: Url | None = Field(None, description="For example http://prometheus.monitoring:9090; none: not used.")
    bearer_token_file: Path | None = None
    timeout: Duration = timedelta(seconds=5)
    poll_interval: Duration = Field(
        timedelta(seconds=30), description="Between looks for alerts whose webhook was missed."
    )
    poll_grace: Duration = Field(
        timedelta(seconds=60), description="How long an alert may fire before the poller takes it."
    )
    end_grace: Duration = Field(
        timedelta(minutes=5),
        description="How long Prometheus shows an alert no more, not even as pending, before the poller tells its end; "
        "never less than pollGrace.",
    )
    external_labels: dict[str, str] = Field(
        default_factory=dict, description="As in Prometheus' own settings, so that fingerprints agree."
    )


class S3Settings(_Section):
    """A bucket for evidence; credentials come from the default chain of AWS' libraries."""

    bucket: str = Field(min_length=1)
    prefix: str = ""
    region: str | None = None
    endpoint_url: Url | None = Field(None, description="Of a service that speaks S3's protocol; none: AWS.")
    encryption: Literal["AES256", "aws:kms"] | None = Field("AES256", description="At rest, done by the service.")
    kms_key_id: str | None = Field(None, description="Key of aws:kms; none: the bucket's default.")


class EvidenceSettings(_Section):
    """Where evidence is kept; without a place captureEvidence is refused."""

    directory: Path | None = Field(None, description="Usually a volume that all replicas mount. It must exist.")
    s3: S3Settings | None = None
    max_item_bytes: int = Field(256 * 1024 * 1024, ge=1024, le=40 * 1024**3, description="What is larger is cut.")
    max_total_bytes: int = Field(4 * 1024 * 1024 * 1024, ge=1024, description="Of one operation.")
    max_dump_bytes: int = Field(
        2 * 1024 * 1024 * 1024, ge=1024, le=40 * 1024**3, description="Of a dump of a database, which is cut there."
    )
    max_bytes_per_day: int | None = Field(
        10 * 1024 * 1024 * 1024,
        ge=1024,
        description="What captures of one namespace store within 24 hours; null: any number.",
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.directory and self.s3:
            raise ValueError("set one of directory and s3, not both")
        return self


class ClosingSettings(_Section):
    """What is done once an incident is over."""

    stable_for: Duration = Field(
        timedelta(minutes=15),
        ge=timedelta(seconds=1),
        lt=timedelta(hours=1),
        description="All systems are stable when all that was verified has held for so long after the resolution.",
    )


class RetentionSettings(_Section):
    """When incidents that are over are deleted."""

    resolved_for: Duration | None = Field(
        None, description="After so long; null: never. Paramedic needs manifests/components/retention for it."
    )
    export: bool = Field(True, description="Only once the report is kept as evidence; false: without a report.")


class Settings(BaseSettings):
    """All settings; every one has a default that works."""

    model_config = SettingsConfigDict(
        env_prefix="PARAMEDIC_",
        env_nested_delimiter="__",
        extra="forbid",
    )

    listen: Annotated[str, AfterValidator(_check_address)] = Field(
        "0.0.0.0:8080", description="Address and port of the webhook, probes and metrics."
    )
    webhook_token_file: Path | None = Field(None, description="Bearer token of the webhook; re-read when it changes.")
    webhook_anonymous: bool = Field(False, description="Accept the webhook without a token. For trials only.")
    webhook_max_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="A larger body is answered 413, unread.")
    webhook_max_in_flight: int = Field(64, ge=1, description="More requests at once are answered 503.")
    tls_cert_file: Path | None = Field(None, description="Serve TLS with this certificate; re-read when it changes.")
    tls_key_file: Path | None = None
    namespace: str = Field(SYSTEM_NAMESPACE, description="Paramedic's own namespace.")
    identity: str = Field(default_factory=lambda: _identity(), description="Name in the Lease; unique per pod.")
    leader_election: bool = Field(True, description="Off only where a single process can ever run.")
    lease_duration: Duration = timedelta(seconds=15)
    renew_deadline: Duration = timedelta(seconds=10)
    retry_period: Duration = timedelta(seconds=3)
    request_timeout: Duration = Field(
        timedelta(seconds=15),
        description="For one request to the API server. A write that is given up is looked for before anything else.",
    )
    workers: int = Field(256, ge=1, description="Incidents reconciled at once.")
    resync_interval: Duration = Field(timedelta(seconds=60), description="Between full looks for missed watch events.")
    diagnose: bool = Field(True, description="Look for the cause of every incident, once.")
    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    log_format: str = Field("json", pattern="^(json|console)$")
    prometheus: PrometheusSettings = Field(default_factory=PrometheusSettings)
    evidence: EvidenceSettings = Field(default_factory=EvidenceSettings)
    connections: list[ConnectionSettings] = Field(
        default_factory=list, description="Databases, queues and AWS accounts that steps may name."
    )
    people: PeopleSettings = Field(default_factory=PeopleSettings, description="Response times and whom to call.")
    channels: list[ChannelSettings] = Field(
        default_factory=list, max_length=32, description="Slack, PagerDuty, status pages and others that are told."
    )
    notify: list[str] = Field(default_factory=list, description="Channels of incidents whose policy names none.")
    templates: Templates = Field(default_factory=Templates, description="Texts of messages.")
    closing: ClosingSettings = Field(default_factory=ClosingSettings, description="What follows a resolution.")
    retention: RetentionSettings = Field(
        default_factory=RetentionSettings, description="How long incidents are kept that are over."
    )
    dashboards: list[str] = Field(default_factory=list, max_length=16, description="URLs that messages link to.")
    never_block: list[Network] = Field(
        default_factory=list, description="CIDRs that blockAddresses never blocks, whatever asks for it."
    )

    @model_validator(mode="after")
    def _what_only_the_whole_shows(self) -> Self:
        if problems := _wrong_together(self):
            raise ValueError("\n".join(problems))
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Variables win over the file."""
        path = os.environ.get("PARAMEDIC_CONFIG")
        sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
        return (*sources, _CamelCaseYaml(settings_cls, path)) if path else sources

    @property
    def summary(self) -> str:
        """One line on what is configured for people."""
        parts = (
            ("channels", [f"{channel.name} ({channel.kind})" for channel in self.channels]),
            ("notify", self.notify),
            ("teams", [f"{team.name} ({_counted(len(team.levels), 'level')})" for team in self.people.teams]),
            ("connections", [connection.name for connection in self.connections]),
        )
        return "; ".join(f"{what}: {', '.join(names) or 'none'}" for what, names in parts)

    @property
    def listen_address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104


def load_settings(**overrides: Any) -> Settings:
    """Reads the settings. Raises SettingsError with every mistake in one message, as the file has the names."""
    path = os.environ.get("PARAMEDIC_CONFIG")
    if path and not Path(path).is_file():
        raise SettingsError(f"PARAMEDIC_CONFIG names {path}, which is not a file")
    try:
        problems = _wrongly_written(Path(path).read_text("utf-8")) if path else []
        settings = Settings(**overrides)
    except ValidationError as error:
        raise _error(
            [*problems, *explain(error.errors(), _written(path), Settings), *_also(error, overrides)]
        ) from error
    except (ValueError, YAMLError) as error:
        raise SettingsError(f"the settings cannot be read: {error}") from error
    if problems:
        raise _error(problems)
    return settings


def _error(lines: Sequence[str]) -> SettingsError:
    return SettingsError("the settings are wrong:\n" + "\n".join(f"  {line}" for line in lines))


def _wrongly_written(text: str) -> list[str]:
    """What YAML takes and a person cannot have meant. Raises ValueError, YAMLError."""
    written = safe_load(text)
    if written is not None and not isinstance(written, dict):
        what = "a list" if isinstance(written, list) else "a text"
        raise ValueError(f"{what} is there instead of settings by their names, such as notify: [slack]")
    return list(written_twice(text))


class _Parts(Settings):
    """The settings where some are wrong: each by itself, without those that there are not."""

    model_config = SettingsConfigDict(extra="ignore")

    @model_validator(mode="after")
    def _what_only_the_whole_shows(self) -> Self:
        return self


def _also(error: ValidationError, overrides: dict[str, Any]) -> list[str]:
    """What does not fit together among those that are right, so that not each mending shows the next mistake."""
    wrong = {str(one["loc"][0]) for one in error.errors() if one["loc"]}
    if not wrong:
        return []  # then it is this that was said
    fields = Settings.model_fields
    usual = {name: fields[name].get_default(call_default_factory=True) for name in wrong if name in fields}
    left_out = "what these are compared with is checked once they are right: more may show then"
    return [*_wrong_together(_Parts(**(overrides | usual)), wrong), left_out]


def _wrong_together(settings: Settings, wrong: Collection[str] = ()) -> list[str]:
    """One line for each thing that does not fit to another; nothing is said of what is wrong by itself."""
    people, channels = settings.people, settings.channels
    checks: tuple[tuple[set[str], Callable[[], Iterable[str]]], ...] = (
        ({"channels", "notify"}, lambda: wrong_channels(channels, settings.notify)),
        ({"people", "channels"}, lambda: wrong_contacts(people, channels)),
        ({"people"}, lambda: _wrong_windows(people)),
        ({"templates", "channels"}, lambda: _wrong_templates(settings.templates, channels)),
        ({"retention", "evidence"}, lambda: _wrong_retention(settings)),
    )
    return [problem for of, check in checks if of.isdisjoint(wrong) for problem in check()]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _wrong_windows(people: PeopleSettings) -> Iterator[str]:
    for response in people.responses:
        for number, window in enumerate(response.call_during):
            try:
                schedule.check(window)
            except ValueError as error:
                yield f"people.responses, {response.severity}: callDuring[{number}]: {error}"


def _wrong_retention(settings: Settings) -> Iterator[str]:
    chosen, place = settings.retention, settings.evidence.directory or settings.evidence.s3
    if chosen.resolved_for is not None and chosen.export and not place:
        yield "retention: there is nowhere to keep the reports: set evidence.directory or evidence.s3, or export: false"


def _wrong_templates(templates: Templates, channels: list[ChannelSettings]) -> Iterator[str]:
    yield from (f"templates.{problem}" for problem in messages.problems(templates))
    for channel in channels:
        if channel.webhook and channel.webhook.body:
            yield from webhook_body.problems(channel.name, channel.webhook.body)


def _written(path: str | None) -> Any:
    """The file as it is written; nothing when there is none."""
    with contextlib.suppress(OSError, ValueError, YAMLError):
        return safe_load(Path(path).read_text()) if path else None
    return None


def _identity() -> str:
    return os.environ.get("POD_NAME") or socket.gethostname()
