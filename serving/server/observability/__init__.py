"""Metrics, logs, traces, request logs and health."""
