"""Who else writes an object."""

import pytest

from paramedic.core.gitops import gitops_owner

MARKS = [
    ({"labels": {"argocd.argoproj.io/instance": "covet"}}, "Argo CD (covet)"),
    ({"annotations": {"argocd.argoproj.io/tracking-id": "covet:apps/Deployment:covet/covet-app"}}, "Argo CD (covet)"),
    ({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps"}}, "Flux (apps)"),
    ({"labels": {"helm.toolkit.fluxcd.io/name": "covet"}}, "Flux (covet)"),
    ({"labels": {"app.kubernetes.io/managed-by": "Helm"}}, None),
    ({"labels": {"argocd.argoproj.io/instance": ""}}, None),
    ({}, None),
]


@pytest.mark.parametrize(("metadata", "owner"), MARKS)
def test_the_owner_is_told_by_its_marks(metadata: dict[str, dict[str, str]], owner: str | None) -> None:
    assert gitops_owner({"metadata": metadata}) == owner
