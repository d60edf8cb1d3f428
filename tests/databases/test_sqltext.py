"""Foreign SQL made fit to be told, and told apart."""

import time

import pytest

from paramedic.core.sqltext import backs_up, defines, normalized, pattern


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("SELECT 1", "SELECT ?"),
        ("SELECT  a.b1\n FROM t2 WHERE c = 'it''s' AND d = 5.2e10", "SELECT a.b1 FROM t2 WHERE c = ? AND d = ?"),
        ("SELECT $1, $tag$secret$tag$, $$ secret $$", "SELECT $1, ?, ?"),
        ("SELECT 'unterminated secret", "SELECT ?"),
        ("SELECT $$unterminated secret", "SELECT ?"),
        ("SELECT \"Column 1\", U&'secret', x'ff', N'secret', E'secret'", 'SELECT "Column 1", ?, ?, ?, ?'),
        ("SELECT 1 -- secret\n, 2 /* secret */", "SELECT ? , ?"),
        ("SELECT 1 /* a /* b */ secret */", "SELECT ? …"),
        (r"UPDATE t SET p = 'a\' , 'secret'", "UPDATE t SET p = ? …"),
        (r"SELECT E'a\'secret' , 'secret'", "SELECT ? …"),
        ("SELECT '\\", "SELECT ? …"),
        ("", ""),
    ],
)
def test_no_literal_is_told(query: str, told: str) -> None:
    assert normalized(query) == told


def test_no_control_character_is_told_and_it_is_short() -> None:
    assert normalized("SELECT \x1b[31m\x07 a").isprintable()
    assert len(normalized("SELECT " + "column, " * 500)) == 200


@pytest.mark.parametrize(
    ("query", "is_one"),
    [
        ("ALTER TABLE t ADD c int", True),
        ("-- why\n/* x */ Create INDEX CONCURRENTLY i ON t (a)", True),
        ("SELECT 1; VACUUM FULL t", True),
        ("REFRESH MATERIALIZED VIEW v", True),
        ("vacuum (freeze) t", True),
        ("SELECT 'ALTER TABLE t'", False),
        ("SELECT create_thing()", False),
        ("INSERT INTO t SELECT * FROM drops", False),
        ('SELECT "drop" FROM t', False),
        ("SELECT ';drop table t'", False),
        ("", False),
    ],
)
def test_definitions_and_maintenance(query: str, is_one: bool) -> None:
    assert defines(query) is is_one


@pytest.mark.parametrize(
    ("query", "is_one"),
    [
        ("COPY public.orders (id, card) TO stdout;", True),
        ("copy (select 1)\n to\nSTDOUT with csv", True),
        ("FETCH FORWARD 100 FROM _pg_dump_cursor", True),
        ("SELECT pg_backup_stop()", True),
        ("COPY t TO\vSTDOUT", True),
        (f"COPY ({'x' * 9000}) TO STDOUT", True),
        ("COPY orders FROM stdin", False),
        ("SELECT * FROM copy", False),
    ],
)
def test_backups(query: str, is_one: bool) -> None:
    assert backs_up(query) is is_one


@pytest.mark.parametrize(
    "query",
    [
        *("'" * 65536, "$a" * 32768, "/*" * 32768, "\\'" * 32768, "a'" * 32768, "copy " * 13000),
        "copy " * 6500 + ("to" + " " * 20) * 1500,
    ],
)
def test_hostile_text_takes_no_time(query: str) -> None:
    """Eight times as long as what is read of a query."""
    began = time.process_time()
    for look in (normalized, defines, backs_up, pattern("(a+)+$").search):
        look(query)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("text", ["(", "a{99999}", r"(?=x)", r"\1"])
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a regular expression of RE2"):
        pattern(text)
