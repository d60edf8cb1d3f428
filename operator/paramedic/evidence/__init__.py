"""Gathers what a cluster can tell about an incident and streams it into the store of evidence."""
