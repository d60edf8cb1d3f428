"""What tests put into AWS and look at there, past the faults; and Paramedic's connections through them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import boto3

from aws.faults import Faults
from paramedic.actions.base import Clients
from paramedic.api.connection import ConnectionSettings
from paramedic.clients.connections import Connections
from paramedic.clients.kube import Kube

Json = dict[str, Any]
REGION = "eu-west-1"
NAMESPACE = "covet"
MEMBERS = ("covet-1", "covet-2", "covet-3")


@dataclass
class Cloud:
    """One account in one region."""

    url: str
    faults: Faults
    listener: str = ""
    vpc: str = ""
    _clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        if service not in self._clients:
            self._clients[service] = boto3.client(
                service,
                region_name=REGION,
                endpoint_url=self.url,
                aws_access_key_id="AKIAADMINADMINADMIN1",
                aws_secret_access_key="admin",
            )
        return self._clients[service]

    # -- Aurora -------------------------------------------------------------------------------------------------------

    def create_cluster(self, *, lag_milliseconds: dict[str, float] | None = None) -> None:
        """An Aurora cluster, of which the first member writes."""
        rds = self.client("rds")
        rds.create_db_cluster(
            DBClusterIdentifier="covet-aurora",
            Engine="aurora-postgresql",
            MasterUsername="covet",
            MasterUserPassword="correct horse",
        )
        for name in MEMBERS:
            rds.create_db_instance(
                DBInstanceIdentifier=name,
                DBInstanceClass="db.r6g.large",
                Engine="aurora-postgresql",
                DBClusterIdentifier="covet-aurora",
            )
        for name, value in (
            {"covet-2": 40.0, "covet-3": 15.0} if lag_milliseconds is None else lag_milliseconds
        ).items():
            self.put_lag(name, value)

    def put_lag(self, instance: str, milliseconds: float) -> None:
        metric = {
            "MetricName": "AuroraReplicaLag",
            "Dimensions": [{"Name": "DBInstanceIdentifier", "Value": instance}],
            "Timestamp": datetime.now(UTC),
            "Value": milliseconds,
            "Unit": "Milliseconds",
        }
        self.client("cloudwatch").put_metric_data(Namespace="AWS/RDS", MetricData=[metric])

    def writer(self) -> str:
        found = self.client("rds").describe_db_clusters(DBClusterIdentifier="covet-aurora")["DBClusters"][0]
        writers = [m["DBInstanceIdentifier"] for m in found["DBClusterMembers"] if m["IsClusterWriter"]]
        assert len(writers) == 1, writers
        return str(writers[0])

    def cluster_tags(self) -> dict[str, str]:
        found = self.client("rds").describe_db_clusters(DBClusterIdentifier="covet-aurora")["DBClusters"][0]
        return {tag["Key"]: tag["Value"] for tag in found["TagList"]}

    def endpoint_of(self, instance: str) -> str:
        found = self.client("rds").describe_db_instances(DBInstanceIdentifier=instance)["DBInstances"][0]
        return str(found["Endpoint"]["Address"])

    # -- ElastiCache --------------------------------------------------------------------------------------------------

    def create_replication_group(self) -> None:
        """Two Redis nodes, of which one is the primary."""
        self.client("elasticache").create_replication_group(
            ReplicationGroupId="covet-redis",
            ReplicationGroupDescription="queues",
            Engine="redis",
            CacheNodeType="cache.t4g.small",
            NumNodeGroups=1,
            ReplicasPerNodeGroup=1,
            AutomaticFailoverEnabled=True,
        )

    # -- the load balancer --------------------------------------------------------------------------------------------

    def create_listener(self) -> str:
        """A load balancer with one listener; its ARN."""
        ec2, elb = self.client("ec2"), self.client("elbv2")
        self.vpc = ec2.create_vpc(CidrBlock="10.20.0.0/16")["Vpc"]["VpcId"]
        subnets = [
            ec2.create_subnet(VpcId=self.vpc, CidrBlock=f"10.20.{n}.0/24", AvailabilityZone=f"{REGION}{zone}")
            for n, zone in enumerate("ab")
        ]
        ids = [one["Subnet"]["SubnetId"] for one in subnets]
        balancer = elb.create_load_balancer(Name="covet-alb", Subnets=ids, Type="application")["LoadBalancers"][0]
        answer = elb.create_listener(
            LoadBalancerArn=balancer["LoadBalancerArn"],
            Protocol="HTTP",
            Port=80,
            DefaultActions=[{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "200"}}],
        )
        self.listener = answer["Listeners"][0]["ListenerArn"]
        return self.listener

    def create_nat_gateway(self) -> None:
        """In the load balancer's VPC."""
        ec2 = self.client("ec2")
        subnet = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [self.vpc]}])["Subnets"][0]["SubnetId"]
        address = ec2.allocate_address(Domain="vpc")
        ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address["AllocationId"])

    def rules(self) -> list[Json]:
        """All rules but the default one, each with its tags."""
        elb = self.client("elbv2")
        found = [r for r in elb.describe_rules(ListenerArn=self.listener)["Rules"] if r["Priority"] != "default"]
        for rule in found:
            described = elb.describe_tags(ResourceArns=[rule["RuleArn"]])["TagDescriptions"][0]["Tags"]
            rule["Tags"] = {tag["Key"]: tag["Value"] for tag in described}
        return sorted(found, key=lambda rule: int(rule["Priority"]))

    def blocked(self) -> list[list[str]]:
        """The source addresses of each rule."""
        return [rule["Conditions"][0]["SourceIpConfig"]["Values"] for rule in self.rules()]

    def create_rule(self, priority: int, condition: Json | None = None, **tags: str) -> str:
        """A rule of somebody else's."""
        tagged = {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]} if tags else {}
        made = self.client("elbv2").create_rule(
            ListenerArn=self.listener,
            Priority=priority,
            Conditions=[condition or {"Field": "source-ip", "SourceIpConfig": {"Values": ["198.51.100.9/32"]}}],
            Actions=[{"Type": "fixed-response", "FixedResponseConfig": {"StatusCode": "404"}}],
            **tagged,
        )
        return str(made["Rules"][0]["RuleArn"])

    # -- Paramedic's side ---------------------------------------------------------------------------------------------

    def connections(self, kube: Kube | None = None, namespace: str = NAMESPACE, *more: Json) -> Connections:
        """``covet-db``, ``covet-account``, ``covet-cache`` and ``covet-alb``, through the faults."""
        access = {"region": REGION, "endpointURL": self.faults.url}
        settings: list[Json] = [
            {"name": "covet-db", "namespaces": [namespace], "aurora": access | {"cluster": "covet-aurora"}},
            {"name": "covet-account", "namespaces": [namespace], "aws": access},
            {
                "name": "covet-cache",
                "namespaces": [namespace],
                "elasticache": access | {"replicationGroup": "covet-redis"},
            },
            *more,
        ]
        if self.listener:
            balancer = access | {"listenerARN": self.listener, "neverBlock": ["203.0.113.128/25"]}
            settings.append({"name": "covet-alb", "namespaces": [namespace], "loadBalancer": balancer})
        return Connections([ConnectionSettings.model_validate(one) for one in settings], cast("Kube", kube))

    def clients(self, kube: Kube | None = None, namespace: str = NAMESPACE) -> Clients:
        return Clients(cast("Kube", kube), connections=self.connections(kube, namespace))
