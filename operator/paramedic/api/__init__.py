"""The resources of ``paramedic.dev/v1alpha1`` as typed models; the CRDs in ``crds/`` are generated from them."""

GROUP = "paramedic.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
FIELD_MANAGER = "paramedic"
SYSTEM_NAMESPACE = "paramedic-system"

ANNOTATION_OPERATION = f"{GROUP}/operation"
ANNOTATION_INCIDENT = f"{GROUP}/incident"
ANNOTATION_LEFT_REVISIONS = f"{GROUP}/left-revisions"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
FINALIZER = f"{GROUP}/put-back"
