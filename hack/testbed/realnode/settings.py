"""What the node's programs are told, as texts. Pure: names and addresses in, configuration out. JSON is YAML, too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from testbed.realnode.addresses import Addresses

Json = dict[str, Any]

NODE_NAME = "real-0"
SOCKET = "/run/containerd/containerd.sock"
"""In the node's own /run."""
SANDBOX_IMAGE = "docker.io/local/pause:1"
CLUSTER_DOMAIN = "cluster.local"


def containerd(folder: Path, scratch: Path, runc: Path, plugins: Path) -> str:
    """TOML (a JSON string is a TOML one). `scratch` keeps images and containers, `plugins` has the CNI programs."""
    return f"""\
version = 3
root = {_quoted(scratch / "containerd")}
state = "/run/containerd"

[grpc]
address = {_quoted(SOCKET)}

[plugins."io.containerd.internal.v1.opt"]
path = {_quoted(scratch / "opt")}

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = {_quoted(SANDBOX_IMAGE)}

[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true  # without CAP_SYS_RESOURCE runc may not lower it, and dies
disable_apparmor = true  # its profile would outlive the node in the machine's kernel

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{_quoted(plugins)}]
conf_dir = {_quoted(folder / "cni")}

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = {_quoted(runc)}
"""


def cni(addresses: Addresses, folder: Path) -> Json:
    """Each pod has a veth pair and a route of its own, no bridge: so all traffic between pods passes kube-proxy."""
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": str(addresses.pods)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(folder / "ipam"),
    }
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{"type": "ptp", "ipMasq": False, "ipam": ipam}],
    }


def kubelet(addresses: Addresses, folder: Path, client_ca: Path) -> Json:
    """A KubeletConfiguration. Only the API server, by its client certificate, may talk to it."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": addresses.node,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(client_ca)},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{addresses.name}",
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": False,
        "protectKernelDefaults": True,  # namespaces.py shows it what it wants; of anything else it says so and ends
        "podLogsDir": "/var/log/pods",
        "volumePluginDir": str(folder / "volume-plugins"),
        "resolvConf": "",
        "clusterDNS": [addresses.node],
        "clusterDomain": CLUSTER_DOMAIN,
        # The machine's disk and memory are shared with all else that runs on it; its fullness is none of the node's.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    }


def kube_proxy(kubeconfig: Path) -> Json:
    """A KubeProxyConfiguration. No clusterCIDR: a client outside keeps its address on the way to a pod."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "hostnameOverride": NODE_NAME,
    }


def coredns(addresses: Addresses, kubeconfig: Path, hosts: Path) -> str:
    """A Corefile: names of Services and pods, those in the file `hosts` (read again each second), and nothing of the
    world outside.
    """
    return f"""\
. {{
    bind {addresses.node}
    errors
    hosts {hosts} {{
        ttl 5
        reload 1s
        fallthrough
    }}
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
    }}
    cache 5
}}
"""


def _quoted(value: str | Path) -> str:
    return json.dumps(str(value))
