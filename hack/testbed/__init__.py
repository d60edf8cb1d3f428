"""The test bed: a real Kubernetes control plane, Prometheus and Alertmanager on one machine, without images.

- `toolchain` builds the binaries once and keeps them in a cache outside the work tree.
- `processes` starts children so that none of them outlives us.
- `janitor` removes a folder whatever ends us; `locks` are between processes.
- `cluster` is a control plane with one kwok node; `monitoring` is Prometheus and Alertmanager.
- `rest` (standard library) and `api` (aiohttp) talk to the API server in raw dicts.
- `audit` reads the API server's audit log.
- `cli` is `python3 hack/testbed up|down|status|env|kubectl-path`.

Everything that `up` needs is standard library only: it runs before the project's environment exists.
"""
