"""The formats of the report."""

import json
from collections.abc import Callable, Mapping

from paramedic.report.document import Report
from paramedic.report.html import to_html
from paramedic.report.markdown import to_markdown


def to_json(report: Report) -> str:
    """As data; ASCII only, so that no text can steer a terminal."""
    return json.dumps(report.to_wire(), indent=2) + "\n"


FORMATS: Mapping[str, Callable[[Report], str]] = {"md": to_markdown, "html": to_html, "json": to_json}


def render(report: Report, form: str) -> str:
    """The report in one of ``FORMATS``."""
    return FORMATS[form](report)
