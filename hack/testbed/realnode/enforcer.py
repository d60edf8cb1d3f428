"""`python -m testbed.realnode.enforcer KUBECONFIG MACHINE` holds the node's pods to NetworkPolicies, until it is ended.

Runs in the node's namespaces. It looks every POLL_SECONDS, so for as long a new pod or policy may go unnoticed.
(No enforcer that others have made comes from the Go module proxy alone.)
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from pathlib import Path

from testbed.progress import say
from testbed.realnode.netpol import Json, ruleset
from testbed.rest import ApiError, Rest

POLL_SECONDS = 0.25
LISTS = ("/apis/networking.k8s.io/v1/networkpolicies", "/api/v1/pods", "/api/v1/namespaces")


def main() -> None:
    """Leaves the rules as they are while the API server is away."""
    api, machine = client(Path(sys.argv[1])), sys.argv[2]
    applied = ""
    while True:
        try:
            wanted = ruleset(machine, *(items(api, path) for path in LISTS))
        except (OSError, ApiError) as error:
            say(f"the API server does not answer: {error}")
            time.sleep(POLL_SECONDS)
            continue
        if wanted != applied:
            subprocess.run(["nft", "-f", "-"], input=wanted, text=True, check=True)
            applied = wanted
        time.sleep(POLL_SECONDS)


def items(api: Rest, path: str) -> list[Json]:
    """From the API server's cache, which costs it little."""
    found: list[Json] = api.request("GET", f"{path}?resourceVersion=0")["items"]
    return found


def client(kubeconfig: Path) -> Rest:
    """As the test bed writes it: one cluster, one token."""
    config = json.loads(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    ca = kubeconfig.with_suffix(".ca")
    ca.write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    return Rest(cluster["server"], config["users"][0]["user"]["token"], ca)


if __name__ == "__main__":
    main()
