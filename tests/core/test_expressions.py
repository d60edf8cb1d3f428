"""CEL: what policies may ask, and that no expression can take the operator down.

The evaluator is a native library: what it does not survive ends the process. So the bombs run in one of their own.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import textwrap
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import NOW, ago, incident, stored, workload
from paramedic.core.expressions import ExpressionError, compile_expression, evaluate_condition
from paramedic.core.facts import NAMES, when_values

VALUES = when_values(
    incident(alert={"labels": {"alertname": "A", "team": "pay"}, "startsAt": ago(10).isoformat()}),
    stored(workload()) | {"status": {"readyReplicas": 1, "availableReplicas": 1}},
    ago(20),
    NOW,
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("target.lastRolloutAge < duration('30m')", True),
        ("target.lastRolloutAge < duration('20m')", False),
        ("target.replicas == 2 && target.readyReplicas < target.replicas", True),
        ("target.kind == 'Deployment' && target.name.startsWith('covet')", True),
        ("alert.labels.alertname == 'A'", True),
        ("'team' in alert.labels && alert.labels.team in ['pay', 'cart']", True),
        ("has(alert.labels.nothing)", False),
        ("alert.labels.team.matches('^p.y$')", True),
        ("alert.labels.team.matches(r'^\\w+$') && alert.labels.team.matches(\"a\\\\w\")", True),
        ("alert.firing && alert.age > duration('5m')", True),
        ("incident.severity in ['P0', 'P1']", True),
        ("incident.age < duration('1h')", True),
        ("alert.labels.exists(k, k == 'team')", True),
        ("alert.labels.all(k, k != 'x') && alert.labels.filter(k, k == 'team') == ['team']", True),
        (" && ".join(["alert.labels.exists(k, k == 'team')"] * 9), True),
        ("(alert.labels.exists_one(k, k == 'team')) && size(alert.labels) == 2", True),
        ("alert.labels.exists(k, k in ['team', 'x'] && alert.labels[k] in [ 'pay' ] && [1, true, -2.5] != [])", True),
        ("['// not a comment', 'it\\'s'].exists(x, x == \"it's\")", True),
        ("size(alert.labels) == 2 ? true : false", True),
        ("target.lastRolloutAge + duration('1m') > duration('20m')", True),
    ],
)
def test_conditions(text: str, holds: bool) -> None:
    assert evaluate_condition(text, VALUES) is holds


def test_without_a_known_rollout_nothing_is_young() -> None:
    values = when_values(incident(alert_state=None), stored(workload("DaemonSet")), None, NOW)
    assert evaluate_condition("target.lastRolloutAge < duration('24h')", values) is False
    assert evaluate_condition("alert.firing || size(alert.labels) > 0", values) is False


REFUSED = [
    ("foo > 1", "unknown foo; known are alert, findings, incident, steps, target"),
    ("size(foo, 1) > 1", "unknown foo"),
    ("foo.all(x, true)", "unknown foo"),
    ("[1].all(x, foo > y)", "unknown foo, y"),
    ("target.replicas >", None),
    ("nothing(1) > 1", "unknown function nothing; known are all, bytes, contains"),
    ("[1].existsOne(a, a > 0)", "unknown function existsOne"),
    ("", None),
    ("true // and more", "comments"),
    ("'''a''' == 'a'", "triple quotes"),
    ('"""a""" == "a"', "triple quotes"),
    ("true || 'x\x00' == ''", "NUL"),
    ("x" * 1025, "at most 1024"),
    # cost: macros, however they are written
    ("[1].all(a, [1].all(b, true))", "inside of another"),
    ("[1].all(a, (a > 0) && ')' != '' && [1].exists(b, b == a))", "inside of another"),
    ("[r'\\'].all(a, a != '') && [1].all(b, '\\')' != '' && [r'\\'] . all\t(c, c != ''))", "inside of another"),
    ("[1] .filter (a, size([2] .\nfilter (b, true)) > a) == []", "inside of another"),
    ("[1].all(a, " + "true && " * 70 + "true)", "at most 512"),
    ("[1].map(a, a) == [1]", "unknown function map"),
    ("size([1] . map\n(a, [a])) > 0", "unknown function map"),
    ("alert.labels.exists(k, [alert, alert] == [])", "lists of constants only"),
    ("[alert, alert].filter(a, true) == []", "lists of constants only"),
    ("alert.labels.exists(k, k in\n[ alert.name ])", "lists of constants only"),
    ("alert.labels.exists(k, [1, [target]] == [])", "lists of constants only"),
    ("alert.labels.exists(k, (1 > 0 ? [2] : [size('a')]) == [])", "lists of constants only"),
    ("alert.labels.exists(k, {1: 2} == {})", "no maps"),
    ("1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 > 1", "at most 8 +"),
    ("alert.labels.exists(k, k + k == 'aa')", "+ cannot be used with list macros"),
    ("alert.labels.exists(k, k.matches('a'))", "matches cannot be used with list macros"),
    # cost: patterns
    ("alert.labels.team.matches(alert.labels.alertname)", "with the pattern in quotes"),
    ("alert.labels.team.matches('a' + 'b')", "with the pattern in quotes"),
    ("matches(alert.labels.team, 'a')", "with the pattern in quotes"),
    ("alert.labels.team.matches('(')", "no pattern that can be used"),
    ("alert.labels.team.matches('(x{1,300}){1,300}y')", "no pattern that can be used"),
    ("alert.labels.team.matches('(.{1,500}){1,20}y')", "no pattern that can be used"),
    ("alert.labels.team.matches('(x\\x7b1,900\\x7d)y')", "cannot be used in a pattern"),
]


@pytest.mark.parametrize(("text", "said"), REFUSED, ids=[r[0][:40] for r in REFUSED])
def test_refuses_when_the_policy_is_read(text: str, said: str | None) -> None:
    with pytest.raises(ExpressionError) as failure:
        compile_expression(text, NAMES)
    assert said is None or said in str(failure.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("target.replicas", "gives int, not true or false"),
        ("alert.labels.nothing == 'a'", "no such key"),
        ("alert.labels.nothing", "no such key"),
        ("target.replicas == 1 / 0", None),
        ("target.replicas % 0 == 1", None),
        ("9223372036854775807 + target.replicas > 0", None),
        ("target.replicas > 'a'", None),
        ("target.nothing > 1", None),
        ("int(alert.labels.team) > 1", None),
        ("timestamp(alert.labels.team) > timestamp('2026-01-01T00:00:00Z')", None),
        ("duration(alert.labels.team) > duration('1s')", None),
        ("[1][5] == 1", None),
    ],
)
def test_what_cannot_be_evaluated_is_an_expression_error(text: str, said: str | None) -> None:
    with pytest.raises(ExpressionError) as failure:
        evaluate_condition(text, VALUES)
    assert said is None or said in str(failure.value)


@pytest.mark.parametrize("value", [0.0, 1.5, -1.0, float("inf"), 1e308])
def test_conditions_on_a_number(value: float) -> None:
    assert evaluate_condition("value < 0.01", {"value": value}) is (value < 0.01)
    assert evaluate_condition("value < 1", {"value": value}) is (value < 1)


LONG = {
    "alert": {
        "labels": {"a": "x" * 65536} | {str(n) * 20: "y" * 1000 for n in range(255)},
        "annotations": {str(n) * 20: "y" * 1000 for n in range(256)},
    },
    "findings": [{"reason": "r" * 60, "message": "m" * 1024, "object": "o" * 200} for _ in range(64)],
    "steps": {
        f"step-{n}": {"state": "s", "message": "m" * 1024, "result": dict.fromkeys("abcdefgh", "v" * 256)}
        for n in range(32)
    },
}
NESTINGS = [
    *("(" * n + "true" + ")" * n for n in (100, 510)),
    *("[" * n + "]" * n + " == []" for n in (100, 500)),
    *("{1:" * n + "1" + "}" * n + " == {}" for n in (100, 200)),
    "!" * 1020 + "true",
    "-" * 1019 + "1 < 0",
    "alert" + ".a" * 509 + "",
    "true ? " * 145 + "true",
    ("true ? " * 90) + "true" + (" : true" * 50),
    "1" + "+1" * 500 + " > 0",
    "alert" + "[0]" * 330,
    "size(" * 200 + "'a'" + ")" * 20,
    "true" + "||true" * 170,
    "[" + "1," * 500 + "1] == []",
    "has(" * 200 + "alert.a" + ")" * 55,
    "alert.labels.a" + ".size()" * 140 + " > 0",
    "(true) && " * 102 + "true",
    "'" + "\\\\" * 500 + "' == ''",
    "{" * 1000,
    "[" * 1024,
    "(" * 1024,
    "?" * 1024,
    '"' * 1023,
]
BOMBS = [
    # without the limits the first ends the process, out of memory in native code, and the second takes two minutes
    f"size([alert.labels.a].map(x, {'+'.join(['x'] * 150)}).map(y, {'+'.join(['y'] * 150)})[0]) > 5",
    f"size(alert.labels.map(x, [{', '.join(['alert.labels'] * 66)}])) > 1",
    f"[{', '.join(['alert'] * 66)}].filter(x, true).filter(x, true) != []",
    f"[{', '.join(['steps'] * 66)}].filter(x, true).filter(x, true) != []",
    "alert.labels" + ".filter(x, true)" * 30 + " != []",
    "findings" + ".filter(x, true)" * 30 + " != []",
    f"[{', '.join(['alert'] * 25)}].all(x, {' && '.join(['x.labels != {}'] * 18)})",
    f"alert.labels.exists(k, [{','.join(['alert'] * 78)}] == [])",
    "size(" + "+".join(["[alert]"] * 126) + ") > 1",
    "size(" + "+".join(["[alert]"] * 9) + ") > 100",
    "[" + ",".join(["alert"] * 166) + "] == []",
    "[" + ",".join(["steps"] * 166) + "] == []",
    "alert.labels.a" + " + alert.labels.a" * 57 + " == ''",
    "[" + "1," * 220 + "1].all(x, [" + "1," * 220 + "1].all(y, x == y || x > 0))",
    "alert.labels.all(x, " + " && ".join(["alert.labels[x] != 'q'"] * 18) + ")",
    "alert.labels.all(x, " + " && ".join(["alert.labels != alert.annotations"] * 13) + ")",
    "[" + "1," * 150 + "1].all(x, " + " && ".join(["steps != alert"] * 10) + ")",
    "steps.all(x, " + " && ".join(["steps[x].state != 'q'"] * 18) + ")",
    "alert.labels.all(x, " + " && ".join(["steps != alert"] * 25) + ")",
    "alert.labels.all(x, alert.labels.all(y, " + " && ".join(["alert.labels[x] != 'q'"] * 4) + "))",
    " || ".join(["alert.labels.a.matches('(x|xx|x*)*y')"] * 23),
    " || ".join(["alert.labels.a.matches('.{1,20}y')"] * 25),
    "alert.labels.a.matches('((((((((((x*)*)*)*)*)*)*)*)*)*y')",
]
PROBE = """
    import json, resource, sys, time
    from paramedic.core.expressions import ExpressionError, evaluate_condition
    resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    (values, texts), slow = json.load(sys.stdin), []
    for text in texts:
        began = time.process_time()
        try:
            evaluate_condition(text, values)
        except ExpressionError:
            pass
        if time.process_time() - began > 2:
            slow.append(text[:80])
    print(json.dumps(slow))
"""


def probe(texts: list[str], values: Any, stack: str = "8192") -> list[str]:
    """Evaluates them in a process with little memory; what was slow. Fails when the process does not live."""
    script = 'ulimit -s "$1"; exec "$2" -c "$3"'
    done = subprocess.run(
        ["bash", "-c", script, "-", stack, sys.executable, textwrap.dedent(PROBE)],
        input=json.dumps([values, texts]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    slow: list[str] = json.loads(done.stdout)
    return slow


@pytest.mark.parametrize("stack", ["8192", "2048"])
def test_deep_nesting_does_not_exhaust_the_stack(stack: str) -> None:
    """Also with a quarter of the usual stack: there is room to spare."""
    assert probe([t for t in NESTINGS if len(t) <= 1024], {"alert": {"labels": {"a": "x"}}}, stack) == []


def test_more_than_any_honest_value_has_is_not_evaluated() -> None:
    labels = {str(number): "v" for number in range(257)}
    with pytest.raises(
        ExpressionError, match=r"target\.labels has 257 entries; expressions are evaluated with at most 256"
    ):
        evaluate_condition("target.replicas > 0", {"target": {"replicas": 1, "labels": labels}})


def test_bombs_cost_neither_time_nor_memory() -> None:
    assert all(len(text) <= 1024 for text in BOMBS)
    assert probe(BOMBS, LONG) == []


TOKENS = ["alert", "incident.severity", "target.replicas", "alert.labels", "alert.labels.team", "(", ")", "[", "]", ","]
TOKENS += [
    "+",
    "-",
    "/",
    "%",
    "==",
    "!=",
    "<",
    "&&",
    "||",
    "!",
    "?",
    ":",
    "'x'",
    "1",
    "9223372036854775807",
    "1.5",
    "1u",
]
TOKENS += [
    "true",
    "null",
    "size(",
    "has(",
    "duration('30m')",
    ".matches('a')",
    ".all(x,",
    "x",
    "in",
    "b'a'",
    "r'\\'",
    "\n",
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=12).map(" ".join))
def test_any_expression_is_evaluated_or_refused(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        assert isinstance(evaluate_condition(text, VALUES), bool)


@given(st.text(max_size=60))
def test_any_text_is_evaluated_or_refused(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        evaluate_condition(text, VALUES)


def test_the_values_are_never_changed() -> None:
    before = json.dumps(VALUES, default=str)
    evaluate_condition("alert.age > duration('1s')", VALUES | {"target": {"lastRolloutAge": timedelta(0)}})
    assert json.dumps(VALUES, default=str) == before
