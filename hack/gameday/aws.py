"""All that game days have of AWS: an account, its Aurora cluster, its load balancer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gameday.aurora import Aurora
from gameday.balancer import Balancer
from gameday.cloud import Cloud
from testbed.realnode import RealNode


@dataclass(frozen=True)
class Aws:
    """What is played of it; what is behind, servers and an Envoy, is real."""

    cloud: Cloud
    aurora: Aurora
    balancer: Balancer


@contextmanager
def opened(folder: Path, node: RealNode) -> Iterator[Aws]:
    """An account on this machine, which pods of the node reach; nothing of it stays."""
    with (
        Cloud(folder / "cloud", node.addresses.machine) as cloud,
        Aurora(cloud, node) as aurora,
        Balancer(cloud, node, folder / "balancer") as balancer,
    ):
        yield Aws(cloud, aurora, balancer)
