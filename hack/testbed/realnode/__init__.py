"""A real node: kubelet, containerd, runc, CNI, kube-proxy and CoreDNS, in namespaces of its own on this machine.

Everything that runs on it ends with its namespaces, and those with the process that started the cluster; nothing is
made on the machine but one network interface and one cgroup, and both go with it; its kernel
settings stay as they are. `why_not()` says where it cannot run.
"""

from testbed.realnode.checks import why_not
from testbed.realnode.node import RealNode, enter, load_image

__all__ = ["RealNode", "enter", "load_image", "why_not"]
