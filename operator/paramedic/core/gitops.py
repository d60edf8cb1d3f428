"""Who else writes an object: a GitOps controller puts back what it has not applied itself."""

from collections.abc import Iterable
from typing import Any

_ARGO_CD = ("argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance")
_FLUX = ("kustomize.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/name")
# Argo CD 2 tracks by this label unless it is told otherwise. Helm and others set it too: alone it proves nothing.
_INSTANCE = "app.kubernetes.io/instance"
_MANAGERS = {
    "argocd-controller": "Argo CD",
    "argocd-application-controller": "Argo CD",
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
}


def gitops_owner(obj: dict[str, Any]) -> str | None:
    """``Argo CD (covet)`` or ``Flux (covet)``, from the labels and annotations that they leave; ``Argo CD`` or ``Flux``
    from the name under which they write; else None.
    """
    metadata = obj.get("metadata") or {}
    marks = {**(metadata.get("labels") or {}), **(metadata.get("annotations") or {})}
    for name, keys in (("Argo CD", _ARGO_CD), ("Flux", _FLUX)):
        value = next((str(marks[key]) for key in keys if marks.get(key)), None)
        if value:
            return f"{name} ({value.split(':', 1)[0][:100]})"
    writers = [_MANAGERS.get(entry.get("manager", "")) for entry in metadata.get("managedFields") or []]
    writer = next((name for name in writers if name), None)
    instance = str(marks.get(_INSTANCE) or "")[:100]
    return f"{writer} ({instance})" if writer == "Argo CD" and instance else writer


def gitops_warning(written: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """What is to be said beside a change of these objects, each under a name for people; empty when nothing is."""
    owned: dict[str, list[str]] = {}
    for name, obj in written:
        owner = gitops_owner(obj)
        if owner and name not in owned.setdefault(owner, []):
            owned[owner].append(name)
    return "".join(
        f" ({', '.join(names)} managed by {owner}, which will put it back unless it is told to wait)"
        for owner, names in owned.items()
    )
