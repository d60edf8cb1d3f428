"""The Dockerfile, read: there is no engine here to build it."""

import fnmatch
import json
import re
import shlex

import pytest
import yaml

from installed import ROOT

_TEXT = (ROOT / "Dockerfile").read_text()
STAGES = ["FROM " + part for part in re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", _TEXT)).split("\nFROM ")[1:]]


def _instructions(stage: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in stage.splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


BUILD, FINAL = (_instructions(stage) for stage in STAGES)


def test_only_known_instructions() -> None:
    known = {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "ENTRYPOINT"}
    assert {name for name, _ in BUILD + FINAL} <= known


@pytest.mark.parametrize("source", [s for n, a in BUILD if n == "COPY" for s in shlex.split(a)[:-1]])
def test_what_is_copied_exists_and_is_sent_to_the_builder(source: str) -> None:
    assert (ROOT / source).exists()
    rules = [line for line in (ROOT / ".dockerignore").read_text().split("\n") if line and not line.startswith("#")]
    verdict = [not rule.startswith("!") for rule in rules if fnmatch.fnmatch(source, rule.lstrip("!"))]
    assert verdict[-1] is False, f".dockerignore leaves {source} out"


def test_the_final_stage_copies_from_the_first_only() -> None:
    copies = [arguments for name, arguments in FINAL if name == "COPY"]
    assert copies == ["--from=build /opt/paramedic /opt/paramedic"]


def test_the_final_stage_installs_pg_dump_and_nothing_else() -> None:
    (install,) = [arguments for name, arguments in FINAL if name == "RUN" and "install" in arguments]
    commands = [shlex.split(command) for command in install.split("&&")]
    assert commands == [
        ["apt-get", "update"],
        ["apt-get", "install", "--yes", "--no-install-recommends", "postgresql-client-${POSTGRES_CLIENT}"],
        ["rm", "-rf", "/var/lib/apt/lists/*"],
    ]


def test_dependencies_are_installed_by_hash() -> None:
    installs = [arguments for name, arguments in BUILD if name == "RUN" and "requirements.lock" in arguments]
    assert len(installs) == 1
    assert "--require-hashes" in installs[0]


def test_it_runs_as_the_deployment_says() -> None:
    last = dict(FINAL)
    documents = yaml.safe_load_all((ROOT / "manifests" / "base" / "deployment.yaml").read_text())
    pod = next(one for one in documents if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    user, group = pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]
    assert last["USER"] == f"{user}:{group}"
    assert json.loads(last["ENTRYPOINT"]) == ["paramedic", "run"]
    assert "command" not in pod["containers"][0]
    assert last["EXPOSE"] == str(pod["containers"][0]["ports"][0]["containerPort"])
    assert "PYTHONDONTWRITEBYTECODE=1" in last["ENV"]
    assert last["WORKDIR"] in [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
