"""Game days: a real service under real load, a fault, and whether Paramedic helps. `make gameday` runs them.

- `days` are the faults, `chaos` what else breaks meanwhile; `run` plays one, `report` judges and shows what came of it.
- `ground` is what they happen on: a cluster with a real node, Paramedic in its pods
  (`installation`), `monitoring`, covet's `stores`.
- `scene` is covet in a namespace of its own, with its users: `load` is their traffic, `outage` what they saw,
  `insider` an intruder.
- `mesh` is a service mesh, where a day has one: an Envoy in each of the app's pods, which `envoyfilters` change.
- `envoy` is what any Envoy here needs.
- `cloud` is AWS, as moto plays it, with a note of each request; `aurora` and `balancer` are real servers that do as its
  books say; `evidence` looks whether what was kept is as it should be.
"""
