"""Other vendors' CustomResourceDefinitions, as far as Paramedic meets them, put into the tests' cluster and taken out.

A cluster is shared by all tests of a run, so a test that needs one of them, or needs it not to be there, says so.
"""

from functools import partial
from pathlib import Path

import yaml

from testbed.api import Api, ApiError, eventually

FOLDER = Path(__file__).parent
ENVOY_FILTERS = "networking.istio.io/v1alpha3/envoyfilters"
TRAFFIC_POLICIES = "gateway.envoyproxy.io/v1alpha1/backendtrafficpolicies"
HTTP_ROUTES = "gateway.networking.k8s.io/v1/httproutes"
SCALED_OBJECTS = "keda.sh/v1alpha1/scaledobjects"
_DEFINITIONS = "apiextensions.k8s.io/v1/customresourcedefinitions"


async def install(admin: Api, *resources: str) -> None:
    """Returns once they are served."""
    for resource in resources:
        manifest = yaml.safe_load((FOLDER / f"{_plural(resource)}.yaml").read_text())
        await admin.apply(manifest)
        await admin.established(manifest["metadata"]["name"])


async def remove(admin: Api, *resources: str) -> None:
    """With all their objects; returns once the API server knows them no more."""
    for resource in resources:
        name = f"{_plural(resource)}.{resource.split('/')[0]}"
        if await admin.find(_DEFINITIONS, name):
            await admin.delete(_DEFINITIONS, name)
        await eventually(partial(_unknown, admin, resource, name), timeout=30, what=f"{name} is gone")


async def _unknown(admin: Api, resource: str, name: str) -> bool:
    group, version, plural = resource.split("/")
    try:
        await admin.request("GET", f"/apis/{group}/{version}/{plural}")
    except ApiError as error:
        return error.status == 404 and await admin.find(_DEFINITIONS, name) is None
    return False


def _plural(resource: str) -> str:
    return resource.rpartition("/")[2]
