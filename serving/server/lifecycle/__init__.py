"""Processes, listeners and shutdown."""
