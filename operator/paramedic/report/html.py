"""The report as one HTML page that needs nothing else: no scripts, nothing is loaded, all text is escaped. Pure."""

import base64
import hashlib
from collections.abc import Iterator, Sequence

from paramedic.core.markup import html
from paramedic.core.redact import clean
from paramedic.report.document import Graph, Report
from paramedic.report.sections import Block, Items, Paragraph, Plotted, Table, heading, number, sections
from paramedic.report.svg import draw

_LONGEST = 4096
_STYLE = """
body { font: 15px/1.45 sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #1b1b1b; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; border-bottom: 1px solid #ccc; margin-top: 2em; }
table { border-collapse: collapse; margin: .6em 0; } td, th { border: 1px solid #ddd; padding: .2em .6em; }
td, th { text-align: left; vertical-align: top; overflow-wrap: anywhere; } th { background: #f4f4f4; }
code { overflow-wrap: anywhere; } svg { max-width: 100%; height: auto; } .done { color: #2a7d2a; }
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'"


def to_html(report: Report) -> str:
    """The whole page."""
    title = _text(heading(report))
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{title}</title>",
        f"<style>{_STYLE}</style></head>",
        f"<body><h1>{title}</h1>",
    ]
    for section in sections(report):
        parts.append(f"<h2>{section.title}</h2>")
        parts += [part for block in section.blocks for part in _block(block)]
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _block(block: Block) -> Iterator[str]:
    match block:
        case Table(rows, head):
            yield from _table(rows, head)
        case Items(texts):
            yield "<ul>"
            yield from (f"<li>{_box(done)}{_text(text)}</li>" for text, done in texts)
            yield "</ul>"
        case Paragraph(text):
            yield f"<p><b>{_text(text)}</b></p>"
        case Plotted(graph, marks):
            yield from _caption(graph)
            yield draw(graph, marks)


def _table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> Iterator[str]:
    if not rows:
        return
    yield "<table>"
    if head:
        yield "<tr>" + "".join(f"<th>{_text(name)}</th>" for name in head) + "</tr>"
    for row in rows:
        first = "td" if head else "th"
        cells = [f"<{first}>{_text(row[0])}</{first}>", *(f"<td>{_text(cell)}</td>" for cell in row[1:])]
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</table>"


def _box(done: bool | None) -> str:
    return "" if done is None else ('<span class="done">&#9745;</span> ' if done else "&#9744; ")


def _caption(graph: Graph) -> Iterator[str]:
    yield f"<p><b>{_text(graph.title)}</b><br><code>{_text(graph.query)}</code></p>"
    if graph.problem:
        yield f"<p>Not shown: {_text(graph.problem)}</p>"
        return
    cells = (number(graph.minimum), number(graph.maximum), number(graph.at_action), number(graph.threshold))
    yield from _table([(*cells, graph.unit)], ("Min", "Max", "At the first action", "Limit", "Unit"))


def _text(text: str) -> str:
    return html(clean(text, _LONGEST))
