"""Titles: what a tenant may write, and that neither a template nor an alert's text gets anything else out of it."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramedic.core.templates import compile_template, one_line, render

LABELS = {"alertname": "CovetApiErrors", "pod": "covet-app-1", "items": "an item", "class": "c", "empty": ""}
VALUES: dict[str, Any] = {"labels": LABELS, "annotations": {"summary": "Errors on the API", "long": "x" * 200_000}}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        ("{{ annotations.summary }}", "Errors on the API"),
        ("{{ annotations.summary or labels.alertname }}", "Errors on the API"),
        ("{{ annotations.nothing or labels.alertname }}", "CovetApiErrors"),
        ("{{ labels['pod'] }}: {{ labels.alertname | lower }}", "covet-app-1: covetapierrors"),
        ("{{ labels.pod | upper }} {{ labels.pod | title }}", "COVET-APP-1 Covet-App-1"),
        ("{{ labels.none | default('nobody') }}", "nobody"),
        ("{{ labels.empty | default('nobody', true) }}", "nobody"),
        ("{{ labels.empty | d('x') }}.", "."),
        ("{{ labels.pod | replace('covet-', '') }}", "app-1"),
        ("{{ labels.pod[:5] ~ '…' }}", "covet…"),
        ("{{ labels.pod | truncate(6) }}", "covet…"),
        ("{{ labels.pod[-5:] }}", "app-1"),
        ("{{ 'down' if labels.pod is defined else 'up' }}", "down"),
        ("{{ 'yes' if labels.pod == 'covet-app-1' and not labels.empty else 'no' }}", "yes"),
        ("{{ 'yes' if labels.alertname in ('A', 'CovetApiErrors') else 'no' }}", "yes"),
        ("{{ labels.pod | length }}", "11"),
        ("** {{ labels.pod }} ** 100% {# a comment #}", "** covet-app-1 ** 100%"),
        ("a\n b\t{{ labels.pod }}\r\n", "a b covet-app-1"),
        # a dot means a label, also where Python has an attribute of that name
        ("{{ labels.items }} {{ labels.class }}", "an item c"),
        ("{{ labels.keys }}{{ labels.__class__ }}{{ labels.pod.upper }}{{ ''.join }}", ""),
        ("{{ nothing.at.all }}", ""),
    ],
)
def test_renders(text: str, shown: str) -> None:
    assert render(text, VALUES) == shown


NOT_ALLOWED = [
    # statements, calls, arithmetic: anything that multiplies or reaches out
    "{% for a in labels %}{{ a }}{% endfor %}",
    "{% if labels.pod %}x{% endif %}",
    "{% set a = 1 %}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% macro a() %}{% endmacro %}",
    "{{ labels.get('pod') }}",
    "{{ ''.join(labels) }}",
    "{{ 'a' * 1000000000 }}",
    "{{ 10 ** 1000000000 }}",
    "{{ 1 + 1 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ range(1000000000) }}",
    "{{ [labels, labels] }}",
    "{{ {'a': labels} }}",
    "{{ labels.alertname.ljust(1000000000) }}",
    "{{ cycler('a') }}",
    "{{ lipsum() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ self.__init__.__globals__() }}",
    # filters that turn a short text into a long one, or reach into objects
    "{{ 'a' | center(1000000000) }}",
    "{{ 'a' | indent(1000000000) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ 1.5 | round(1000000000) }}",
    "{{ labels | batch(1000000000, 'x') | list }}",
    "{{ labels | slice(1000000000) | list }}",
    "{{ annotations.long | wordwrap(1) }}",
    "{{ annotations.long | join(annotations.long) }}",
    "{{ labels | attr('__class__') }}",
    "{{ labels | map(attribute='__class__') | list }}",
    "{{ labels | tojson }}",
    "{{ labels | xmlattr }}",
    "{{ labels.pod | safe }}",
    # not a template at all
    "{{ labels.pod ",
    "{{ }}",
    "{{ labels..pod }}",
    "{{ labels.pod | nothing }}",
    "{{ labels.pod is nothing }}",
    "x" * 4097,
    # nested so deeply that reading it would exhaust the stack
    "{{ " + "[" * 1500 + "]" * 1500 + " }}",
    "{{ " + "(" * 1500 + "1" + ")" * 1500 + " }}",
    "{{ " + "not " * 1000 + "1 }}",
    "{{ " + "-" * 3000 + "1 }}",
    "{{ labels" + ".a" * 1900 + " }}",
    *("{{ labels.pod" + "|lower" * depth + " }}" for depth in (40, 100, 150, 200, 250, 600)),
    "{{ labels.pod" + "~'a'" * 900 + "|length if 1 }}" + "{{ (" * 40 + "1",
]


@pytest.mark.parametrize("text", NOT_ALLOWED, ids=[t[:40] for t in NOT_ALLOWED])
def test_refuses_when_the_policy_is_read(text: str) -> None:
    began = time.process_time()
    with _little_memory(), pytest.raises(ValueError):
        compile_template(text)
    assert time.process_time() - began < 2


@contextmanager
def _little_memory() -> Iterator[None]:
    """What asks for gigabytes fails here instead of hurting the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + 600 * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()


BOMBS = [
    "{{ annotations.long | replace('x', annotations.long) }}",
    "{{ annotations.long" + " | replace('x', 'xxxxxxxxxxxxxxxxxxxx')" * 25 + " }}",
    "{{ annotations.long" + " | replace('', annotations.long)" * 25 + " }}",
    "{{ annotations.long }}" * 180,
    "{{ annotations.long | upper | lower | title | capitalize | trim }}" * 60,
    "{{ 'a' | truncate(1000000000) }}",
    "{{ annotations.long[:1000000000] }}",
    "{{ annotations.long[-1000000000:] }}",
]


@pytest.mark.parametrize("text", BOMBS, ids=[t[:40] for t in BOMBS])
def test_what_is_allowed_costs_little(text: str) -> None:
    began = time.process_time()
    with _little_memory():
        assert len(render(text, VALUES)) <= 1024
    assert time.process_time() - began < 1


def test_the_message_says_what_can_be_written() -> None:
    with pytest.raises(ValueError, match=r"Call is not allowed here; only expressions such as \{\{ labels.pod \}\}"):
        compile_template("{{ labels.get('pod') }}")


def test_unknown_variables_are_found_when_the_policy_is_read() -> None:
    known = frozenset({"labels", "annotations"})
    assert compile_template("{{ annotations.summary or labels.pod }}", known)
    with pytest.raises(ValueError, match="unknown annotation; known are annotations, labels"):
        compile_template("{{ annotation.summary }}", known)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["pod", "alertname", "items"]), st.text(max_size=60)), st.integers(0, 50))
def test_an_alerts_text_is_never_more_than_text(labels: dict[str, str], limit: int) -> None:
    hostile = {k: v + "{{ labels.secret }}{% x %}" for k, v in labels.items()}
    text = render("{{ labels.pod }} {{ labels.items }}", {"labels": hostile | {"secret": "s3cret"}}, limit)
    assert "s3cret" not in text
    assert len(text) <= limit
    assert text.isprintable()


PARTS = ["{{", "}}", "{%", "%}", "{#", "#}", "labels", "annotations", ".pod", "['pod']", "|", "lower", "default(", ")"]
PARTS += [
    "'",
    '"',
    "(",
    ",",
    "~",
    "if",
    "else",
    "1",
    "[",
    "]",
    ":",
    "-",
    "not",
    "and",
    "in",
    "is",
    "defined",
    " ",
    "\n",
    "é",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=14).map("".join))
def test_any_template_is_rendered_or_refused(text: str) -> None:
    for whole in (text, "{{ " + text + " }}"):
        try:
            shown = render(whole, VALUES)
        except ValueError:
            continue
        assert "object at 0x" not in shown


@given(st.text())
def test_one_line(text: str) -> None:
    shown = one_line(text)
    assert shown.isprintable()
    assert not re.search(r"^\s|\s\s|\s$", shown)
    assert one_line(shown) == shown
