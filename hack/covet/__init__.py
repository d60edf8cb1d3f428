"""covet, the service of the runbook, small and real: an HTTP API and workers, on PostgreSQL and Redis.

`python -m covet.app` and `python -m covet.worker`, told by their environment (`config`). What a release does wrong, it
does as releases do: see `config.Fault`.
"""
