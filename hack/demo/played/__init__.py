"""What the pods of the demo's covet would serve, were they real; the real covet is in `hack/covet`.

Pods are played by kwok in the demo and answer nothing. So one small HTTP service stands in for all of them: it asks the
API server which pods are Ready and hands each request to one of them, as a Service would. A pod whose image ends in
`-bad` answers 500. A bad release therefore really makes errors, as far as it is rolled out, and a rollback really ends
them.
"""
