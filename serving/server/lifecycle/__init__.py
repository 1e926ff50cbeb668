"""Listeners and TLS, worker processes, and shutdown."""
