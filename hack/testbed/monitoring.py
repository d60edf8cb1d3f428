"""A real Prometheus and a real Alertmanager on free ports of 127.0.0.1, each in a folder of its own.

    with Alertmanager(folder / "am", webhook_url=url, token_file=token) as alertmanager:
        targets = {"shop": ["127.0.0.1:8080"]}
        with Prometheus(folder / "prom", rules=[group], targets=targets, alertmanager=alertmanager.url):
            ...

Rules and configuration are written as JSON, which is YAML.
"""

from __future__ import annotations

import http.client
import json
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from testbed import toolchain
from testbed.ports import Ports
from testbed.processes import Child, ProcessError, spawn, wait_until

Json = dict[str, Any]

READY_TIMEOUT = 60.0


class Service:
    """One program with an HTTP address: `url` after `start()`, nothing left running after `stop()`."""

    command = ""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).absolute()
        self.url = ""
        self._ports = Ports()
        self._child: Child | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begins with empty storage; returns when it is ready to serve."""
        program = toolchain.binary(self.command)
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        address = f"127.0.0.1:{self._ports.reserve()}"
        self.url = f"http://{address}"
        self._write_files()
        argv = [str(program), f"--web.listen-address={address}", *self._flags()]
        try:
            self._child = spawn(self.command, argv, self.folder / f"{self.command}.log", cwd=self.folder)
            wait_until(self._ready, f"{self.command} is ready", READY_TIMEOUT, [self._child])
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends it; does nothing when it is not running."""
        if self._child:
            self._child.stop(grace=2)
            self._child = None
        self._ports.release()

    def _write_files(self) -> None:
        raise NotImplementedError

    def _flags(self) -> list[str]:
        raise NotImplementedError

    def _ready(self) -> bool:
        try:
            self._request("GET", "/-/ready")
        except OSError:
            return False
        return True

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer (None when it is not JSON); ProcessError with the service's words for a refusal, OSError
        when nobody answers, or not to the end.
        """
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=5) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise
            log = f"The end of its log:\n{self._child.tail(5)}" if self._child else ""
            raise ProcessError(
                f"{self.command}: {method} {path}: {error.code}: {error.read().decode()}\n{log}"
            ) from error
        except http.client.HTTPException as error:
            raise ConnectionError(f"{self.command}: {method} {path}: the answer broke off: {error!r}") from error
        return json.loads(text) if text[:1] in (b"{", b"[") else None


class Prometheus(Service):
    """`rules` are rule groups ({"name", "rules"}), `targets` maps a job to addresses; both can be changed later."""

    command = "prometheus"

    def __init__(
        self,
        folder: Path | str,
        *,
        rules: Sequence[Json] = (),
        targets: Mapping[str, Sequence[str]] | None = None,
        alertmanager: str = "",
        interval: str = "1s",
        external_labels: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        self._rules = list(rules)
        self._targets = {job: list(addresses) for job, addresses in (targets or {}).items()}
        self._alertmanager = alertmanager
        self._interval = interval
        self._external_labels = dict(external_labels or {})

    def set_rules(self, rules: Sequence[Json]) -> None:
        """Replaces the rule groups; in force when it returns. ProcessError when Prometheus does not like them."""
        self._rules = list(rules)
        self._write_files()
        self._request("POST", "/-/reload")

    def set_targets(self, job: str, addresses: Sequence[str]) -> None:
        """Replaces a job's addresses (a new job is fine); in force when it returns, scraped an interval later."""
        self._targets[job] = list(addresses)
        self._write_files()
        self._request("POST", "/-/reload")

    def query(self, promql: str) -> list[Json]:
        """An instant query's result: a list of {"metric", "value": [time, text]}; a scalar has an empty metric."""
        data = self._request("GET", f"/api/v1/query?{urllib.parse.urlencode({'query': promql})}")["data"]
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        result: list[Json] = data["result"]
        return result

    def alerts(self) -> list[Json]:
        """Its pending and firing alerts."""
        found: list[Json] = self._request("GET", "/api/v1/alerts")["data"]["alerts"]
        return found

    def _write_files(self) -> None:
        for job, addresses in self._targets.items():
            _write(self.folder / "targets" / f"{job}.json", [{"targets": addresses}])
        _write(self.folder / "rules.yaml", {"groups": self._rules})
        _write(self.folder / "prometheus.yaml", self._config())

    def _config(self) -> Json:
        times = {
            "scrape_interval": self._interval,
            "scrape_timeout": self._interval,
            "evaluation_interval": self._interval,
        }
        config: Json = {
            "global": {**times, "external_labels": self._external_labels},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [
                {"job_name": job, "file_sd_configs": [{"files": [f"targets/{job}.json"], "refresh_interval": "1s"}]}
                for job in self._targets
            ],
        }
        if self._alertmanager:
            address = urllib.parse.urlsplit(self._alertmanager).netloc
            config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [address]}]}]}
        return config

    def _flags(self) -> list[str]:
        return [
            f"--config.file={self.folder / 'prometheus.yaml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            "--web.enable-lifecycle",
            "--rules.alert.resend-delay=1s",
            "--scrape.discovery-reload-interval=200ms",  # hidden; 5 s by default, which every test would wait
            "--log.level=warn",
        ]


class Alertmanager(Service):
    """Sends everything it is told to one webhook, grouped by `group_by` ("..." means every label: no grouping)."""

    command = "alertmanager"

    def __init__(
        self,
        folder: Path | str,
        *,
        webhook_url: str,
        token_file: Path | str | None = None,
        group_by: Sequence[str] = ("alertname", "namespace"),
        group_wait: str = "1s",
        group_interval: str = "1s",
        repeat_interval: str = "1m",
    ) -> None:
        super().__init__(folder)
        self._webhook_url = webhook_url
        self._token_file = token_file
        self._route = {
            "receiver": "webhook",
            "group_by": list(group_by),
            "group_wait": group_wait,
            "group_interval": group_interval,
            "repeat_interval": repeat_interval,
        }

    def post(self, *alerts: Json) -> None:
        """Hands it alerts directly, as Prometheus would: {"labels", "annotations", "startsAt", "endsAt"}."""
        self._request("POST", "/api/v2/alerts", list(alerts))

    def alerts(self) -> list[Json]:
        """The alerts that it knows as firing now."""
        found: list[Json] = self._request("GET", "/api/v2/alerts")
        return found

    def _write_files(self) -> None:
        webhook: Json = {"url": self._webhook_url, "send_resolved": True}
        if self._token_file:
            authorization = {"type": "Bearer", "credentials_file": str(Path(self._token_file).absolute())}
            webhook["http_config"] = {"authorization": authorization}
        config = {"route": self._route, "receivers": [{"name": "webhook", "webhook_configs": [webhook]}]}
        _write(self.folder / "alertmanager.yaml", config)

    def _flags(self) -> list[str]:
        return [
            f"--config.file={self.folder / 'alertmanager.yaml'}",
            f"--storage.path={self.folder / 'data'}",
            "--cluster.listen-address=",
            "--log.level=warn",
        ]


def _write(path: Path, document: Any) -> None:
    """Whole or not at all: file discovery may read it at any time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.write_text(json.dumps(document, indent=1))
    scratch.replace(path)
