"""Metrics, confidence intervals, paired tests and the predictions table."""
