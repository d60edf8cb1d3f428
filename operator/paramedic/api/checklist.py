"""The runbook's "Post-Incident Checklist", in its words."""

from datetime import timedelta
from typing import Literal

ChecklistText = Literal[
    "Verify all systems are stable",
    'Update status page to "All Systems Operational"',
    "Send all-clear communication",
    "Document timeline in incident tracker",
    "Schedule post-incident review meeting",
    "Collect all relevant logs and metrics",
    "Create initial incident report",
    "Identify immediate action items",
    "Update monitoring/alerting as needed",
    "Communicate with affected customers",
    "Complete post-incident review",
    "Document lessons learned",
    "Implement prevention measures",
    "Update runbooks based on learnings",
    "Share knowledge with broader team",
]
IMMEDIATE, SHORT_TERM, LONG_TERM = timedelta(hours=1), timedelta(hours=24), timedelta(weeks=1)
CHECKLIST: tuple[tuple[timedelta, tuple[ChecklistText, ...]], ...] = (
    (
        IMMEDIATE,
        (
            "Verify all systems are stable",
            'Update status page to "All Systems Operational"',
            "Send all-clear communication",
            "Document timeline in incident tracker",
            "Schedule post-incident review meeting",
        ),
    ),
    (
        SHORT_TERM,
        (
            "Collect all relevant logs and metrics",
            "Create initial incident report",
            "Identify immediate action items",
            "Update monitoring/alerting as needed",
            "Communicate with affected customers",
        ),
    ),
    (
        LONG_TERM,
        (
            "Complete post-incident review",
            "Document lessons learned",
            "Implement prevention measures",
            "Update runbooks based on learnings",
            "Share knowledge with broader team",
        ),
    ),
)
"""What is to be done within each time after the resolution."""
