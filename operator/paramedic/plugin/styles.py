"""Colours and signs: the same for the same word everywhere."""

from collections.abc import Mapping

SEVERITY_STYLES: Mapping[str, str] = {"P0": "bold red", "P1": "red", "P2": "yellow", "P3": "dim"}
PHASE_STYLES: Mapping[str, str] = {
    "Open": "bold",
    "Blocked": "yellow",
    "AwaitingApproval": "bold yellow",
    "Remediating": "cyan",
    "Verifying": "cyan",
    "Escalated": "bold red",
    "Resolved": "green",
}
STEP_SIGNS: Mapping[str, tuple[str, str]] = {
    "Pending": ("○", "dim"),
    "Skipped": ("–", "dim"),
    "Blocked": ("■", "yellow"),
    "AwaitingApproval": ("?", "bold yellow"),
    "Executing": ("▶", "cyan"),
    "Verifying": ("…", "cyan"),
    "Succeeded": ("✓", "green"),
    "Failed": ("✗", "red"),
    "Unknown": ("!", "bold red"),
    "Reverted": ("↩", "green"),
}
"""By state: a sign, and the style of it."""
HEADING, LABEL, FAINT, COMMAND = "bold", "dim", "dim", "bold cyan"
