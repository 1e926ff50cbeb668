"""Benchmarks of bundles and servers: latency, throughput, load tests and targets."""
