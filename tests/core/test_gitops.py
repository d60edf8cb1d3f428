"""Who else writes an object."""

from typing import Any

import pytest

from paramedic.core.gitops import gitops_owner, gitops_warning

INSTANCE = {"labels": {"app.kubernetes.io/instance": "covet"}}


def written_by(*managers: str) -> dict[str, Any]:
    return {"managedFields": [{"manager": name, "operation": "Apply"} for name in managers]}


MARKS = [
    ({"labels": {"argocd.argoproj.io/instance": "covet"}}, "Argo CD (covet)"),
    ({"annotations": {"argocd.argoproj.io/tracking-id": "covet:apps/Deployment:covet/covet-app"}}, "Argo CD (covet)"),
    ({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}, "Flux (apps)"),
    ({"labels": {"helm.toolkit.fluxcd.io/name": "covet"}}, "Flux (covet)"),
    ({"labels": {"app.kubernetes.io/managed-by": "Helm"}}, None),
    ({"labels": {"argocd.argoproj.io/instance": ""}}, None),
    (INSTANCE, None),
    (INSTANCE | written_by("helm", "kubectl-client-side-apply"), None),
    (INSTANCE | written_by("kube-controller-manager", "argocd-controller"), "Argo CD (covet)"),
    (written_by("argocd-application-controller"), "Argo CD"),
    (INSTANCE | written_by("helm-controller"), "Flux"),
    (written_by("kustomize-controller"), "Flux"),
    ({}, None),
]


@pytest.mark.parametrize(("metadata", "owner"), MARKS)
def test_the_owner_is_told_by_its_marks(metadata: dict[str, Any], owner: str | None) -> None:
    assert gitops_owner({"metadata": metadata}) == owner


def test_each_owner_is_told_once_with_what_is_its_own() -> None:
    argo, flux, free = written_by("argocd-controller"), written_by("kustomize-controller"), written_by("kubectl")
    objects = [("deployments/a", argo), ("hpas/a", argo), ("deployments/b", free), ("c/d", flux)]
    assert gitops_warning((name, {"metadata": metadata}) for name, metadata in objects) == (
        " (deployments/a, hpas/a managed by Argo CD, which will put it back unless it is told to wait)"
        " (c/d managed by Flux, which will put it back unless it is told to wait)"
    )
    assert gitops_warning([]) == ""
