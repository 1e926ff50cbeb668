"""Admission, batching and execution of requests."""
