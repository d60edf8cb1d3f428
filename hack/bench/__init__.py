"""Measures Paramedic, each figure beside its floor in the same run. `make bench` runs it.

A floor is the same work done by a bare client: aiohttp with kept connections, bodies built beforehand, answers not
parsed, the same API server, the same way of observing the result. Rounds of both alternate, so that a machine that
gets slower or faster meanwhile does so for both.

- `latency`, `storm`, `stored`, `writes`: the rows; each has a control plane of its own.
- `bed`: that control plane, fixtures, the bare client; `watch`: when did a target change; `figures`: the table.
"""
