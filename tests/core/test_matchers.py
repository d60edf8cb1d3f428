"""Matchers, against Alertmanager's documentation and against Alertmanager itself."""

from __future__ import annotations

import json
import os
import random
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from builders import run_amtool
from paramedic.core.matchers import Matcher, all_match, parse_matchers

PARSED = [
    # Alertmanager's documentation, "Matchers"
    ("foo = bar", "foo", "=", "bar"),
    ("foo=bar", "foo", "=", "bar"),
    (" foo = bar ", "foo", "=", "bar"),
    ('foo = "bar"', "foo", "=", "bar"),
    ('{foo = "bar"}', "foo", "=", "bar"),
    ('{ foo = "bar", }', "foo", "=", "bar"),
    ('foo != "bar"', "foo", "!=", "bar"),
    ('foo =~ "bar|baz"', "foo", "=~", "bar|baz"),
    ('foo!~"bar"', "foo", "!~", "bar"),
    # empty values
    ('foo=""', "foo", "=", ""),
    ("foo=", "foo", "=", ""),
    ("foo != ", "foo", "!=", ""),
    # escapes: quote, newline and backslash; any other backslash stands for itself
    (r'foo="a\"b"', "foo", "=", 'a"b'),
    (r'foo="a\nb"', "foo", "=", "a\nb"),
    (r'foo="a\",\d"', "foo", "=", r'a",\d'),
    (r'foo="a\\nb"', "foo", "=", r"a\nb"),
    (r'foo="a\tb"', "foo", "=", r"a\tb"),
    (r'foo=~"\d+"', "foo", "=~", r"\d+"),
    (r"foo=~\d+", "foo", "=~", r"\d+"),
    (r'foo="a\\"', "foo", "=", "a\\"),
    ("foo=a\\", "foo", "=", "a\\"),
    ('foo="a\nb"', "foo", "=", "a\nb"),
    ("foo=a\nb", "foo", "=", "a\nb"),
    # what looks like syntax inside of a value
    ('foo="a,b"', "foo", "=", "a,b"),
    ('foo="{a}"', "foo", "=", "{a}"),
    ('foo=~"a{2}"', "foo", "=~", "a{2}"),
    ('foo="!="', "foo", "=", "!="),
    ("foo==bar", "foo", "=", "=bar"),
    ("foo=a=b", "foo", "=", "a=b"),
    ("foo= a b ", "foo", "=", "a b"),
    ("job:rate:5m=x", "job:rate:5m", "=", "x"),
    # the UTF-8 grammar, for what the classic one does not take
    ('"foo"="bar"', "foo", "=", "bar"),
    ('"fo o"!="bar"', "fo o", "!=", "bar"),
    ("größe=~ä+", "größe", "=~", "ä+"),
    ('"a\\"b\\u00e9\\U0001F642"="x\\ty"', 'a"b\u00e9\U0001f642', "=", "x\ty"),
]
REFUSED = [
    ("", "at least one matcher"),
    ("  ", "at least one matcher"),
    ("{}", "at least one matcher"),
    ("{ }", "at least one matcher"),
    ("foo", "not a matcher"),
    ("=bar", "not a matcher"),
    ("foo bar=baz", "not a matcher"),
    ("fo-o", "not a matcher"),
    ('foo="bar', "not closed"),
    ('foo=bar"', r"must be written as \""),
    ('foo="b"ar"', r"must be written as \""),
    ('foo="bar\\"', "not closed"),
    ('foo="', "not closed"),
    ("{foo=bar", "brace"),
    ("{foo=bar} ", "brace"),
    (" {foo=bar}", "brace"),
    ("foo=bar}", "brace"),
    ("foo=bar,,baz=qux", "not a matcher"),
    (",foo=bar", "not a matcher"),
    ('foo=~"("', "RE2"),
    ('foo=~"(?=a)"', "RE2"),
    (r'foo=~"(a)\1"', "RE2"),
    ('foo=~"a{9999}"', "RE2"),
    ('"foo\\x41"="b"', None),
    ('"foo\\ud800"="b"', None),
    ('"fo\no"="b"', None),
]


@pytest.mark.parametrize(("text", "label", "operator", "value"), PARSED)
def test_reads_what_the_documentation_shows(text: str, label: str, operator: str, value: str) -> None:
    assert parse_matchers(text) == (Matcher(label, operator, value),)


@pytest.mark.parametrize(("text", "said"), REFUSED)
def test_refuses_and_says_why(text: str, said: str | None) -> None:
    with pytest.raises(ValueError) as failure:
        parse_matchers(text)
    assert said is None or said in str(failure.value)


def test_reads_a_list() -> None:
    found = parse_matchers('{foo = "a,b" , bar!=x,\nbaz=~"a|b",}')
    assert [str(m) for m in found] == ['foo="a,b"', 'bar!="x"', 'baz=~"a|b"']


@pytest.mark.parametrize(
    ("text", "labels", "passes"),
    [
        ('a="b"', {"a": "b"}, True),
        ('a="b"', {"a": "B"}, False),
        ('a="b"', {}, False),
        ('a!="b"', {}, True),
        ('a=""', {}, True),
        ('a=""', {"a": ""}, True),
        ('a!=""', {}, False),
        ('a=~".*"', {}, True),
        ('a=~".+"', {}, False),
        ('a!~".+"', {}, True),
        ('a=~"b|c"', {"a": "c"}, True),
        ('a=~"b|c"', {"a": "bc"}, False),
        ('a=~"b|c"', {"a": "xb"}, False),
        ('a=~"b"', {"a": "b\n"}, False),
        ('a=~"^b$"', {"a": "b"}, True),
        ('a=~"b."', {"a": "b\n"}, False),
        ('a=~"(?s)b."', {"a": "b\n"}, True),
        ('a=~"(?i)B"', {"a": "b"}, True),
        ('a=~".."', {"a": "\U0001f642é"}, True),
        ('a=~"b\\nc"', {"a": "b\nc"}, True),
        ('a!~"b"', {"a": "b"}, False),
        ('a="x",b="y"', {"a": "x", "b": "y"}, True),
        ('a="x",b="y"', {"a": "x"}, False),
    ],
)
def test_compares_as_prometheus_does(text: str, labels: dict[str, str], passes: bool) -> None:
    assert all_match(parse_matchers(text), labels) is passes


def test_a_hostile_pattern_costs_no_more_than_a_plain_one() -> None:
    pattern = parse_matchers('a=~"(a|aa|a*)*b"')
    began = time.process_time()
    assert not all_match(pattern, {"a": "a" * 100_000})
    assert time.process_time() - began < 1


@pytest.mark.parametrize("text", ['"' * 512, "\\" * 512, " " * 100_000 + "=", "a=" + " " * 100_000 + '"', "{" * 5000])
def test_hostile_text_is_refused_quickly(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError):
        parse_matchers(text)
    assert time.process_time() - began < 1


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = parse_matchers(text)
    except ValueError:
        return
    assert found


# Labels as a person writes them; values of anything that can stand in one.
names = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,8}", fullmatch=True) | st.text(
    "aé =\"\\,{}'`~!", min_size=1, max_size=6
)
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)


@given(st.lists(st.tuples(names, st.sampled_from(["=", "!="]), values), min_size=1, max_size=4), st.booleans())
def test_what_it_writes_it_reads_back(given_: list[tuple[str, str, str]], braces: bool) -> None:
    matchers = tuple(Matcher(*one) for one in given_)
    text = ",".join(map(str, matchers))
    # The UTF-8 grammar has no line breaks inside of quotes; what is written has none.
    assert parse_matchers(f"{{{text}}}" if braces else text) == matchers


# -- the same verdicts as Alertmanager ---------------------------------------------------------------------------------

PIECES = [
    "a",
    "b1",
    "_x:y",
    "é",
    " ",
    "\t",
    "\n",
    "\xa0",
    "=",
    "!=",
    "=~",
    "!~",
    ",",
    "{",
    "}",
    '"',
    "\\",
    '\\"',
    "\\n",
]
PIECES += ["'", "`", "!", "~", ".*", "|", "(", ")", "[a-z]", "{2}", "$", "^", "\\\\", "\\d", '"b,c"', 'a="b"', "a=~b"]
PIECES += ["\u2028", "\x0b", "\x1c", "foo", "#", ":", "0", "\\u00e9", "\\x41"]
written = st.lists(st.sampled_from(PIECES), min_size=1, max_size=7).map("".join) | st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["a", " foo ", '"foo"', '"f o"', "{a", "é", "0a"]),
    st.sampled_from(["=", "!=", " =~ ", "!~"]),
    st.sampled_from(["", '"', " "]),
    st.lists(st.sampled_from(PIECES), max_size=4).map("".join),
    st.sampled_from(["", '"', '",', '"}', "}", " , b=c", '", b="c"', " "]),
)


def alertmanagers_reading(texts: Sequence[str]) -> list[str | None]:
    """How Alertmanager writes each of them down, None for what it refuses. At most two runs of amtool."""
    with tempfile.TemporaryDirectory() as folder:
        each = [_config(Path(folder, f"{number}.yml"), [text]) for number, text in enumerate(texts)]
        said = run_amtool("check-config", *map(str, each)).stdout
        good = [
            "SUCCESS\nFound:" in said.partition(f"Checking '{path}'")[2].partition("Checking '")[0] for path in each
        ]
        accepted = [text for text, ok in zip(texts, good, strict=True) if ok]
        tree = run_amtool("config", "routes", "show", "--config.file", str(_config(Path(folder, "all.yml"), accepted)))
    drawn = tree.stdout.partition("Routing tree:")[2]
    shown = re.findall(r"── (\{.*?\}|default-route)  continue: true  receiver: r(\d+)\n", drawn + "\n", re.DOTALL)
    by_number = {int(number): text for text, number in shown}
    assert len(by_number) == len(accepted), tree.stderr or drawn
    order = iter(range(len(accepted)))
    return [by_number[next(order)] if ok else None for ok in good]


def _config(path: Path, texts: Sequence[str]) -> Path:
    routes: list[Any] = [{"receiver": f"r{i}", "continue": True, "matchers": [t]} for i, t in enumerate(texts)]
    receivers = [{"name": "none"}, *({"name": f"r{i}"} for i in range(len(texts)))]
    path.write_text(json.dumps({"route": {"receiver": "none", "routes": routes}, "receivers": receivers}))
    return path


def our_reading(text: str) -> str | None:
    try:
        matchers = parse_matchers(text)
    except ValueError:
        return None
    return "{" + ",".join(map(str, matchers)) + "}"


def may_differ(text: str) -> bool:
    """Where this is stricter on purpose: empty lists, a brace without the other, and Go's escapes for single bytes."""
    stripped = text.strip()
    unbalanced = any(t.startswith("{") != t.endswith("}") for t in (text, stripped))
    return unbalanced or not stripped.strip("{} ,\n\t\xa0\u2028\x0b") or bool(re.search(r"\\[x0-7']", text))


def same_reading(ours: str | None, theirs: str | None) -> bool:
    return ours == theirs or (ours is not None and theirs is not None and _canonical(ours) == _canonical(theirs))


def _canonical(shown: str) -> str:
    """Alertmanager sorts the matchers of a route, and quotes a label that needs it with Go's escapes."""
    plain = re.sub(r"(?<!\\)((?:\\\\)*)\\x([0-7][0-9a-f])", lambda m: m[1] + chr(int(m[2], 16)), shown)
    return ",".join(sorted(map(str, parse_matchers(plain))))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example])
@given(st.lists(written, min_size=40, max_size=60, unique=True))
@example([text for text, *_ in (*PARSED, *REFUSED)])
def test_agrees_with_alertmanager(texts: list[str]) -> None:
    theirs = alertmanagers_reading(texts)
    ours = [our_reading(text) for text in texts]
    differing = [
        (text, mine, other)
        for text, mine, other in zip(texts, ours, theirs, strict=True)
        if not same_reading(mine, other) and not (mine is None and may_differ(text))
    ]
    assert not differing


def test_the_oracle_tells_right_from_wrong() -> None:
    assert alertmanagers_reading(['a="b"', "a", 'a=~"("', "a!=b,c=d"]) == ['{a="b"}', None, None, '{a!="b",c="d"}']


def test_routes_as_alertmanager_does(tmp_path: Path) -> None:
    texts = ['a=~"b|c"', 'a!~"b.*"', 'x=""', 'a=~".+",x!="y"', "a=b", 'a="b\\nc"', "a!=''", 'a=~"(?i)B"']
    config = _config(tmp_path / "all.yml", texts)
    for labels in ({"a": "b"}, {"a": "bc"}, {"a": "c", "x": "y"}, {"x": "y"}, {"a": "B"}):
        said = run_amtool(
            "config", "routes", "test", "--config.file", str(config), *(f"{k}={v}" for k, v in labels.items())
        )
        wanted = [f"r{i}" for i, text in enumerate(texts) if all_match(parse_matchers(text), labels)]
        assert said.stdout.splitlines()[-1].split(",") == (wanted or ["none"]), labels


def test_patterns_of_tenants_take_little_memory() -> None:
    """One policy may have 512 of them, and the operator is allowed 512 MiB."""
    word = "".join(random.Random(1).choices("ab", k=4096))
    before = resident_bytes()
    for number in range(64):
        (matcher,) = parse_matchers(f'x=~"[abc]*a[ab]{{{60 + number}}}[abc]*"')
        assert matcher.matches({"x": word})
    assert resident_bytes() - before < 20 * 2**20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
