"""Predictions of every model variant, and their evaluation with TFMA."""
