"""With a real Prometheus and a real Alertmanager: alerts that fire by themselves, missed webhooks, PromQL checks."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from e2e.world import World, condition, reasons, step, story
from paramedic.clients.prometheus import Prometheus as Client
from paramedic.errors import Retry
from testbed.monitoring import Alertmanager, Prometheus

FIRING, QUIET = "vector(1) > 0", "vector(0) > 1"


def group(world: World, expr: str, name: str = "policy") -> dict[str, Any]:
    labels = {"namespace": world.namespace, "severity": "page"}
    alert = {"alert": name, "expr": expr, "labels": labels, "annotations": {"summary": "it fires by itself"}}
    return {"name": name, "rules": [alert]}


async def test_alert_comes_from_a_real_alertmanager(world: World, prometheus: Prometheus, tmp_path: Path) -> None:
    await world.workload()
    await world.policy(
        verify={"alertResolved": True, "timeout": "30s"}, incident={"type": "APIOutage", "severity": "P0"}
    )
    token = tmp_path / "token"
    token.write_text(world.operator.webhook_token)
    sender = Alertmanager(tmp_path / "alertmanager", webhook_url=world.operator.webhook_url, token_file=token)
    with sender:
        watching = Prometheus(tmp_path / "prometheus", rules=[group(world, FIRING)], alertmanager=sender.url)
        with watching:
            found = await world.reaches("Verifying", timeout=30)
            assert found["spec"]["alert"]["labels"]["severity"] == "page"
            assert found["spec"]["title"] == "it fires by itself"
            assert await world.generation() == 2
            await asyncio.to_thread(watching.set_rules, [group(world, QUIET)])
            found = await world.reaches("Resolved", timeout=30)
    assert step(found)["state"] == "Succeeded"
    assert await world.generation() == 2


async def test_missed_webhook_and_untold_end_are_seen_by_the_poller(world: World, prometheus: Prometheus) -> None:
    await world.workload()
    await world.policy(name="missed", verify={"alertResolved": True, "timeout": "30s"})
    await asyncio.to_thread(prometheus.set_rules, [group(world, FIRING, "missed")])
    found = await world.reaches("Verifying", timeout=30)
    assert await world.generation() == 2
    assert await world.alert("missed", severity="page", starts_at=found["status"]["timeline"][0]["at"]) == 200
    await asyncio.to_thread(prometheus.set_rules, [group(world, QUIET, "missed")])
    found = await world.reaches("Resolved", timeout=30)
    assert "AlertResolved" in reasons(found)
    late = found["status"]["timeline"][0]["at"]
    assert await world.alert("missed", severity="page", starts_at=late) == 200
    await world.the_incident()
    assert await world.generation() == 2, story(found)


@pytest.mark.parametrize("group_by", [["alertname", "namespace"], ["namespace"]])
async def test_a_group_ends_for_the_poller_with_its_last_alert(
    world: World, prometheus: Prometheus, group_by: list[str]
) -> None:
    await world.workload()
    grouping = {"type": "APIOutage", "groupBy": group_by}
    await world.policy(name="grouped", incident=grouping, verify={"alertResolved": True, "timeout": "60s"})

    async def fires(*pods: str) -> None:
        one = [f'label_replace(vector(1), "pod", "{pod}", "", "")' for pod in pods] or [QUIET]
        await asyncio.to_thread(prometheus.set_rules, [group(world, " or ".join(one), "grouped")])

    await fires("a", "b")
    found = await world.reaches("Verifying", timeout=30)
    await fires({"a": "b", "b": "a"}[found["spec"]["alert"]["labels"]["pod"]])
    await world.stays("Verifying", 5)
    await fires()
    await world.reaches("Resolved", timeout=30)
    assert await world.generation() == 2


async def test_an_answer_that_is_far_too_large_is_not_read(prometheus: Prometheus) -> None:
    """A tenant's query of a few words, whose one series has a label of ten million letters."""
    query = 'label_replace(vector(1), "x", "aaaaaaaaaa", "", "")'
    for _ in range(6):
        query = f"""label_join({query}, "x", "", {", ".join(['"x"'] * 10)})"""
    client = Client(prometheus.url)
    with pytest.raises(Retry, match="larger than 4 MiB"):
        await client.query(query)
    assert await client.query("vector(7)") == [7.0]
    client.close()


@pytest.mark.parametrize(
    ("query", "extra", "state", "reason"),
    [
        ("vector(0.001)", {}, "Succeeded", "Verified"),
        ("scalar(vector(0.001))", {}, "Succeeded", "Verified"),
        ("vector(0.5)", {}, "Reverted", "VerificationFailed"),
        ("no_such_metric", {}, "Unknown", "VerificationInconclusive"),
        ("no_such_metric", {"noData": "Passed"}, "Succeeded", "Verified"),
        ("no_such_metric", {"noData": "Failed"}, "Reverted", "VerificationFailed"),
        ("vector(0)/vector(0)", {}, "Unknown", "VerificationInconclusive"),
        ('label_replace(vector(1), "a", "b", "", "") or vector(2)', {}, "Unknown", "VerificationInconclusive"),
        ("this is not PromQL(", {}, "Unknown", "VerificationInconclusive"),
    ],
)
async def test_promql_decides(world: World, query: str, extra: dict[str, str], state: str, reason: str) -> None:
    await world.workload()
    check = {"query": query, "condition": "value < 0.01"} | extra
    verify = {"prometheus": check, "timeout": "2s"}
    await world.policy({"name": "more", "scale": {"replicas": 3}}, verify=verify)
    await world.incident()
    found = await world.reaches("Resolved", "Escalated")
    assert (step(found)["state"], step(found)["reason"]) == (state, reason), story(found)
    assert await world.replicas() == (2 if state == "Reverted" else 3)
    expected = {"Succeeded": "True", "Reverted": "False", "Unknown": "Unknown"}[state]
    assert condition(found, "Verified")["status"] == expected


async def test_check_must_hold_for_as_long_as_asked(world: World) -> None:
    await world.workload()
    check = {"query": "vector(0)", "condition": "value < 0.01"}
    await world.policy(verify={"prometheus": check, "for": "3s", "timeout": "10s"})
    await world.incident()
    await world.stays("Verifying", 1.5)
    await world.reaches("Resolved")
