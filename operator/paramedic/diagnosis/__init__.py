"""``diagnose``: every read-only check of the runbook (1 and 3), all at once.

The checks are in the files of this package, one for each family; what they mean is decided in ``core/findings.py``.
"""

from paramedic.diagnosis.run import Diagnosis, diagnose

__all__ = ["Diagnosis", "diagnose"]
