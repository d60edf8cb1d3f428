"""The only place that imports the clients of other systems; their errors are translated here."""
