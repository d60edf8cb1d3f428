"""Paramedic: a Kubernetes operator that carries out an incident-response runbook by itself."""
