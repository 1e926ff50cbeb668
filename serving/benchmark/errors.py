"""Errors of benchmarks."""


class BenchmarkError(RuntimeError):
    """Nothing can be measured; the message has the reason and what to do."""
