"""Decisions without I/O: objects in, a decision out, time passed in."""
