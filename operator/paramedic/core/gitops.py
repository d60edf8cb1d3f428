"""Who else writes an object: a GitOps controller puts back what it has not applied itself."""

from typing import Any

_ARGO_CD = ("argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance")
_FLUX = ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name")


def gitops_owner(obj: dict[str, Any]) -> str | None:
    """``Argo CD (covet)`` or ``Flux (covet)``, from the labels and annotations that they leave; else None."""
    metadata = obj.get("metadata") or {}
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    for name, keys in (("Argo CD", _ARGO_CD), ("Flux", _FLUX)):
        value = next((str(marks[key]) for key in keys if marks.get(key)), None)
        if value:
            return f"{name} ({value.split(':', 1)[0][:100]})"
    return None
