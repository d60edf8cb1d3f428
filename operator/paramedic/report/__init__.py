"""The post-incident report: what happened, what was done, what came of it, and what is still to be done.

``make_report`` gathers it from an Incident and from Prometheus, and ``render`` writes it as Markdown, HTML or JSON.
"""

from paramedic.report.gather import make_report
from paramedic.report.render import FORMATS, render

__all__ = ["FORMATS", "make_report", "render"]
