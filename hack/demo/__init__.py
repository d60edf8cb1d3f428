"""The main job, from nothing: a bad release, the alert, the rollback, the recovery. `make demo` runs it.

- `story` is what is shown, chapter by chapter; each asserts on what the API server says.
- `world` is what it needs: a cluster, Paramedic, covet, Prometheus, Alertmanager.
- `follow` watches incidents; `terminal` prints.
"""
