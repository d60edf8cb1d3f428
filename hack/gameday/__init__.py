"""Game days: a real service under real load, a fault, and whether Paramedic helps. `make gameday` runs them.

- `load` is the traffic, `outage` what users saw of it.
"""
