"""Benchmarks of data input and training, as ratios within one run."""
