"""What a template may work on: bombs cost neither memory nor time, and a team is told what to write instead.

A bomb would end the process, and with it the run of the tests, so they run in one of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from contextlib import suppress

import pytest

from builders import policy
from paramedic.core.messages import NAMES
from paramedic.core.templates import compile_template, render
from paramedic.core.texts import compile_text, render_text
from paramedic.policies import find_problems

MOST = 4096


def loop(items: str, body: str) -> str:
    return "{% for a in [" + items + "] %}" + body + "{% endfor %}"


def times(count: int, part: str, between: str) -> str:
    return between.join([part] * count)


LISTS = times(280, "impact", ",")
MANY = times(700, "a", ",")
FACTS = times(50, "title", ",")
LONG = times(16, "title", "~")
PAIRS = times(8, f"({LONG},{LONG})", ",")
BOMBS = [
    # what is only measured or compared
    loop(times(330, "title", "~"), "{{ (" + times(1000, "a", "~") + ")|length }}"),
    loop(LONG, "{{ [" + times(900, "a~a", ",") + "]|length }}"),
    loop(LONG, "{{ [" + times(600, "a[1:]", ",") + "]|length }}"),
    loop(FACTS, times(120, "{{ a|replace('', a)|length }}", "")),
    loop(FACTS, times(45, "{%if (" + times(16, "a", "~") + ")|markdown|html|lower|title%}{%endif%}", "")),
    "{% for a, b in [" + PAIRS + "] %}{{ [" + times(220, "a in b", ",") + "]|length }}{% endfor %}",
    "{% for a, b in [" + PAIRS + "] %}{{ [" + times(180, "a == b", ",") + "]|length }}{% endfor %}",
    loop(f"({LONG},{LONG})", "{{ [" + MANY + "] == [" + MANY + "] }}"),
    # lists of lists that are written out, however that is done
    *(
        loop(f"[{LISTS}]", "{{ " + write.format(f"[{MANY}]") + " }}")
        for write in (
            "{}",
            "{}|lower|length",
            "({}~'')|length",
            "{}|tojson|length",
            "{}|truncate(3)",
            "{}|join|length",
            "'x'|replace('x', {})",
            "'x'|replace({}, '')",
            "[1]|join({})",
            "{}|number",
            "{}|percent",
            "{}|html",
            "{}|d('')|trim",
        )
    ),
    # keys, which are hashed
    loop(f"({LISTS})", "{% if {(" + MANY + "): 1} %}{% endif %}"),
    loop(f"({LISTS})", "{{ labels[(" + MANY + ")] }}"),
    loop(f"({LISTS})", "{{ (" + MANY + ") in labels }}"),
    # much that is little
    loop(times(50, "[]", ","), times(160, "{%if a~a%}{%endif%}", "")),
    loop(times(50, "''", ","), "{{ [" + times(450, "a|lower", ",") + "]|length }}"),
]
TITLES = [
    "{{ (" + times(500, "labels", ",") + ") }}",
    "{{ (" + times(500, "labels", ",") + ")|lower|length }}",
    "{{ ((" + times(400, "labels", ",") + ") ~ '')|length }}",
    times(30, "{{ (" + times(4, "labels.a", "~") + "|title" * 8 + ")|length }}", ""),
]
PROBE = """
    import json, resource, sys, time
    from paramedic.core import templates, texts
    fact = sys.argv[1] * 1024
    facts = {"title": fact, "impact": [fact] * 20, "labels": {str(n): fact for n in range(32)}}
    labels = {str(n): sys.argv[1] * 4096 for n in range(256)} | {"a": sys.argv[1] * 4096}
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 64 * 2**20, now + 64 * 2**20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    slow = []
    bombs, titles = json.load(sys.stdin)
    for text, render, values in [
        *((text, texts.render_text, facts) for text in bombs),
        *((text, templates.render, {"labels": labels}) for text in titles),
    ]:
        began = time.process_time()
        try:
            render(text, values)
        except MemoryError:
            sys.exit(f"no memory for {text}")
        except ValueError:
            pass
        if time.process_time() - began > 1:
            slow.append(text[:80])
    print(json.dumps(slow))
"""


@pytest.mark.parametrize("character", ["x", "&", "\ufb03", "\U0001f600"])
def test_bombs_cost_neither_time_nor_memory(character: str) -> None:
    assert max(map(len, BOMBS + TITLES)) <= MOST
    for text in BOMBS:
        compile_text(text, NAMES)  # nothing else is wrong with them
    for text in TITLES:
        compile_template(text)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROBE), character],
        input=json.dumps([BOMBS, TITLES]),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    assert json.loads(done.stdout) == []


def test_who_writes_one_is_told_what_to_do() -> None:
    wrong = {"internalUpdate": BOMBS[1], "impact": [{"name": "slow", "query": "up", "text": "{{ value | percent }}"}]}
    found = list(find_problems(policy(messages=wrong), "paramedic-system"))
    assert [problem.partition(":")[0] for problem in found] == ["messages.internalUpdate"]
    assert "it works on too much text: use fewer filters, ~ and comparisons, above all in a for" in found[0]


def test_much_that_is_ordinary_is_not_refused() -> None:
    line = (
        "{{ line | truncate(200) | markdown }}{% if 'a' in line and line != title %} ({{ line[:9] ~ '…' }}){% endif %}"
    )
    lists = ("impact", "actions", "findings")
    template = "".join("{% for line in " + name + " %}" + line + "{% endfor %}" for name in lists)
    template += "{{ labels | tojson }}{% if 'team' in labels %}{{ labels.team | upper }}{% endif %}"
    own = {"internalUpdate": template, "allClear": template}
    assert list(find_problems(policy(messages=own), "paramedic-system")) == []


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{{ impact }}", '["a", "é"]'),
        ("{{ labels }}{{ nothing }}.", '{"team": "pay"}.'),
        ("{{ ('a', nothing) ~ '!' }}", '["a", ""]!'),
        ("{{ {'P1': 'high'}['P1'] }} {{ {1: 'one'}[1] }}", "high one"),
        ("{{ 'x' | replace('x', 'yy') }} {{ 'aab' | replace('a', '') }} {{ 'ab' | replace('', '-') }}", "yy b -a-b-"),
        ("{{ 'a' < 'b' }} {{ 1 < 2 < 3 }} {{ 'team' in labels }} {{ 'x' not in impact }}", "True True True True"),
    ],
)
def test_renders(template: str, shown: str) -> None:
    assert render_text(template, {"impact": ["a", "é"], "labels": {"team": "pay"}, "nothing": ""}) == shown


@pytest.mark.parametrize("number", ["1e999", "-1e999", "(1e999, 2)", "labels.x | d(1e400)"])
def test_a_number_without_end_is_refused_when_the_policy_is_read(number: str) -> None:
    title = "{{ labels.x or " + number + " }}"
    problems = list(find_problems(policy(incident={"title": title}, messages={"internalUpdate": title}), "x"))
    assert len(problems) == 2
    assert all("a number is too large" in problem for problem in problems)


@pytest.mark.parametrize("error", [NameError, RuntimeError, SystemError, AssertionError])
def test_whatever_rendering_raises_is_a_value_error(error: type[Exception]) -> None:
    """Else it is not the template that fails, but what wanted to tell it."""

    class Odd:
        def __str__(self) -> str:
            raise error("odd")

    for renders in (render, render_text):
        with pytest.raises(ValueError, match="odd"):
            renders("{{ labels.a }}", {"labels": {"a": Odd()}})


@pytest.mark.parametrize(
    ("before", "after"),
    [("('a' ~ ", ")"), ("(1 == ", ")"), ("[", "]"), ("{1: ", "}"), ("('a' if ", ")"), ("labels[", "]"), ("", "[1:]")],
)
def test_however_deep_it_is_rendered_or_refused(before: str, after: str) -> None:
    for depth in range(40):
        for renders in (render, render_text):
            with suppress(ValueError):
                renders("{{ " + before * depth + "1" + after * depth + " }}", {"labels": {}})
