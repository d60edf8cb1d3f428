"""Manifests in a ConfigMap: which are taken, and what of them."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from builders import Json, workload
from paramedic.core.saved_manifests import digest_of, manifests_of, saved_by, to_apply
from paramedic.errors import Refused

APP = workload("Deployment", "app", replicas=4)
WEB: Json = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "app"}}}
WANTED = [("Deployment", "app"), ("Service", "web")]


def source(*manifests: Any) -> Json:
    data = {f"{n}.yaml": m if isinstance(m, str) else json.dumps(m) for n, m in enumerate(manifests)}
    return {"metadata": {"name": "backup"}, "data": data}


def test_all_that_are_wanted_and_nothing_else() -> None:
    assert manifests_of(source(WEB, APP), "covet", WANTED) == {("Deployment", "app"): APP, ("Service", "web"): WEB}


@pytest.mark.parametrize(
    ("manifests", "words"),
    [
        ([APP], "has no manifest of Service/web"),
        ([APP, WEB, workload(name="other")], "what the step does not name: Deployment/other"),
        ([APP, APP, WEB], "two manifests of Deployment/app"),
        ([APP | {"kind": "DaemonSet"}, WEB], "apps/v1 DaemonSet is not restored"),
        ([APP | {"apiVersion": "apps/v1beta1"}, WEB], "apps/v1beta1 Deployment is not restored"),
        ([{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "spec": {}}, APP, WEB], "v1 Secret is not"),
        ([APP | {"metadata": {"name": "app", "namespace": "kube-system"}}, WEB], "is of namespace kube-system"),
        (["a: [", APP, WEB], "not YAML"),
        (["", APP, WEB], "not one manifest"),
        (["a: 1\n---\nb: 2", APP, WEB], "not one manifest"),
        (["!!python/object/apply:os.system ['true']", APP, WEB], "not YAML"),
        (["kind: [Deployment]\nmetadata: {name: a}\nspec: {}", APP, WEB], "not one manifest"),
        (["[" * 5000, APP, WEB], "backup, key 0.yaml"),
        (["a: &a [1]\n" + "b: [*a]\n" * 3, APP, WEB], "aliases (*name) are not taken"),
    ],
)
def test_anything_else_is_refused_with_where_it_stands(manifests: list[Any], words: str) -> None:
    with pytest.raises(Refused) as refusal:
        manifests_of(source(*manifests), "covet", WANTED)
    assert words in str(refusal.value)
    assert "ConfigMap/backup" in str(refusal.value)


def test_a_few_lines_that_stand_for_very_much_are_refused() -> None:
    """Written out, the version has 2·10^10 letters."""
    layers = "".join(f"x{n}: &x{n} [{','.join([f'*x{n - 1}'] * 10)}]\n" for n in range(1, 11))
    bomb = f"x0: &x0 [a,a]\n{layers}apiVersion: *x10\nkind: Service\nmetadata: {{name: web}}\nspec: {{}}\n"
    with pytest.raises(Refused, match="aliases"):
        manifests_of(source(bomb, APP), "covet", WANTED)


def test_what_is_applied_is_the_spec_without_what_comes_back_later() -> None:
    notes = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "paramedic.dev/operation": "forged", "team": "a"}
    metadata = {"name": "app", "annotations": notes, "labels": {"a": "b"}, "uid": "forged", "finalizers": ["x"]}
    body = to_apply(APP | {"metadata": metadata, "status": {}}, {"stamp": "1"}, {"uid": "u", "resourceVersion": "7"})
    assert body["metadata"] == {
        "name": "app",
        "annotations": {"team": "a", "stamp": "1"},
        "labels": {"a": "b"},
        "uid": "u",
        "resourceVersion": "7",
    }
    assert set(body) == {"apiVersion", "kind", "metadata", "spec"}
    assert "replicas" not in body["spec"]
    assert "template" in body["spec"]
    assert "selector" not in to_apply(WEB, {}, {})["spec"]


def test_what_a_manifest_stands_for() -> None:
    assert saved_by(APP) == {"replicas": 4}
    assert saved_by(WEB) == {"selector": {"app": "app"}}
    with pytest.raises(Refused):
        saved_by(workload(replicas="many"))


def test_the_digest_is_what_a_person_computes(tmp_path: Any) -> None:
    """``jq -cSj .data | sha256sum``; Python's own compact, sorted JSON here, as jq need not be there."""
    data = {"b.yaml": "kind: Ü\n", "a.yaml": "x"}
    compact = '{"a.yaml":"x","b.yaml":"kind: Ü\\n"}'
    (tmp_path / "data.json").write_text(compact)
    out = subprocess.run(["sha256sum", str(tmp_path / "data.json")], capture_output=True, text=True, check=True).stdout
    assert digest_of(data) == out.split()[0]
