"""Kubernetes quantities: ``250m``, ``128Mi``, ``1e3`` (apimachinery, pkg/api/resource)."""

import re

_FORM = re.compile(
    r"([+-]?[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:([eE][+-]?[0-9]{1,2})|([numkMGTPE]|[KMGTPE]i))?"
)
_DECIMAL = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_BINARY = {unit + "i": 1024.0 ** (power + 1) for power, unit in enumerate("KMGTPE")}
_UNITS = _DECIMAL | _BINARY


def parse_quantity(text: object) -> float | None:
    """Cores, bytes or a plain number; None for what is no quantity."""
    found = _FORM.fullmatch(str(text))
    if found is None:
        return None
    number, exponent, unit = found.groups()
    return float(number + (exponent or "")) * _UNITS.get(unit or "", 1.0)
