"""The report as Markdown: tables, lists, and each graph as its figures with a line of blocks. Pure."""

from collections.abc import Iterator, Sequence

from paramedic.core.markup import markdown
from paramedic.core.redact import clean
from paramedic.report.document import Graph, Report
from paramedic.report.sections import Block, Items, Paragraph, Plotted, Table, heading, number, sections

_LONGEST = 4096
_BLOCKS = "▁▂▃▄▅▆▇█"
_COLUMNS = 48


def to_markdown(report: Report) -> str:
    """The whole document; nothing in it that came from elsewhere is markup, a link or a mention."""
    parts = [f"# {_text(heading(report))}"]
    for section in sections(report):
        parts.append(f"## {section.title}")
        parts += [part for block in section.blocks if (part := "\n".join(_block(block)))]
    return "\n\n".join(parts) + "\n"


def sparkline(values: Sequence[float]) -> str:
    """The course of the values, one block for each part of the time."""
    low, high = min(values), max(values)
    share = len(values) / min(_COLUMNS, len(values))
    columns = [max(values[int(n * share) : int((n + 1) * share)]) for n in range(min(_COLUMNS, len(values)))]
    steps = len(_BLOCKS) - 1
    return "".join(_BLOCKS[round((value - low) / (high - low) * steps) if high > low else 0] for value in columns)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Table(rows, head):
            yield from _table(rows, head)
        case Items(texts):
            yield from (f"- {_box(done)}{_text(text)}" for text, done in texts)
        case Paragraph(text):
            yield f"**{_text(text)}**"
        case Plotted(graph, _):
            yield from _graph(graph)


def _table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> Iterator[str]:
    if not rows:
        return
    names = head or [""] * len(rows[0])
    yield _row(names)
    yield "|" + " --- |" * len(names)
    yield from (_row(row) for row in rows)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_text(cell) for cell in cells) + " |"


def _box(done: bool | None) -> str:
    return "" if done is None else ("[x] " if done else "[ ] ")


def _graph(graph: Graph) -> Iterator[str]:
    yield f"**{_text(graph.title)}**"
    yield ""
    yield f"Query: {_text(graph.query)}"
    yield ""
    if graph.problem:
        yield f"Not shown: {_text(graph.problem)}"
        return
    cells = (number(graph.minimum), number(graph.maximum), number(graph.at_action), number(graph.threshold))
    yield from _table([(*cells, graph.unit)], ("Min", "Max", "At the first action", "Limit", "Unit"))
    yield ""
    yield sparkline([point.value for point in graph.points])


def _text(text: str) -> str:
    return markdown(clean(text, _LONGEST))
