"""Game days: a real service under real load, a fault, and whether Paramedic helps. `make gameday` runs them.

- `days` are the faults, `chaos` what else breaks meanwhile; `run` plays one, `report` judges and shows what came of it.
- `ground` is what they happen on: a cluster with a real node, Paramedic in its pods
  (`installation`), `monitoring`, covet's `stores`.
- `scene` is covet in a namespace of its own, with its users: `load` is their traffic, `outage` what they saw,
  `insider` an intruder.
- `proxy` is an Envoy, where traffic comes through one, as to the pods of a mesh.
- `cloud` is AWS, as moto plays it, which notes each request; `evidence` looks at what was kept.
"""
